"""Finds out what the proxies between a client and a server do to its streams, from where the client is.

The server sends timed marks; what is looked at is when they arrive, by this machine's clock alone. Each trouble comes
with the line that mends it, in the words of the proxy that shows itself in the answer's headers, or of the usual ones.
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
"""Those that ought to come one by one."""
_TOGETHER: Final = 0.25
"""A gap so much smaller than it was sent is none: two marks came together."""
_PATIENCE: Final = ClientTimeout(total=20)
_SLACK: Final = 30.0
"""Seconds that a mark may be late."""


class NoAnswer(Exception):
    """The server cannot be examined; the message says why."""


@dataclass(frozen=True, slots=True)
class ProxyFinding:
    """One thing that was looked at: whether it is as it should be, what it is, and what would mend it."""

    good: bool
    text: str
    mend: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Examination:
    """What is tried: a key, if any; seconds of a stretch with heartbeats only, and (0: none) of one in silence.

    `gap` is in seconds too, between the marks that ought to come one by one.
    """

    url: str
    key: str = ""
    idle: float = 12.0
    silence: float = 0.0
    gap: float = 0.4

    async def findings(self) -> AsyncGenerator[ProxyFinding]:
        """Examine the server, and tell each thing as soon as it is found. Raises NoAnswer."""
        if not self.url.startswith(("http://", "https://")):
            raise NoAnswer(f"{self.url} is no address: write http:// or https:// in front.")
        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        async with ClientSession(auto_decompress=False, headers=headers, **HEADER_LIMITS) as session:
            try:
                line = _Line(session, await _base(session, self.url))
                async for finding in self._examined(line):
                    yield finding
            except (ClientError, TimeoutError, OSError) as error:
                raise NoAnswer(f"{self.url} cannot be reached: {reason(error)}") from None

    async def _examined(self, line: "_Line") -> AsyncGenerator[ProxyFinding]:
        yield await _protocol(line.base)
        one_by_one = await line.listen(gap=self.gap)
        proxy = _proxy(one_by_one.headers)
        yield _kept_headers(one_by_one, proxy)
        yield _held_back(one_by_one, proxy)
        yield _compressed(await line.listen(gap=self.gap, encoding="gzip, deflate, br, zstd"), proxy)
        yield _idle(await line.listen(marks=2, gap=self.idle), self.idle, proxy)
        if self.silence:
            yield _silent(await line.listen(marks=2, silence=self.silence), self.silence, proxy)
        if self.key:
            async for finding in _with_key(line, self.key):
                yield finding


async def _base(session: ClientSession, url: str) -> str:
    """The address without its last slash, where redirects (to https, say) have led. Raises NoAnswer."""
    async with session.get(f"{url.rstrip('/')}/api/ping", timeout=_PATIENCE) as response:
        if response.status != 200 or await response.read() != b"pong":
            raise NoAnswer(f"{response.url} answers {response.status}, and not pong: there is no Pollcast.")
        return str(response.url).removesuffix("/api/ping")


@dataclass(frozen=True, slots=True)
class _Heard:
    """A stream of marks as it arrived; times are in seconds of one clock."""

    headers: Mapping[str, str]
    gap: float
    """As it was sent."""
    asked: float
    marks: Sequence[float]
    touched: Sequence[float]
    """When the headers, and when bytes of any kind came."""
    ended: float
    whole: bool
    heartbeat: float
    """Seconds between two heartbeats, by the server's word; 0 where that could not be read."""

    @property
    def last_quiet(self) -> float:
        """Seconds between the last byte and the end."""
        return self.ended - self.touched[-1]

    @property
    def longest_quiet(self) -> float:
        """The longest time without any byte."""
        return max(later - earlier for earlier, later in pairwise([self.asked, *self.touched, self.ended]))


@dataclass(frozen=True, slots=True)
class _Line:
    """The way to a server."""

    session: ClientSession
    base: str

    async def listen(
        self, *, marks: int = _MARKS, gap: float = 0, silence: float = 0, encoding: str = "identity"
    ) -> _Heard:
        """Ask for marks, and note when each byte comes. Raises NoAnswer where no marks are to be had."""
        now = asyncio.get_running_loop().time
        query = {"marks": str(marks), "gap": str(round(gap * 1000)), "silence": f"{silence:g}"}
        patience = ClientTimeout(total=None, sock_connect=10, sock_read=silence + marks * gap + _SLACK)
        headers = {"Accept": "text/event-stream", "Accept-Encoding": encoding}
        url = f"{self.base}/api/ping"
        asked = now()
        async with self.session.get(url, params=query, headers=headers, timeout=patience) as response:
            if response.status != 200 or response.content_type != "text/event-stream":
                raise NoAnswer(f"{url} answers {response.status} ({response.content_type}) when asked for timed marks.")
            marked: list[float] = []
            touched, whole, heartbeat = [now()], True, 0.0
            parser = sse.Parser()
            try:
                async for chunk in response.content.iter_any():
                    touched.append(now())
                    for message in parser.feed(chunk):
                        marked.append(now())
                        heartbeat = orjson.loads(message.data)["heartbeat"]
            except (ClientError, TimeoutError, OSError):
                whole = False
            return _Heard(response.headers, gap, asked, marked, touched, now(), whole, heartbeat)


# --- what it means ---


async def _protocol(url: str) -> ProxyFinding:
    """Which HTTP a browser would speak there; the answer is a remark, as the older one works."""
    place = URL(url)
    older = "a browser has six connections to one origin by HTTP/1.1, and so six streams at once"
    if place.scheme != "https":
        return ProxyFinding(True, f"HTTP/1.1 without TLS: {older} (one is enough: GET /api/events)")
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
        True, f"HTTP/2 is not offered: {older}", ("nginx: http2 on;   (before 1.25: listen 443 ssl http2;)",)
    )


def _kept_headers(heard: _Heard, proxy: str) -> ProxyFinding:
    told = heard.headers.get("Cache-Control", "")
    missing = [word for word in ("no-store", "no-transform") if word not in told]
    if missing:
        return ProxyFinding(
            False, f"Cache-Control came as {told!r}, without {', '.join(missing)}", _mends("headers", proxy)
        )
    # nginx takes X-Accel-Buffering for itself, and does not pass it on: that it is missing says nothing.
    return ProxyFinding(True, "Cache-Control came as it was sent")


def _held_back(heard: _Heard, proxy: str) -> ProxyFinding:
    if len(heard.marks) < _MARKS:
        return _cut(heard, proxy)
    if _lumped(heard.marks, heard.gap):
        return ProxyFinding(False, f"{_lump(heard)}: something buffers", _mends("buffer", proxy))
    return ProxyFinding(True, f"{_MARKS} marks sent {heard.gap:g} s apart came one by one")


def _compressed(heard: _Heard, proxy: str) -> ProxyFinding:
    encoding = heard.headers.get("Content-Encoding", "identity")
    if encoding == "identity":
        return ProxyFinding(True, "a stream is not compressed, also for a client that would take it so")
    if not heard.whole:
        return _cut(heard, proxy)
    # Of what is compressed only the bytes can be seen to come.
    how = f"and {_lump(heard)}" if _lumped(heard.touched[1:], heard.gap) else "though its marks still came one by one"
    return ProxyFinding(
        False, f"a stream is compressed ({encoding}) for whom takes it so, {how}", _mends("gzip", proxy)
    )


def _lumped(times: Sequence[float], gap: float) -> bool:
    """Whether a third of the marks, or more, came together with others."""
    moments = 1 + sum(later - earlier >= gap * _TOGETHER for earlier, later in pairwise(times))
    return moments <= _MARKS * 2 / 3


def _lump(heard: _Heard) -> str:
    waited = heard.touched[-1] - heard.asked
    return (
        f"{_MARKS} marks sent {heard.gap:g} s apart came in a lump, the last {waited:.1f} s after they were asked for"
    )


def _idle(heard: _Heard, seconds: float, proxy: str) -> ProxyFinding:
    if len(heard.marks) < 2 or not heard.whole:
        return _cut(heard, proxy)
    if heard.longest_quiet > heard.heartbeat * 1.5 + 1:
        text = f"heartbeats were held back: nothing came for {heard.longest_quiet:.1f} s"
        return ProxyFinding(False, text, _mends("buffer", proxy))
    return ProxyFinding(True, f"an idle stream with heartbeats stayed open for {seconds:g} s")


def _silent(heard: _Heard, seconds: float, proxy: str) -> ProxyFinding:
    if len(heard.marks) < 2 or not heard.whole:
        return _cut(heard, proxy)
    return ProxyFinding(True, f"a stream without a byte stayed open for {seconds:g} s")


def _cut(heard: _Heard, proxy: str) -> ProxyFinding:
    how = "ended early" if heard.whole else "was cut"
    text = f"the stream {how} after {heard.last_quiet:.1f} s without a byte: a time-out"
    return ProxyFinding(False, text, _mends("cut", proxy))


async def _with_key(line: _Line, key: str) -> AsyncGenerator[ProxyFinding]:
    headers = {"Authorization": f"Bearer {key}"}
    body = {"path": "/api/events", "ttl": 1}
    async with line.session.post(f"{line.base}/api/links", headers=headers, json=body, timeout=_PATIENCE) as response:
        if response.status != 201:
            text = "the key is refused: it is unknown here or revoked, or a proxy takes the Authorization header away"
            yield ProxyFinding(False, text if response.status == 401 else f"a Link is answered by {response.status}")
            return
        link = (await response.json())["url"]
    yield ProxyFinding(True, "the key is taken")
    if link.startswith(f"{line.base}/"):
        yield ProxyFinding(True, "Links lead to this very address")
    else:
        text = f"Links lead to {URL(link).origin()}, and not to {line.base}"
        yield ProxyFinding(False, text, (f"Pollcast: POLLCAST_PUBLIC_URL={line.base}",))


# --- what mends it ---

_MENDS: Final[Mapping[str, Mapping[str, str]]] = {
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
        "Pollcast": "POLLCAST_HEARTBEAT: fewer seconds than the shortest time-out on the way",
    },
    "headers": {
        "nginx": "no expires, no add_header Cache-Control, no proxy_hide_header Cache-Control in this location",
        "Caddy": "no header Cache-Control for /api/*",
        "Cloudflare": "a Cache Rule for /api/*: Bypass cache, Browser TTL: Respect origin",
    },
}


def _mends(trouble: str, proxy: str) -> tuple[str, ...]:
    """The lines to change, of the proxy that showed itself, else of all."""
    lines = _MENDS[trouble]
    shown = [name for name in lines if name in {proxy, "Pollcast"}] if proxy in lines else list(lines)
    return tuple(f"{name}: {lines[name]}" for name in shown)


def _proxy(headers: Mapping[str, str]) -> str:
    """The proxy nearest to the client, by what it says of itself; empty when it says nothing."""
    told = f"{headers.get('Server', '')} {headers.get('Via', '')}".lower()
    return next((name for name in ("Cloudflare", "Caddy", "nginx") if name.lower() in told), "")
