"""Processes of a benchmark. Each is pinned to a core, reads lines on standard input, and answers in JSON."""

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
"""Default timeout of an answer, in seconds."""
_OURS: Final = ("POLLCAST_", "GAGA_", "GAIA_", "AINOW_", "GANAI_", "HEYGEN_")


class Failed(Exception):
    """Error of a process that has ended or does not answer."""


class Process:
    """A child process. `ask` sends it a line, and `stop` ends it."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self.pid = process.pid

    async def ask(self, line: str | Mapping[str, Any], patience: float = PATIENCE) -> dict[str, Any]:
        """Send one line, and return the answer."""
        self.tell(line)
        return await self.said(patience)

    def tell(self, line: str | Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        text = line.encode() if isinstance(line, str) else orjson.dumps(line)
        self._process.stdin.write(text + b"\n")

    async def said(self, patience: float = PATIENCE) -> dict[str, Any]:
        """Return the next line of its output, parsed as JSON."""
        answer: dict[str, Any] = orjson.loads(await self.word(patience))
        return answer

    async def word(self, patience: float = PATIENCE) -> str:
        """Return the next line of its output."""
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
        """Wait until it accepts connections."""
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
        """Stop it with SIGTERM, and with SIGKILL if that does not help."""
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
    """Run a process on a core (None: any core), in `folder`, until the body ends."""
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
    """Yield the lines of this process's standard input, until its end."""
    reader = asyncio.StreamReader(limit=1 << 20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield orjson.loads(line)


def python(module: str, *arguments: object) -> tuple[str, ...]:
    """Return the command that runs a module of the benchmark."""
    return (sys.executable, "-m", f"tests.bench.{module}", *map(str, arguments))
