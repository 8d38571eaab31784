"""Client for foreign URLs: clients' media, and results of providers.

`ssrf` decides which URLs may be opened, and every redirect is checked again. The exception is a provider's configured
origin (`ProviderOrigin`). It may have any address and gets its credential. A redirect to another origin is followed
without the credential.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
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
from proxy.upstream.sessions import Connector, failure_reason, session
from proxy.upstream.ssrf import PublicResolver, check_result_url, check_url, parse_url, without_query
from proxy.upstream.times import DEFAULT_TIMES, UpstreamTimes

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS: Final = 5
_SLOW_LINE: Final = 64 << 10
"""Bytes per second at which a file gets more time than its timeout, so that a slow line alone does not end the read."""
_CHUNK_SIZE: Final = 1 << 16
"""Maximum number of bytes in one read."""
_IDENTITY_CODINGS: Final = frozenset({"", "identity", "none", "utf-8", "aws-chunked"})
"""Values of Content-Encoding that change no byte. Object stores copy the last two from an upload's header."""


class FetchFailed(Exception):
    """A public URL could not be read. `reached` is true if its host answered."""

    def __init__(self, message: str, *, reached: bool) -> None:
        super().__init__(message)
        self.reached = reached


class FileTooLarge(FetchFailed):
    """The file exceeds the limit."""


@dataclass(frozen=True, slots=True)
class ProviderOrigin:
    """A provider's configured origin, its credential (headers and query), and the HTTP proxy in front of it.

    `others` are further origins of the provider, which get the credential too.
    """

    origin: URL
    credential: Mapping[str, str] = field(default_factory=dict, repr=False)
    proxy: URL | None = field(default=None, repr=False)
    query: Mapping[str, str] = field(default_factory=dict, repr=False)
    others: Sequence[URL] = ()

    def covers(self, url: URL) -> bool:
        """Return whether `url` has the scheme, host and port of this origin, or of another one of the provider."""
        place = url.scheme, url.host, url.port
        return any(place == (own.scheme, own.host, own.port) for own in (self.origin, *self.others))


@dataclass(frozen=True, slots=True)
class Fetched:
    """Bytes of a URL, with the media type that their content shows (None: unsupported)."""

    data: bytes
    type: str | None


class Remote:
    """An open HTTP answer: its status, its headers, and its body as a stream."""

    def __init__(self, response: ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        """A mapping that ignores case."""
        self.length = response.content_length
        """The Content-Length in bytes, if there is one."""

    @property
    def is_compressed(self) -> bool:
        """True if the body is compressed although that was not requested.

        Reading decompresses it, so its length differs.
        """
        codings = self.headers.get("Content-Encoding", "").lower().split(",")
        return not {coding.strip() for coding in codings} <= _IDENTITY_CODINGS

    async def pieces(self, until: float | None = None) -> AsyncGenerator[bytes]:
        """Yield the body piece by piece at the reader's speed, so that memory use stays small.

        `until` is a time of the event loop. It is extended while at least `_SLOW_LINE` bytes per second arrive. Raises
        FetchFailed if the body breaks off or stalls.
        """
        size = 0
        while True:
            try:
                async with asyncio.timeout_at(until and until + size / _SLOW_LINE):
                    piece = await self._response.content.read(_CHUNK_SIZE)
            except (ClientError, TimeoutError, OSError) as error:
                place = without_query(str(self._response.url))
                raise FetchFailed(f"{place} broke off: {failure_reason(error)}.", reached=True) from None
            if not piece:
                return
            size += len(piece)
            yield piece


class Fetcher:
    """HTTP client for foreign URLs, without cookies, pooled connections or proxies from the environment."""

    def __init__(self, times: UpstreamTimes = DEFAULT_TIMES) -> None:
        self._times = times
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        # Connections are not limited, because a few slow readers or hanging URLs would block all others.
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
        """Open a URL, follow its redirects (with `secure` to https only), and yield the final answer.

        Raises NotPublic, and FetchFailed if there is no answer.
        """
        url = parse_url(text)
        for _ in range(1 + _MAX_REDIRECTS):
            if secure:
                check_url(str(url))
            async with self._request(method, url, dict(headers or {}), own) as response:
                location = response.headers.get("Location")
                if response.status not in _REDIRECTS or location is None:
                    yield Remote(response)
                    return
                url = parse_url(str(url.join(parse_url(location))))
        raise FetchFailed(f"{without_query(text)} redirects more than {_MAX_REDIRECTS} times.", reached=True)

    @asynccontextmanager
    async def _request(
        self, method: str, url: URL, headers: dict[str, str], own: ProviderOrigin | None
    ) -> AsyncIterator[ClientResponse]:
        opened, proxy = self._public, None
        if own is not None and own.covers(url):
            opened, proxy = self._own, own.proxy
            headers |= own.credential
            url = url.extend_query(own.query) if own.query else url
        else:
            check_result_url(url)
        # Content-Length and ranges count the bytes of the identity encoding, and relayed bodies must match them.
        headers["Accept-Encoding"] = "identity"
        try:
            response = await opened.request(method, url, headers=headers, allow_redirects=False, proxy=proxy)
        except (ClientError, TimeoutError, OSError) as error:
            raise FetchFailed(f"{url.host} cannot be reached: {failure_reason(error)}.", reached=False) from None
        async with response:
            yield response

    async def stream(self, text: str, limit: int) -> AsyncGenerator[bytes]:
        """Yield the bytes of a client's public https URL. Raises NotPublic, FetchFailed and FileTooLarge.

        Different tasks may iterate it, one after another.
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
        """Read a client's public https URL, at most `limit` bytes. Raises the errors of `stream`."""
        async with aclosing(self.stream(text, limit)) as chunks:
            data = b"".join([chunk async for chunk in chunks])
        media_type = sniff(data[:SNIFFED])
        return Fetched(data, media_type and await with_tracks(media_type, len(data), in_memory(data)))
