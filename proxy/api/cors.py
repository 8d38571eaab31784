"""CORS: which pages of other origins may read answers (contract section 3, "Headers").

It stands outside of the application, so that errors carry the headers too. No cookies are used, so none are allowed.
"""

import logging
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proxy.api.error_responses import error_response
from proxy.core.errors import BadRequest
from proxy.core.origins import Origins

log = logging.getLogger(__name__)

_METHODS: Final = ("GET", "HEAD", "POST", "DELETE")
_ALLOWED: Final = (
    *("Authorization", "Content-Type", "Last-Event-ID", "Idempotency-Key", "Range", "X-Request-Id", "X-Requested-With"),
    *("traceparent", "tracestate", "baggage", "sentry-trace"),
)
_EXPOSED: Final = (
    *("Location", "Retry-After", "Idempotency-Replayed", "X-Request-Id", "RateLimit", "RateLimit-Policy"),
    *("Content-Range", "Content-Disposition", "ETag"),
)
_LOGGED_ORIGINS: Final = 100
"""Refused origins that are logged in one period: anybody can send any origin, and a log is not to be flooded."""
_LOG_PERIOD: Final = 3600.0
"""Seconds after which a refused origin is logged again."""
_LONGEST_ORIGIN: Final = 200
"""Characters of a refused origin that are logged."""


class Cors(CORSMiddleware):
    """Starlette's middleware, with patterns for subdomains, errors in our form, and a log of refused origins.

    `own` is the public URL, whose pages are not of another origin. `now` returns seconds of a steady clock.
    """

    def __init__(self, app: ASGIApp, origins: Origins, own: str, now: Callable[[], float] = time.monotonic) -> None:
        listed = ("*",) if origins.all else ()
        super().__init__(app, listed, _METHODS, _ALLOWED, expose_headers=_EXPOSED)
        self._origins = origins
        self._own = own
        self._now = now
        self._logged: set[str] = set()
        self._logged_until = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if self._origins or any(name == b"origin" for name, _ in scope.get("headers", ())):
            await super().__call__(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def is_allowed_origin(self, origin: str) -> bool:
        """Whether a page of this origin may read answers."""
        return origin in self._origins

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer a preflight; the error of a refused one names the setting."""
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        reason = bytes(response.body).decode()
        if not self.is_allowed_origin(request_headers["origin"]):
            reason += "; see POLLCAST_CORS_ORIGINS"
            self._log_refused(request_headers)
        refusal = error_response(BadRequest(f"{reason}."))
        kept = ("access-control-", "vary")
        refusal.headers.update({name: value for name, value in response.headers.items() if name.startswith(kept)})
        return refusal

    async def send(self, message: Message, send: Send, request_headers: Headers) -> None:
        """Send an answer with the headers for its origin."""
        if message["type"] == "http.response.start" and "origin" in request_headers:
            for_any = any(name == b"access-control-allow-origin" for name, _ in message.get("headers", ()))
            if not (for_any or self.is_allowed_origin(request_headers["origin"])):
                self._log_refused(request_headers)
        await super().send(message, send, request_headers)

    def _log_refused(self, headers: Headers) -> None:
        """Say once in a period that an origin was refused, unless the page is of our own origin."""
        origin = headers["origin"][:_LONGEST_ORIGIN]
        if self._is_own(origin, headers):
            return
        if self._now() >= self._logged_until:
            self._logged.clear()
            self._logged_until = self._now() + _LOG_PERIOD
        if origin in self._logged or len(self._logged) >= _LOGGED_ORIGINS:
            return
        self._logged.add(origin)
        shown = ascii(origin)
        log.warning("Pages of the origin %s may not read answers: it is not in POLLCAST_CORS_ORIGINS.", shown)

    def _is_own(self, origin: str, headers: Headers) -> bool:
        """Whether the page comes from this server: browsers send `Origin` with each POST, also to their own server."""
        host = urlsplit(self._own).netloc
        return headers.get("sec-fetch-site") == "same-origin" or origin.partition("://")[2] in {
            host,
            headers.get("host", host),
        }
