"""Metrics across worker processes.

A scrape reaches one worker, which collects the others' metrics over Unix sockets in a shared directory. Each series
carries a `worker` label, because summed values would look like a counter reset when a worker dies.
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

_SCRAPE_TIMEOUT: Final = 1.0
"""Timeout, in seconds, for another worker's metrics. After it, the scrape goes without them."""
_END: Final = b"# EOF\n"
"""End of a complete answer. It is missing if the worker was killed meanwhile, perhaps inside a number."""


@dataclass(frozen=True, slots=True)
class WorkerMetrics:
    """The metrics of all workers, for the worker number `place`. `folder` holds the sockets of these workers only."""

    folder: Path
    place: int

    @asynccontextmanager
    async def serve(self, scrape: Callable[[], bytes]) -> AsyncIterator[None]:
        """Serve this worker's metrics to the other workers while the body runs."""
        own = self.folder / str(self.place)
        own.unlink(missing_ok=True)  # left behind by a killed worker

        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(scrape() + _END)
            writer.close()

        async with await asyncio.start_unix_server(answer, own):
            yield

    async def scrape(self) -> bytes:
        """Return the metrics of all workers that answer, in Prometheus' text format."""
        places = sorted((path.name for path in self.folder.iterdir()), key=int)
        texts = await asyncio.gather(*(self._read(place) for place in places))
        registry = CollectorRegistry()
        registry.register(_MergedMetrics(list(zip(places, texts, strict=True))))
        return generate_latest(registry)

    async def _read(self, place: str) -> str:
        try:
            async with asyncio.timeout(_SCRAPE_TIMEOUT):
                reader, writer = await asyncio.open_unix_connection(self.folder / place)
                try:
                    return _complete_text(await reader.read())
                finally:
                    writer.close()
        except (OSError, TimeoutError, EOFError) as error:
            log.warning("Cannot read the metrics of worker %s: %r", place, error)
            return ""


def _complete_text(answer: bytes) -> str:
    """Return a worker's answer as text. Raises EOFError if it is incomplete."""
    if not answer.endswith(_END):
        raise EOFError("The answer is incomplete: the worker was probably killed.")
    return answer.decode()


class _MergedMetrics(Collector):
    """Merges the metrics of several workers from their texts."""

    def __init__(self, texts: Iterable[tuple[str, str]]) -> None:
        self._texts = texts

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for place, text in self._texts:
            for found in text_string_to_metric_families(text):
                family = families.setdefault(found.name, Metric(found.name, found.documentation, found.type))
                for sample in found.samples:
                    family.samples.append(sample._replace(labels={**sample.labels, "worker": place}))
        yield from families.values()
