"""Error responses: every error as JSON of one form, described in `proxy/docs/api.md`.

The application registers `EXCEPTION_HANDLERS` for what its endpoints raise, and is wrapped in `AnswerOnShutdown`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proxy.core import errors
from proxy.core.errors import InvalidRequest, PollcastError

_MAX_PATH: Final = 200
"""Maximum number of a path's characters that an error message repeats."""


def error_response(error: PollcastError, headers: Mapping[str, str] | None = None) -> Response:
    """Return the error as JSON, with its HTTP status and these additional headers."""
    body: dict[str, Any] = {"status": "Error", "message": error.message, "code": error.code}
    if isinstance(error, InvalidRequest):
        body["errors"] = [{"field": fault.field, "message": fault.message} for fault in error.errors]
    common = {"Content-Type": "application/json", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return Response(orjson.dumps(body), error.status, common | dict(headers or {}))


class AnswerOnShutdown:
    """ASGI middleware that answers 503 when the server cancels a request at the end of its grace period.

    A response that has already begun is cut off instead, because its status is sent.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        has_begun = False

        async def watch_and_send(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, watch_and_send)
        except asyncio.CancelledError:
            if has_begun:
                raise
            stopping = error_response(errors.Unavailable("The server is stopping."), {"Connection": "close"})
            await stopping(scope, receive, send)


async def _pollcast_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, PollcastError)  # noqa: S101 - registered for these only
    return error_response(error, error.headers if isinstance(error, errors.RequestError) else None)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for these only
    path = request.scope["path"][:_MAX_PATH]
    match error.status_code:
        case 404:
            return error_response(errors.NotFound(f"There is nothing at {path}."))
        case 405:
            allowed = (error.headers or {}).get("Allow", "")
            message = f"{request.method} is not allowed for {path}. Allowed: {allowed}."
            return error_response(errors.MethodNotAllowed(message), error.headers)
    return error_response(errors.BadRequest(error.detail), error.headers)


async def _client_disconnected(_: Request, __: Exception) -> Response:
    return error_response(errors.BadRequest("The request body is incomplete: the connection was closed."))


async def _internal_error(_: Request, __: Exception) -> Response:
    return error_response(errors.Internal("Internal server error. The server log has the details."))


EXCEPTION_HANDLERS: Final[Mapping[Any, Callable[[Request, Exception], Awaitable[Response]]]] = {
    PollcastError: _pollcast_error,
    HTTPException: _http_error,
    ClientDisconnect: _client_disconnected,
    Exception: _internal_error,
}
"""Starlette's exception handlers, by the class of the exception."""
