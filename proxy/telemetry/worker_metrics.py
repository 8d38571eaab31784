"""The workers of one crew read each other's metrics, so that a scrape is whole, whichever of them it meets.

Each lets its own be read from a socket that is named by its place, in a folder of their parent's. Every series bears
its worker's place: of a sum Prometheus would take the death of one worker for a new start of all.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

log = logging.getLogger(__name__)

_PATIENCE: Final = 1.0
"""Seconds that a worker may take to tell; without it a scrape is short of its share, and not late."""
_END: Final = b"# EOF\n"
"""What a worker's answer ends with, unless it was killed over it: half a number is a number, too."""


@dataclass(frozen=True, slots=True)
class WorkerMetrics:
    """The crew as the worker at `place` sees it; `folder` is for these workers alone."""

    folder: Path
    place: int

    @asynccontextmanager
    async def serve(self, scrape: Callable[[], bytes]) -> AsyncIterator[None]:
        """Let the others read this worker's metrics, for as long as the body lasts."""
        own = self.folder / str(self.place)
        own.unlink(missing_ok=True)  # of whoever was here before, and was killed

        async def tell(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(scrape() + _END)
            writer.close()

        async with await asyncio.start_unix_server(tell, own):
            yield

    async def scrape(self) -> bytes:
        """What all workers that answer have to tell, in Prometheus' text format."""
        places = sorted((path.name for path in self.folder.iterdir()), key=int)
        told = await asyncio.gather(*(self._read(place) for place in places))
        registry = CollectorRegistry()
        registry.register(_All(list(zip(places, told, strict=True))))
        return generate_latest(registry)

    async def _read(self, place: str) -> str:
        try:
            async with asyncio.timeout(_PATIENCE):
                reader, writer = await asyncio.open_unix_connection(self.folder / place)
                try:
                    return _whole(await reader.read())
                finally:
                    writer.close()
        except (OSError, TimeoutError, EOFError) as error:
            log.warning("Worker %s does not tell its metrics: %r", place, error)
            return ""


def _whole(told: bytes) -> str:
    """A worker's answer as text; raises EOFError where it broke off."""
    if not told.endswith(_END):
        raise EOFError("It was killed meanwhile.")
    return told.decode()


class _All(Collector):
    """The metrics of several workers, as each has written its own."""

    def __init__(self, told: Iterable[tuple[str, str]]) -> None:
        self._told = told

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for place, text in self._told:
            for found in text_string_to_metric_families(text):
                family = families.setdefault(found.name, Metric(found.name, found.documentation, found.type))
                for sample in found.samples:
                    family.samples.append(sample._replace(labels={**sample.labels, "worker": place}))
        yield from families.values()
