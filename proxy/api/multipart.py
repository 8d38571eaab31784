"""A multipart body read as it comes: one field's file, piece by piece, neither spooled to disk nor held in memory."""

from collections.abc import AsyncIterable, AsyncIterator, Iterator
from typing import Final

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from proxy.core.errors import BadRequest, FieldError, InvalidRequest

_MOST_PARTS: Final = 32


async def file_of(field: str, content_type: str, body: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """The bytes of the file in the field of that name; the other fields are read over.

    Raises BadRequest for a body that is no multipart or is not whole, InvalidRequest unless it has just one such file.
    What has been yielded by then is to be thrown away.
    """
    parts = _Parts(field, content_type)
    async for chunk in body:
        for piece in parts.feed(chunk):
            yield piece
    parts.end()


class _Parts:
    """The parser's callbacks, and what they have learnt."""

    def __init__(self, field: str, content_type: str) -> None:
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if not boundary:
            raise BadRequest("The multipart body cannot be read: its Content-Type names no boundary.")
        self._field = field.encode()
        self._pieces: list[bytes] = []
        self._name = self._value = self._disposition = b""
        self._parts = self._files = 0
        self._wanted = self._whole = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._header_name,
                    "on_header_value": self._header_value,
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._headers_end,
                    "on_part_data": self._data,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise _unreadable(error) from None

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The pieces of the wanted file that are in this chunk."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _unreadable(error) from None
        pieces, self._pieces = self._pieces, []
        yield from pieces

    def end(self) -> None:
        """Raises unless the body was whole, and held the file."""
        if not self._whole:
            raise BadRequest("The multipart body is not whole: its closing boundary is missing.")
        if not self._files:
            raise _refused(f"send the file as the multipart field `{self._field.decode()}`")

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise BadRequest(f"The multipart body has more than {_MOST_PARTS} parts.")
        self._wanted, self._disposition = False, b""

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name = self._value = b""

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._disposition)
        # A field without a file name (which some write as `filename*`) is a text, whatever it is called.
        self._wanted = options.get(b"name") == self._field and b"filename" in self._disposition.lower()
        self._files += self._wanted
        if self._files > 1:
            raise _refused("one file at a time")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._wanted:
            self._pieces.append(data[start:end])

    def _end(self) -> None:
        self._whole = True


def _unreadable(error: FormParserError) -> BadRequest:
    return BadRequest(f"The multipart body cannot be read: {error}.")


def _refused(message: str) -> InvalidRequest:
    return InvalidRequest(f"file: {message}", [FieldError("file", message)])
