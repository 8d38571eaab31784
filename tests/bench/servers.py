"""The compared servers. Each starts in the same way: pinned, warmed up, and ready for commands to publish."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench import machine, nchan
from tests.bench.process import Process, python, started
from tests.support.ports import free_port

PEERS: Final = ("naive", "bare", "nchan", "floor")
ALL: Final = ("pollcast", *PEERS)

QUICK: Final = ("pollcast", "naive", "nchan")


@dataclass(frozen=True, slots=True)
class Serving:
    """A running server: the measured process, and the process that gets the commands to publish."""

    port: int
    pid: int
    publisher: Process

    async def open(self, topics: int) -> Sequence[str]:
        """Make topics, and return the request target of each."""
        answer = await self.publisher.ask({"do": "open", "topics": topics})
        targets: list[str] = answer["targets"]
        return targets


@asynccontextmanager
async def serving(name: str, folder: Path) -> AsyncIterator[Serving]:
    """Run one of `ALL`, with its files in a separate folder."""
    port, core = free_port(), machine.cores()[0]
    if name == "nchan":
        async with nchan.serving(folder, port) as (worker, publisher):
            yield Serving(port, worker, publisher)
        return
    command = python("product", "held") if name == "pollcast" else python("peers", name, port)
    environment = {
        "POLLCAST_PORT": str(port),
        "POLLCAST_STORE": f"sqlite:///{folder}/pollcast.db",
        "POLLCAST_ASSETS": f"{folder}/assets",
        "POLLCAST_SECRET": "a secret of the benchmark",
    }
    async with started(*command, core=core, folder=folder, environment=environment, name=name) as server:
        await server.listens(port)
        yield Serving(port, server.pid, server)


def available() -> tuple[tuple[str, ...], list[str]]:
    """Return the servers that can run here, and the reasons why others cannot."""
    reason = nchan.missing()
    if reason is None:
        return ALL, []
    return tuple(name for name in ALL if name != "nchan"), [f"nchan is left out: {reason}."]
