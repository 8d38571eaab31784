"""Connections to Redis: a `RedisConnection` is one of them, a `Pipeline` sends over one what waits together.

Redis carries out what one write holds in one go and syncs its file once for it, so that a hundred calls that wait
together cost one exchange and one fsync. What is sent is sent again when its answer is lost: every command that goes
through here must do no harm when it is carried out twice.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
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
from proxy.store.listeners import answer, unavailable

Command = Sequence[str | bytes | float]

_PATIENCE: Final = 5.0
"""Seconds to wait for a connection, and for an answer."""
_IDLE: Final = 15.0
"""Seconds of silence after which a connection is tried before it is used."""
_TRIES: Final = 8
"""Tries after the first, in about 2 seconds: a restart of Redis is not noticed."""
_LONG: Final = 2.0
"""Seconds after which nothing is tried once more: a Redis that hangs takes `_PATIENCE` for each."""
_AT_ONCE: Final = 256
"""Commands in one write."""

_FILES: Final = ("shared", "accounts", "claims", "jobs", "feeds", "assets", "retention", "providers")
_SCRIPTS: Final = files("proxy.store.redis") / "scripts"
LIBRARY: Final = "\n".join(
    [*((_SCRIPTS / f"{name}.lua").read_text() for name in _FILES), "return commands[ARGV[1]](unpack(ARGV, 2))"]
)
"""The one script; `scripts/shared.lua` says how it works."""


class RedisConnection:
    """One connection, made anew after it broke; `wait` is how long a command may hold its answer back, in seconds."""

    def __init__(self, url: str, wait: float = 0.0) -> None:
        self._connection = _connection(url, _PATIENCE + wait)

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one write; returns the answers, an error's as the error.

        Raises redis.ConnectionError or redis.TimeoutError when it is not known which of them were carried out.
        """
        try:
            if not self._connection.is_connected:
                await self._connection.connect()
                (loaded,) = await self._exchange([("SCRIPT", "LOAD", LIBRARY)])
                if isinstance(loaded, ResponseError):
                    raise Broken(str(loaded))
            return await self._exchange(commands)
        except RuntimeError as error:
            # uvloop's word for a connection that was reset before this was noticed; redis-py knows asyncio's alone.
            await self._connection.disconnect(nowait=True)
            raise Broken(str(error)) from error

    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        await self._connection.send_packed_command(self._connection.pack_commands(commands))
        answers = [await self._answer() for _ in commands]
        for refusal in answers:
            # The script was flushed, or this is not the primary any more: another connection mends both.
            if isinstance(refusal, NoScriptError | ReadOnlyError):
                await self.close()
                raise Broken(str(refusal))
        return answers

    async def _answer(self) -> Any:
        try:
            return await self._connection.read_response()
        except ResponseError as error:
            return error

    async def close(self) -> None:
        """Let go of the connection."""
        await self._connection.disconnect()


def check(url: str) -> None:
    """Raise ValueError, without the password, for what is no URL of a Redis."""
    right = "use redis://user:password@host:6379/0 (rediss:// for TLS; % and what stands for it in a password)"
    try:
        path = urlsplit(url).path.strip("/")
        connection = _connection(url, _PATIENCE)
        if isinstance(connection, SSLConnection):
            connection.ssl_context.get()
    except OSError as error:
        names = "ssl_ca_certs, ssl_certfile or ssl_keyfile"
        raise ValueError(f"A file that the Redis's URL names ({names}) cannot be used: {error}.") from None
    except (ValueError, TypeError, RedisError) as error:
        reason = "it cannot be read" if isinstance(error, ValueError) else error
        raise ValueError(f"This is no URL of a Redis ({reason}): {right}.") from None
    if path and not path.isdecimal():
        raise ValueError(f"The database of a Redis is a number, not {path!r}: {right}.")


def _connection(url: str, patience: float) -> Any:
    """A connection of redis-py, whose types are not all there."""
    pool = ConnectionPool.from_url(
        url,
        socket_timeout=patience,
        socket_connect_timeout=_PATIENCE,
        socket_keepalive=True,
        health_check_interval=_IDLE,
    )
    # Whatever the URL says: answers are read as RESP2 gives them, and a `Pipeline` does what is done about failures.
    pool.connection_kwargs.update(protocol=2, decode_responses=False, retry=Retry(NoBackoff(), 0))
    return pool.connection_class(**pool.connection_kwargs)


class Pipeline:
    """Calls in the order in which they were made, each answered by its future; errors.Unavailable while Redis is away.

    An exchange that fails is tried again for about two seconds. After that, as long as Redis is away, each is tried
    only once: who calls is told at once.
    """

    def __init__(self, wire: RedisConnection, now: Callable[[], float]) -> None:
        self._wire = wire
        self._now = now
        self._waiting: list[tuple[asyncio.Future[Any], Command]] = []
        self._arrived = asyncio.Event()
        self._stopped = False
        self._patient = Retry(ExponentialWithJitterBackoff(cap=0.5, base=0.05), _TRIES)
        self._hasty = Retry(NoBackoff(), 0)
        self._well = True
        self._well_since = now()  # before that, nobody here knows
        self._task = asyncio.create_task(self._serve(), name="store: line")

    def call(self, *command: str | bytes | float) -> "asyncio.Future[Any]":
        """Send a command; its error is raised as errors.Unavailable, caused by it."""
        if self._stopped:
            raise errors.Unavailable("The store is closed.")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((future, command))
        self._arrived.set()
        return future

    async def close(self) -> None:
        """Finish the calls that were made, then let go of the connection."""
        self._stopped = True
        self._arrived.set()
        await self._task
        await self._wire.close()

    async def _serve(self) -> None:
        while not self._stopped or self._waiting:
            await self._arrived.wait()
            batch, self._waiting = self._waiting[:_AT_ONCE], self._waiting[_AT_ONCE:]
            if not self._waiting and not self._stopped:
                self._arrived.clear()
            if batch:
                answers = await self._tried([command for _, command in batch])
                answer((future for future, _ in batch), map(_ours, answers))

    async def _tried(self, commands: Sequence[Command]) -> list[Any]:
        retry = self._patient if self._well else self._hasty
        try:
            answers = await retry.call_with_retry(
                partial(self._wire.exchange, commands), _until(time.monotonic() + _LONG)
            )
        except Exception as error:  # noqa: BLE001 -- the line goes on, whatever became of these
            self._well = False
            return [error] * len(commands)
        if not self._well:
            self._well, self._well_since = True, self._now()
        return answers

    def doubt(self) -> None:
        """Redis answers, but refuses what must be written: its memory is full, or its replicas are away."""
        self._well_since = self._now()

    def served_for(self) -> float:
        """Seconds for which Redis is known to have served: 0 while it is away."""
        return self._now() - self._well_since if self._well else 0.0


def _until(end: float) -> Callable[[Exception], Awaitable[None]]:
    """What is done about a failure: nothing, as a connection that failed has let go of itself, or no more tries."""

    async def failed(error: Exception) -> None:
        if time.monotonic() >= end:
            raise error

    return failed


def _ours(answer: Any) -> Any:
    """What Redis answered; its error as ours."""
    return unavailable(answer) if isinstance(answer, Exception) else answer
