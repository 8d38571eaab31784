"""Guard against SSRF (server-side request forgery): which URLs may be opened."""

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

_LOOK_UP_THREADS: Final = 64
"""Threads that look names up, started as they are needed: enough for sixteen accounts whose names hang."""


_LOOK_UP_SHARE: Final = 4
"""Threads that one account may hold: as many as the names that one order has looked up at once."""


_SPELLED: Final = re.compile(r"(?:[\w.~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*", re.ASCII)


_NAT64: Final = IPv6Network("64:ff9b::/96")


_UNICAST: Final = IPv6Network("2000::/3")
"""All of IPv6 that is handed out for the open internet (RFC 4291, IANA); the rest has local or no meaning."""


_HOSTS_OWN: Final = (IPv4Network("192.0.0.0/24"), IPv4Network("168.63.129.16/32"))
"""What `ipaddress` calls global (in older versions), but clouds serve to their own machines: metadata and the like."""


class NotPublic(Exception):
    """A URL that is not public https; the message names what about it is not."""


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
    url = parse_url(text)
    if url.scheme != "https" or not url.host or url.user is not None or url.password is not None:
        raise NotPublic("Only public https:// URLs without a password are fetched.")
    _check_place(url)
    return url


def as_spelled(text: str) -> URL:
    """A URL as it is, where it is written in the letters that URLs have (RFC 3986); ValueError for what is none.

    yarl would spell it its own way, with other escapes, and whoever signs a URL may have signed its spelling.
    """
    return URL(text, encoded=_SPELLED.fullmatch(text) is not None)


def parse_url(text: str) -> URL:
    """Parse a URL. Raises NotPublic for malformed text."""
    try:
        url = as_spelled(text)
        _ = url.host, url.port  # yarl decodes them late
        _check_name(url.raw_host or "")
    except ValueError:
        raise NotPublic(f"{without_query(text)!r} is not a URL.") from None
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


async def check_public(text: str, timeout: float = DEFAULT_TIMES.lookup) -> None:  # noqa: ASYNC109
    """Like `check_url`, and look the name up: raises NotPublic when any of its addresses is private.

    A name that cannot be looked up now passes: the fetch itself will tell, and some providers fetch it themselves.
    """
    url = check_url(text)
    try:
        async with asyncio.timeout(timeout):
            found = await _looked_up(url.raw_host or "", url.port or 443)
    except (OSError, TimeoutError):
        return
    if not all(is_public(str(address[0])) for *_, address in found):
        raise NotPublic(f"{url.host} is a name in a private network.")


class PublicResolver(AbstractResolver):
    """The system's resolver, refusing names that point anywhere but to the open internet."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Resolve a name. Raises NotPublic when any of its addresses is private."""
        # aiohttp lets a look-up go on when its request is given up: it ends here, so that none is queued for nobody.
        async with asyncio.timeout(self._timeout):
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


def check_result_url(url: URL) -> None:
    """Raise NotPublic for a provider's result URL that may not be opened. Results may use plain http."""
    if url.scheme not in {"http", "https"} or not url.host:
        raise NotPublic(f"{without_query(str(url))} is not a URL that can be fetched.")
    _check_place(url)


def without_query(text: str) -> str:
    """Return a URL for an error message, without its query, which may hold a signature."""
    return text.split("?")[0][:200]
