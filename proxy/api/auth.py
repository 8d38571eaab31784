"""Who calls: a bearer key, or a Link; and whether whoever reads a stream still may."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hmac import compare_digest
from ipaddress import ip_address
from typing import Final, TypeVar

from starlette.requests import Request

from proxy.core import keys
from proxy.core.clock import Clock
from proxy.core.errors import NotFound, Unauthorized, Unavailable
from proxy.core.links import Links, route_path
from proxy.store.contract import Accounts
from proxy.store.types import Key
from proxy.streams.feed import Feed
from proxy.upstream.ssrf import current_account

_BELIEVED: Final = 0.5
"""Seconds that a key is believed without asking again: a revoked one is refused within a second."""
_FORWARDED: Final = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP")
"""What a proxy in front says of whom it asks for."""
_MOST: Final = 10_000
"""Keys that are remembered so."""
_PAUSE: Final = 0.5
"""Seconds between two looks at the keys of open streams: those of a revoked one break off within a second."""
_AT_ONCE: Final = 1000
"""Keys that the store is asked about together, at the most: some milliseconds, and nobody waits longer behind."""
_SIGNED: Final = re.compile(rb"(?:^|&)signature=")
Name = TypeVar("Name", bytes, str)


@dataclass(frozen=True, slots=True)
class Caller:
    """The key that calls, itself or by its Link; `until` is when that Link expires, in seconds since the epoch."""

    key: Key
    until: float | None = None


class Auth:
    """Reads a request's key or Link; every failure is the same 401 to whoever has neither."""

    def __init__(self, store: Accounts, links: Links, clock: Clock, scrapers: str = "") -> None:
        self._store = store
        self._links = links
        self._clock = clock
        self._scrapers = scrapers
        self._believed: dict[bytes | str, tuple[Key, float]] = {}

    async def key(self, request: Request) -> Key:
        """The key in `Authorization: Bearer`. Raises Unauthorized."""
        scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise Unauthorized("Send your key as `Authorization: Bearer <key>`.")
        digest = keys.digest(secret.strip())
        return _named(request, await self._known(digest, self._store.key))

    async def key_or_link(self, request: Request) -> Key:
        """The key that made the Link which this URL is, or the one in the header. Raises Unauthorized."""
        return (await self.caller(request)).key

    async def caller(self, request: Request) -> Caller:
        """Like `key_or_link`, with the end of a Link's time.

        A Link counts before a header: a proxy in front may add an `Authorization` of its own.
        """
        if not is_link(request):
            return Caller(await self.key(request))
        signed = self._links.check(route_path(request.scope), request.scope["query_string"].decode("latin-1"))
        return Caller(_named(request, await self._known(signed.key, self._store.key_by_id)), signed.expires)

    async def watch(self, feed: Feed) -> None:
        """Break off the feed's streams whose keys were revoked, by whichever process, until cancelled."""
        while True:
            await asyncio.sleep(_PAUSE)
            with suppress(Unavailable):  # a store that is away has revoked nothing
                if revoked := await self._revoked(list(feed.keys)):
                    self._believed.clear()  # else who comes back at once would be let in again
                    feed.revoke(revoked)

    def check_scraper(self, request: Request) -> None:
        """Raises Unauthorized or NotFound unless the metrics are for this caller (POLLCAST_METRICS)."""
        if self._scrapers == "off":
            raise NotFound("There are no metrics here: POLLCAST_METRICS is off.")
        if self._scrapers == "public":
            return
        if not self._scrapers:
            if not _is_at_home(request):
                raise Unauthorized("Metrics are told to this machine alone: set POLLCAST_METRICS to let others read.")
            return
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not compare_digest(token.strip().encode(), self._scrapers.encode()):
            raise Unauthorized("Send the token of POLLCAST_METRICS as `Authorization: Bearer <token>`.")

    async def _revoked(self, ids: Sequence[str]) -> set[str]:
        good: set[str] = set()
        for start in range(0, len(ids), _AT_ONCE):
            good |= await self._store.active_keys(ids[start : start + _AT_ONCE])
        return set(ids) - good

    async def _known(self, name: Name, find: Callable[[Name], Awaitable[Key | None]]) -> Key:
        now = self._clock.monotonic()
        key, until = self._believed.get(name, (None, 0.0))
        if key is None or now >= until:
            key = _valid(await find(name))
            if len(self._believed) >= _MOST:
                self._believed.clear()
            self._believed[name] = key, now + _BELIEVED
        return key


def is_link(request: Request) -> bool:
    """Whether the URL is a Link, if perhaps an altered one; nobody else is told by it who asks."""
    # As it is written: to parse the query for it is dear, and the Link parses it anyway.
    return _SIGNED.search(request.scope["query_string"]) is not None


def _is_at_home(request: Request) -> bool:
    """Whether a process of this machine asks, and none that asks for somebody else, as a proxy does."""
    if any(name in request.headers for name in _FORWARDED):
        return False
    try:
        address = ip_address(request.client.host if request.client else "")
        # A socket for both families shows an IPv4 peer as ::ffff:127.0.0.1.
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback
    except ValueError:
        return False


def _named(request: Request, key: Key) -> Key:
    """The key, once the request's line in the log can name its account."""
    request.scope.setdefault("state", {})["account"] = key.account
    current_account.set(key.account)  # a request is a task of its own
    return key


def _valid(key: Key | None) -> Key:
    if key is None or key.revoked_at is not None:
        raise Unauthorized("This key is unknown or was revoked.")
    return key
