"""The load generator: the C program if there is a compiler, otherwise its equivalent in Python."""

import shutil
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import machine
from tests.bench.process import Process, python, started

SOURCE = Path(__file__).with_name("load.c")
NUMBER = "@" * 10
"""Placeholder in a request for the number of its stream or request."""
IN_FLIGHT = 64
"""Number of streams that open concurrently."""
MARK = '"t":'
"""Text in an event's data that precedes the time of publication, in nanoseconds."""


@dataclass(frozen=True, slots=True)
class Load:
    """The load generator. `command` runs it, and `folder` holds its files."""

    command: tuple[str, ...]
    folder: Path

    @property
    def compiled(self) -> bool:
        return self.command[0] == str(self.folder / "load")

    @asynccontextmanager
    async def streams(
        self, port: int, requests: Sequence[bytes], number: int, *, mark: str = MARK, in_flight: int = IN_FLIGHT
    ) -> AsyncIterator["Streams"]:
        """Open `number` streams, and keep them open until the body ends."""
        path = self._written(requests)
        arguments = ("streams", str(port), str(number), str(in_flight), mark, str(path))
        async with started(*self.command, *arguments, core=machine.cores()[1], folder=self.folder, name="load") as load:
            yield Streams(load, await load.said())

    async def requests(
        self, port: int, requests: Sequence[bytes], number: int, *, in_flight: int, keep_alive: bool = False
    ) -> dict[str, Any]:
        """Send `number` short requests. Return the time to the first byte of each answer's body."""
        path = self._written(requests)
        arguments = ("requests", str(port), str(number), str(in_flight), str(int(keep_alive)), str(path))
        async with started(*self.command, *arguments, core=machine.cores()[1], folder=self.folder, name="load") as load:
            return await load.said()

    def _written(self, requests: Sequence[bytes]) -> Path:
        path = self.folder / f"requests-{id(requests)}"
        path.write_bytes(b"".join(b"%d\n%s" % (len(request), request) for request in requests))
        return path


class Streams:
    """Open streams. `opened` holds the figures of their opening."""

    def __init__(self, load: Process, opened: dict[str, Any]) -> None:
        self._load = load
        self.opened = opened

    async def begin(self, events: int, patience: float = 60) -> None:
        """Start to count until each stream has received `events` events. `counted` returns the result."""
        await self._load.ask(f"begin {events} {patience:f}")

    async def counted(self, patience: float = 60) -> dict[str, Any]:
        return await self._load.said(patience + 60)

    async def closing(self, patience: float = 60) -> None:
        """Start to watch until the server has closed all streams. `counted` returns the result."""
        await self._load.ask(f"closed {patience:f}")

    async def renew(self, number: int) -> dict[str, Any]:
        """Close `number` streams, in turn, and open all closed ones."""
        return await self._load.ask(f"renew {number}")


def built(folder: Path, *, fallback: bool = False) -> Load:
    """Return the generator, compiled into `folder` if there is a compiler and no fallback is requested."""
    compiler = None if fallback else shutil.which("cc") or shutil.which("gcc")
    if compiler is not None:
        command = [compiler, "-O2", "-o", str(folder / "load"), str(SOURCE)]
        if subprocess.run(command, check=False).returncode == 0:  # noqa: S603
            return Load((str(folder / "load"),), folder)
    return Load(python("fallback"), folder)


def request(method: str, target: str, port: int, *headers: str, body: bytes = b"") -> bytes:
    """Return the bytes of a request."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: 127.0.0.1:{port}", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body
