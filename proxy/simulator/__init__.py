"""Simulator of the providers' HTTP APIs on one loopback port, written from the providers' documentation.

Tests call it over real sockets and inject faults. `serve --demo` uses it instead of the providers.
It imports nothing else of this project, so that a misreading in an adapter is not repeated here.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from .dispatch import Dispatcher
from .faults import Fault, Kind, Match
from .files import Files
from .messages import Operation, Part, Received
from .prompt_faults import PROMPT_FAULTS, UNDOCUMENTED, PromptFault
from .provider import Provider
from .registry import default_keys, provider_types
from .replay import Replay
from .state import Job, State

__all__ = [
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
    "default_keys",
    "provider_types",
]

MAX_BODY_SIZE = 256 * 1024 * 1024
"""Largest request body that is accepted, in bytes."""

STOP_TIMEOUT = 0.1
"""Seconds that open requests have to end when the simulator stops."""


class Simulator:
    """All simulated providers on one port.

    Each provider is an attribute with its name, such as `simulator.gaga`, and holds its own options.
    """

    def __init__(
        self,
        *,
        seed: int = 1,
        speed: float = 1.0,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        keys: Mapping[str, str] | None = None,
    ) -> None:
        self.state = State(seed=seed, speed=speed, now=now, sleep=sleep, keys={**default_keys(), **(keys or {})})
        self.files = Files(self.state)
        self.providers = tuple(kind(self.state, self.files) for kind in provider_types())
        self._by_name = {provider.name: provider for provider in self.providers}
        self._runner: web.AppRunner | None = None

    def __getattr__(self, name: str) -> Any:
        """Return the provider of that name."""
        try:
            return self.__dict__["_by_name"][name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def owners(self) -> tuple[Provider | Files, ...]:
        """The providers and the media server."""
        return (*self.providers, self.files)

    @property
    def operations(self) -> tuple[Operation, ...]:
        """All routes, with the names that faults and counters use."""
        return tuple(operation for owner in self.owners for operation in owner.operations())

    @property
    def origin(self) -> str:
        """Address of the simulator, such as `http://127.0.0.1:54321`. Empty before the first start."""
        return self.state.origin

    @property
    def keys(self) -> dict[str, str]:
        """API key of each provider, by its name. Can be changed at any time."""
        return self.state.keys

    @property
    def calls(self) -> Counter[str]:
        """Number of requests to each operation, including refused ones."""
        return self.state.calls

    @property
    def submits(self) -> Counter[str]:
        """Number of paid requests to each provider."""
        return self.state.submits

    @property
    def requests(self) -> deque[Received]:
        """The most recent 1,000 requests."""
        return self.state.requests

    def jobs(self, provider: str | None = None) -> list[Job]:
        """Return the jobs in order of creation. Each item of a Gan.ai order is a job."""
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
        """Arm a fault for an operation, or for all operations that match a pattern such as `gaga.*`.

        It skips the first `after` matching requests and hits the next `times` (None: all). `seconds`, `retry_after`
        and `size` (bytes) are parameters of single kinds. Raises ValueError for an unknown operation or kind.
        """
        fault = Fault(operation, Kind(kind), times, after, match, seconds, retry_after, size)
        return self.state.faults.arm(fault, (known.name for known in self.operations))

    def clear_faults(self) -> None:
        """Remove all armed faults."""
        self.state.faults.clear()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen, and return the origin. Can be called again after `stop`; jobs and files are kept."""
        self.state.stopping.clear()
        self._runner = web.AppRunner(
            self._app(), access_log=None, shutdown_timeout=STOP_TIMEOUT, handler_cancellation=True
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        bound = self._runner.addresses[0][1]
        self.state.origin = f"http://{f'[{host}]' if ':' in host else host}:{bound}"
        return self.state.origin

    async def stop(self) -> None:
        """Stop listening and close all connections, including those with unanswered requests."""
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
        app = web.Application(client_max_size=MAX_BODY_SIZE)
        for owner in self.owners:
            dispatcher = Dispatcher(self.state, owner)
            for operation in owner.operations():
                app.router.add_route(operation.method, operation.path, dispatcher.handler(operation))
        return app
