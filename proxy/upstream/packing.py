"""Compressed bodies (`Content-Encoding`), unpacked as far as they can be read.

A wrong checksum or a missing end does not make what came before it unreadable, and some servers call a plain body
gzip. So the bytes decide, and not their label.
"""

import zlib
from typing import Any, Final

GZIP: Final = b"\x1f\x8b"
"""How every gzip body begins (RFC 1952)."""


class TooLarge(Exception):
    """A body that is larger, unpacked, than is read."""


class Unpacker:
    """Unpacks a body piece by piece; bytes that are not compressed pass as they are.

    `limit` bounds what one piece may hold, in bytes: a few bytes can be made to hold gigabytes.
    """

    def __init__(self, encoding: str, limit: int) -> None:
        self._limit = limit
        self._bare = "deflate" in encoding.lower()
        """Whether it may be deflate without zlib's frame, as some servers send it."""
        self._begun = b""
        self._inflate: Any = None
        self._passes = False
        self._over = False

    def feed(self, piece: bytes) -> bytes:
        """What these bytes hold. Raises TooLarge."""
        if self._passes:
            return piece
        if self._inflate is None:
            self._begun += piece
            if len(self._begun) < len(GZIP):
                return b""
            piece, self._begun = self._begun, b""
            self._inflate = self._decompressor(piece)
            if self._inflate is None:
                self._passes = True
                return piece
        return self._inflated(piece)

    def end(self) -> bytes:
        """What is left of a body that was too short to be compressed."""
        return self._begun

    def _decompressor(self, begun: bytes) -> Any:
        if begun.startswith(GZIP):
            return zlib.decompressobj(16 + zlib.MAX_WBITS)
        if begun[0] & 15 == zlib.DEFLATED and int.from_bytes(begun[:2], "big") % 31 == 0:
            return zlib.decompressobj()
        if not self._bare or begun.isascii():  # compressed bytes are hardly ever ASCII alone
            return None
        return zlib.decompressobj(-zlib.MAX_WBITS)

    def _inflated(self, piece: bytes) -> bytes:
        if self._over:
            return b""
        before = self._inflate.copy()
        try:
            unpacked: bytes = self._inflate.decompress(piece, self._limit)
        except zlib.error:
            self._over = True
            return _until_fault(before, piece)
        if self._inflate.unconsumed_tail:
            raise TooLarge(f"The body holds more than {self._limit} bytes.")
        return unpacked


def unpacked(body: bytes, encoding: str, limit: int) -> bytes:
    """A whole body, unpacked. Raises TooLarge."""
    unpacker = Unpacker(encoding, limit)
    return unpacker.feed(body) + unpacker.end()


def _until_fault(decompressor: Any, piece: bytes) -> bytes:
    """What a piece holds before the byte that is wrong: zlib returns nothing of a call that fails."""
    unpacked = bytearray()
    try:
        for at in range(len(piece)):
            unpacked += decompressor.decompress(piece[at : at + 1])
    except zlib.error:
        pass
    return bytes(unpacked)
