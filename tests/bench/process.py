"""The processes of a benchmark: each pinned to a core, asked by lines on its standard input, answering in JSON."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import orjson

from tests.bench import machine
from tests.support.root import ROOT

PATIENCE: Final = 120.0
"""Seconds that an answer may take, unless more was asked for."""
_OURS: Final = ("POLLCAST_", "GAGA_", "GAIA_", "AINOW_", "GANAI_", "HEYGEN_")


class Failed(Exception):
    """A process that ended, or that answered nothing."""


class Process:
    """A child process; `ask` it something, and stop it."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self.pid = process.pid

    async def ask(self, line: str | Mapping[str, Any], patience: float = PATIENCE) -> dict[str, Any]:
        """Say one line and give its answer."""
        self.tell(line)
        return await self.said(patience)

    def tell(self, line: str | Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        text = line.encode() if isinstance(line, str) else orjson.dumps(line)
        self._process.stdin.write(text + b"\n")

    async def said(self, patience: float = PATIENCE) -> dict[str, Any]:
        """The next line that it says, as JSON."""
        answer: dict[str, Any] = orjson.loads(await self.word(patience))
        return answer

    async def word(self, patience: float = PATIENCE) -> str:
        """The next line that it says."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(patience):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise Failed(f"No answer within {patience:g} seconds.\n{self.tail()}") from None
        if not line:
            raise Failed(f"It ended.\n{self.tail()}")
        return line.decode().strip()

    async def listens(self, port: int) -> None:
        """Wait until it takes connections."""
        async with asyncio.timeout(30):
            while True:
                with suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    return
                if self._process.returncode is not None:
                    raise Failed(f"It did not start.\n{self.tail()}")
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """End it as an operator does, and kill it when that does not help."""
        with suppress(ProcessLookupError):
            self._process.terminate()
        await self.ended()

    async def ended(self) -> None:
        try:
            async with asyncio.timeout(20):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    def interrupt(self) -> None:
        self._process.terminate()

    def tail(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]


@asynccontextmanager
async def started(
    *command: str | Path,
    core: int | None,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    name: str = "process",
) -> AsyncIterator[Process]:
    """A process on that core (None: on any), in `folder`, until the end of the body."""
    log = folder / f"{name}.log"
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(_OURS)}
    with log.open("wb") as errors:
        child = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env=inherited | {"PYTHONPATH": str(ROOT)} | dict(environment or {}),
            cwd=folder,
            limit=1 << 26,
        )
    process = Process(child, log)
    try:
        machine.unpin(child.pid) if core is None else machine.pin(child.pid, core)
        yield process
    finally:
        await process.stop()


async def lines() -> AsyncIterator[dict[str, Any]]:
    """What this process is told on its own standard input, until that ends."""
    reader = asyncio.StreamReader(limit=1 << 20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield orjson.loads(line)


def python(module: str, *arguments: object) -> tuple[str, ...]:
    """The command that runs one of our modules."""
    return (sys.executable, "-m", f"tests.bench.{module}", *map(str, arguments))
