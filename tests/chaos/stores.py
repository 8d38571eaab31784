"""Stores for a campaign."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.redis_server import RedisServer

STORES = ("sqlite", "redis")


@contextmanager
def opened(kind: str, folder: Path) -> Iterator[str]:
    """Yield the URL of an empty store in `folder`. For `redis`, a real server runs until the body ends."""
    if kind == "redis":
        with RedisServer(folder) as server:
            yield server.url
    else:
        yield f"sqlite:///{folder}/pollcast.db"
