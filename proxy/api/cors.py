"""CORS: lets pages of the origins in POLLCAST_CORS_ORIGINS read responses.

The middleware wraps the whole application, so that error responses have the headers too. Pollcast uses no cookies, so
credentials are not allowed.
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
_ALLOWED_HEADERS: Final = (
    *("Authorization", "Content-Type", "Last-Event-ID", "Idempotency-Key", "Range", "X-Request-Id", "X-Requested-With"),
    *("traceparent", "tracestate", "baggage", "sentry-trace"),
)
_EXPOSED_HEADERS: Final = (
    *("Location", "Retry-After", "Idempotency-Replayed", "X-Request-Id", "RateLimit", "RateLimit-Policy"),
    *("Content-Range", "Content-Disposition", "ETag"),
)
_MAX_LOGGED_ORIGINS: Final = 100
"""Maximum number of refused origins logged in one period. Clients can send any origin and could flood the log."""
_LOG_PERIOD: Final = 3600.0
"""Time after which a refused origin is logged again, in seconds."""
_MAX_ORIGIN: Final = 200
"""Maximum number of characters of a refused origin that are logged."""


class Cors(CORSMiddleware):
    """Starlette's middleware with patterns for subdomains, JSON errors, and a log of refused origins.

    `own` is the public URL: its pages are not cross-origin. `now` returns monotonic seconds.
    """

    def __init__(self, app: ASGIApp, origins: Origins, own: str, now: Callable[[], float] = time.monotonic) -> None:
        listed = ("*",) if origins.all else ()
        super().__init__(app, listed, _METHODS, _ALLOWED_HEADERS, expose_headers=_EXPOSED_HEADERS)
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
        """Return whether a page of this origin may read responses."""
        return origin in self._origins

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer a preflight request. The error of a refused one names the setting."""
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
        """Send a message of the response, with the CORS headers for its origin."""
        if message["type"] == "http.response.start" and "origin" in request_headers:
            allows_any = any(name == b"access-control-allow-origin" for name, _ in message.get("headers", ()))
            if not (allows_any or self.is_allowed_origin(request_headers["origin"])):
                self._log_refused(request_headers)
        await super().send(message, send, request_headers)

    def _log_refused(self, headers: Headers) -> None:
        """Log a refused origin once in a period, unless it is this server's own origin."""
        origin = headers["origin"][:_MAX_ORIGIN]
        if self._is_own(origin, headers):
            return
        if self._now() >= self._logged_until:
            self._logged.clear()
            self._logged_until = self._now() + _LOG_PERIOD
        if origin in self._logged or len(self._logged) >= _MAX_LOGGED_ORIGINS:
            return
        self._logged.add(origin)
        shown = ascii(origin)
        log.warning("CORS: origin %s is refused, because it is not in POLLCAST_CORS_ORIGINS.", shown)

    def _is_own(self, origin: str, headers: Headers) -> bool:
        """Return whether the page comes from this server. Browsers send `Origin` with every POST, same-origin too."""
        host = urlsplit(self._own).netloc
        return headers.get("sec-fetch-site") == "same-origin" or origin.partition("://")[2] in {
            host,
            headers.get("host", host),
        }
