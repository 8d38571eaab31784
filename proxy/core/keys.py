"""Client keys.

A key is `pollcast_` + 43 random characters + a 6-digit checksum, so that leaked ones can be recognised by a scanner;
only its SHA-256 is kept. No stretching: 256 random bits cannot be guessed from their digest.
"""

import hashlib
import secrets
import zlib

_PREFIX = "pollcast_"


def new_key() -> str:
    """Make a client key; it is shown once and never stored."""
    secret = secrets.token_urlsafe(32)
    return f"{_PREFIX}{secret}{_checksum(secret)}"


def digest(key: str) -> bytes:
    """What the store knows a key by."""
    return hashlib.sha256(key.encode()).digest()


def _checksum(secret: str) -> str:
    return f"{zlib.crc32(secret.encode()) % 1_000_000:06d}"
