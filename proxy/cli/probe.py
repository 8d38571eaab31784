"""Tests of the proxies between this machine and a server: buffering, compression, timeouts and headers.

The server sends marks at fixed intervals, and this module measures when they arrive, with the local clock alone. Each
problem is reported with the configuration that fixes it. The response headers name the proxy to configure. Without
such a header, the fixes for all known proxies are reported.
"""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import orjson
from aiohttp import ClientError, ClientSession, ClientTimeout
from yarl import URL

from proxy.cli.unreachable import reason
from proxy.core import sse
from proxy.upstream.sessions import HEADER_LIMITS, USER_AGENT

_MARKS: Final = 6
"""Number of marks in the buffering test."""
_MIN_GAP_SHARE: Final = 0.25
"""Share of the sent gap between two marks. Marks that arrive closer than this arrived together."""
_PROBE_TIMEOUT: Final = ClientTimeout(total=20)
"""Timeout of a single request, in seconds."""
_MAX_DELAY: Final = 30.0
"""Seconds that a mark may arrive late before the stream counts as cut."""


class NoAnswer(Exception):
    """The server cannot be tested. The message gives the reason."""


@dataclass(frozen=True, slots=True)
class ProxyFinding:
    """Result of one test: a description, and for a problem the lines of configuration that fix it."""

    is_good: bool
    text: str
    fixes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Examination:
    """Settings of one examination, all times in seconds.

    `idle` is the length of the test with heartbeats only, and `silence` that of the test without heartbeats (0 skips
    it). `gap` is the time between two marks of the buffering test. With a `key`, authentication and Links are tested.
    """

    url: str
    key: str = ""
    idle: float = 12.0
    silence: float = 0.0
    gap: float = 0.4

    async def findings(self) -> AsyncGenerator[ProxyFinding]:
        """Run the tests and yield each finding at once. Raises NoAnswer."""
        if not self.url.startswith(("http://", "https://")):
            raise NoAnswer(f"{self.url} is not a URL. It must begin with http:// or https://.")
        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        async with ClientSession(auto_decompress=False, headers=headers, **HEADER_LIMITS) as session:
            try:
                server = _Server(session, await _base(session, self.url))
                async for finding in self._run_tests(server):
                    yield finding
            except (ClientError, TimeoutError, OSError) as error:
                raise NoAnswer(f"{self.url} cannot be reached: {reason(error)}") from None

    async def _run_tests(self, server: "_Server") -> AsyncGenerator[ProxyFinding]:
        yield await _protocol(server.base)
        measured = await server.listen(gap=self.gap)
        proxy = _proxy(measured.headers)
        yield _cache_headers(measured, proxy)
        yield _buffering(measured, proxy)
        yield _compression(await server.listen(gap=self.gap, encoding="gzip, deflate, br, zstd"), proxy)
        yield _idle(await server.listen(marks=2, gap=self.idle), self.idle, proxy)
        if self.silence:
            yield _silent(await server.listen(marks=2, silence=self.silence), self.silence, proxy)
        if self.key:
            async for finding in _with_key(server, self.key):
                yield finding


async def _base(session: ClientSession, url: str) -> str:
    """Return the server's base URL after redirects, without a final slash. Raises NoAnswer."""
    async with session.get(f"{url.rstrip('/')}/api/ping", timeout=_PROBE_TIMEOUT) as response:
        if response.status != 200 or await response.read() != b"pong":
            raise NoAnswer(f"{response.url} answered {response.status} instead of pong. Is this a Pollcast server?")
        return str(response.url).removesuffix("/api/ping")


@dataclass(frozen=True, slots=True)
class _Measurement:
    """Arrival times of a stream of marks, in seconds of the event loop's clock."""

    headers: Mapping[str, str]
    gap: float
    """Seconds between two marks, as sent."""
    requested_at: float
    marks: Sequence[float]
    chunks: Sequence[float]
    """Times at which the headers and each chunk of bytes arrived."""
    ended_at: float
    is_complete: bool
    heartbeat: float
    """Seconds between two heartbeats, as reported by the server. 0 if no mark was received."""

    @property
    def final_silence(self) -> float:
        """Seconds between the last byte and the end of the stream."""
        return self.ended_at - self.chunks[-1]

    @property
    def longest_silence(self) -> float:
        """Longest time without any byte, in seconds."""
        return max(later - earlier for earlier, later in pairwise([self.requested_at, *self.chunks, self.ended_at]))


@dataclass(frozen=True, slots=True)
class _Server:
    """HTTP session and base URL of the tested server."""

    session: ClientSession
    base: str

    async def listen(
        self, *, marks: int = _MARKS, gap: float = 0, silence: float = 0, encoding: str = "identity"
    ) -> _Measurement:
        """Request marks and record when each chunk arrives. Raises NoAnswer if the server sends none."""
        now = asyncio.get_running_loop().time
        query = {"marks": str(marks), "gap": str(round(gap * 1000)), "silence": f"{silence:g}"}
        timeout = ClientTimeout(total=None, sock_connect=10, sock_read=silence + marks * gap + _MAX_DELAY)
        headers = {"Accept": "text/event-stream", "Accept-Encoding": encoding}
        url = f"{self.base}/api/ping"
        requested_at = now()
        async with self.session.get(url, params=query, headers=headers, timeout=timeout) as response:
            if response.status != 200 or response.content_type != "text/event-stream":
                raise NoAnswer(
                    f"{url} answered a request for timed marks with {response.status} ({response.content_type})."
                )
            marked: list[float] = []
            chunks, is_complete, heartbeat = [now()], True, 0.0
            parser = sse.Parser()
            try:
                async for chunk in response.content.iter_any():
                    chunks.append(now())
                    for message in parser.feed(chunk):
                        marked.append(now())
                        heartbeat = orjson.loads(message.data)["heartbeat"]
            except (ClientError, TimeoutError, OSError):
                is_complete = False
            return _Measurement(response.headers, gap, requested_at, marked, chunks, now(), is_complete, heartbeat)


# --- evaluation ---


async def _protocol(url: str) -> ProxyFinding:
    """Report the HTTP version that a browser would use. HTTP/1.1 is no problem, only a remark."""
    place = URL(url)
    limit = "a browser opens at most six HTTP/1.1 connections to an origin, so at most six streams"
    if place.scheme != "https":
        return ProxyFinding(True, f"HTTP/1.1 without TLS: {limit} (one is enough: GET /api/events)")
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with asyncio.timeout(10):
        _, writer = await asyncio.open_connection(place.host, place.port, ssl=context)
    spoken = writer.get_extra_info("ssl_object").selected_alpn_protocol()
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    if spoken == "h2":
        return ProxyFinding(True, "HTTP/2 is offered: one connection carries any number of streams")
    return ProxyFinding(
        True, f"HTTP/2 is not offered: {limit}", ("nginx: http2 on;   (before 1.25: listen 443 ssl http2;)",)
    )


def _cache_headers(measurement: _Measurement, proxy: str) -> ProxyFinding:
    value = measurement.headers.get("Cache-Control", "")
    missing = [word for word in ("no-store", "no-transform") if word not in value]
    if missing:
        return ProxyFinding(
            False, f"Cache-Control arrived as {value!r}, without {', '.join(missing)}", _fixes("headers", proxy)
        )
    # nginx consumes X-Accel-Buffering, so a missing header is no problem.
    return ProxyFinding(True, "Cache-Control arrived unchanged")


def _buffering(measurement: _Measurement, proxy: str) -> ProxyFinding:
    if len(measurement.marks) < _MARKS:
        return _cut(measurement, proxy)
    if _are_bunched(measurement.marks, measurement.gap):
        return ProxyFinding(False, f"{_bunch_text(measurement)}: a proxy buffers", _fixes("buffer", proxy))
    return ProxyFinding(True, f"{_MARKS} marks sent {measurement.gap:g} s apart arrived one by one")


def _compression(measurement: _Measurement, proxy: str) -> ProxyFinding:
    encoding = measurement.headers.get("Content-Encoding", "identity")
    if encoding == "identity":
        return ProxyFinding(True, "a stream is not compressed, even if the client accepts compression")
    if not measurement.is_complete:
        return _cut(measurement, proxy)
    # In a compressed stream only the arrival of bytes can be measured.
    how = (
        f"and {_bunch_text(measurement)}"
        if _are_bunched(measurement.chunks[1:], measurement.gap)
        else "but its marks still arrived one by one"
    )
    return ProxyFinding(
        False, f"a stream is compressed ({encoding}) for clients that accept it, {how}", _fixes("gzip", proxy)
    )


def _are_bunched(times: Sequence[float], gap: float) -> bool:
    """Return whether at least a third of the marks arrived together with others."""
    moments = 1 + sum(later - earlier >= gap * _MIN_GAP_SHARE for earlier, later in pairwise(times))
    return moments <= _MARKS * 2 / 3


def _bunch_text(measurement: _Measurement) -> str:
    waited = measurement.chunks[-1] - measurement.requested_at
    together = f"{_MARKS} marks sent {measurement.gap:g} s apart arrived together"
    return f"{together}, the last one {waited:.1f} s after the request"


def _idle(measurement: _Measurement, seconds: float, proxy: str) -> ProxyFinding:
    if len(measurement.marks) < 2 or not measurement.is_complete:
        return _cut(measurement, proxy)
    if measurement.longest_silence > measurement.heartbeat * 1.5 + 1:
        text = f"heartbeats were delayed: no byte arrived for {measurement.longest_silence:.1f} s"
        return ProxyFinding(False, text, _fixes("buffer", proxy))
    return ProxyFinding(True, f"an idle stream with heartbeats stayed open for {seconds:g} s")


def _silent(measurement: _Measurement, seconds: float, proxy: str) -> ProxyFinding:
    if len(measurement.marks) < 2 or not measurement.is_complete:
        return _cut(measurement, proxy)
    return ProxyFinding(True, f"a stream without a byte stayed open for {seconds:g} s")


def _cut(measurement: _Measurement, proxy: str) -> ProxyFinding:
    how = "ended early" if measurement.is_complete else "was cut"
    text = f"the stream {how} after {measurement.final_silence:.1f} s without a byte: a timeout"
    return ProxyFinding(False, text, _fixes("cut", proxy))


async def _with_key(server: _Server, key: str) -> AsyncGenerator[ProxyFinding]:
    headers = {"Authorization": f"Bearer {key}"}
    body = {"path": "/api/events", "ttl": 1}
    async with server.session.post(
        f"{server.base}/api/links", headers=headers, json=body, timeout=_PROBE_TIMEOUT
    ) as response:
        if response.status != 201:
            text = "the key is refused: it is unknown or revoked, or a proxy removes the Authorization header"
            yield ProxyFinding(
                False, text if response.status == 401 else f"creating a Link failed with status {response.status}"
            )
            return
        link = (await response.json())["url"]
    yield ProxyFinding(True, "the key is accepted")
    if link.startswith(f"{server.base}/"):
        yield ProxyFinding(True, "Links lead to this URL")
    else:
        text = f"Links lead to {URL(link).origin()}, not to {server.base}"
        yield ProxyFinding(False, text, (f"Pollcast: POLLCAST_PUBLIC_URL={server.base}",))


# --- fixes ---

_FIXES: Final[Mapping[str, Mapping[str, str]]] = {
    "buffer": {
        "nginx": "proxy_buffering off;   and no proxy_ignore_headers X-Accel-Buffering;",
        "Caddy": "reverse_proxy ... { flush_interval -1 }",
        "Cloudflare": "Network: Response Buffering off; a quick tunnel buffers, a named one does not",
    },
    "gzip": {
        "nginx": "gzip off;   in this location, or take text/event-stream out of gzip_types",
        "Caddy": "@whole not path /api/*   and   encode @whole gzip zstd",
        "Cloudflare": "a Compression Rule for /api/*: Disable compression",
    },
    "cut": {
        "nginx": "proxy_read_timeout 75s;   (and proxy_send_timeout)",
        "Caddy": "reverse_proxy ... { transport http { read_timeout 75s } }",
        "Cloudflare": "cuts after 100 s without a byte",
        "Pollcast": "POLLCAST_HEARTBEAT: fewer seconds than the shortest timeout of the proxies",
    },
    "headers": {
        "nginx": "no expires, no add_header Cache-Control, no proxy_hide_header Cache-Control in this location",
        "Caddy": "no header Cache-Control for /api/*",
        "Cloudflare": "a Cache Rule for /api/*: Bypass cache, Browser TTL: Respect origin",
    },
}


def _fixes(problem: str, proxy: str) -> tuple[str, ...]:
    """Return the configuration lines for the detected proxy, or for all known proxies."""
    lines = _FIXES[problem]
    names = [name for name in lines if name in {proxy, "Pollcast"}] if proxy in lines else list(lines)
    return tuple(f"{name}: {lines[name]}" for name in names)


def _proxy(headers: Mapping[str, str]) -> str:
    """Return the proxy that is named in the `Server` or `Via` header, or an empty string."""
    value = f"{headers.get('Server', '')} {headers.get('Via', '')}".lower()
    return next((name for name in ("Cloudflare", "Caddy", "nginx") if name.lower() in value), "")
