"""The odd answers of the campaign, as literal bytes: a registry from kind to the adapters and requests it applies to.

The kinds have the letters under which the campaign counts them. Each answer is made of the right one: what the provider
would have said in its place.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

KINDS: Final[Mapping[str, str]] = {
    "A": "failures of the provider",
    "B": "unreadable answers, suspensions and results that are late",
    "C": "slow answers",
    "D": "large heads",
    "E": "whole answers in broken frames",
    "F": "JSON as Python writes it",
    "G": "streams under another label",
    "H": "frames without blank lines",
    "I": "errors in the provider's words",
    "J": "parts of the work",
    "K": "a gateway's time-outs",
    "L": "hints",
    "M": "spellings",
    "N": "requests without our name",
}
WORDS: Final = "The lighthouse is closed"
"""What odd answers say of an error; the client has to read it."""
POLLED: Final = ("gaga", "gaia", "ganai", "heygen")
_EVENTS: Final = "text/event-stream"
STREAMED: Final = ("ainow", "chat")
"""AI-Now, and Gaia's text."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer in the pieces in which it is written, and how the job may end by it (None: it must go on)."""

    pieces: tuple[bytes, ...]
    ends: str | None = None


Make = Callable[[bytes], Reply]
"""Makes the odd answer of the right one's body."""


@dataclass(frozen=True, slots=True)
class Odd:
    """One odd answer: its kind, what requests it may answer (`poll`, `submit` ...), and for which adapters."""

    kind: str
    name: str
    roles: frozenset[str]
    adapters: frozenset[str]
    make: Make
    wants: str = ""
    """The state of the work in which alone it makes sense: `running` or `done`."""


def reply(
    body: bytes, status: str = "200 OK", *headers: str, content_type: str = "application/json", ends: str | None = None
) -> Reply:
    """A well-formed answer."""
    head = [f"HTTP/1.1 {status}", f"Content-Type: {content_type}", f"Content-Length: {len(body)}", *headers]
    return Reply((_head(head) + body,), ends)


def _head(lines: Iterable[str]) -> bytes:
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode()


def says(document: object, status: str = "200 OK", *headers: str, ends: str | None = None) -> Make:
    """The same document, whatever the right answer is."""
    return lambda _: reply(orjson.dumps(document), status, *headers, ends=ends)


def page(status: str = "200 OK") -> Make:
    """A gateway's page."""
    return lambda _: reply(b"<html><body>Just a moment</body></html>", status, content_type="text/html")


def headed(*headers: str) -> Make:
    """The right answer with more headers."""
    return lambda body: reply(body, "200 OK", *headers)


def broken(*, chunked: bool) -> Make:
    """The whole body in a frame that does not end."""

    def make(body: bytes) -> Reply:
        frame = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body) + 100}"
        framed = b"%x\r\n%b\r\n" % (len(body), body) if chunked else body
        return Reply((_head(["HTTP/1.1 200 OK", "Content-Type: application/json", frame]) + framed,))

    return make


def beside(text: bytes) -> Make:
    """The right object with another member, as its text stands."""
    return lambda body: reply(re.sub(rb"\{", b"{" + text + b", ", body, count=1))


def changed(pattern: bytes, by: bytes, content_type: str = "application/json") -> Make:
    """The right answer with a text replaced."""
    return lambda body: reply(re.sub(pattern, by, body, count=1), content_type=content_type)


def dripped(content_type: str = "application/json") -> Make:
    """The right answer, a few bytes at a time."""

    def make(body: bytes) -> Reply:
        whole = reply(body, content_type=content_type).pieces[0]
        return Reply(tuple(whole[start : start + 40] for start in range(0, len(whole), 40)))

    return make


def labelled(content_type: str, status: str = "200 OK") -> Make:
    """The right stream under another label."""
    return lambda body: reply(body, status, content_type=content_type)


def streamed(body: bytes, *, ends: str | None = None) -> Reply:
    """A stream."""
    return reply(body, content_type=_EVENTS, ends=ends)


LATE: Final[Mapping[str, Any]] = {
    "gaga": {"id": 1, "status": "Success"},
    "ganai": {"gen_status": "SUCCEEDED"},
    "heygen": {"code": 100, "data": {"status": "completed"}},
}
"""A success without its result."""
_COMPLETED: Final = b'{"status":"Completed","url":"https://cdn.example.com/a.mp4"}'
_TEXT: Final = b'{"choices":[{"index":0,"message":{"content":"Hello"},"finish_reason":"stop"}]}'
_CHUNKS: Final = (
    b'data: {"choices":[{"index":0,"delta":{"content":"Hello"}}]}\n\n'
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
)
TIMEOUTS: Final = ("408 Request Timeout", "502 Bad Gateway", "504 Gateway Timeout", "520 X", "522 X", "524 X")
HINTS: Final = (
    "0",
    "-5",
    "Fri, 15 Jan 1999 08:01:00 GMT",
    "Fri, 31 Dec 9999 23:59:59 GMT",
    "Fri, 15 Jan 0000 08:01:00 GMT",
    "Fri, 15 Jan 99999999999 08:01:00 GMT",
    "soon",
)


def _odd(kind: str, name: str, roles: str, make: Make, adapters: Iterable[str] = POLLED, *, wants: str = "") -> Odd:
    return Odd(kind, name, frozenset(roles.split()), frozenset(adapters), make, wants)


def _failures() -> Iterable[Odd]:
    for status in ("500 Internal Server Error", "502 Bad Gateway", "503 Service Unavailable"):
        yield _odd("A", status, "poll upload result", says({"message": WORDS}, status))
    yield _odd("A", "502 page", "poll upload result", page("502 Bad Gateway"))
    yield _odd("A", "no answer", "poll upload result", lambda _: Reply(()))


def _unreadable() -> Iterable[Odd]:
    yield _odd("B", "page", "poll upload result", page())
    yield _odd("B", "404 page", "poll result", page("404 Not Found"))
    yield _odd("B", "404", "poll result", says({"message": WORDS}, "404 Not Found"))
    yield _odd("B", "empty", "poll upload result", lambda _: reply(b""))
    yield _odd("B", "half", "poll", lambda body: reply(body[: len(body) // 2]))
    yield _odd("B", "list", "poll", says([1]))
    yield _odd("B", "no status", "poll", says({"code": 100, "data": {}}))
    yield _odd("B", "null status", "poll", says({"status": None, "gen_status": None}))
    for status in ("401 Unauthorized", "402 Payment Required", "403 Forbidden", "418 I'm a teapot"):
        yield _odd("B", status, "poll result", says({"message": WORDS}, status))
    yield _odd("B", "409", "result", says({"message": WORDS}, "409 Conflict"))
    yield _odd("B", "no images", "result", says({"data": []}))
    for adapter, late in LATE.items():
        yield _odd("B", "success without result", "poll", says(late), (adapter,))
    yield _odd(
        "B", "Completed without url", "stream", lambda body: streamed(b'data: {"status":"Completed"}\n\n' + body),
        ("ainow",),
    )  # fmt: skip


def _frames() -> Iterable[Odd]:
    answers = "poll submit upload result"
    yield _odd("C", "dripped", answers, dripped())
    yield _odd("C", "dripped", "stream", dripped(_EVENTS), STREAMED)
    field, fields = "X-Policy: " + "a" * 40_000, [f"X-Field-{n}: {n}" for n in range(300)]
    yield _odd("D", "large field", answers, headed(field))
    yield _odd("D", "many fields", answers, headed(*fields))
    for name, more in (("large field", [field]), ("many fields", fields)):
        yield _odd("D", name, "stream", _stream_headed(more), STREAMED)
    yield _odd("E", "no last chunk", answers, broken(chunked=True))
    yield _odd("E", "length too large", answers, broken(chunked=False))
    yield _odd("F", "NaN", answers, beside(b'"cost": NaN'))
    yield _odd("F", "Infinity", answers, beside(b'"eta": -Infinity, "cost": Infinity'))


def _stream_headed(headers: Iterable[str]) -> Make:
    return lambda body: reply(body, "200 OK", *headers, content_type=_EVENTS)


def _streams() -> Iterable[Odd]:
    for label in ("text/html", "application/json"):
        yield _odd("G", label, "stream", labelled(label), STREAMED)
    yield _odd("G", "201", "stream", labelled(_EVENTS, "201 Created"), STREAMED)
    yield _odd("G", "plain object", "stream", lambda _: reply(_COMPLETED), ("ainow",))
    yield _odd("G", "plain object", "stream", lambda _: reply(_TEXT), ("chat",))
    yield _odd("H", "no blank lines", "stream", lambda body: streamed(body.replace(b"\n\n", b"\n") + b"\n"), STREAMED)
    yield _odd(
        "I", "event: error", "stream",
        lambda _: streamed(b'event: error\ndata: {"message":"%b"}\n\n' % WORDS.encode(), ends="upstream_failed"),
        STREAMED,
    )  # fmt: skip


def _words() -> Iterable[Odd]:
    yield _odd("I", "error object", "poll", says({"error": {"message": WORDS}}))
    yield _odd(
        "I", "plain text", "submit",
        lambda _: reply(WORDS.encode(), "400 Bad Request", content_type="text/plain", ends="upstream_rejected"),
    )  # fmt: skip
    filtered = {"error": {"message": WORDS}}
    images = [{"url": "https://cdn.example.com/1.png"}, {"url": "https://cdn.example.com/2.png"}]
    for name, given in (("filtered", [*images, filtered]), ("null", [*images, None]), ("fewer", images)):
        yield _odd("J", name, "result", says({"data": given}), ("gaia",))
    for status in TIMEOUTS:
        yield _odd(
            "K", status, "submit stream", says({"message": WORDS}, status, ends="outcome_unknown"),
            (*POLLED, *STREAMED),
        )  # fmt: skip


def _hints() -> Iterable[Odd]:
    for hint in HINTS:
        yield _odd("L", f"Retry-After: {hint}", "poll", headed(f"Retry-After: {hint}"), wants="running")
        slow = says({"message": WORDS}, "429 Too Many Requests", f"Retry-After: {hint}")
        yield _odd("L", f"429 Retry-After: {hint}", "poll submit upload", slow)
        yield _odd("L", f"429 Retry-After: {hint}", "stream", slow, STREAMED)
    yield _odd("L", "openai-poll-after-ms: 1", "poll", headed("openai-poll-after-ms: 1"), wants="running")


def _spellings() -> Iterable[Odd]:
    word = rb'("(?:gen_)?status":\s*")(\w+)"'
    yield _odd("M", "blanks around a status", "poll", changed(word, rb'\1 \2\\n"'))
    yield _odd("M", "large id", "submit", changed(rb'("id":\s*)(\d+)', rb"\g<1>9\g<2>8446744073709551617"), ("gaga",))
    yield _odd("M", "id as a float", "submit", changed(rb'("id":\s*)(\d+)', rb"\1\2.0"), ("gaga",))
    yield _odd("M", "list of urls", "stream", changed(rb'"url":\s*("[^"]+")', rb'"url":[\1]', _EVENTS), ("ainow",))
    yield _odd(
        "M", "blanks around a status", "stream", changed(rb'"Completed"', rb'" Completed "', _EVENTS), ("ainow",)
    )


ODDITIES: Final[tuple[Odd, ...]] = (
    *_failures(), *_unreadable(), *_frames(), *_streams(), *_words(), *_hints(), *_spellings(),
)  # fmt: skip
CHUNKS: Final = _CHUNKS
COMPLETED: Final = _COMPLETED
