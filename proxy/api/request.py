"""Reads requests (body, headers, query) and writes JSON responses, for all endpoints."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeVar

import orjson
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from proxy.api.body import invalid_fields, json_object, validate
from proxy.core.errors import BadRequest, FieldError, TooLarge

Record = TypeVar("Record", bound=BaseModel)

_MAX_BODY: Final = 1 << 20
"""Maximum size of a JSON body, in bytes."""
_PAGE_SIZE: Final = 50
"""Number of entries on a page, if the client does not say."""
_MAX_PAGE_SIZE: Final = 200
"""Maximum number of entries that a client may ask for on one page."""
_MAX_KEY_LENGTH: Final = 255
"""Maximum length of an `Idempotency-Key`, in characters."""
_MAX_DIGITS: Final = 18
"""Maximum number of digits that are read as a number: the largest one fits into 64 bits."""


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return the content as a JSON response. No cache may keep it, because it holds balances and Links."""
    common = {"Content-Type": "application/json", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return Response(orjson.dumps(content), status, common | dict(headers or {}))


def refuse_fields(faults: Sequence[FieldError]) -> NoReturn:
    """Raise InvalidRequest for these fields."""
    raise invalid_fields(faults)


# --- the body ---


@dataclass(frozen=True, slots=True)
class BodyReader:
    """Reads bodies of requests. `timeout` is the maximum time without a byte, in seconds."""

    timeout: float

    async def chunks(self, request: Request, limit: int) -> AsyncGenerator[bytes, None]:
        """Yield the body as it arrives.

        Raises TooLarge as soon as it is known to exceed `limit` bytes, and BadRequest after the timeout.
        """
        announced = request.headers.get("Content-Length", "")
        _check_size(int(announced) if announced.isdigit() else 0, limit)
        size = 0
        stream = aiter(request.stream())
        while (chunk := await self._next(stream)) is not None:
            size += len(chunk)
            _check_size(size, limit)
            yield chunk

    async def _next(self, stream: AsyncIterator[bytes]) -> bytes | None:
        try:
            async with asyncio.timeout(self.timeout):
                return await anext(stream, None)
        except TimeoutError:
            message = f"The request body is incomplete: no data arrived for {self.timeout:g} seconds."
            raise BadRequest(message) from None

    async def read(self, request: Request) -> bytes:
        """Return the whole body. Raises TooLarge over 1 MiB, and BadRequest after the timeout."""
        return b"".join([chunk async for chunk in self.chunks(request, _MAX_BODY)])

    async def record(self, request: Request, kind: type[Record], expected: str) -> Record:
        """Return the body as a record of that kind; null means absent.

        `expected` is a clause for the error message that says what the body should be. Raises TooLarge, BadRequest,
        and InvalidRequest with all invalid fields.
        """
        parsed = json_object(await self.read(request), expected)
        return validate(kind, {name: value for name, value in parsed.items() if value is not None})


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise TooLarge(f"The request body is larger than {limit} bytes.")


# --- headers and the query ---


def last_event_id(request: Request) -> int:
    """Return the number of the last event that the client has; 0 for none and for an unknown id."""
    return _number_or_zero(last_event_id_text(request))


def feed_position(request: Request) -> int:
    """Return the client's last position in an account's feed; -1 for none.

    An unknown id is 0, a position that no feed has, so that the client receives a `reset`.
    """
    text = last_event_id_text(request)
    return _number_or_zero(text) if text else -1


def last_event_id_text(request: Request) -> str:
    """Return the last event's id as the client sent it, in the header or the query; empty for none."""
    header = request.headers.get("Last-Event-ID")
    # Search the raw query string first, because parsing it is slow.
    if header or b"lastEventId" not in request.scope["query_string"]:
        return header or ""
    return request.query_params.get("lastEventId", "")


def _number_or_zero(text: str) -> int:
    return int(text) if _is_number(text) else 0


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS


def query_number(request: Request, name: str, default: int, *, maximum: int, minimum: int = 0) -> int:
    """Return a whole number from `minimum` to `maximum` in the query. Raises InvalidRequest."""
    text = request.query_params.get(name, str(default))
    if not (_is_number(text) and minimum <= int(text) <= maximum):
        refuse_fields([FieldError(name, f"must be a whole number from {minimum} to {maximum}")])
    return int(text)


def page_size(request: Request) -> int:
    """Return the maximum number of entries for a page, from the query. Raises InvalidRequest."""
    return query_number(request, "limit", _PAGE_SIZE, minimum=1, maximum=_MAX_PAGE_SIZE)


def idempotency_key(request: Request) -> str | None:
    """Return the client's `Idempotency-Key`, or None. Raises BadRequest."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not (0 < len(key) <= _MAX_KEY_LENGTH and key.isprintable()):
        raise BadRequest(f"Idempotency-Key must be 1 to {_MAX_KEY_LENGTH} printable characters.")
    return key
