"""Whole answers in odd heads, frames and words, at every adapter: the paid work is not lost."""

import gzip
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from proxy.upstream.times import UpstreamTimes
from tests.providers.conftest import KEY, fresh_account
from tests.support.deployment import Deployment
from tests.support.examples import Way, ways
from tests.support.raw import Frame, Raw, Said, chunk, head, sound

pytestmark = pytest.mark.asyncio(loop_scope="module")

VIDEO = "https://cdn.example.com/v.mp4"


@dataclass(frozen=True)
class Life:
    """An order, and each answer that the provider gives in its course."""

    order: Mapping[str, Any]
    answers: Mapping[tuple[str, str], object]


def life_of(way: Way) -> Life:
    """The course of an order whose answers are as the provider's page shows them."""
    if not way.polled:
        return Life(way.order, {("POST", way.submit): way.stream(VIDEO)})
    documents = {path: document for path, document in way.documents(VIDEO).items() if path != way.submit}
    polls = {("GET", path): document for path, document in documents.items()}
    return Life(way.order, {("POST", way.submit): way.receipt, **polls})


COMPLETED = {"status": "Completed", "url": VIDEO}
CHUNK = {"choices": [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": None}]}
STOP = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
POLLED = {way.model: life_of(way) for way in ways() if way.polled}
STREAMED = {way.model: life_of(way) for way in ways() if not way.polled}
LIVES = POLLED | STREAMED


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def standing(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Deployment, Raw]]:
    folder = tmp_path_factory.mktemp("raw")
    async with Raw() as upstream:
        times = UpstreamTimes(body_tail=0.05)
        deployment = Deployment(folder, provider={"base_url": upstream.origin, "api_key": KEY}, upstream_times=times)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            async with deployment:
                yield deployment, upstream


@pytest_asyncio.fixture(loop_scope="module")
async def deployment(standing: tuple[Deployment, Raw]) -> Deployment:
    await fresh_account(standing[0])
    return standing[0]


@pytest.fixture
def upstream(standing: tuple[Deployment, Raw]) -> Raw:
    standing[1].bodies.clear()
    standing[1].heads.clear()
    standing[1].frame = sound
    return standing[1]


async def lived(deployment: Deployment, upstream: Raw, life: Life, frame: Frame = sound) -> dict[str, Any]:
    """The final event of an order whose answers are all framed so; it was sent once."""
    for place, answer in life.answers.items():
        upstream.bodies[place] = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    upstream.frame = frame
    final = (await deployment.generate(**life.order))[-1]
    assert upstream.asked("POST") == 1
    return final


def closed(*pieces: bytes) -> Said:
    return Said(pieces)


FIELDS = [f"X-Field-{n}: {n}" for n in range(990)]
CHUNKED = "Transfer-Encoding: chunked"
ODD_FRAMES: dict[str, Frame] = {
    "a field of 64 KiB": lambda body: closed(
        head("X-Long: " + "x" * (64 << 10), f"Content-Length: {len(body)}") + body
    ),
    "990 fields": lambda body: closed(head(*FIELDS, f"Content-Length: {len(body)}") + body),
    "a long reason": lambda body: closed(head(f"Content-Length: {len(body)}", status="200 " + "x" * 20_000) + body),
    "no last chunk": lambda body: closed(head(CHUNKED) + chunk(body)),
    "no last chunk, later": lambda body: closed(head(CHUNKED), chunk(body[:5]), chunk(body[5:])),
    "no last chunk, held": lambda body: Said((head(CHUNKED) + chunk(body),), "hold"),
    "no last chunk, reset": lambda body: Said((head(CHUNKED), chunk(body)), "reset"),
    "too long a length": lambda body: closed(head(f"Content-Length: {len(body) + 9}") + body),
    "too long a length, held": lambda body: Said((head(f"Content-Length: {len(body) + 9}") + body,), "hold"),
    "too long a length, reset": lambda body: Said((head(f"Content-Length: {len(body) + 9}"), body), "reset"),
    "a chunk of no size": lambda body: closed(head(CHUNKED) + chunk(body) + b"ZZ\r\n"),
    "a chunk of no size, later": lambda body: Said((head(CHUNKED), chunk(body), b"ZZ\r\n"), "hold"),
    "chunked by its label alone": lambda body: closed(head(CHUNKED) + body),
    "bytes behind its end": lambda body: closed(head(f"Content-Length: {len(body)}") + body + b"<!-- cached -->"),
    "gzip by its label alone": lambda body: closed(
        head("Content-Encoding: gzip", f"Content-Length: {len(body)}") + body
    ),
    "gzip with a wrong checksum": lambda body: sound_gzip(gzip.compress(body)[:-8] + b"\0" * 8),
    "gzip without its end": lambda body: sound_gzip(gzip.compress(body)[:-8]),
    "gzip without a label": lambda body: sound(gzip.compress(body)),
    "deflate by its label alone": lambda body: closed(head("Content-Encoding: deflate", "Connection: close") + body),
    "until the connection closes": lambda body: closed(head("Connection: close") + body),
}


def sound_gzip(body: bytes) -> Said:
    return closed(head("Content-Encoding: gzip", f"Content-Length: {len(body)}") + body)


@pytest.mark.parametrize("frame", ODD_FRAMES.values(), ids=ODD_FRAMES)
@pytest.mark.parametrize("life", LIVES.values(), ids=LIVES)
async def test_a_whole_answer_in_an_odd_frame_is_the_answer(
    deployment: Deployment, upstream: Raw, life: Life, frame: Frame
) -> None:
    assert (await lived(deployment, upstream, life, frame))["status"] == "Completed"


def beside(words: bytes) -> Frame:
    """More fields in the first object of a body."""
    return lambda body: sound(body.replace(b"{", b"{" + words + b", ", 1))


ODD_JSON: dict[str, Frame] = {
    "NaN": beside(b'"eta": NaN, "low": -Infinity, "said": "NaN"'),
    "as C prints": beside(b'"eta": nan, "low": -inf, "said": "\\"nan"'),
    "a line end in a text": beside(b'"said": "one\ntwo"'),
    "half a character": beside(b'"said": "\\ud83d"'),
    "zeros behind it": lambda body: sound(body + b"\0\0"),
    "a comment behind it": lambda body: sound(body + b"\n<!-- served in 3 ms -->"),
    "UTF-16": lambda body: sound(body.decode().encode("utf-16")),
    "a byte order mark": lambda body: sound(b"\xef\xbb\xbf" + body),
    "a stream's frame": lambda body: sound(b"data: " + body + b"\n\n"),
}


@pytest.mark.parametrize("frame", ODD_JSON.values(), ids=ODD_JSON)
@pytest.mark.parametrize("life", POLLED.values(), ids=POLLED)
async def test_json_as_other_programs_write_it_is_read(
    deployment: Deployment, upstream: Raw, life: Life, frame: Frame
) -> None:
    assert (await lived(deployment, upstream, life, frame))["status"] == "Completed"


@pytest.mark.parametrize("status", ["200 OK", "201 Created", "202 Accepted", "206 Partial Content"])
@pytest.mark.parametrize("label", ["text/html", "application/json", "text/plain", "", "application/x-ndjson"])
@pytest.mark.parametrize("life", STREAMED.values(), ids=STREAMED)
async def test_a_stream_is_known_by_its_first_bytes(
    deployment: Deployment, upstream: Raw, life: Life, label: str, status: str
) -> None:
    final = await lived(
        deployment,
        upstream,
        life,
        lambda body: closed(head("Connection: close", status=status, content_type=label) + body),
    )
    assert final["status"] == "Completed"


BEGINNINGS = [
    b": hello\n\n",
    b"\n\r\n",
    b"\xef\xbb\xbf",
    b"event: message\n",
    b"id: 1\n",
    b"retry: 5\n\n",
    b"\xef\xbb\xbf\n:\n",
]


@pytest.mark.parametrize("begun", BEGINNINGS)
@pytest.mark.parametrize("life", STREAMED.values(), ids=STREAMED)
async def test_a_stream_may_begin_with_any_field(
    deployment: Deployment, upstream: Raw, life: Life, begun: bytes
) -> None:
    def frame(body: bytes) -> Said:
        pieces = [head("Connection: close", content_type="text/html"), *(bytes([byte]) for byte in begun), body]
        return Said(tuple(pieces))

    assert (await lived(deployment, upstream, life, frame))["status"] == "Completed"


WHOLE_TEXT = {"object": "chat.completion", "choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]}
IN_PLACE = {
    "AI-Now": (STREAMED["luma"], json.dumps(COMPLETED).encode()),
    "AI-Now, indented": (STREAMED["luma"], json.dumps(COMPLETED, indent=2).encode()),
    "AI-Now, a line for each": (
        STREAMED["luma"],
        b'{"status":"Processing"}\n' + json.dumps(COMPLETED).encode() + b"\n",
    ),
    "AI-Now, an array": (STREAMED["luma"], json.dumps([{"status": "Processing"}, COMPLETED]).encode()),
    "Gaia": (STREAMED["gpt-5.4-mini"], json.dumps(WHOLE_TEXT).encode()),
    "Gaia, indented": (STREAMED["gpt-5.4-mini"], json.dumps(WHOLE_TEXT, indent=2).encode()),
}


@pytest.mark.parametrize("label", ["application/json", "text/event-stream", "text/html", ""])
@pytest.mark.parametrize(("life", "body"), IN_PLACE.values(), ids=IN_PLACE)
async def test_json_in_place_of_a_stream_is_the_result(
    deployment: Deployment, upstream: Raw, life: Life, body: bytes, label: str
) -> None:
    final = await lived(
        deployment,
        upstream,
        Life(life.order, dict.fromkeys(life.answers, body)),
        lambda body: closed(head("Connection: close", content_type=label) + body),
    )
    assert final["status"] == "Completed"
    assert final.get("text") == ("Hello" if "text" in final else None)


@pytest.mark.parametrize("held", [b"", b"\n"], ids=["without a line end", "in lines"])
async def test_a_line_of_json_is_a_frame_as_soon_as_it_comes(
    deployment: Deployment, upstream: Raw, held: bytes
) -> None:
    def frame(_: bytes) -> Said:
        pieces = (head("Connection: close", content_type="text/event-stream"), b'{"status":"Processing"}\n')
        return Said((*pieces, json.dumps(COMPLETED).encode() + held), "hold")

    assert (await lived(deployment, upstream, STREAMED["luma"], frame))["status"] == "Completed"


def joined(end: bytes, *lines: bytes) -> bytes:
    return b"".join(line + end for line in lines)


FRAMES = {
    "no blank lines": lambda a, b: joined(b"\n", b"data: " + a, b"data: " + b),
    "no blank lines, CR LF": lambda a, b: joined(b"\r\n", b"data:" + a, b"data:" + b),
    "no blank lines, CR": lambda a, b: joined(b"\r", b"data: " + a, b"data: " + b),
    "ids between": lambda a, b: joined(b"\n", b"id: 1", b"data: " + a, b"id: 2", b"data: " + b),
    "a word between": lambda a, b: joined(b"\n", b"data: ping", b"data: " + a, b"data: pong", b"data: " + b),
    "no last line end": lambda a, b: b"data: " + a + b"\n\ndata: " + b,
    "data without a colon": lambda a, b: joined(b"\n", b"data", b"", b"data: " + a, b"", b"data", b"data: " + b, b""),
    "comments between": lambda a, b: joined(b"\n", b": x", b"data: " + a, b": y", b"data: " + b, b": z"),
    "words of their own": lambda a, b: joined(
        b"\n", b"data: ping", b"", b"data: " + a, b"", b"data: : x", b"", b"data: " + b
    ),
}


@pytest.mark.parametrize("cut", [False, True], ids=["ended", "cut"])
@pytest.mark.parametrize("written", FRAMES.values(), ids=FRAMES)
@pytest.mark.parametrize("life", STREAMED.values(), ids=STREAMED)
async def test_each_line_that_is_json_is_a_frame(
    deployment: Deployment, upstream: Raw, life: Life, written: Any, *, cut: bool
) -> None:
    first, last = ({"status": "Warming up"}, COMPLETED) if life is STREAMED["luma"] else (CHUNK, STOP)
    body = written(json.dumps(first).encode(), json.dumps(last).encode())
    final = await lived(
        deployment,
        upstream,
        Life(life.order, dict.fromkeys(life.answers, body)),
        lambda body: Said(
            (head(CHUNKED, content_type="text/event-stream"), chunk(body) + (b"" if cut else b"0\r\n\r\n")),
            "reset" if cut else "close",
        ),
    )
    assert final["status"] == "Completed"
    assert final.get("text", "Hello") == "Hello"


@pytest.mark.parametrize("life", POLLED.values(), ids=POLLED)
async def test_a_ticket_that_is_cut_short_is_no_ticket(deployment: Deployment, upstream: Raw, life: Life) -> None:
    final = await lived(
        deployment, upstream, life, lambda body: closed(head(f"Content-Length: {len(body)}") + body[: len(body) - 1])
    )
    assert (final["status"], final["code"]) == ("Error", "outcome_unknown")
