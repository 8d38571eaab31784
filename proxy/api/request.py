"""How the endpoints read requests and write answers."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Final, NoReturn, TypeVar

import orjson
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from proxy.api.body import json_object, validated
from proxy.core.errors import BadRequest, FieldError, InvalidRequest, TooLarge

Read = TypeVar("Read", bound=BaseModel)

_BODY_LIMIT: Final = 1 << 20
_PATIENCE: Final = 60.0
_PAGE: Final = 50
_LONGEST_PAGE: Final = 200


def answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Write a JSON answer."""
    # Answers hold balances and Links: no cache may keep them.
    own = {"Content-Type": "application/json", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return Response(orjson.dumps(content), status, own | dict(headers or {}))


def refuse_fields(faults: Sequence[FieldError]) -> NoReturn:
    """Raises InvalidRequest for these fields."""
    raise InvalidRequest("; ".join(f"{fault.field}: {fault.message}" for fault in faults[:5]), faults)


async def limited(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    """The body as it comes. Raises TooLarge as soon as it is known to be longer than `limit` bytes.

    Raises BadRequest where nothing comes for `_PATIENCE` seconds.
    """
    announced = request.headers.get("Content-Length", "")
    size = int(announced) if announced.isdigit() else 0
    _check_size(size, limit)
    size = 0
    chunks = aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(_PATIENCE):
                chunk = await anext(chunks, None)
        except TimeoutError:
            raise BadRequest(f"The body broke off: nothing came for {_PATIENCE:g} seconds.") from None
        if chunk is None:
            return
        size += len(chunk)
        _check_size(size, limit)
        yield chunk


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise TooLarge(f"The body is longer than {limit} bytes.")


async def body(request: Request) -> bytes:
    """The whole body. Raises TooLarge over 1 MiB."""
    return b"".join([chunk async for chunk in limited(request, _BODY_LIMIT)])


async def record(request: Request, kind: type[Read], what: str) -> Read:
    """The body as a record of that kind, where null means absent; `what` says what it ought to be.

    Raises TooLarge, BadRequest, and InvalidRequest with every field at fault.
    """
    parsed = json_object(await body(request), what)
    return validated(kind, {name: value for name, value in parsed.items() if value is not None})


def last_event_id(request: Request) -> int:
    """The id of the last event the client has; 0 for none, and for what is no number of ours."""
    return _whole_number(told_event_id(request))


def feed_position(request: Request) -> int:
    """The position of the last event of an account's feed that the client has; below 0 for none.

    What is no number of ours is 0, where no feed has been.
    """
    text = told_event_id(request)
    return _whole_number(text) if text else -1


def told_event_id(request: Request) -> str:
    """The last event's id as the client wrote it, in the header or the query; empty means none."""
    told = request.headers.get("Last-Event-ID")
    if told or b"lastEventId" not in request.scope["query_string"]:
        return told or ""
    return request.query_params.get("lastEventId", "")


def _whole_number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0


def number(request: Request, name: str, default: int, most: int) -> int:
    """A whole number from 0 to `most` in the query. Raises InvalidRequest."""
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 19 and int(text) <= most):
        refuse_fields([FieldError(name, f"a whole number from 0 to {most}")])
    return int(text)


def idempotency_key(request: Request) -> str | None:
    """The client's `Idempotency-Key`, if it sent one. Raises BadRequest."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not (0 < len(key) <= 255 and key.isprintable()):
        raise BadRequest("Idempotency-Key takes 1 to 255 printable characters.")
    return key


def limit(request: Request) -> int:
    """How many entries a page may have. Raises InvalidRequest."""
    text = request.query_params.get("limit", str(_PAGE))
    if not (text.isascii() and text.isdigit() and len(text) < 9 and 1 <= int(text) <= _LONGEST_PAGE):
        refuse_fields([FieldError("limit", f"a whole number from 1 to {_LONGEST_PAGE}")])
    return int(text)
