"""What remembers: accounts, tokens, jobs, events, assets."""

from proxy.core.clock import Clock
from proxy.store.contract import Store
from proxy.store.sqlite.store import SqliteStore

_SQLITE = "sqlite:///"
_REDIS = ("redis://", "rediss://")


def open_store(url: str, clock: Clock, *, lease: float = 30.0, exclusive: bool = False) -> Store:
    """Give the store that `url` names, to be entered; `exclusive` is for a server, which runs jobs.

    A claim lasts `lease` seconds unless it is renewed.
    """
    if url.startswith(_SQLITE) and url != _SQLITE:
        return SqliteStore(url.removeprefix(_SQLITE), clock, lease=lease, exclusive=exclusive)
    if url.startswith(_REDIS):
        return _redis_store(url, clock, lease, serves=exclusive)
    scheme = url.partition("://")[0]
    raise ValueError(
        f"No store is called {scheme!r}: use sqlite:///relative/path.db, sqlite:////absolute/path.db "
        "or redis://host:6379/0."
    )


def _redis_store(url: str, clock: Clock, lease: float, *, serves: bool) -> Store:
    try:
        from proxy.store.redis.store import RedisStore  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ValueError(f"A store in Redis needs an extra ({error}): pip install 'pollcast[redis]'.") from None
    return RedisStore(url, clock, lease=lease, serves=serves)
