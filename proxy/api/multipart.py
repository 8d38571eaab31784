"""Reads one file out of a multipart body as it arrives, without a temporary file and without holding it in memory."""

from collections.abc import AsyncIterable, AsyncIterator, Iterator
from typing import Final

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from proxy.core.errors import BadRequest, FieldError, InvalidRequest

_MAX_PARTS: Final = 32
"""Maximum number of parts in a body."""


async def file_of(field: str, content_type: str, body: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Yield the bytes of the file in the field of that name; other fields are skipped.

    Raises BadRequest for a malformed or incomplete body, and InvalidRequest unless it has exactly one such file. The
    caller must then discard the bytes yielded so far.
    """
    reader = _FileReader(field, content_type)
    async for chunk in body:
        for piece in reader.feed(chunk):
            yield piece
    reader.check_complete()


class _FileReader:
    """The callbacks of the multipart parser, and their state."""

    def __init__(self, field: str, content_type: str) -> None:
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if not boundary:
            raise BadRequest("The multipart body cannot be read: its Content-Type has no boundary.")
        self._field = field.encode()
        self._pieces: list[bytes] = []
        self._header = self._value = self._disposition = b""
        self._parts = self._files = 0
        self._in_file = self._is_complete = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_end": self._on_end,
                },
            )
        except FormParserError as error:
            raise _malformed_body(error) from None

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Parse a chunk, and yield the pieces of the file that are in it."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _malformed_body(error) from None
        pieces, self._pieces = self._pieces, []
        yield from pieces

    def check_complete(self) -> None:
        """Raise unless the body is complete and had the file."""
        if not self._is_complete:
            raise BadRequest("The multipart body is incomplete: its closing boundary is missing.")
        if not self._files:
            raise _file_error(f"send the file as the multipart field `{self._field.decode()}`")

    def _on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise BadRequest(f"The multipart body has more than {_MAX_PARTS} parts.")
        self._in_file, self._disposition = False, b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        # A part without a file name is text, whatever its field is called. Some clients write `filename*`.
        self._in_file = options.get(b"name") == self._field and b"filename" in self._disposition.lower()
        self._files += self._in_file
        if self._files > 1:
            raise _file_error("send one file per request")

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self._pieces.append(data[start:end])

    def _on_end(self) -> None:
        self._is_complete = True


def _malformed_body(error: FormParserError) -> BadRequest:
    return BadRequest(f"The multipart body cannot be read: {error}.")


def _file_error(message: str) -> InvalidRequest:
    return InvalidRequest(f"file: {message}", [FieldError("file", message)])
