"""Requests to providers, and their encoding: JSON, multipart forms, files."""

import asyncio
import base64
import json
from collections.abc import (
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any, Final

import orjson
from aiohttp import FormData, Payload
from aiohttp.abc import AbstractStreamWriter

_CHUNK_SIZE: Final = 3 << 16
"""Bytes of a request body that are written at once. A multiple of three, so that base64 can be cut there."""


@dataclass(frozen=True, slots=True)
class File:
    """A file to be sent to a provider."""

    name: str
    type: str
    data: bytes = field(repr=False)

    def data_url(self) -> "InlineFile | str":
        """Return the bytes as a data URL for a request's JSON."""
        return InlineFile(self, f"data:{self.type};base64,")

    def base64(self) -> "InlineFile | str":
        """Return the bytes as base64 for a request's JSON."""
        return InlineFile(self)


@dataclass(frozen=True, slots=True)
class InlineFile:
    """A file in a request's JSON, as base64. It is encoded only while the request is sent, to save memory."""

    file: File
    prefix: str = ""
    """Text before the base64, such as that of a data URL."""

    def __str__(self) -> str:
        """Return the whole text."""
        return self.prefix + base64.b64encode(self.file.data).decode()


@dataclass(frozen=True, slots=True)
class Request:
    """A paid request: `json`, or a multipart `form` of names with texts or files, in order.

    `key` is our own id of the order. The runner sets it, and an adapter sends it where its provider takes one. `model`
    is the model as which the order is sent; empty for the ordered one. It is not sent itself.
    """

    path: str
    json: Any = None
    form: tuple[tuple[str, str | File], ...] = ()
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    key: str = ""
    model: str = ""


def dump_json(body: Any, default: Callable[[Any], str] | None = None) -> bytes:
    """Encode a body as JSON. `default` encodes its files and may be called twice for one file."""
    try:
        return orjson.dumps(body, default=default, option=orjson.OPT_PASSTHROUGH_DATACLASS)
    except TypeError:  # orjson refuses integers above 64 bits, and a provider's id may be one
        return json.dumps(body, default=default, ensure_ascii=False, separators=(",", ":")).encode()


def encode_json(body: Any) -> Payload:
    """Encode a body as JSON, to be sent piece by piece."""
    return _ChunkedBody(*_json_parts(body), "application/json")


def _json_parts(body: Any) -> tuple[Sequence["bytes | InlineFile"], int]:
    """Return the parts of a body as JSON, with its files separate, and its total size in bytes."""
    files: list[InlineFile] = []
    mark = token_hex(16)

    def separate_file(value: Any) -> str:
        if not isinstance(value, InlineFile):
            raise TypeError(f"{type(value).__name__} is not JSON.")
        files.append(value)
        return mark

    first, *others = dump_json(body, separate_file).split(mark.encode())
    parts: list[bytes | InlineFile] = [first]
    files = files[len(files) - len(others) :]
    for file, text in zip(files, others, strict=True):
        parts += [file.prefix.encode(), file, text]
    encoded = sum((len(file.file.data) + 2) // 3 * 4 for file in files)
    return parts, encoded + sum(len(part) for part in parts if isinstance(part, bytes))


class _ChunkedBody(Payload):
    """A request body that is written in chunks. Between two chunks the event loop serves other requests."""

    _autoclose = True

    def __init__(self, parts: Sequence[bytes | InlineFile], size: int, media_type: str) -> None:
        super().__init__(parts, content_type=media_type)
        self._size = size

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the whole body as text."""
        return b"".join(_chunks(self._value)).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write all chunks."""
        for piece in _chunks(self._value):
            await writer.write(piece)
            await asyncio.sleep(0)


def _chunks(parts: Sequence[bytes | InlineFile]) -> Iterator[bytes]:
    for part in parts:
        data = memoryview(part if isinstance(part, bytes) else part.file.data)
        for start in range(0, len(data), _CHUNK_SIZE):
            piece = data[start : start + _CHUNK_SIZE]
            yield bytes(piece) if isinstance(part, bytes) else base64.b64encode(piece)


def encode_form(parts: tuple[tuple[str, str | File], ...]) -> FormData:
    """Encode texts and files as a multipart form, in their order."""
    form = FormData(default_to_multipart=True)
    for name, value in parts:
        if isinstance(value, File):
            form.add_field(name, _ChunkedBody([value.data], len(value.data), value.type), filename=value.name)
        else:
            form.add_field(name, value)
    return form


def describe_body(request: Request) -> str:
    """Return a request as text for the flight recorder. Files appear as type and size."""
    if not request.form:
        return "" if request.json is None else dump_json(request.json, _describe_file).decode()
    parts = {
        name: f"<{value.type}, {len(value.data)} bytes>" if isinstance(value, File) else value
        for name, value in request.form
    }
    return orjson.dumps(parts).decode()


def _describe_file(value: object) -> str:
    """Return a file's type and size."""
    file = value.file if isinstance(value, InlineFile) else None
    return f"<{file.type}, {len(file.data)} bytes>" if file else str(value)
