"""Checks of a Redis server at the start: its version, its schema, and the settings that make its writes durable."""

import logging
from typing import Final

from proxy.core import errors
from proxy.store.redis.connection import Pipeline

log = logging.getLogger(__name__)

_SCHEMA: Final = 1
"""Version of the layout in Redis. A store that a newer version has written is refused."""
_MIN_VERSION: Final = (6, 2)
"""Oldest version of Redis that has every command of the script."""
_DURABLE_SETTINGS: Final = {
    "appendonly": {"yes"},
    "appendfsync": {"always"},
    "maxmemory-policy": {"noeviction", "volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl"},
}
"""Values of Redis settings with which acknowledged writes survive a power loss and a full memory."""
_ADVICE: Final = "It needs appendonly yes, appendfsync always, and maxmemory-policy noeviction."


async def check_server(pipeline: Pipeline) -> None:
    """Raise errors.Unavailable for a Redis Cluster, a Redis older than 6.2, and a newer schema."""
    info = _parse_info(await pipeline.call("INFO"))
    if info.get("cluster_enabled") == "1":
        raise errors.Unavailable("This is a Redis Cluster, which cannot hold the store: use a single Redis.")
    version = tuple(int(part) for part in info["redis_version"].split(".")[:2])
    if version < _MIN_VERSION:
        raise errors.Unavailable(f"This Redis is {info['redis_version']}; the store needs 6.2 or newer.")
    await pipeline.call("SET", "pollcast:schema", _SCHEMA, "NX")
    found = int(await pipeline.call("GET", "pollcast:schema"))
    if found > _SCHEMA:
        raise errors.Unavailable(f"A newer Pollcast wrote this store: its schema is {found}, not {_SCHEMA}.")


async def warn_if_not_durable(pipeline: Pipeline) -> None:
    """Log a warning if Redis may lose acknowledged writes with its settings, or if they cannot be read."""
    try:
        found = {name: (await pipeline.call("CONFIG", "GET", name))[1].decode() for name in _DURABLE_SETTINGS}
    except (errors.Unavailable, IndexError) as error:
        reason = error.__cause__ if isinstance(error, errors.Unavailable) else "CONFIG GET returns nothing"
        log.warning("Cannot check whether this Redis keeps acknowledged writes (%s). %s", reason, _ADVICE)
        return
    unsafe = [f"{name} is {found[name]}" for name, safe in _DURABLE_SETTINGS.items() if found[name] not in safe]
    if unsafe:
        log.warning("Redis may lose acknowledged orders and tokens: %s. %s", ", ".join(unsafe), _ADVICE)


def _parse_info(text: bytes) -> dict[str, str]:
    return dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)
