"""Access log: one log line for each request, with its request id.

The id is the client's `X-Request-Id`, or a new one. It is returned in the response's `X-Request-Id`.
"""

import logging
import re
import secrets
from time import perf_counter
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proxy.core.links import mask_signatures, route_path
from proxy.telemetry.logs import request_id

log = logging.getLogger(__name__)

_REQUEST_ID: Final = re.compile(r"[\w.:/+=@-]{1,128}", re.ASCII)
"""Request ids that are accepted from a client: safe in a log and in a header."""
_MAX_LOGGED_URL: Final = 1000
"""Maximum number of characters of a path and query that are logged."""
_PROBE_PATHS: Final = frozenset({"/healthz", "/readyz", "/metrics"})
"""Paths that machines request every few seconds. Successful requests are logged at level debug."""


class AccessLog:
    """ASGI middleware that logs each request when its response ends, and a stream when it has begun.

    `RequestInfo.log_end` logs the end of a stream.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        info = RequestInfo(_client_id(scope) or secrets.token_hex(8))
        scope.setdefault("state", {})["request_info"] = info
        token = request_id.set(info.id)
        header = (b"x-request-id", info.id.encode())
        status = 500

        async def watch_and_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                # Make a new list, because responses share theirs.
                message = {**message, "headers": [*message.get("headers", ()), header]}
            await send(message)

        try:
            await self._app(scope, receive, watch_and_send)
        finally:
            _log_request(scope, info, status)
        # After an exception the id stays set, for the server's log line about it.
        request_id.reset(token)


class RequestInfo:
    """A request's id and start time."""

    __slots__ = ("began", "id")

    def __init__(self, own_id: str) -> None:
        self.id = own_id
        self.began = perf_counter()

    @property
    def milliseconds(self) -> float:
        """Time since the request began."""
        return round((perf_counter() - self.began) * 1000, 1)

    def log_end(self, path: str) -> None:
        """Log the end of a stream."""
        log.info("stream ended", extra={"path": path, "ms": self.milliseconds, "request": self.id})


def _client_id(scope: Scope) -> str:
    """Return the client's `X-Request-Id`, or an empty string if there is none or it is not accepted."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            text: str = value.decode("latin-1")
            return text if _REQUEST_ID.fullmatch(text) else ""
    return ""


def _log_request(scope: Scope, info: RequestInfo, status: int) -> None:
    level = logging.DEBUG if route_path(scope) in _PROBE_PATHS and status == 200 else logging.INFO
    if not log.isEnabledFor(level):
        return
    # Log the path as it was sent, because a decoded path may hold any characters.
    path = scope.get("raw_path", b"").decode("latin-1") or scope["path"]
    query = scope["query_string"].decode("latin-1")
    facts = {
        "method": scope["method"],
        "path": mask_signatures(f"{path}?{query}" if query else path)[:_MAX_LOGGED_URL],
        "status": status,
        "ms": info.milliseconds,
    }
    account = scope["state"].get("account")
    log.log(level, "request", extra=facts | ({"account": account} if account else {}))
