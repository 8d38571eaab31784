"""What remembers: accounts, tokens, jobs, events, assets."""

from proxy.clock import Clock
from proxy.store.base import Store
from proxy.store.sqlite import SqliteStore

_SQLITE = "sqlite:///"


def open_store(url: str, clock: Clock, *, exclusive: bool = False) -> Store:
    """Give the store that `url` names, to be entered; `exclusive` is for the server, the one that runs jobs."""
    if url.startswith(_SQLITE) and url != _SQLITE:
        return SqliteStore(url.removeprefix(_SQLITE), clock, exclusive=exclusive)
    if url.startswith("redis://"):
        raise ValueError("A redis:// store is not there yet: use sqlite:///path/to/file.db.")
    scheme = url.partition("://")[0]
    raise ValueError(f"No store is called {scheme!r}: use sqlite:///relative/path.db or sqlite:////absolute/path.db.")
