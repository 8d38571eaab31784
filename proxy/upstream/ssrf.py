"""Guard against SSRF (server-side request forgery): which URLs may be opened.

A URL from a client or in a provider's answer may point at this machine, at a cloud's metadata address, or at a name
that resolves to one of them. `check_url` checks the URL itself. `PublicResolver` checks the addresses in the lookup of
the connection itself, so a second lookup cannot return another address (DNS rebinding). `fetch` repeats both checks for
every redirect.
"""

import asyncio
import re
import socket
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar
from functools import cache, partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from threading import Condition, Thread
from typing import Any, Final

from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from proxy.upstream.times import DEFAULT_TIMES

_LOOKUP_THREADS: Final = 64
"""Maximum number of lookup threads, started on demand. Enough for sixteen accounts with hanging names."""
_LOOKUP_SHARE: Final = 4
"""Maximum number of threads per account. One order looks up this many names at once."""
_URL_CHARACTERS: Final = re.compile(r"(?:[\w.~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*", re.ASCII)
"""A URL of permitted characters only (RFC 3986)."""
_NAT64: Final = IPv6Network("64:ff9b::/96")
"""IPv6 addresses that embed an IPv4 address for translation (RFC 6052)."""
_UNICAST: Final = IPv6Network("2000::/3")
"""All IPv6 addresses assigned to the internet (RFC 4291, IANA). The others are local or reserved."""
_CLOUD_METADATA: Final = (IPv4Network("192.0.0.0/24"), IPv4Network("168.63.129.16/32"))
"""Metadata addresses of clouds (Oracle, Azure) that `ipaddress` considers global, some only in older versions."""


class NotPublic(Exception):
    """The URL is not a public https URL. The message says why."""


def is_public(address: str) -> bool:
    """Return whether an IP address is on the internet. For IPv6 forms of an IPv4 address, the latter decides."""
    ip = ip_address(address.split("%")[0])
    if isinstance(ip, IPv6Address):
        inner = _embedded_ipv4(ip)
        if inner is not None:
            return is_public(str(inner))
        return ip in _UNICAST and ip.is_global
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _CLOUD_METADATA)


def _embedded_ipv4(ip: IPv6Address) -> IPv4Address | None:
    if ip in _NAT64:
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)


def check_url(text: str) -> URL:
    """Parse a foreign URL. Raises NotPublic unless it uses https and its host is not a private address."""
    url = parse_url(text)
    if url.scheme != "https" or not url.host or url.user is not None or url.password is not None:
        raise NotPublic("Only public https:// URLs without a password are fetched.")
    _check_host(url)
    return url


def parse_verbatim(text: str) -> URL:
    """Parse a URL and keep its escapes, if it has only permitted characters (RFC 3986). Raises ValueError.

    yarl would normalize the escapes, and a signature may cover the original ones.
    """
    return URL(text, encoded=_URL_CHARACTERS.fullmatch(text) is not None)


def parse_url(text: str) -> URL:
    """Parse a URL. Raises NotPublic for malformed text."""
    try:
        url = parse_verbatim(text)
        _ = url.host, url.port  # yarl decodes these only on access
        _check_name(url.raw_host or "")
    except ValueError:
        raise NotPublic(f"{without_query(text)!r} is not a URL.") from None
    return url


def _check_name(host: str) -> None:
    """Raise ValueError for a name that resolvers refuse: an empty or long label, or an unprintable character."""
    host.encode("idna")
    if not host.isprintable():
        raise ValueError(host)


def _check_host(url: URL) -> None:
    """Raise NotPublic for a privileged port other than 80 and 443, and for a literal private address."""
    if url.port not in {80, 443} and (url.port or 0) < 1024:
        raise NotPublic(f"Port {url.port} is reserved for a service other than HTTP.")
    # aiohttp connects to a literal address without the resolver, so the resolver's check is not enough.
    try:
        public = is_public(url.host or "")
    except ValueError:
        _check_notation(url.host or "")
        return
    if not public:
        raise NotPublic(f"{url.host} is an address of a private network.")


def _check_notation(host: str) -> None:
    """Raise NotPublic for an IPv4 address in an old notation (127.1, 0x7f.1, 2130706433), a common SSRF disguise."""
    try:
        socket.inet_aton(host)
    except OSError:
        return
    raise NotPublic(f"{host} is an address in an unsupported notation: write four decimal numbers.")


async def check_public(text: str, timeout: float = DEFAULT_TIMES.lookup) -> None:  # noqa: ASYNC109
    """Check a URL as `check_url` does, and look its name up. Raises NotPublic if any address is private.

    A name whose lookup fails passes: the fetch will report it, and some providers fetch the URL themselves. `timeout`
    is the time for the lookup, in seconds.
    """
    url = check_url(text)
    try:
        async with asyncio.timeout(timeout):
            found = await _lookup(url.raw_host or "", url.port or 443)
    except (OSError, TimeoutError):
        return
    if not all(is_public(str(address[0])) for *_, address in found):
        raise NotPublic(f"{url.host} resolves to an address of a private network.")


class PublicResolver(AbstractResolver):
    """The system's resolver, limited to names with public addresses only."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Resolve a name. Raises NotPublic if any of its addresses is private."""
        # aiohttp continues a lookup whose request was canceled. The timeout ends it, so that it leaves the queue.
        async with asyncio.timeout(self._timeout):
            found = await _lookup(host, port, family, flags=socket.AI_ADDRCONFIG)
        if not all(is_public(address[0]) for *_, address in found):
            raise NotPublic(f"{host} resolves to an address of a private network.")
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
        """Do nothing: the resolver holds no resources."""


async def _lookup(host: str, port: int, family: int = socket.AF_UNSPEC, flags: int = 0) -> list[Any]:
    """Return the result of getaddrinfo. It runs in the lookup threads of the current account."""
    ask = partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM, flags=flags)
    return await asyncio.wrap_future(_lookups().put(current_account.get(), ask))


current_account: ContextVar[str] = ContextVar("current_account", default="")
"""The account for which this task and its children look names up. Empty: the server itself."""


_Lookup = tuple[Future[list[Any]], Callable[[], list[Any]]]


class _LookupThreads:
    """DNS lookups in threads. Each account may use a few threads, and waiting accounts are served in rotation.

    A hanging lookup blocks its thread and cannot be canceled. These are daemon threads, because the process would wait
    for the threads of a ThreadPoolExecutor at exit.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._waiting: dict[str, deque[_Lookup]] = {}
        """Queued lookups by account, in the order of rotation."""
        self._running: Counter[str] = Counter()
        self._threads = self._idle = 0

    def put(self, account: str, ask: Callable[[], list[Any]]) -> "Future[list[Any]]":
        """Queue a lookup for an account."""
        found = Future[list[Any]]()
        with self._changed:
            self._waiting.setdefault(account, deque()).append((found, ask))
            if sum(map(len, self._waiting.values())) > self._idle and self._threads < _LOOKUP_THREADS:
                self._threads += 1
                Thread(target=self._serve, name="lookup", daemon=True).start()
            self._changed.notify()
        return found

    def _serve(self) -> None:
        while True:
            account, (found, ask) = self._next()
            if found.set_running_or_notify_cancel():
                try:
                    found.set_result(ask())
                except Exception as error:  # noqa: BLE001 -- the caller gets it, and the thread continues
                    found.set_exception(error)
            with self._changed:
                self._running -= Counter([account])
                self._changed.notify()

    def _next(self) -> tuple[str, _Lookup]:
        """Wait for the next lookup, from the first account in the rotation below its share."""
        with self._changed:
            self._idle += 1
            while (account := self._first()) is None:
                self._changed.wait()
            self._idle -= 1
            queue = self._waiting.pop(account)
            lookup = queue.popleft()
            if queue:
                self._waiting[account] = queue  # to the end of the rotation
            self._running[account] += 1
            return account, lookup

    def _first(self) -> str | None:
        return next((account for account in self._waiting if self._running[account] < _LOOKUP_SHARE), None)


@cache
def _lookups() -> _LookupThreads:
    """Return the lookup threads of this process."""
    return _LookupThreads()


def check_result_url(url: URL) -> None:
    """Raise NotPublic for a provider's result URL that may not be opened. Results may use plain http."""
    if url.scheme not in {"http", "https"} or not url.host:
        raise NotPublic(f"{without_query(str(url))} is not a URL that can be fetched.")
    _check_host(url)


def without_query(text: str) -> str:
    """Return a URL for an error message, without its query, which may hold a signature."""
    return text.split("?")[0][:200]
