"""Registry of the odd answers, as literal bytes, with their kinds, adapters and requests.

A kind has the letter under which the campaign counts it. Each odd answer is made from the correct one. `Reply` also
holds its meaning for the job, which `odd_verdict` compares with the job's end.
"""

import base64
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import orjson

KINDS: Final[Mapping[str, str]] = {
    "A": "failures of the provider",
    "B": "unreadable answers, suspensions and late results",
    "C": "slow answers and uploads",
    "D": "large heads",
    "E": "whole answers in broken frames",
    "F": "JSON as Python writes it",
    "G": "answers under another label",
    "H": "frames without blank lines",
    "I": "errors in the provider's words",
    "J": "parts of the work",
    "K": "a gateway's timeouts",
    "L": "hints",
    "M": "spellings",
    "N": "requests with Pollcast's name",
}
SECRET: Final = "sk-odd-campaign"
"""The providers' key. Odd answers repeat it, and no client may see it."""
NUMBER: Final = "000000"
"""Placeholder for the number of the odd answer, which proves that the client read this answer."""
WORDS: Final = f"Lighthouse {NUMBER} is closed to {SECRET}"
"""The provider's message in odd answers."""
SHOWN: Final = f"Lighthouse {NUMBER} is closed to "
"""The part of the message that the client must see."""
PAGE: Final = f"<html><body>Just a moment {NUMBER}</body></html>"
PAGE_SHOWN: Final = f"Just a moment {NUMBER}"
POLLED: Final = ("gaga", "gaia", "ganai", "heygen")
STREAMED: Final = ("ainow", "chat")
"""The streamed adapters: AI-Now, and Gaia's text."""
ALL: Final = (*POLLED, *STREAMED)
ADAPTERS: Final = ("gaga", "gaia", "ainow", "ganai", "heygen")
ANSWERS: Final = "poll submit upload result stream"
SILENCE: Final = 2.0
"""Seconds of silence, in real time, after which the server's reads time out."""
_PAUSE: Final = 0.45
"""Seconds, in real time, between the pieces of a slow answer."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, as the pieces to write, and its meaning for the job."""

    pieces: tuple[bytes, ...]
    carries: bool = False
    """True if it has the content of the correct answer."""
    ends: str | None = None
    """Error code with which the job must end after this answer."""
    again: bool = False
    """True for a refusal after which a submit may be sent again."""
    shows: str = ""
    """Text that the client must see: in the final event if the answer ends the job, otherwise in a `detail`."""
    in_final: str = ""
    """Text that the final event must contain, although this answer does not end the job."""
    wait: float = 0.0
    """Minimum time, in seconds, until the next request."""
    reading: Literal["readable", "unreadable", "passing"] = "readable"
    """Effect on the count of unreadable polls. `passing` errors neither increase nor reset it."""
    pause: float = 0.0
    """Seconds, in real time, before each piece."""
    failed: int = 0
    """Number of outputs that it omits."""
    id: str = ""
    """Id of the work, if it differs from the correct answer's."""
    finish_reason: str | None = None

    @property
    def fails(self) -> bool:
        """True if the circuit breaker counts it as a failure: no answer, or 5xx."""
        return not self.pieces or self.pieces[0].startswith(b"HTTP/1.1 5")


Make = Callable[[bytes], Reply]
"""Function that makes an odd answer from the body of the correct one."""


@dataclass(frozen=True, slots=True)
class Odd:
    """One odd answer: its kind, its adapters, and the requests that it can answer (`poll`, `submit` and others)."""

    kind: str
    name: str
    roles: frozenset[str]
    adapters: frozenset[str]
    make: Make
    wants: str = ""
    """State of the work that it requires: `running`, `done`, `several` or `single` items. Empty: any state."""

    def fits(self, adapter: str, role: str, states: frozenset[str]) -> bool:
        """Return True if it can answer this request."""
        return role in self.roles and adapter in self.adapters and (not self.wants or self.wants in states)


def reply(body: bytes, status: str = "200 OK", *headers: str, content_type: str = "", **means: Any) -> Reply:
    """Return a well-formed answer. A stream has the content type of one."""
    usual = "text/event-stream" if body.startswith(b"data:") else "application/json"
    head = [f"HTTP/1.1 {status}", f"Content-Type: {content_type or usual}", f"Content-Length: {len(body)}", *headers]
    return Reply((_head(head) + body,), **means)


def _head(lines: Iterable[str]) -> bytes:
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode()


def says(document: object, status: str = "200 OK", *headers: str, **means: Any) -> Make:
    """Return a function that always answers with this document."""
    return lambda _: reply(orjson.dumps(document), status, *headers, **means)


def text(words: str, status: str = "200 OK", content_type: str = "text/plain", **means: Any) -> Make:
    """Return a function that always answers with this text."""
    return lambda _: reply(words.encode(), status, content_type=content_type, **means)


def page(status: str = "200 OK", **means: Any) -> Make:
    """Return a function that answers with a gateway's HTML page."""
    return text(PAGE, status, "text/html", **means)


def headed(*headers: str, status: str = "200 OK", content_type: str = "", **means: Any) -> Make:
    """Return a function that sends the correct answer with other headers."""
    return lambda body: reply(body, status, *headers, content_type=content_type, carries=True, **means)


def broken(*, chunked: bool) -> Make:
    """Return a function that sends the whole body in a frame without an end."""

    def make(body: bytes) -> Reply:
        frame = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body) + 100}"
        framed = b"%x\r\n%b\r\n" % (len(body), body) if chunked else body
        label = "text/event-stream" if body.startswith(b"data:") else "application/json"
        return Reply((_head(["HTTP/1.1 200 OK", f"Content-Type: {label}", frame]) + framed,), carries=True)

    return make


def changed(pattern: bytes, by: bytes, *, times: int = 1, content_type: str = "", **means: Any) -> Make:
    """Return a function that replaces a text in the correct answer."""
    return lambda body: reply(re.sub(pattern, by, body, count=times), content_type=content_type, carries=True, **means)


def beside(member: bytes) -> Make:
    """Return a function that adds a member, as literal text, to the objects of the correct answer."""
    return changed(rb"(?m)^(data: |\[)?\{", rb"\1{" + member + b", ", times=0)


def dripped(pieces: int, pause: float = 0.0) -> Make:
    """Return a function that sends the correct answer in `pieces` pieces, with a pause between them."""

    def make(body: bytes) -> Reply:
        whole = reply(body).pieces[0]
        size = -(-len(whole) // pieces)
        cut = tuple(whole[start : start + size] for start in range(0, len(whole), size))
        return Reply(cut, carries=True, pause=pause)

    return make


def moved(body: bytes) -> Reply:
    """Return a redirect to the correct answer, on the same origin."""
    place = base64.urlsafe_b64encode(body).decode()
    return reply(b"", "307 Temporary Redirect", f"Location: /moved?{place}", carries=True)


def renumbered(written: str, read: str) -> Make:
    """Return a function that writes the id of a ticket differently. Polls must then use the id `read`."""

    def make(body: bytes) -> Reply:
        found = _ID.search(body)
        number = found[2].decode() if found else ""
        return replace(changed(_ID.pattern, b"%b" % written.format(number).encode())(body), id=read.format(number))

    return make


_ID: Final = re.compile(rb'("(?:id|inference_id|video_id)":\s*)"?(\d+)"?')
LATE: Final[Mapping[str, Any]] = {
    "gaga": {"id": 1, "status": "Success"},
    "ganai": {"gen_status": "SUCCEEDED"},
    "heygen": {"code": 100, "data": {"status": "completed"}},
}
"""Answers that report success without a result, by adapter."""
FAILED: Final[Mapping[str, Any]] = {
    "gaga": {"status": "Fail", "failReason": WORDS},
    "gaia": {"status": "failed", "error": {"message": WORDS}},
    "ganai": {"gen_status": "FAILED", "error": {"message": WORDS}},
    "heygen": {"code": 100, "data": {"status": "failed", "error": {"code": 1, "message": WORDS}}},
}
"""Answers that report failed work, by adapter."""
COMPLETED: Final = b'{"status":"Completed","url":"https://cdn.example.com/a.mp4"}'
CHUNKS: Final = (
    b'data: {"choices":[{"index":0,"delta":{"content":"Hello"}}]}\n\n'
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
)
_TEXT: Final = b'{"choices":[{"index":0,"message":{"content":"Hello"},"finish_reason":"stop"}]}'
_GIF: Final = b"GIF89a\x01\x00\x01\x00\xff\xfb\xfe"
_GATEWAY: Final = ("408 Request Timeout", "502 X", "504 X", "520 X", "522 X", "524 X", "530 X")
_AGO: Final = "Tue, 01 Jan 2019 00:00:00 GMT"
HINTS: Final[Sequence[tuple[tuple[str, ...], float]]] = (
    (("Retry-After: 0",), 0),
    (("Retry-After: -5",), 0),
    (("Retry-After: Fri, 15 Jan 1999 08:01:00 GMT",), 0),
    (("Retry-After: Fri, 31 Dec 9999 23:59:59 GMT",), 0),
    (("Retry-After: Fri, 15 Jan 0000 08:01:00 GMT",), 0),
    (("Retry-After: Fri, 15 Jan 99999999999 08:01:00 GMT",), 0),
    (("Retry-After: soon",), 0),
    (("Retry-After: 20",), 20),
    ((f"Date: {_AGO}", "Retry-After: Tue, 01 Jan 2019 00:00:20 GMT"), 20),
    ((f"Date: {_AGO}", "Retry-After: Mon, 31 Dec 2018 23:00:00 GMT"), 0),
    (("openai-poll-after-ms: 1",), 0),
    (("openai-poll-after-ms: 15000",), 15),
)
"""Headers that request a wait, and its seconds."""


def _odd(kind: str, name: str, roles: str, make: Make, adapters: Iterable[str] = ALL, *, wants: str = "") -> Odd:
    return Odd(kind, name, frozenset(roles.split()), frozenset(adapters), make, wants)


def _failures() -> Iterable[Odd]:
    for status in ("500 X", "502 X", "503 X", "504 X", "520 X", "530 X"):
        yield _odd("A", status, "poll upload result", says({"message": WORDS}, status, reading="passing"))
    yield _odd("A", "502 page", "poll upload result", page("502 Bad Gateway", reading="passing"))
    yield _odd("A", "no answer", "poll upload result", lambda _: Reply((), reading="passing"))


STORM: Final = _odd(
    "A", "503 with Retry-After", ANSWERS,
    says({"message": WORDS}, "503 X", "Retry-After: 3", again=True, wait=3, reading="passing"),
)  # fmt: skip
"""The answer to every account while a provider is unavailable."""


def _unreadable() -> Iterable[Odd]:
    unread: dict[str, Any] = {"reading": "unreadable", "shows": "readable answer"}
    shown: dict[str, Any] = {"reading": "unreadable", "shows": PAGE_SHOWN}
    yield _odd("B", "page", "poll result", page(**shown))
    yield _odd("B", "404 page", "poll result", page("404 Not Found", **shown))
    yield _odd("B", "404", "poll", says({"message": WORDS}, "404 Not Found", reading="unreadable"))
    yield _odd("B", "404", "result", says({"message": WORDS}, "404 Not Found", shows=SHOWN))
    yield _odd("B", "empty", "poll result", lambda _: reply(b"", **unread))
    yield _odd("B", "half", "poll", lambda body: reply(body[: len(body) // 2], **unread))
    yield _odd("B", "list", "poll", says([1], **unread))
    yield _odd("B", "page", "upload", page())
    yield _odd("B", "empty", "upload", lambda _: reply(b""))
    yield _odd("B", "no status", "poll", says({"code": 100, "data": {}}))
    yield _odd("B", "null status", "poll", says({"status": None, "gen_status": None}))
    for status in ("401 X", "402 X", "403 X", "418 X"):
        yield _odd("B", status, "poll result", says({"message": WORDS}, status, shows=SHOWN))
    yield _odd("B", "409", "result", says({"message": WORDS}, "409 Conflict", shows=SHOWN))
    yield _odd("B", "no images", "result", says({"data": []}, shows="yet"))
    for adapter, late in LATE.items():
        yield _odd("B", "success without result", "poll", says(late, shows="yet"), (adapter,))
    late_frame = b'data: {"status":"Completed"}\n\n'
    yield _odd("B", "Completed without url", "stream", _before(late_frame, shows="yet"), ("ainow",))
    yield _odd("B", "frames without status", "stream", _before(b'data: {"eta":3}\n\ndata: {}\n\n'), STREAMED)


def _before(frames: bytes, **means: Any) -> Make:
    return lambda body: reply(frames + body, carries=True, **means)


def _frames() -> Iterable[Odd]:
    yield _odd("C", "dripped", ANSWERS, dripped(9))
    yield _odd("C", "slow", ANSWERS, dripped(6, _PAUSE))  # longer in total than the allowed silence
    yield _odd("C", "silent", "poll", lambda _: Reply((), pause=SILENCE * 1.5, reading="passing"))
    yield _odd("D", "large field", ANSWERS, headed("X-Policy: " + "a" * 40_000))
    yield _odd("D", "many fields", ANSWERS, headed(*(f"X-Field-{n}: {n}" for n in range(300))))
    yield _odd("E", "no last chunk", ANSWERS, broken(chunked=True))
    yield _odd("E", "length too large", ANSWERS, broken(chunked=False))
    yield _odd("F", "NaN", ANSWERS, beside(b'"cost": NaN'))
    yield _odd("F", "Infinity", ANSWERS, beside(b'"eta": -Infinity, "cost": Infinity'))


def _labels() -> Iterable[Odd]:
    for label in ("text/html", "application/json", "application/octet-stream"):
        yield _odd("G", label, "stream", headed(content_type=label), STREAMED)
        yield _odd("G", f"BOM, {label}", "stream", _with_bom(label), STREAMED)
    for label in ("text/html", "text/event-stream", "text/plain"):
        yield _odd("G", label, "poll submit upload result", headed(content_type=label))
    yield _odd("G", "201", ANSWERS, headed(status="201 Created"))
    yield _odd("G", "BOM", ANSWERS, _with_bom())
    yield _odd("G", "plain object", "stream", lambda _: reply(COMPLETED, carries=True), ("ainow",))
    yield _odd("G", "plain object", "stream", lambda _: reply(_TEXT, carries=True), ("chat",))
    lines = changed(rb"(?m)^data: (.*)\n\n", rb"\1\n", times=0, content_type="application/x-ndjson")
    yield _odd("G", "lines of JSON", "stream", lines, ("ainow",))
    yield _odd("H", "no blank lines", "stream", changed(rb"\n\n(?=.)", rb"\n", times=0), STREAMED)
    yield _odd("H", "CR alone", "stream", changed(rb"\n", rb"\r", times=0), STREAMED)
    yield _odd("H", "comments between", "stream", changed(rb"\n\n(?=.)", rb"\n: ping\n", times=0), STREAMED)
    between = changed(rb"\n\n(?=.)", rb"\ndata: <!-- nothing -->\n", times=0)
    yield _odd("H", "unreadable lines between", "stream", between, STREAMED)
    yield _odd("H", "unreadable frame", "stream", _before(b"data: <!-- nothing -->\n\n"), STREAMED)


def _with_bom(content_type: str = "") -> Make:
    def make(body: bytes) -> Reply:
        usual = "text/event-stream" if body.startswith(b"data:") else ""
        return reply(b"\xef\xbb\xbf" + body, content_type=content_type or usual, carries=True)

    return make


def _words() -> Iterable[Odd]:
    reported: dict[str, Any] = {"error": {"message": WORDS}}
    unread: dict[str, Any] = {"reading": "unreadable", "shows": SHOWN}
    poor = f"Insufficient credits. {WORDS}"
    rejected: dict[str, Any] = {"ends": "upstream_rejected", "shows": SHOWN}
    credits_: dict[str, Any] = {"ends": "upstream_credits", "shows": SHOWN}
    failed: dict[str, Any] = {"ends": "upstream_failed", "shows": SHOWN}
    yield _odd("I", "error object", "poll", says(reported, **unread))
    yield _odd("I", "success: false", "poll", says({"success": False, "message": WORDS}, **unread))
    yield _odd("I", "plain text", "poll result", text(WORDS, **unread))
    yield _odd("I", "plain text credits", "poll result", text(poor, "400 Bad Request", shows=SHOWN))
    for role in ("submit upload", "stream"):
        yield _odd("I", "plain text", role, text(WORDS, "400 Bad Request", **rejected))
        yield _odd("I", "plain text credits", role, text(poor, "400 Bad Request", **credits_))
        yield _odd("I", "200 with an error", role, says(reported, **rejected))
        yield _odd("I", "200 without credits", role, says({"error": {"message": poor}}, **credits_))
    for adapter, body in FAILED.items():
        yield _odd("I", "failed", "poll", says(body, **failed), (adapter,), wants="single")
    frame = orjson.dumps(reported)
    for name, frames in (
        ("event: error", b'event: error\ndata: {"message":"%b"}\n\n' % WORDS.encode()),
        ("event: error in words", b"event: error\ndata: %b\n\n" % WORDS.encode()),
        ("error frame", b"data: %b\n\n" % frame),
    ):
        yield _odd("I", name, "stream", _ended_by(frames, **failed), STREAMED)
    yield _odd("I", "Error", "stream", _ended_by(_frame({"status": "Error", "message": WORDS}), **failed), ("ainow",))
    yield _odd("I", "credits frame", "stream", _ended_by(_frame({"error": {"message": poor}}), **credits_), STREAMED)


def _frame(document: object) -> bytes:
    return b"data: %b\n\n" % orjson.dumps(document)


def _ended_by(frames: bytes, **means: Any) -> Make:
    """Return a function that sends the first frame of the correct stream, then these frames."""
    return lambda body: reply(body.partition(b"\n\n")[0] + b"\n\n" + frames, content_type="text/event-stream", **means)


def _parts() -> Iterable[Odd]:
    images = [{"url": "https://cdn.example.com/1.png"}, {"url": "https://cdn.example.com/2.png"}]
    filtered = {"error": {"message": WORDS}}
    kept: dict[str, Any] = {"carries": True, "failed": 1}
    yield _odd("J", "filtered", "result", says({"data": [*images, filtered]}, **kept, in_final=SHOWN))
    yield _odd("J", "null", "result", says({"data": [*images, None]}, **kept, in_final="left this image out"))
    yield _odd("J", "fewer", "result", says({"data": images}, **kept, in_final="left this image out"))
    yield _odd("J", "item failed", "poll", says(FAILED["ganai"], **kept, in_final=SHOWN), ("ganai",), wants="several")
    yield _odd("J", "item left out", "submit", _without_last(None), ("ganai",), wants="several")
    yield _odd("J", "item refused", "submit", _without_last({"error": WORDS}), ("ganai",), wants="several")


def _without_last(instead: Mapping[str, Any] | None) -> Make:
    """Return a function that omits the last item of a reply, or replaces it by an error."""

    def make(body: bytes) -> Reply:
        *others, last = orjson.loads(body)
        entries = others if instead is None else [*others, {"unique_id": last["unique_id"], **instead}]
        words = "left this item out" if instead is None else SHOWN
        return reply(orjson.dumps(entries), carries=True, failed=1, in_final=words)

    return make


def _gateway() -> Iterable[Odd]:
    unknown: dict[str, Any] = {"ends": "outcome_unknown"}
    for status in _GATEWAY:
        yield _odd("K", status, "submit stream", says({"message": WORDS}, status, **unknown, shows=SHOWN))
        yield _odd("K", f"{status}, page", "submit stream", page(status, **unknown, shows=PAGE_SHOWN))
    yield _odd("K", "no answer", "submit stream", lambda _: Reply((), **unknown))


def _hints() -> Iterable[Odd]:
    for headers, wait in HINTS:
        name = " ".join(headers)
        yield _odd("L", name, "poll", headed(*headers, wait=wait), wants="running")
        slow: dict[str, Any] = {"again": True, "wait": wait, "reading": "passing"}
        yield _odd("L", f"429 {name}", ANSWERS, says({"message": WORDS}, "429 X", *headers, **slow))
        if wait:
            yield _odd("L", f"503 {name}", "submit stream", says({"message": WORDS}, "503 X", *headers, **slow))


def _spellings() -> Iterable[Odd]:
    word = rb'("(?:gen_)?status":\s*")(\w+)"'
    yield _odd("M", "blanks around a status", "poll stream", changed(word, rb'\1 \2\\n"', times=0), (*POLLED, "ainow"))
    yield _odd("M", "redirect", "poll result", moved)
    for encoding in ("", "none", "aws-chunked", "identity"):
        yield _odd("M", f"Content-Encoding: {encoding}", ANSWERS, headed(f"Content-Encoding: {encoding}"))
    large = r"\g<1>9{}8446744073709551617"
    for name, written, read in (
        ("large id", large, large.removeprefix(r"\g<1>")),
        ("id as a float", r"\g<1>{}.0", "{}"),
        ("id with an exponent", r"\g<1>{}e18", "{}" + "0" * 18),
        ("request_id alone", r'"request_id": "{}"', "{}"),
    ):
        yield _odd("M", name, "submit", renumbered(written, read), wants="single")
    urls = changed(rb'"(url|resultVideoURL)":\s*("[^"]+")', rb'"\1":[\2]')
    yield _odd("M", "list of urls", "stream poll", urls, ("ainow", "gaga"))
    yield _odd("M", "URL-safe base64", "result", _inline)
    for reason in ("length", "content_filter"):
        ended = changed(b'"stop"', b'"%b"' % reason.encode(), finish_reason=reason)
        yield _odd("M", reason, "stream", ended, ("chat",))
    nothing = changed(b'"content":"Hello"', b"")
    yield _odd("M", "nothing written", "stream", _silent(nothing), ("chat",))


def _inline(_: bytes) -> Reply:
    image = base64.urlsafe_b64encode(_GIF).decode().rstrip("=")
    return reply(orjson.dumps({"data": [{"b64_json": image}] * 3}), carries=True)


def _silent(make: Make) -> Make:
    return lambda body: replace(make(body), carries=False, ends="upstream_failed", shows="wrote nothing")


ODDITIES: Final[tuple[Odd, ...]] = (
    *_failures(), *_unreadable(), *_frames(), *_labels(), *_words(), *_parts(), *_gateway(), *_hints(), *_spellings(),
)  # fmt: skip


def _roles(adapter: str) -> frozenset[str]:
    """Return the requests that an adapter sends."""
    return {
        "gaga": frozenset({"upload", "submit", "poll"}),
        "gaia": frozenset({"submit", "poll", "result"}),
        "ganai": frozenset({"submit", "poll"}),
        "heygen": frozenset({"submit", "poll"}),
    }.get(adapter, frozenset({"stream"}))


def cells() -> frozenset[tuple[str, str]]:
    """Return the kinds, each with the adapters to which it applies."""
    found = {
        (odd.kind, provider_of(adapter))
        for odd in (*ODDITIES, STORM)
        for adapter in odd.adapters
        if odd.roles & _roles(adapter)
    }
    return frozenset(found | {("N", adapter) for adapter in ADAPTERS})


def provider_of(adapter: str) -> str:
    """Return the provider of an adapter. Gaia's text is a separate adapter, because its protocol differs."""
    return "gaia" if adapter == "chat" else adapter
