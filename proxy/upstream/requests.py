"""Encoding of requests to providers: JSON, multipart forms, files."""

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

_PIECE: Final = 3 << 16
"""Bytes of a request's body that are written at once; a multiple of three, so that base64 can be cut there."""


@dataclass(frozen=True, slots=True)
class File:
    """Bytes on their way to a provider."""

    name: str
    type: str
    data: bytes = field(repr=False)

    def data_url(self) -> "DataUrl | str":
        """The bytes as they stand in a request's JSON."""
        return DataUrl(self)


@dataclass(frozen=True, slots=True)
class DataUrl:
    """A file in a request's JSON, written as a data URL only while the request is sent."""

    file: File

    def __str__(self) -> str:
        """The whole URL."""
        return f"data:{self.file.type};base64,{base64.b64encode(self.file.data).decode()}"


@dataclass(frozen=True, slots=True)
class Request:
    """A paid request, ready to be sent: JSON, or multipart `form` (name and text or file, in order)."""

    path: str
    json: Any = None
    form: tuple[tuple[str, str | File], ...] = ()
    query: Mapping[str, str] = field(default_factory=dict)


def dump_json(body: Any, default: Callable[[Any], str] | None = None) -> bytes:
    """A body as JSON; `default` writes its files. It may be called twice for a file."""
    try:
        return orjson.dumps(body, default=default, option=orjson.OPT_PASSTHROUGH_DATACLASS)
    except TypeError:  # a provider's id may be an integer of more than 64 bits
        return json.dumps(body, default=default, ensure_ascii=False, separators=(",", ":")).encode()


def encode_json(body: Any) -> Payload:
    """Encode a body as JSON, to be sent piece by piece."""
    return _Streamed(*_json_parts(body), "application/json")


def _json_parts(body: Any) -> tuple[Sequence["bytes | DataUrl"], int]:
    """A body as JSON, with its files apart, and how many bytes it is in all."""
    files: list[DataUrl] = []
    mark = token_hex(16)

    def apart(value: Any) -> str:
        if not isinstance(value, DataUrl):
            raise TypeError(f"{type(value).__name__} is not JSON.")
        files.append(value)
        return mark

    first, *others = dump_json(body, apart).split(mark.encode())
    parts: list[bytes | DataUrl] = [first]
    files = files[len(files) - len(others) :]
    for file, text in zip(files, others, strict=True):
        parts += [b"data:%b;base64," % file.file.type.encode(), file, text]
    encoded = sum((len(file.file.data) + 2) // 3 * 4 for file in files)
    return parts, encoded + sum(len(part) for part in parts if isinstance(part, bytes))


class _Streamed(Payload):
    """A request's body that is written piece by piece: other requests are served between two pieces."""

    _autoclose = True

    def __init__(self, parts: Sequence[bytes | DataUrl], size: int, media_type: str) -> None:
        super().__init__(parts, content_type=media_type)
        self._size = size

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The whole body as text."""
        return b"".join(_written(self._value)).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write all pieces."""
        for piece in _written(self._value):
            await writer.write(piece)
            await asyncio.sleep(0)


def _written(parts: Sequence[bytes | DataUrl]) -> Iterator[bytes]:
    for part in parts:
        data = memoryview(part if isinstance(part, bytes) else part.file.data)
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            yield bytes(piece) if isinstance(part, bytes) else base64.b64encode(piece)


def encode_form(parts: tuple[tuple[str, str | File], ...]) -> FormData:
    """Encode texts and files as a multipart form, in their order."""
    form = FormData(default_to_multipart=True)
    for name, value in parts:
        if isinstance(value, File):
            form.add_field(name, _Streamed([value.data], len(value.data), value.type), filename=value.name)
        else:
            form.add_field(name, value)
    return form


def as_text(request: Request) -> str:
    """What was sent, for people: files by their type and size."""
    if not request.form:
        return "" if request.json is None else dump_json(request.json, _named).decode()
    parts = {
        name: f"<{value.type}, {len(value.data)} bytes>" if isinstance(value, File) else value
        for name, value in request.form
    }
    return orjson.dumps(parts).decode()


def _named(value: object) -> str:
    """A file in JSON, by its type and size."""
    file = value.file if isinstance(value, DataUrl) else None
    return f"<{file.type}, {len(file.data)} bytes>" if file else str(value)
