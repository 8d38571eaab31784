"""Connections to Redis: `RedisConnection` is one connection, and `Pipeline` sends concurrent calls over it in batches.

Redis runs the commands of one write together and syncs its file once for all of them. So a hundred concurrent calls
cost one round trip and one fsync. Commands are sent again when a reply is lost, so every command must be idempotent.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import Any, Final
from urllib.parse import urlsplit

from redis.asyncio import ConnectionPool, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.exceptions import ConnectionError as Broken
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError

from proxy.core import errors
from proxy.store.listeners import resolve, unavailable

Command = Sequence[str | bytes | float]

_REDIS_TIMEOUT: Final = 5.0
"""Seconds to wait for a connection, and for a reply."""
_HEALTH_CHECK_INTERVAL: Final = 15.0
"""Seconds of silence after which a connection is tested with a PING before it is used."""
_PIPELINE_BATCH: Final = 256
"""Maximum number of commands in one write."""

SCRIPT_NAMES: Final = ("shared", "accounts", "claims", "jobs", "feeds", "assets", "retention", "providers")
"""The parts of the script in this order, because a file uses the locals of the files before it."""
SCRIPT_FOLDER: Final = files("proxy.store.redis") / "scripts"
"""The folder of these files."""
LIBRARY: Final = "\n".join(
    [
        *((SCRIPT_FOLDER / f"{name}.lua").read_text() for name in SCRIPT_NAMES),
        "return commands[ARGV[1]](unpack(ARGV, 2))",
    ]
)
"""The one script that holds all commands. `scripts/shared.lua` explains it."""


@dataclass(frozen=True, slots=True)
class RedisTimes:
    """Timeout and retries of the calls to Redis."""

    timeout: float = _REDIS_TIMEOUT
    """Seconds to wait for a connection, and for a reply."""
    retries: int = 8
    """Retries of a failed exchange, with growing delays of about 2 seconds in all. They hide a restart of Redis."""
    retry_time: float = 2.0
    """Seconds after the first attempt from which no retry begins: with a Redis that hangs, each takes `timeout`."""


DEFAULT_TIMES: Final = RedisTimes()
"""The times of production."""


class RedisConnection:
    """One connection, which reconnects after a failure.

    `wait` is how long Redis may hold back a reply to a blocking command, in seconds.
    """

    def __init__(self, url: str, timeout: float = _REDIS_TIMEOUT, *, wait: float = 0.0) -> None:
        self._connection = _connection(url, timeout, wait)

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one write and return their replies. An error reply is returned as its exception.

        Raises redis.ConnectionError or redis.TimeoutError when it is unknown which commands Redis ran.
        """
        try:
            if not self._connection.is_connected:
                await self._connection.connect()
                (loaded,) = await self._exchange([("SCRIPT", "LOAD", LIBRARY)])
                if isinstance(loaded, ResponseError):
                    raise Broken(str(loaded))
            return await self._exchange(commands)
        except RuntimeError as error:
            # uvloop raises it for a connection that was reset unnoticed. redis-py expects only asyncio's exception.
            await self._connection.disconnect(nowait=True)
            raise Broken(str(error)) from error

    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        await self._connection.send_packed_command(self._connection.pack_commands(commands))
        replies = [await self._read_reply() for _ in commands]
        for reply in replies:
            # The script was flushed, or this server is no longer the primary. A new connection solves both.
            if isinstance(reply, NoScriptError | ReadOnlyError):
                await self.close()
                raise Broken(str(reply))
        return replies

    async def _read_reply(self) -> Any:
        try:
            return await self._connection.read_response()
        except ResponseError as error:
            return error

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.disconnect()


def check_url(url: str) -> None:
    """Raise ValueError if `url` is not the URL of a Redis. The message does not contain the password."""
    advice = (
        "use redis://user:password@host:6379/0 (rediss:// for TLS; percent-encode special characters in a password)"
    )
    try:
        path = urlsplit(url).path.strip("/")
        connection = _connection(url, _REDIS_TIMEOUT)
        if isinstance(connection, SSLConnection):
            connection.ssl_context.get()
    except OSError as error:
        names = "ssl_ca_certs, ssl_certfile or ssl_keyfile"
        raise ValueError(f"A file named in the Redis URL ({names}) cannot be used: {error}.") from None
    except (ValueError, TypeError, RedisError) as error:
        reason = "it cannot be read" if isinstance(error, ValueError) else error
        raise ValueError(f"This is not the URL of a Redis ({reason}): {advice}.") from None
    if path and not path.isdecimal():
        raise ValueError(f"The database of a Redis is a number, not {path!r}: {advice}.")


def _connection(url: str, timeout: float, wait: float = 0.0) -> Any:
    """Return a connection of redis-py. The type is Any, because redis-py's annotations are incomplete."""
    pool = ConnectionPool.from_url(
        url,
        socket_timeout=timeout + wait,
        socket_connect_timeout=timeout,
        socket_keepalive=True,
        health_check_interval=_HEALTH_CHECK_INTERVAL,
    )
    # These three override the URL's query: replies are parsed as RESP2 bytes, and only `Pipeline` retries.
    pool.connection_kwargs.update(protocol=2, decode_responses=False, retry=Retry(NoBackoff(), 0))
    return pool.connection_class(**pool.connection_kwargs)


class Pipeline:
    """Sends calls in the order in which they were made. Each call returns a future.

    A failed exchange is retried for about two seconds. While Redis stays away after that, an exchange is tried only
    once, so callers get errors.Unavailable without delay.
    """

    def __init__(self, connection: RedisConnection, now: Callable[[], float], times: RedisTimes) -> None:
        """`now` returns monotonic seconds."""
        self._connection = connection
        self._now = now
        self._retry_time = times.retry_time
        self._queue: list[tuple[asyncio.Future[Any], Command]] = []
        self._wake = asyncio.Event()
        self._stopped = False
        self._with_retries = Retry(ExponentialWithJitterBackoff(cap=0.5, base=0.05), times.retries)
        self._without_retries = Retry(NoBackoff(), 0)
        self._reachable = True
        self._available_since = now()  # this process does not know whether Redis was available before
        self._task = asyncio.create_task(self._run(), name="store: pipeline")

    def call(self, *command: str | bytes | float) -> "asyncio.Future[Any]":
        """Send a command. The future raises errors.Unavailable, with the error of Redis as its cause."""
        if self._stopped:
            raise errors.Unavailable("The store is closed.")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.append((future, command))
        self._wake.set()
        return future

    async def close(self) -> None:
        """Finish the calls already made, then close the connection."""
        self._stopped = True
        self._wake.set()
        await self._task
        await self._connection.close()

    async def _run(self) -> None:
        while not self._stopped or self._queue:
            await self._wake.wait()
            batch, self._queue = self._queue[:_PIPELINE_BATCH], self._queue[_PIPELINE_BATCH:]
            if not self._queue and not self._stopped:
                self._wake.clear()
            if batch:
                replies = await self._exchange([command for _, command in batch])
                resolve((future for future, _ in batch), map(_with_store_error, replies))

    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        retry = self._with_retries if self._reachable else self._without_retries
        try:
            replies = await retry.call_with_retry(
                partial(self._connection.exchange, commands), _give_up_after(time.monotonic() + self._retry_time)
            )
        except Exception as error:  # noqa: BLE001 -- the pipeline has to survive every error of one batch
            self._reachable = False
            return [error] * len(commands)
        if not self._reachable:
            self._reachable, self._available_since = True, self._now()
        return replies

    def mark_unwritable(self) -> None:
        """Note that Redis replies but refuses writes: its memory is full, or too few replicas are connected."""
        self._available_since = self._now()

    def available_for(self) -> float:
        """Return the seconds for which Redis has been available without interruption. 0 while it is away."""
        return self._now() - self._available_since if self._reachable else 0.0


def _give_up_after(end: float) -> Callable[[Exception], Awaitable[None]]:
    """Return a callback for failed attempts that stops the retries at the monotonic time `end`.

    It has nothing to clean up, because a failed connection closes itself.
    """

    async def give_up(error: Exception) -> None:
        if time.monotonic() >= end:
            raise error

    return give_up


def _with_store_error(reply: Any) -> Any:
    """Return the reply, or errors.Unavailable for an error reply."""
    return unavailable(reply) if isinstance(reply, Exception) else reply
