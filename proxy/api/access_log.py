"""One line in the log for each request, and its id: taken from the client or made here, and told in the answer."""

import logging
import re
import secrets
from time import perf_counter
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proxy.core.links import mask_signatures, route_path
from proxy.telemetry.logs import request_id

log = logging.getLogger(__name__)

_SAFE: Final = re.compile(r"[\w.:/+=@-]{1,128}", re.ASCII)
_LONGEST: Final = 1000
"""Characters of a path and query that are logged."""
_OFTEN: Final = frozenset({"/healthz", "/readyz", "/metrics"})
"""What machines ask every few seconds: told at the level debug."""


class AccessLog:
    """Logs each request when it has been answered; a stream when it has begun (`Visit.ended` tells its end)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visit = RequestInfo(_told_id(scope) or secrets.token_hex(8))
        scope.setdefault("state", {})["visit"] = visit
        token = request_id.set(visit.id)
        header = (b"x-request-id", visit.id.encode())
        status = 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                # A list of its own: responses share theirs.
                message = {**message, "headers": [*message.get("headers", ()), header]}
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            _tell(scope, visit, status)
        # After an exception the id stays, for whoever logs that.
        request_id.reset(token)


class RequestInfo:
    """One request: its id, and when it began."""

    __slots__ = ("began", "id")

    def __init__(self, own_id: str) -> None:
        self.id = own_id
        self.began = perf_counter()

    @property
    def milliseconds(self) -> float:
        """How long it has taken so far."""
        return round((perf_counter() - self.began) * 1000, 1)

    def ended(self, path: str) -> None:
        """Tell the end of a stream, whoever ended it."""
        log.info("stream ended", extra={"path": path, "ms": self.milliseconds, "request": self.id})


def _told_id(scope: Scope) -> str:
    """The client's own `X-Request-Id`, if it sent one that is fit for a log and a header."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            text: str = value.decode("latin-1")
            return text if _SAFE.fullmatch(text) else ""
    return ""


def _tell(scope: Scope, visit: RequestInfo, status: int) -> None:
    level = logging.DEBUG if route_path(scope) in _OFTEN and status == 200 else logging.INFO
    if not log.isEnabledFor(level):
        return
    # The path as it was sent: decoded, it could hold anything.
    path = scope.get("raw_path", b"").decode("latin-1") or scope["path"]
    query = scope["query_string"].decode("latin-1")
    facts = {
        "method": scope["method"],
        "path": mask_signatures(f"{path}?{query}" if query else path)[:_LONGEST],
        "status": status,
        "ms": visit.milliseconds,
    }
    account = scope["state"].get("account")
    log.log(level, "request", extra=facts | ({"account": account} if account else {}))
