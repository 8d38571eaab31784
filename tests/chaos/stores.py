"""The stores that a campaign can be run on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.redis_server import RedisServer

STORES = ("sqlite", "redis")


@contextmanager
def opened(kind: str, folder: Path) -> Iterator[str]:
    """The URL of an empty store in `folder`; for `redis`, of a real server that lasts as long as the body."""
    if kind == "redis":
        with RedisServer(folder) as server:
            yield server.url
    else:
        yield f"sqlite:///{folder}/pollcast.db"
