"""Reading URLs that strangers give, without letting them reach into our network.

A client's URL, and a URL that a provider answers with, may point anywhere: at this machine, at a cloud's metadata
address, at a name that resolves to one of them. Every address is checked at the moment it is connected to (the
resolver hands aiohttp checked addresses only, so a second look-up cannot answer differently), and every redirect is
a new request with the same checks. The one exception is a provider's own configured origin (`ProviderOrigin`), which
is given its credential and may be anywhere; the credential is dropped as soon as a redirect leaves that origin.
"""

import asyncio
import re
import socket
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache, partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from threading import Condition, Thread
from types import TracebackType
from typing import Any, Final, Self

from aiohttp import (
    ClientConnectorCertificateError,
    ClientConnectorDNSError,
    ClientConnectorError,
    ClientError,
    ClientHttpProxyError,
    ClientProxyConnectionError,
    ClientResponse,
    ClientResponseError,
    ClientTimeout,
)
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from proxy.core.media_types import SNIFFED, sniff
from proxy.core.tracks import in_memory, with_tracks
from proxy.upstream.sessions import Connector, session

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_HOPS: Final = 5
_TIMEOUT: Final = ClientTimeout(total=None, connect=10, sock_read=60)
"""No total: a long video on a slow line is relayed for as long as its reader takes."""
_READ_TIME: Final = 120.0
"""Seconds that reading a client's URL may take, however little comes."""
_SLOWEST: Final = 64 << 10
"""Bytes a second by which a file that keeps coming is given more time, so that a slow line is no reason to stop."""
_LOOK_UP: Final = 3.0
"""Seconds that a look-up may take while a client waits for the answer to its order."""
_LOOK_UP_TO_READ: Final = 8.0
"""Seconds that a look-up may take before a connection: time for the resolver to ask a second server."""
_LOOK_UP_THREADS: Final = 64
"""Threads that look names up, started as they are needed: enough for sixteen accounts whose names hang."""
_LOOK_UP_SHARE: Final = 4
"""Threads that one account may hold: as many as the names that one order has looked up at once."""
_PIECE: Final = 1 << 16
_NO_CODINGS: Final = frozenset({"", "identity", "none", "utf-8", "aws-chunked"})
"""Values of Content-Encoding that change no byte. Object stores keep the last two from an upload's own header."""
_SPELLED: Final = re.compile(r"(?:[\w.~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*", re.ASCII)
_NAT64: Final = IPv6Network("64:ff9b::/96")
_UNICAST: Final = IPv6Network("2000::/3")
"""All of IPv6 that is handed out for the open internet (RFC 4291, IANA); the rest has local or no meaning."""
_HOSTS_OWN: Final = (IPv4Network("192.0.0.0/24"), IPv4Network("168.63.129.16/32"))
"""What `ipaddress` calls global (in older versions), but clouds serve to their own machines: metadata and the like."""


class NotPublic(Exception):
    """A URL that is not public https; the message names what about it is not."""


class FetchFailed(Exception):
    """A public URL whose bytes could not be had; `reached` tells whether its host answered at all."""

    def __init__(self, message: str, *, reached: bool) -> None:
        super().__init__(message)
        self.reached = reached


class FileTooLarge(FetchFailed):
    """More bytes than were asked for at the most."""


def why(error: Exception) -> str:
    """Why a request failed or its answer broke off, for people: a clause about the other side, `it`."""
    match error:
        case ClientConnectorDNSError():
            return "its name cannot be looked up"
        case ClientConnectorCertificateError():
            return "its certificate cannot be trusted"
        case ClientProxyConnectionError():
            return "its proxy takes no connection"
        case ClientHttpProxyError():
            return f"its proxy refuses to connect to it (HTTP {error.status})"
        case TimeoutError():
            return "it does not answer in time"
        case ClientConnectorError():
            return "it takes no connection"
        case ClientResponseError():
            return "its answer cannot be read"
        case _:
            return "the connection ended too early"


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open internet's, looked at through every IPv6 disguise of an IPv4 one."""
    ip = ip_address(address.split("%")[0])
    if isinstance(ip, IPv6Address):
        inner = _disguised(ip)
        if inner is not None:
            return is_public(str(inner))
        return ip in _UNICAST and ip.is_global
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _HOSTS_OWN)


def _disguised(ip: IPv6Address) -> IPv4Address | None:
    if ip in _NAT64:
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)


def check_url(text: str) -> URL:
    """Parse a stranger's URL; raises NotPublic unless it is https, and its host no address of a private network."""
    url = _parsed(text)
    if url.scheme != "https" or not url.host or url.user is not None or url.password is not None:
        raise NotPublic("Only public https:// URLs without a password are fetched.")
    _check_place(url)
    return url


def as_spelled(text: str) -> URL:
    """A URL as it is, where it is written in the letters that URLs have (RFC 3986); ValueError for what is none.

    yarl would spell it its own way, with other escapes, and whoever signs a URL may have signed its spelling.
    """
    return URL(text, encoded=_SPELLED.fullmatch(text) is not None)


def _parsed(text: str) -> URL:
    try:
        url = as_spelled(text)
        _ = url.host, url.port  # yarl decodes them late
        _check_name(url.raw_host or "")
    except ValueError:
        raise NotPublic(f"{_shown(text)!r} is not a URL.") from None
    return url


def _check_name(host: str) -> None:
    """Raises ValueError for a name that no resolver takes: with a label that is empty or too long, or with a NUL."""
    host.encode("idna")
    if not host.isprintable():
        raise ValueError(host)


def _check_place(url: URL) -> None:
    """Raises NotPublic for a port that is another service's, and for a host that is no public address by itself."""
    if url.port not in {80, 443} and (url.port or 0) < 1024:
        raise NotPublic(f"Port {url.port} is another service's than the web's.")
    # aiohttp connects to a literal address without asking the resolver, so the resolver's check is not enough.
    try:
        public = is_public(url.host or "")
    except ValueError:
        _check_spelling(url.host or "")
        return
    if not public:
        raise NotPublic(f"{url.host} is an address of a private network.")


def _check_spelling(host: str) -> None:
    """Raises NotPublic for an address in one of the old spellings (127.1, 0x7f.1, 2130706433): nobody means well."""
    try:
        socket.inet_aton(host)
    except OSError:
        return
    raise NotPublic(f"{host} is an address in a spelling that is not taken: write four decimal numbers.")


async def check_public(text: str) -> None:
    """Like `check_url`, and look the name up: raises NotPublic when any of its addresses is private.

    A name that cannot be looked up now passes: the fetch itself will tell, and some providers fetch it themselves.
    """
    url = check_url(text)
    try:
        async with asyncio.timeout(_LOOK_UP):
            found = await _looked_up(url.raw_host or "", url.port or 443)
    except (OSError, TimeoutError):
        return
    if not all(is_public(str(address[0])) for *_, address in found):
        raise NotPublic(f"{url.host} is a name in a private network.")


class _PublicResolver(AbstractResolver):
    """The system's resolver, refusing names that point anywhere but to the open internet."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        # aiohttp lets a look-up go on when its request is given up: it ends here, so that none is queued for nobody.
        async with asyncio.timeout(_LOOK_UP_TO_READ):
            found = await _looked_up(host, port, family, flags=socket.AI_ADDRCONFIG)
        if not all(is_public(address[0]) for *_, address in found):
            raise NotPublic(f"{host} is a name in a private network.")
        return [
            ResolveResult(
                hostname=host,
                host=address[0],
                port=address[1],
                family=family,
                proto=proto,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for family, _, proto, _, address in found
        ]

    async def close(self) -> None:
        """Nothing is held."""


async def _looked_up(host: str, port: int, family: int = socket.AF_UNSPEC, flags: int = 0) -> list[Any]:
    """What getaddrinfo finds, in threads of its own, of which the account at work has a share."""
    ask = partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM, flags=flags)
    return await asyncio.wrap_future(_look_ups().put(account_at_work.get(), ask))


account_at_work: ContextVar[str] = ContextVar("account_at_work", default="")
"""The account whose names are looked up in this task and its children; the empty one stands for the server itself."""

_LookUp = tuple[Future[list[Any]], Callable[[], list[Any]]]


class _LookUps:
    """Look-ups of names in threads. Each account may hold a few of them, and accounts that wait take turns.

    A thread cannot be taken away from a name that hangs. A ThreadPoolExecutor would also have the end of the process
    wait for it; that end waits for no daemon.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._waiting: dict[str, deque[_LookUp]] = {}
        """By account, the next one to be served first."""
        self._running: Counter[str] = Counter()
        self._threads = self._idle = 0

    def put(self, account: str, ask: Callable[[], list[Any]]) -> "Future[list[Any]]":
        """Have a name looked up for an account."""
        found = Future[list[Any]]()
        with self._changed:
            self._waiting.setdefault(account, deque()).append((found, ask))
            if sum(map(len, self._waiting.values())) > self._idle and self._threads < _LOOK_UP_THREADS:
                self._threads += 1
                Thread(target=self._serve, name="look-up", daemon=True).start()
            self._changed.notify()
        return found

    def _serve(self) -> None:
        while True:
            account, (found, ask) = self._next()
            if found.set_running_or_notify_cancel():
                try:
                    found.set_result(ask())
                except Exception as error:  # noqa: BLE001 -- it is the caller's, and the thread goes on
                    found.set_exception(error)
            with self._changed:
                self._running -= Counter([account])
                self._changed.notify()

    def _next(self) -> tuple[str, _LookUp]:
        """Wait for the next look-up of the first account in turn that has a thread left."""
        with self._changed:
            self._idle += 1
            while (account := self._first()) is None:
                self._changed.wait()
            self._idle -= 1
            queue = self._waiting.pop(account)
            look_up = queue.popleft()
            if queue:
                self._waiting[account] = queue  # behind all others
            self._running[account] += 1
            return account, look_up

    def _first(self) -> str | None:
        return next((account for account in self._waiting if self._running[account] < _LOOK_UP_SHARE), None)


@cache
def _look_ups() -> _LookUps:
    """The look-ups of this process."""
    return _LookUps()


@dataclass(frozen=True, slots=True)
class ProviderOrigin:
    """A provider's configured origin, the headers that prove who asks there, and the proxy that leads to it."""

    origin: URL
    credential: Mapping[str, str] = field(default_factory=dict, repr=False)
    proxy: URL | None = field(default=None, repr=False)

    def covers(self, url: URL) -> bool:
        """Whether `url` is on that very origin."""
        return (url.scheme, url.host, url.port) == (self.origin.scheme, self.origin.host, self.origin.port)


@dataclass(frozen=True, slots=True)
class Fetched:
    """Bytes brought in from a URL, with the type that they themselves show (None: none of ours)."""

    data: bytes
    type: str | None


class Remote:
    """An answer that has begun: its status, headers, and body as it comes."""

    def __init__(self, response: ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        """Their names are read in any case."""
        self.length = response.content_length
        """How many bytes it says it has, if it does."""

    @property
    def packed(self) -> bool:
        """Whether the body is compressed, unasked; it is unpacked as it is read, and of another length then."""
        codings = self.headers.get("Content-Encoding", "").lower().split(",")
        return not {coding.strip() for coding in codings} <= _NO_CODINGS

    async def pieces(self, until: float | None = None) -> AsyncGenerator[bytes]:
        """The body as it comes, as fast as it is read, so that little of it is held.

        What keeps coming, `_SLOWEST` bytes a second, may take longer than `until`, a time of the loop's. Raises
        FetchFailed where it breaks off, or stalls.
        """
        size = 0
        while True:
            try:
                async with asyncio.timeout_at(until and until + size / _SLOWEST):
                    piece = await self._response.content.read(_PIECE)
            except (ClientError, TimeoutError, OSError) as error:
                place = _shown(str(self._response.url))
                raise FetchFailed(f"{place} broke off: {why(error)}.", reached=True) from None
            if not piece:
                return
            size += len(piece)
            yield piece


class Fetcher:
    """The client for strangers' URLs: no cookies, no proxies from the environment, no connection kept."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        # No shared limit: a few readers that are slow, or URLs that hang, would hold up everyone else's.
        public = Connector(resolver=_PublicResolver(), force_close=True, limit=0)
        self._public = await self._stack.enter_async_context(session(public, _TIMEOUT))
        self._own = await self._stack.enter_async_context(session(Connector(limit=0), _TIMEOUT))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @asynccontextmanager
    async def open(
        self,
        text: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        own: ProviderOrigin | None = None,
        secure: bool = False,
    ) -> AsyncIterator[Remote]:
        """Open a URL and follow its redirects (`secure`: to https only); yields the first answer that is none.

        Raises NotPublic, and FetchFailed when there is no answer.
        """
        url = _parsed(text)
        for _ in range(1 + _HOPS):
            if secure:
                check_url(str(url))
            async with self._request(method, url, dict(headers or {}), own) as response:
                location = response.headers.get("Location")
                if response.status not in _REDIRECTS or location is None:
                    yield Remote(response)
                    return
                url = _parsed(str(url.join(_parsed(location))))
        raise FetchFailed(f"{_shown(text)} redirects more than {_HOPS} times.", reached=True)

    @asynccontextmanager
    async def _request(
        self, method: str, url: URL, headers: dict[str, str], own: ProviderOrigin | None
    ) -> AsyncIterator[ClientResponse]:
        opened, proxy = self._public, None
        if own is not None and own.covers(url):
            opened, proxy = self._own, own.proxy
            headers |= own.credential
        else:
            _check_stranger(url)
        # Identity: a body that is relayed must be the bytes that Content-Length and ranges speak of.
        headers["Accept-Encoding"] = "identity"
        try:
            response = await opened.request(method, url, headers=headers, allow_redirects=False, proxy=proxy)
        except (ClientError, TimeoutError, OSError) as error:
            raise FetchFailed(f"{url.host} cannot be reached: {why(error)}.", reached=False) from None
        async with response:
            yield response

    async def stream(self, text: str, limit: int) -> AsyncGenerator[bytes]:
        """The bytes of a client's public https URL as they come. Raises NotPublic, FetchFailed and FileTooLarge.

        May be iterated by several tasks in turn.
        """
        until = asyncio.get_running_loop().time() + _READ_TIME
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout_at(until):
                    remote = await held.enter_async_context(self.open(text, secure=True))
            except TimeoutError:
                raise FetchFailed(f"{_shown(text)} does not answer.", reached=False) from None
            if remote.status != 200:
                raise FetchFailed(f"{_shown(text)} answered {remote.status}.", reached=True)
            size = 0
            async with aclosing(remote.pieces(until)) as chunks:
                async for chunk in chunks:
                    size += len(chunk)
                    if max(size, remote.length or 0) > limit:
                        raise FileTooLarge(f"The file is larger than {limit} bytes.", reached=True)
                    yield chunk

    async def read(self, text: str, limit: int) -> Fetched:
        """Read a client's public https URL, at most `limit` bytes. Raises as `stream`."""
        async with aclosing(self.stream(text, limit)) as chunks:
            data = b"".join([chunk async for chunk in chunks])
        media_type = sniff(data[:SNIFFED])
        return Fetched(data, media_type and await with_tracks(media_type, len(data), in_memory(data)))


def _check_stranger(url: URL) -> None:
    # A provider's results may be on plain http; where they may point is checked all the same.
    if url.scheme not in {"http", "https"} or not url.host:
        raise NotPublic(f"{_shown(str(url))} is not a URL that can be fetched.")
    _check_place(url)


def _shown(text: str) -> str:
    # A query may hold somebody's signature.
    return text.split("?")[0][:200]
