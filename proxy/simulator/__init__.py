"""The pretend world: the five providers' HTTP APIs on one loopback port, written from the providers' own pages.

Tests put it at the other end of a real socket and ask for faults; `serve --demo` runs against it.
It imports nothing of the rest of this project, so that one misreading is not made twice.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Self

from aiohttp import web

from .ainow import AINow
from .dispatch import Dispatcher
from .faults import Fault, Kind, Match
from .files import Files
from .gaga import Gaga
from .gaia import Gaia
from .ganai import GanAI
from .heygen import HeyGen
from .messages import Operation, Part, Received
from .prompt_faults import PROMPT_FAULTS, UNDOCUMENTED, PromptFault
from .provider import Provider
from .replay import Replay
from .state import DEFAULT_KEYS, Job, State

__all__ = [
    "DEFAULT_KEYS",
    "PROMPT_FAULTS",
    "UNDOCUMENTED",
    "Fault",
    "Job",
    "Kind",
    "Part",
    "PromptFault",
    "Received",
    "Replay",
    "Simulator",
]

LARGEST_BODY = 256 * 1024 * 1024
GRACE = 0.1


class Simulator:
    """Five providers on one port; `gaga`, `gaia`, `ainow`, `ganai` and `heygen` hold each one's options."""

    def __init__(
        self,
        *,
        seed: int = 1,
        speed: float = 1.0,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        keys: Mapping[str, str] | None = None,
    ) -> None:
        self.state = State(seed=seed, speed=speed, now=now, sleep=sleep, keys={**DEFAULT_KEYS, **(keys or {})})
        self.files = Files(self.state)
        self.gaga = Gaga(self.state, self.files)
        self.gaia = Gaia(self.state, self.files)
        self.ainow = AINow(self.state, self.files)
        self.ganai = GanAI(self.state, self.files)
        self.heygen = HeyGen(self.state, self.files)
        self._runner: web.AppRunner | None = None

    @property
    def providers(self) -> tuple[Provider, ...]:
        """The five."""
        return (self.gaga, self.gaia, self.ainow, self.ganai, self.heygen)

    @property
    def owners(self) -> tuple[Provider | Files, ...]:
        """The five, and the media files."""
        return (*self.providers, self.files)

    @property
    def operations(self) -> tuple[Operation, ...]:
        """Every route, under the name that faults and counters use."""
        return tuple(operation for owner in self.owners for operation in owner.operations())

    @property
    def origin(self) -> str:
        """Where it listens, such as `http://127.0.0.1:54321`; empty before the first start."""
        return self.state.origin

    @property
    def keys(self) -> dict[str, str]:
        """The key that each provider accepts; may be changed at any time."""
        return self.state.keys

    @property
    def calls(self) -> Counter[str]:
        """How many requests each operation received, refused ones too."""
        return self.state.calls

    @property
    def submits(self) -> Counter[str]:
        """How many requests to each provider made something that costs money."""
        return self.state.submits

    @property
    def requests(self) -> deque[Received]:
        """The last thousand requests."""
        return self.state.requests

    def jobs(self, provider: str | None = None) -> list[Job]:
        """The jobs in the order they were made; of Gan.ai each item is one."""
        return [job for job in self.state.jobs.values() if provider in {None, job.provider}]

    def fault(
        self,
        operation: str,
        kind: str,
        *,
        times: int | None = None,
        after: int = 0,
        match: Match | None = None,
        seconds: float = 5.0,
        retry_after: int = 1,
        size: int = 32 * 1024 * 1024,
    ) -> Fault:
        """Ask for a fault: of an operation or a pattern of them, after so many requests, for so many, if they match."""
        fault = Fault(operation, Kind(kind), times, after, match, seconds, retry_after, size)
        return self.state.faults.arm(fault, (known.name for known in self.operations))

    def clear_faults(self) -> None:
        """Forget every fault that was asked for."""
        self.state.faults.clear()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen; gives the origin. After a stop it may start again, with all that it knew."""
        self.state.stopping.clear()
        self._runner = web.AppRunner(self._app(), access_log=None, shutdown_timeout=GRACE, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        bound = self._runner.addresses[0][1]
        self.state.origin = f"http://{f'[{host}]' if ':' in host else host}:{bound}"
        return self.state.origin

    async def stop(self) -> None:
        """Close every connection, answered or not."""
        self.state.stopping.set()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=LARGEST_BODY)
        for owner in self.owners:
            gate = Dispatcher(self.state, owner)
            for operation in owner.operations():
                app.router.add_route(operation.method, operation.path, gate.served(operation))
        return app
