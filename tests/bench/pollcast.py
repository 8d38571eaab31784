"""Pollcast as a user starts it, beside an upstream that costs nearly nothing."""

import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
from aiohttp import ClientSession

from proxy.providers.registry import installed_registry, prefix_of
from tests.bench import machine
from tests.bench.load import NUMBER, request
from tests.bench.process import Process, python, started
from tests.support.ports import free_port
from tests.support.root import ROOT

ORDERS: Final[tuple[Mapping[str, Any], ...]] = (
    {"model": "gaga-1", "prompt": "A serene lake"},
    {"model": "ganai-bulk", "items": [{"unique_id": "one", "name": "Ada"}]},
    {"model": "heygen-v1", "prompt": "Hello", "avatar_id": "anna", "voice_id": "voice"},
    {"model": "grok-imagine-video", "prompt": "A serene lake"},
)
"""An order for each provider that is polled."""
SAYING_WHEN: Final = ORDERS[:3]
"""Those whose result's URL is the provider's own, and so says when the provider had finished."""
WITHOUT_BOUNDS: Final[Mapping[str, object]] = {"RATE": 100_000, "CONCURRENCY": 100_000, "DEADLINE": 86_400}
"""Settings of every provider by which no job waits for another."""
SERVE: Final = (sys.executable, str(ROOT / "server.py"), "serve")
CREATE: Final = (*SERVE[:2], "keys", "create", "--name", "bench", "--tokens", str(10**12))


@dataclass(frozen=True, slots=True)
class Pollcast:
    """A server that runs, the key of an account with many tokens, and its upstream."""

    port: int
    process: Process
    key: str
    upstream: Process

    @property
    def pid(self) -> int:
        return self.process.pid

    def order(self, path: str, order: Mapping[str, Any], series: str, *headers: str) -> bytes:
        """The request that places an order, with an Idempotency-Key of its own each time that it is sent."""
        named = (f"Authorization: Bearer {self.key}", f"Idempotency-Key: {series}-{NUMBER}", *headers)
        return request("POST", path, self.port, *named, body=orjson.dumps(order))

    def get(self, path: str) -> bytes:
        return request("GET", path, self.port, f"Authorization: Bearer {self.key}")

    async def started_job(self) -> str:
        """Order a job; gives its id."""
        headers = {"Authorization": f"Bearer {self.key}"}
        async with (
            ClientSession(headers=headers) as session,
            session.post(f"http://127.0.0.1:{self.port}/api/jobs", json=ORDERS[0]) as response,
        ):
            job: dict[str, Any] = await response.json()
            return str(job["id"])

    async def asked(self) -> dict[str, Any]:
        """What the upstream was asked so far."""
        return await self.upstream.ask({"do": "stats"})


@asynccontextmanager
async def upstream(folder: Path) -> AsyncIterator[tuple[int, Process]]:
    """The pretend providers, on the load's core; gives their port."""
    port = free_port()
    async with started(*python("upstream", port), core=machine.cores()[1], folder=folder, name="upstream") as process:
        await process.listens(port)
        yield port, process


@asynccontextmanager
async def serving(
    folder: Path,
    provider: Mapping[str, object] | None = None,
    own: Mapping[str, str] | None = None,
    command: Sequence[str] = SERVE,
) -> AsyncIterator[Pollcast]:
    """Pollcast on the server's core; `provider` are settings of every provider, `own` those of the installation."""
    port = free_port()
    async with upstream(folder) as (upstream_port, answering):
        environment = _environment(port, upstream_port, folder, provider or {}) | dict(own or {})
        pinned: dict[str, Any] = {"core": machine.cores()[0], "folder": folder, "environment": environment}
        async with started(*CREATE, **pinned, name="keys") as creating:
            key = await creating.word()
            await creating.ended()
        async with started(*command, **pinned, name="server") as process:
            await process.listens(port)
            yield Pollcast(port, process, key, answering)


def _environment(port: int, upstream_port: int, folder: Path, provider: Mapping[str, object]) -> dict[str, str]:
    origin = f"http://127.0.0.1:{upstream_port}"
    settings = {"BASE_URL": origin, "API_KEY": "key-of-the-bench", "PROJECT_ID": "demo", **provider}
    prefixes = [prefix_of(kind) for kind in installed_registry().providers]
    return {f"{prefix}{setting}": str(value) for prefix in prefixes for setting, value in settings.items()} | {
        "POLLCAST_PORT": str(port),
        "POLLCAST_STORE": f"sqlite:///{folder}/pollcast.db",
        "POLLCAST_ASSETS": f"{folder}/assets",
    }
