"""The load generator, as the rows use it: the C program where there is a compiler, else the same in Python."""

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
"""In a request, stands for the number of the stream or request that sends it."""
IN_FLIGHT = 64
"""Streams that are being opened at once."""
MARK = '"t":'
"""In an event's data, before the nanosecond at which it was published."""


@dataclass(frozen=True, slots=True)
class Load:
    """How load is made: `command` is the generator, `folder` takes its files."""

    command: tuple[str, ...]
    folder: Path

    @property
    def compiled(self) -> bool:
        return self.command[0] == str(self.folder / "load")

    @asynccontextmanager
    async def streams(
        self, port: int, requests: Sequence[bytes], number: int, *, mark: str = MARK, in_flight: int = IN_FLIGHT
    ) -> AsyncIterator["Streams"]:
        """Open so many streams and hold them for as long as the body lasts."""
        path = self._written(requests)
        arguments = ("streams", str(port), str(number), str(in_flight), mark, str(path))
        async with started(*self.command, *arguments, core=machine.cores()[1], folder=self.folder, name="load") as load:
            yield Streams(load, await load.said())

    async def requests(
        self, port: int, requests: Sequence[bytes], number: int, *, in_flight: int, keep_alive: bool = False
    ) -> dict[str, Any]:
        """Send so many short requests, and give how long the first byte of each answer's body took."""
        path = self._written(requests)
        arguments = ("requests", str(port), str(number), str(in_flight), str(int(keep_alive)), str(path))
        async with started(*self.command, *arguments, core=machine.cores()[1], folder=self.folder, name="load") as load:
            return await load.said()

    def _written(self, requests: Sequence[bytes]) -> Path:
        path = self.folder / f"requests-{id(requests)}"
        path.write_bytes(b"".join(b"%d\n%s" % (len(request), request) for request in requests))
        return path


class Streams:
    """Streams that are open; `opened` says how they were opened."""

    def __init__(self, load: Process, opened: dict[str, Any]) -> None:
        self._load = load
        self.opened = opened

    async def begin(self, events: int, patience: float = 60) -> None:
        """Count anew, until each stream has had so many events; then ask for `counted`."""
        await self._load.ask(f"begin {events} {patience:f}")

    async def counted(self, patience: float = 60) -> dict[str, Any]:
        return await self._load.said(patience + 60)

    async def closing(self, patience: float = 60) -> None:
        """Watch until the server has closed all streams; then ask for `counted`."""
        await self._load.ask(f"closed {patience:f}")

    async def renew(self, number: int) -> dict[str, Any]:
        """Leave so many streams, in turn, and open all that are closed."""
        return await self._load.ask(f"renew {number}")


def built(folder: Path, *, fallback: bool = False) -> Load:
    """The generator, compiled into `folder` where that can be done and is wanted."""
    compiler = None if fallback else shutil.which("cc") or shutil.which("gcc")
    if compiler is not None:
        command = [compiler, "-O2", "-o", str(folder / "load"), str(SOURCE)]
        if subprocess.run(command, check=False).returncode == 0:  # noqa: S603
            return Load((str(folder / "load"),), folder)
    return Load(python("fallback"), folder)


def request(method: str, target: str, port: int, *headers: str, body: bytes = b"") -> bytes:
    """The bytes of a request."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: 127.0.0.1:{port}", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body
