"""API keys of clients.

A key is `pollcast_`, 43 random characters and a 6-digit checksum, so that scanners recognize leaked keys. The store
holds only its SHA-256. The hash is not stretched: 256 random bits cannot be guessed from their digest.
"""

import hashlib
import secrets
import zlib

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
