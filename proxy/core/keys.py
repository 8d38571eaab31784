"""API keys of clients.

A key is `pollcast_`, 43 random characters and a 6-digit checksum, so that scanners recognize leaked keys. The store
holds only its SHA-256. The hash is not stretched: 256 random bits cannot be guessed from their digest.
"""

import hashlib
import secrets
import zlib
from collections.abc import Iterable

from proxy.core.job import Output, Status

_PREFIX = "pollcast_"


def new_key() -> str:
    """Return a new API key. It is shown once and never stored."""
    secret = secrets.token_urlsafe(32)
    return f"{_PREFIX}{secret}{_checksum(secret)}"


def digest(key: str) -> bytes:
    """Return the SHA-256 under which the store holds a key."""
    return hashlib.sha256(key.encode()).digest()


def _checksum(secret: str) -> str:
    return f"{zlib.crc32(secret.encode()) % 1_000_000:06d}"


def refund(charged: int, status: Status, outputs: Iterable[Output] = (), ordered: int = 1) -> int:
    """What the final event gives back of `charged` tokens (contract, section 5).

    An `Error` and the provider's own `Canceled` give back everything. A job that completed gives back the equal share
    of each of the `ordered` outputs that was not made. The refund of a client's cancel depends on what was sent.
    """
    if status is not Status.COMPLETED or not ordered:
        return charged
    missing = max(ordered - sum(not output.failed for output in outputs), 0)
    return charged * missing // ordered
