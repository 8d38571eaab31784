"""API keys: their form, checksum and digest."""

import hashlib
import re
import zlib

from proxy.core import keys


def test_a_key_is_a_prefix_43_random_characters_and_6_digits() -> None:
    assert re.fullmatch(r"pollcast_[A-Za-z0-9_-]{43}[0-9]{6}", keys.new_key())


def test_a_key_s_last_digits_are_the_checksum_of_its_secret() -> None:
    key = keys.new_key()
    secret = key.removeprefix("pollcast_")[:43]
    assert int(key[-6:]) == zlib.crc32(secret.encode()) % 1_000_000


def test_every_key_is_different() -> None:
    assert len({keys.new_key() for _ in range(100)}) == 100


def test_the_store_knows_a_key_by_its_sha_256() -> None:
    assert keys.digest("pollcast_abc") == hashlib.sha256(b"pollcast_abc").digest()


def test_any_text_has_a_digest() -> None:
    assert len(keys.digest("Schlüssel \0")) == 32
