"""Reading URLs that strangers give, without letting them reach into our network.

A client's URL, and a URL that a provider answers with, may point anywhere: at this machine, at a cloud's metadata
address, at a name that resolves to one of them. Every address is checked at the moment it is connected to (the
resolver hands aiohttp checked addresses only, so a second look-up cannot answer differently), and every redirect is
a new request with the same checks. The one exception is a provider's own configured origin (`ProviderOrigin`), which
is given its credential and may be anywhere; the credential is dropped as soon as a redirect leaves that origin.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from aiohttp import (
    ClientError,
    ClientResponse,
    ClientTimeout,
)
from yarl import URL

from proxy.core.media_types import SNIFFED, sniff
from proxy.core.tracks import in_memory, with_tracks
from proxy.upstream.sessions import Connector, session, why
from proxy.upstream.ssrf import PublicResolver, check_result_url, check_url, parse_url, without_query
from proxy.upstream.times import DEFAULT_TIMES, UpstreamTimes

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_HOPS: Final = 5
_SLOWEST: Final = 64 << 10
"""Bytes a second by which a file that keeps coming is given more time, so that a slow line is no reason to stop."""
_PIECE: Final = 1 << 16
_NO_CODINGS: Final = frozenset({"", "identity", "none", "utf-8", "aws-chunked"})
"""Values of Content-Encoding that change no byte. Object stores keep the last two from an upload's own header."""


class FetchFailed(Exception):
    """A public URL whose bytes could not be had; `reached` tells whether its host answered at all."""

    def __init__(self, message: str, *, reached: bool) -> None:
        super().__init__(message)
        self.reached = reached


class FileTooLarge(FetchFailed):
    """More bytes than were asked for at the most."""


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
                place = without_query(str(self._response.url))
                raise FetchFailed(f"{place} broke off: {why(error)}.", reached=True) from None
            if not piece:
                return
            size += len(piece)
            yield piece


class Fetcher:
    """The client for strangers' URLs: no cookies, no proxies from the environment, no connection kept."""

    def __init__(self, times: UpstreamTimes = DEFAULT_TIMES) -> None:
        self._times = times
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        # No shared limit: a few readers that are slow, or URLs that hang, would hold up everyone else's.
        timeout = ClientTimeout(total=None, connect=self._times.connect, sock_read=self._times.fetch_silence)
        resolver = PublicResolver(self._times.lookup_to_connect)
        public = Connector(self._times.connect_in_all, resolver=resolver, force_close=True, limit=0)
        self._public = await self._stack.enter_async_context(session(public, timeout))
        self._own = await self._stack.enter_async_context(
            session(Connector(self._times.connect_in_all, limit=0), timeout)
        )
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
        url = parse_url(text)
        for _ in range(1 + _HOPS):
            if secure:
                check_url(str(url))
            async with self._request(method, url, dict(headers or {}), own) as response:
                location = response.headers.get("Location")
                if response.status not in _REDIRECTS or location is None:
                    yield Remote(response)
                    return
                url = parse_url(str(url.join(parse_url(location))))
        raise FetchFailed(f"{without_query(text)} redirects more than {_HOPS} times.", reached=True)

    @asynccontextmanager
    async def _request(
        self, method: str, url: URL, headers: dict[str, str], own: ProviderOrigin | None
    ) -> AsyncIterator[ClientResponse]:
        opened, proxy = self._public, None
        if own is not None and own.covers(url):
            opened, proxy = self._own, own.proxy
            headers |= own.credential
        else:
            check_result_url(url)
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
        until = asyncio.get_running_loop().time() + self._times.fetch_client_url
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout_at(until):
                    remote = await held.enter_async_context(self.open(text, secure=True))
            except TimeoutError:
                raise FetchFailed(f"{without_query(text)} does not answer.", reached=False) from None
            if remote.status != 200:
                raise FetchFailed(f"{without_query(text)} answered {remote.status}.", reached=True)
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
