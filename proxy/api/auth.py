"""Authentication: a bearer key or a Link. Also ends open streams when their key is revoked."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hmac import compare_digest
from ipaddress import ip_address
from typing import Final, TypeVar

from starlette.requests import Request

from proxy.api.times import DEFAULT_TIMES, ApiTimes
from proxy.core import keys
from proxy.core.clock import Clock
from proxy.core.errors import NotFound, Unauthorized, Unavailable
from proxy.core.links import Links, route_path
from proxy.store.contract import Accounts
from proxy.store.types import Key
from proxy.streams.feed import Feed
from proxy.upstream.ssrf import current_account

_KEY_CACHE_SECONDS: Final = 0.5
"""Cache lifetime of a key, in seconds. A revoked key is refused within a second."""
_MAX_CACHED_KEYS: Final = 10_000
"""Maximum number of cached keys. A full cache is emptied."""
_PROXY_HEADERS: Final = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP")
"""Headers by which a proxy says that it forwards a request."""
_SIGNATURE: Final = re.compile(rb"(?:^|&)signature=")
"""The part of a query that only a Link has."""
Name = TypeVar("Name", bytes, str)


@dataclass(frozen=True, slots=True)
class Caller:
    """The key that authenticates a request. `until` is the expiry of its Link, in seconds since the epoch."""

    key: Key
    until: float | None = None


class Auth:
    """Authenticates requests by key or Link. Every failure is the same 401.

    `scrapers` is the setting POLLCAST_METRICS: `public`, `off`, a token, or empty for this machine only.
    """

    def __init__(
        self, store: Accounts, links: Links, clock: Clock, scrapers: str = "", times: ApiTimes = DEFAULT_TIMES
    ) -> None:
        self._store = store
        self._links = links
        self._clock = clock
        self._scrapers = scrapers
        self._times = times
        self._key_cache: dict[bytes | str, tuple[Key, float]] = {}

    async def key(self, request: Request) -> Key:
        """Return the key in `Authorization: Bearer`. Raises Unauthorized."""
        token = _bearer_token(request)
        if not token:
            raise Unauthorized("Send your key as `Authorization: Bearer <key>`.")
        return _record_account(request, await self._find(keys.digest(token), self._store.key))

    async def key_or_link(self, request: Request) -> Key:
        """Return the key that signed this Link, or the key in the header. Raises Unauthorized."""
        return (await self.caller(request)).key

    async def caller(self, request: Request) -> Caller:
        """Return the key as `key_or_link` does, with the expiry of a Link.

        A Link has priority over a header, because a proxy may add an `Authorization` header.
        """
        if not is_link(request):
            return Caller(await self.key(request))
        signed = self._links.check(route_path(request.scope), request.scope["query_string"].decode("latin-1"))
        key = await self._find(signed.key, self._store.key_by_id)
        return Caller(_record_account(request, key), signed.expires)

    async def watch(self, feed: Feed) -> None:
        """End the feed's streams whose keys were revoked, by any process, until this task is cancelled."""
        while True:
            await asyncio.sleep(self._times.revocation_interval)
            with suppress(Unavailable):  # while the store is unavailable, no key can be revoked
                if revoked := await self._find_revoked(list(feed.streams_by_key)):
                    self._key_cache.clear()  # otherwise a client that reconnects at once would be accepted again
                    feed.revoke(revoked)

    def check_scraper(self, request: Request) -> None:
        """Raise Unauthorized or NotFound unless POLLCAST_METRICS lets this caller read the metrics."""
        if self._scrapers == "off":
            raise NotFound("Metrics are disabled: POLLCAST_METRICS is off.")
        if self._scrapers == "public":
            return
        if not self._scrapers:
            if not _is_local(request):
                raise Unauthorized("Metrics are limited to this machine. Set POLLCAST_METRICS to allow other clients.")
            return
        if not compare_digest(_bearer_token(request).encode(), self._scrapers.encode()):
            raise Unauthorized("Send the token of POLLCAST_METRICS as `Authorization: Bearer <token>`.")

    async def _find_revoked(self, ids: Sequence[str]) -> set[str]:
        active: set[str] = set()
        for start in range(0, len(ids), self._times.key_batch):
            active |= await self._store.active_keys(ids[start : start + self._times.key_batch])
        return set(ids) - active

    async def _find(self, name: Name, find: Callable[[Name], Awaitable[Key | None]]) -> Key:
        now = self._clock.monotonic()
        key, until = self._key_cache.get(name, (None, 0.0))
        if key is None or now >= until:
            key = _check_active(await find(name))
            if len(self._key_cache) >= _MAX_CACHED_KEYS:
                self._key_cache.clear()
            self._key_cache[name] = key, now + _KEY_CACHE_SECONDS
        return key


def is_link(request: Request) -> bool:
    """Return whether the URL carries a signature. It may be invalid: this only decides how to authenticate.

    Searches the raw query string, because parsing is slow and `Links.check` parses it later.
    """
    return _SIGNATURE.search(request.scope["query_string"]) is not None


def _bearer_token(request: Request) -> str:
    """Return the token in `Authorization: Bearer`, or an empty string."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _is_local(request: Request) -> bool:
    """Return whether a process on this machine sent the request, and is not a proxy that forwards it."""
    if any(name in request.headers for name in _PROXY_HEADERS):
        return False
    try:
        address = ip_address(request.client.host if request.client else "")
        # A socket for both families shows an IPv4 peer as ::ffff:127.0.0.1.
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback
    except ValueError:
        return False


def _record_account(request: Request, key: Key) -> Key:
    """Record the key's account for the access log and for fetches of this request, and return the key."""
    request.scope.setdefault("state", {})["account"] = key.account
    current_account.set(key.account)  # each request runs in its own task, so the variable is its own
    return key


def _check_active(key: Key | None) -> Key:
    if key is None or key.revoked_at is not None:
        raise Unauthorized("This key is unknown or was revoked.")
    return key
