"""Decompression of bodies (`Content-Encoding`), as far as they can be read.

With a wrong checksum or a missing end, the bytes before it are still returned. Some servers label a plain body as gzip,
so the first bytes decide, not the label.
"""

import zlib
from typing import Any, Final

GZIP: Final = b"\x1f\x8b"
"""First bytes of every gzip body (RFC 1952)."""


class TooLarge(Exception):
    """The decompressed body exceeds the limit."""


class Decompressor:
    """Decompresses a body piece by piece. Uncompressed bytes pass unchanged.

    `limit` is the maximum size of one decompressed piece, in bytes, because a few bytes can expand to gigabytes.
    """

    def __init__(self, encoding: str, limit: int) -> None:
        self._limit = limit
        self._may_be_raw = "deflate" in encoding.lower()
        """True if the body may be raw deflate, without the zlib header, as some servers send it."""
        self._start = b""
        self._decompressor: Any = None
        self._is_plain = False
        self._is_corrupt = False

    def feed(self, piece: bytes) -> bytes:
        """Return the decompressed bytes of a piece. Raises TooLarge."""
        if self._is_plain:
            return piece
        if self._decompressor is None:
            self._start += piece
            if len(self._start) < len(GZIP):
                return b""
            piece, self._start = self._start, b""
            self._decompressor = self._choose_decompressor(piece)
            if self._decompressor is None:
                self._is_plain = True
                return piece
        return self._inflate_piece(piece)

    def end(self) -> bytes:
        """Return the rest of a body that was too short to be compressed."""
        return self._start

    def _choose_decompressor(self, start: bytes) -> Any:
        if start.startswith(GZIP):
            return zlib.decompressobj(16 + zlib.MAX_WBITS)
        if start[0] & 15 == zlib.DEFLATED and int.from_bytes(start[:2], "big") % 31 == 0:
            return zlib.decompressobj()
        if not self._may_be_raw or start.isascii():  # compressed bytes are almost never all ASCII
            return None
        return zlib.decompressobj(-zlib.MAX_WBITS)

    def _inflate_piece(self, piece: bytes) -> bytes:
        if self._is_corrupt:
            return b""
        before = self._decompressor.copy()
        try:
            decompressed: bytes = self._decompressor.decompress(piece, self._limit)
        except zlib.error:
            self._is_corrupt = True
            return _before_corruption(before, piece)
        if self._decompressor.unconsumed_tail:
            raise TooLarge(f"The decompressed body is larger than {self._limit} bytes.")
        return decompressed


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """Decompress a whole body. Raises TooLarge."""
    decompressor = Decompressor(encoding, limit)
    return decompressor.feed(body) + decompressor.end()


def _before_corruption(decompressor: Any, piece: bytes) -> bytes:
    """Return the bytes before the first corrupt one. zlib returns nothing from a call that fails."""
    decompressed = bytearray()
    try:
        for at in range(len(piece)):
            decompressed += decompressor.decompress(piece[at : at + 1])
    except zlib.error:
        pass
    return bytes(decompressed)
