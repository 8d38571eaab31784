"""Storage: accounts, tokens, jobs, events and assets, in SQLite or Redis, and the bytes of media."""

from typing import Final

from proxy.core.clock import Clock
from proxy.store.contract import Store
from proxy.store.sqlite.store import DEFAULT_TIMES, SqliteStore, SqliteTimes

_SQLITE_PREFIX: Final = "sqlite:///"
_REDIS_PREFIXES: Final = ("redis://", "rediss://")


def open_store(
    url: str,
    clock: Clock,
    *,
    lease: float = 30.0,
    exclusive: bool = False,
    sqlite_times: SqliteTimes = DEFAULT_TIMES,
) -> Store:
    """Return the store at `url`, not yet entered. `exclusive` is for a server, which runs jobs.

    A claim lasts `lease` seconds unless it is renewed. Raises ValueError for a URL that names no store.
    """
    if url.startswith(_SQLITE_PREFIX) and url != _SQLITE_PREFIX:
        path = url.removeprefix(_SQLITE_PREFIX)
        return SqliteStore(path, clock, lease=lease, exclusive=exclusive, times=sqlite_times)
    if url.startswith(_REDIS_PREFIXES):
        return _redis_store(url, clock, lease, serves=exclusive)
    scheme = url.partition("://")[0]
    raise ValueError(
        f"{scheme!r} is not a known kind of store: use sqlite:///relative/path.db, sqlite:////absolute/path.db "
        "or redis://host:6379/0."
    )


def _redis_store(url: str, clock: Clock, lease: float, *, serves: bool) -> Store:
    try:
        from proxy.store.redis.store import RedisStore  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ValueError(f"A store in Redis needs an extra ({error}): pip install 'pollcast[redis]'.") from None
    return RedisStore(url, clock, lease=lease, serves=serves)
