"""The client of a provider's API over real sockets: reads, uploads, paid submits, streams, and their errors."""

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from proxy.core import errors
from proxy.core.clock import Clock
from proxy.core.sse import Message
from proxy.upstream.answers import (
    Answer,
    CredentialRefused,
    CreditRefused,
    GatewayRefusal,
    NotTaken,
    RateLimited,
    ReadFailed,
    Transient,
    UnknownToProvider,
    UnreadableAnswer,
    loads,
)
from proxy.upstream.classify import Dialect
from proxy.upstream.client import Upstream
from proxy.upstream.requests import File, Request
from proxy.upstream.times import DEFAULT_TIMES, UpstreamTimes
from tests.support.deployment import JumpClock
from tests.support.site import Handler, Site

KEY = "sk-secret-123"
CREDENTIAL = {"Authorization": f"Bearer {KEY}"}
ORDER = Request("/v1/generations", json={"prompt": "A cat"})
HTML = b"<html><h1>Internal Server Error</h1></html>"
PNG = File("cat.png", "image/png", b"\x89PNG\r\n\x1a\n")


def reply(status: int = 200, body: object = None, headers: Mapping[str, str] | None = None) -> Handler:
    """Answer with a body of JSON, or of plain bytes (HTML)."""
    raw = isinstance(body, bytes)

    async def answer(_: web.Request) -> web.Response:
        return web.Response(
            status=status,
            body=body if isinstance(body, bytes) else orjson.dumps(body),
            headers={"Content-Type": "text/html" if raw else "application/json", **(headers or {})},
        )

    return answer


def partial(body: bytes, content_type: str = "application/json") -> Handler:
    """Start an answer and close the connection in the middle of its body."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": content_type, "Content-Length": str(len(body) + 1)})
        await response.prepare(request)
        await response.write(body)
        assert request.transport
        request.transport.close()
        return response

    return answer


def streaming(*chunks: bytes) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
        return response

    return answer


async def hang_up(request: web.Request) -> web.Response:
    assert request.transport
    request.transport.close()
    return web.Response()


@dataclass(frozen=True)
class Provider:
    site: Site
    upstream: Upstream


@asynccontextmanager
async def provider_with(
    answer: Handler,
    credential: Mapping[str, str] = CREDENTIAL,
    clock: Clock | None = None,
    rate: float = 50,
    times: UpstreamTimes = DEFAULT_TIMES,
    **phrases: Any,
) -> AsyncIterator[Provider]:
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(Site(answer))
        upstream = Upstream(site.url, Dialect(credential, **phrases), clock or JumpClock(), rate=rate, times=times)
        yield Provider(site, await stack.enter_async_context(upstream))


@asynccontextmanager
async def unreachable_provider() -> AsyncIterator[Upstream]:
    """A client of a provider that accepts no connections."""
    async with provider_with(hang_up) as wire:
        nowhere = wire.site.url
    async with Upstream(nowhere, Dialect(CREDENTIAL), JumpClock(), rate=50) as upstream:
        yield upstream


async def refusal(answer: Handler, **words: Any) -> Exception:
    """Return the error of a submit, and check that it was sent exactly once."""
    async with provider_with(answer, **words) as wire:
        with pytest.raises((NotTaken, errors.JobError)) as caught:
            await wire.upstream.submit(ORDER)
        assert len(wire.site.asked) == 1
    return caught.value


async def failure(answer: Handler, **settings: Any) -> ReadFailed:
    """Return the error of a read."""
    async with provider_with(answer, **settings) as wire:
        with pytest.raises(ReadFailed) as caught:
            await wire.upstream.get("/v1/generations/1")
    return caught.value


def answer_of(body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(200, headers or {}, body, JumpClock().now())


# --- submits: requests ---


async def test_a_submit_is_one_post_of_json_with_the_credential() -> None:
    async with provider_with(reply(201, {"id": 1})) as wire:
        answer = await wire.upstream.submit(Request("/v1/x", json={"a": "é"}, query={"project": "p 1"}))
        assert (answer.status, answer.object()) == (201, {"id": 1})
        (request,) = wire.site.asked
        assert (request.method, request.path_qs) == ("POST", "/v1/x?project=p+1")
        assert request.headers["Authorization"] == f"Bearer {KEY}"
        assert request.headers["Content-Type"] == "application/json"
        assert wire.site.bodies == ['{"a":"é"}'.encode()]


async def test_a_form_is_sent_as_multipart_in_its_order() -> None:
    async with provider_with(reply(200, {})) as wire:
        await wire.upstream.submit(Request("/v1/x", form=(("prompt", "A cat"), ("input_reference[]", PNG), ("n", "1"))))
        body = wire.site.bodies[0]
        assert wire.site.asked[0].content_type == "multipart/form-data"
        places = [body.index(part) for part in (b'name="prompt"', b'name="input_reference[]"', b'name="n"')]
        assert places == sorted(places)
        assert b'filename="cat.png"' in body
        assert b"Content-Type: image/png" in body
        assert PNG.data in body


async def test_a_form_of_texts_only_is_also_multipart() -> None:
    async with provider_with(reply(200, {})) as wire:
        await wire.upstream.submit(Request("/v1/x", form=(("prompt", "A cat"),)))
        assert wire.site.asked[0].content_type == "multipart/form-data"


async def test_every_submit_uses_a_new_connection() -> None:
    ports = []

    async def answer(request: web.Request) -> web.Response:
        assert request.transport
        ports.append(request.transport.get_extra_info("peername")[1])
        return web.Response(text="{}")

    async with provider_with(answer) as wire:
        for _ in range(3):
            await wire.upstream.submit(ORDER)
    assert len(set(ports)) == 3


# --- submits: errors ---


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, {"message": "No."}, errors.UpstreamRejected),
        (401, {"message": "No."}, errors.UpstreamAuth),
        (401, HTML, errors.UpstreamAuth),
        (402, {"message": "No."}, errors.UpstreamCredits),
        (403, {"message": "No."}, errors.UpstreamRejected),
        (404, {"message": "No."}, errors.UpstreamRejected),
        (413, HTML, GatewayRefusal),
        (418, {"status": "Error", "message": "No."}, errors.UpstreamCredits),
        (422, {"detail": [{"loc": ["body"], "msg": "No."}]}, errors.UpstreamRejected),
        (500, {"error": {"message": "No."}}, errors.UpstreamFailed),
        (500, {}, errors.OutcomeUnknown),
        (500, HTML, errors.OutcomeUnknown),
        (502, HTML, errors.OutcomeUnknown),
        (504, HTML, errors.OutcomeUnknown),
        (503, {"message": "No."}, errors.UpstreamFailed),
        (503, HTML, errors.OutcomeUnknown),
        (301, b"", GatewayRefusal),
        (302, b"", GatewayRefusal),
        (307, b"", GatewayRefusal),
        (308, b"", GatewayRefusal),
        (303, b"", errors.OutcomeUnknown),
    ],
)
async def test_every_status_of_a_refusal_has_its_meaning(
    status: int, body: object, kind: type[errors.JobError]
) -> None:
    headers = {"Location": "/elsewhere"} if status in range(300, 400) else None
    assert type(await refusal(reply(status, body, headers))) is kind


async def test_a_refusal_has_the_providers_message_and_status() -> None:
    error = await refusal(reply(422, {"message": "The prompt\n is too  long."}))
    assert str(error) == "The prompt is too long. (HTTP 422)"


async def test_a_refusal_without_a_message_says_so() -> None:
    assert str(await refusal(reply(400, b""))) == "The provider gave no explanation (HTTP 400)"


@pytest.mark.parametrize(
    ("retry_after", "wait"),
    [
        ("7", 7),
        ("0.5", 0.5),
        ("86400", 120),
        ("soon", None),
        ("-1", None),
        ("", None),
    ],
)
async def test_429_was_not_taken_and_names_a_wait(retry_after: str, wait: float | None) -> None:
    error = await refusal(reply(429, {"message": "Slow down."}, {"Retry-After": retry_after}))
    assert isinstance(error, NotTaken)
    assert error.wait == wait
    assert type(error.error) is errors.UpstreamRejected
    assert error.error.message == "Slow down. (HTTP 429)"


async def test_503_with_retry_after_was_not_taken() -> None:
    error = await refusal(reply(503, HTML, {"Retry-After": "3"}))
    assert isinstance(error, NotTaken)
    assert error.wait == 3
    assert type(error.error) is errors.UpstreamFailed


@pytest.mark.parametrize(
    "body",
    [
        {"code": "insufficient_quota"},
        {"code": 40009},
        {"error": {"type": "insufficient_quota"}},
        {"error": {"code": "40009", "message": "No."}},
        {"code": 1, "data": {"code": 40009}},
        {"detail": {"code": "insufficient_quota"}},
        {"message": "Sorry: Insufficient Credits"},
        {"detail": "You have insufficient credits left."},
    ],
)
@pytest.mark.parametrize("status", [400, 403, 429, 500])
async def test_a_code_or_phrase_reports_an_empty_account_with_any_status(status: int, body: object) -> None:
    words = ("40009", "insufficient_quota", "insufficient credits")
    assert type(await refusal(reply(status, body), no_credit=words)) is errors.UpstreamCredits


@pytest.mark.parametrize("body", [{"code": "400091"}, {"message": "Code 40009"}, []])
async def test_a_code_matches_as_a_whole_in_its_field_only(body: object) -> None:
    words = ("40009", "insufficient_quota", "insufficient credits")
    assert type(await refusal(reply(400, body), no_credit=words)) is errors.UpstreamRejected


async def test_a_code_reports_a_refused_key() -> None:
    error = await refusal(reply(400, {"code": 400112, "message": "Unauthorized"}), refused_key=("400112",))
    assert type(error) is errors.UpstreamAuth


@pytest.mark.parametrize("status", [404, 405, 410])
async def test_a_retired_api_is_reported_as_such(status: int) -> None:
    assert type(await refusal(reply(status, HTML), retired=(404, 405, 410))) is errors.UpstreamRetired


async def test_an_order_to_an_unreachable_provider_was_not_taken() -> None:
    async with unreachable_provider() as upstream:
        with pytest.raises(NotTaken) as caught:
            await upstream.submit(ORDER)
    assert type(caught.value.error) is errors.UpstreamUnreachable
    assert str(caught.value) == "The provider cannot be reached: it takes no connection. Nothing was sent."
    assert caught.value.wait is None


async def test_an_order_with_a_lost_answer_has_an_unknown_outcome() -> None:
    error = await refusal(hang_up)
    assert type(error) is errors.OutcomeUnknown
    assert "no answer came back: the connection ended too early." in str(error)


@pytest.mark.parametrize("body", [b"", b'{"id":'])
async def test_an_order_whose_answer_breaks_off_has_an_unknown_outcome(body: bytes) -> None:
    error = await refusal(partial(body))
    assert type(error) is errors.OutcomeUnknown
    assert "broke off: the connection ended too early." in str(error)


# --- reads ---


async def test_a_read_is_a_get_with_the_credential_and_its_query() -> None:
    async with provider_with(reply(200, {"status": "Running"})) as wire:
        answer = await wire.upstream.get("/v1/status", {"video_id": "a&b"})
        assert answer.object() == {"status": "Running"}
        (request,) = wire.site.asked
        assert (request.method, request.path, request.query["video_id"]) == ("GET", "/v1/status", "a&b")
        assert request.headers["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (302, UnreadableAnswer),
        (400, UnknownToProvider),
        (401, CredentialRefused),
        (402, CreditRefused),
        (403, CredentialRefused),
        (404, UnknownToProvider),
        (405, UnreadableAnswer),
        (408, Transient),
        (409, Transient),
        (410, UnknownToProvider),
        (418, CreditRefused),
        (425, Transient),
        (429, RateLimited),
        (500, Transient),
        (502, Transient),
        (503, Transient),
    ],
)
async def test_each_status_of_a_read_has_its_error(status: int, kind: type[ReadFailed]) -> None:
    error = await failure(reply(status, {"message": "Not now."}, {"Location": "/elsewhere"}))
    assert type(error) is kind
    assert error.message == f"Not now. (HTTP {status})"


@pytest.mark.parametrize("status", [400, 404, 410])
async def test_a_gateways_page_does_not_mean_not_found(status: int) -> None:
    assert type(await failure(reply(status, HTML))) is UnreadableAnswer


@pytest.mark.parametrize("status", [400, 403, 429, 500])
async def test_a_phrase_of_a_read_reports_an_empty_account(status: int) -> None:
    assert type(await failure(reply(status, {"message": "No credits!"}), no_credit=("no credits",))) is CreditRefused


async def test_a_code_of_a_read_reports_a_refused_key() -> None:
    async with provider_with(reply(400, {"code": 400112}), refused_key=("400112",)) as wire:
        with pytest.raises(CredentialRefused):
            await wire.upstream.get("/")


async def test_a_transient_error_names_a_wait() -> None:
    assert (await failure(reply(429, {}, {"Retry-After": "9"}))).wait == 9


@pytest.mark.parametrize("answer", [hang_up, partial(b"{")])
async def test_a_read_with_a_lost_answer_is_transient(answer: Handler) -> None:
    assert type(await failure(answer)) is Transient


async def test_a_read_from_an_unreachable_provider_is_transient() -> None:
    async with unreachable_provider() as upstream:
        with pytest.raises(Transient, match=r"^The provider cannot be reached: it takes no connection\.$"):
            await upstream.get("/")


@pytest.mark.parametrize("body", [b"", HTML, b"{", b"[1]", b"null", b'"text"'])
async def test_an_answer_that_is_not_an_object_is_unreadable(body: bytes) -> None:
    async with provider_with(reply(200, body)) as wire:
        answer = await wire.upstream.get("/")
        with pytest.raises(UnreadableAnswer):
            answer.object()


@pytest.mark.parametrize(
    ("body", "title"),
    [
        (rb'{"title": "cut \ud83d"}', "cut \ufffd"),
        (rb'{"title": "\ude00\uD83D\uDE00"}', "\ufffd\U0001f600"),
        (rb'{"title": "\\ud83d\ud83d\n"}', "\\ud83d\ufffd\n"),
        (b'{"title": "cut \xf0\x9f"}', "cut \ufffd"),
        (b'\xef\xbb\xbf{"title": "whole"}', "whole"),
    ],
)
def test_an_answer_with_a_lone_surrogate_can_be_sent_to_a_client(body: bytes, title: str) -> None:
    found = answer_of(body).object()
    assert found == loads(body) == {"title": title}
    orjson.dumps(found)


def test_invalid_bytes_in_a_header_can_be_sent_to_a_client() -> None:
    # aiohttp decodes header bytes that are no UTF-8 to lone surrogates, which JSON cannot hold.
    with pytest.raises(UnreadableAnswer) as caught:
        answer_of(b"<", {"content-type": "text/\udcff"}).json()
    assert orjson.dumps(caught.value.message)


async def test_requests_above_the_rate_wait() -> None:
    clock = JumpClock()
    began = clock.now()
    async with provider_with(reply(200, {}), clock=clock, rate=2) as wire:
        for _ in range(5):
            await wire.upstream.get("/")
    assert clock.now() - began == pytest.approx(2, abs=0.1)


# --- uploads ---


async def test_an_upload_is_one_file_as_multipart() -> None:
    async with provider_with(reply(200, {"id": 7})) as wire:
        assert (await wire.upstream.upload("/v1/assets", "file", PNG)).object() == {"id": 7}
        (body,) = wire.site.bodies
        assert b'name="file"; filename="cat.png"' in body
        assert PNG.data in body


@pytest.mark.parametrize("status", [408, 429, 500, 503])
async def test_a_temporary_upload_error_is_transient(status: int) -> None:
    async with provider_with(reply(status, {}, {"Retry-After": "2"})) as wire:
        with pytest.raises(Transient) as caught:
            await wire.upstream.upload("/v1/assets", "file", PNG)
    assert caught.value.wait == 2


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, errors.UpstreamAuth), (402, errors.UpstreamCredits), (422, errors.UpstreamRejected)],
)
async def test_a_refused_upload_means_the_same_as_a_refused_submit(status: int, kind: type[errors.JobError]) -> None:
    async with provider_with(reply(status, {})) as wire:
        with pytest.raises(kind):
            await wire.upstream.upload("/v1/assets", "file", PNG)


BAD_FILE = ("file upload failed",)
FAILED_UPLOAD = reply(500, {"message": "File upload failed"})


async def test_an_upload_that_blames_the_file_is_tried_twice_and_refused() -> None:
    async with provider_with(FAILED_UPLOAD, bad_file=BAD_FILE) as wire:
        with pytest.raises(errors.UpstreamRejected, match=r"File upload failed \(HTTP 500\)"):
            await wire.upstream.upload("/v1/assets", "file", PNG)
        assert len(wire.site.asked) == 2


async def test_an_upload_that_blames_the_file_once_succeeds_on_retry() -> None:
    answers = [reply(200, {"id": 7}), FAILED_UPLOAD]

    async def answer(request: web.Request) -> web.StreamResponse:
        return await answers.pop()(request)

    async with provider_with(answer, bad_file=BAD_FILE) as wire:
        assert (await wire.upstream.upload("/v1/assets", "file", PNG)).object() == {"id": 7}


async def test_bad_files_do_not_open_the_breaker() -> None:
    async with provider_with(FAILED_UPLOAD, bad_file=BAD_FILE) as wire:
        for _ in range(5):
            with pytest.raises(errors.UpstreamRejected):
                await wire.upstream.upload("/v1/assets", "file", PNG)
        assert wire.upstream.breaker.wait == 0


# --- streams ---


async def read_stream(answer: Handler) -> list[Message] | Answer:
    async with provider_with(answer) as wire, wire.upstream.open_stream(ORDER) as found:
        assert len(wire.site.asked) == 1
        return found if isinstance(found, Answer) else [message async for message in found]


async def test_a_stream_is_read_as_messages() -> None:
    stream = streaming(b'data: {"status":"Proc', b'essing"}\n', b"\ndata: [DONE]\n\n")
    assert await read_stream(stream) == [Message('{"status":"Processing"}'), Message("[DONE]")]


async def test_an_answer_that_is_not_a_stream_is_returned_whole() -> None:
    answer = await read_stream(reply(200, {"id": 1}))
    assert isinstance(answer, Answer)
    assert answer.object() == {"id": 1}


async def test_a_stream_that_is_refused_fails_like_a_submit() -> None:
    with pytest.raises(errors.UpstreamCredits, match="No tokens"):
        await read_stream(reply(418, {"message": "No tokens."}))


async def test_a_stream_with_a_lost_answer_has_an_unknown_outcome() -> None:
    with pytest.raises(errors.OutcomeUnknown):
        await read_stream(hang_up)


async def test_a_stream_from_an_unreachable_provider_was_not_taken() -> None:
    async with unreachable_provider() as upstream:
        with pytest.raises(NotTaken):
            async with upstream.open_stream(ORDER):
                pass


async def test_a_broken_stream_is_interrupted_after_its_complete_messages() -> None:
    broken = partial(b"data: 1\n\ndata: 2", "text/event-stream")
    async with provider_with(broken) as wire, wire.upstream.open_stream(ORDER) as messages:
        assert not isinstance(messages, Answer)
        assert await anext(messages) == Message("1")
        with pytest.raises(errors.Interrupted, match=r"broke: the connection ended too early\. It cannot"):
            await anext(messages)


def listed_connections() -> list[str]:
    return Path("/proc/net/tcp").read_text().splitlines()


@asynccontextmanager
async def silent_stream() -> AsyncIterator[tuple[asyncio.Event, int, AsyncIterator[Message]]]:
    """A stream with one message, and another one after the event is set; and the port of its server."""
    spoken = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        await spoken.wait()
        await response.write(b"data: 2\n\n")
        return response

    async with provider_with(answer) as wire, wire.upstream.open_stream(ORDER) as messages:
        assert not isinstance(messages, Answer)
        assert await anext(messages) == Message("1")
        yield spoken, wire.site.port, messages
        spoken.set()


async def test_a_silent_stream_is_limited_by_the_deadline_only(monkeypatch: pytest.MonkeyPatch) -> None:
    async with silent_stream() as (spoken, _, messages):
        coming = asyncio.ensure_future(anext(messages))
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        time = loop.time
        with monkeypatch.context() as later:
            later.setattr(loop, "time", lambda: time() + 600)
            await asyncio.sleep(0.01)  # every timer of the next ten minutes fires
            spoken.set()
            assert await coming == Message("2")


@pytest.mark.skipif(sys.platform != "linux", reason="Only Linux lists the timers of connections.")
async def test_a_silent_streams_connection_is_kept_alive() -> None:
    async with silent_stream() as (_, port, _):
        connections = [line.split() for line in listed_connections()]
        (timer,) = [words[5] for words in connections if words[2].endswith(f":{port:04X}") and words[3] == "01"]
        assert timer.startswith("02:")  # Linux' number of the keep-alive timer


async def test_a_stream_with_an_endless_message_is_interrupted() -> None:
    with pytest.raises(errors.Interrupted, match=r"broke: it is larger than the limit\. It cannot"):
        await read_stream(streaming(b"data: ", *[b"x" * (1 << 18)] * 5))


# --- hints to wait ---


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({}, None),
        ({"openai-poll-after-ms": "1500"}, 1.5),
        ({"openai-poll-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"openai-poll-after-ms": "x", "retry-after": "9"}, 9),
        ({"openai-poll-after-ms": "999999999"}, 120),
        ({"retry-after": " 2 "}, 2),
        ({"retry-after": "Fri, 15 Jan 2027 08:01:00 GMT"}, 60),
        ({"retry-after": "Fri, 15 Jan 2038 08:01:00 GMT"}, 120),
        ({"retry-after": "Fri, 99 Jan 2027 08:01:00 GMT"}, None),
        ({"retry-after": "Fri, 15 Jan 2027 07:00:00 GMT"}, 0),
        ({"retry-after": "Fri, 15 Jan 2027 09:00:30 GMT", "date": "Fri, 15 Jan 2027 09:00:00 GMT"}, 30),
        ({"retry-after": "Fri, 15 Jan 2027 08:00:30 GMT", "date": "Fri, 15 Jan 99999999999 09:00:00 GMT"}, 30),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, None),
        ({"retry-after": "Fri, 15 Jan 99999999999 08:01:00 GMT"}, None),
        ({"retry-after": "Fri, 15 Jan 2027 08:01:00 +99999999999999999"}, None),
        ({"retry-after": "-5"}, None),
    ],
)
def test_a_hint_to_wait_is_limited(headers: dict[str, str], wait: float | None) -> None:
    assert answer_of(headers=headers).wait == wait


def test_a_hint_with_superscript_digits_is_ignored() -> None:
    # "²".isdigit() is true, and int("²") a ValueError.
    assert answer_of(headers={"openai-poll-after-ms": "²"}).wait is None


# --- the provider's message ---


@pytest.mark.parametrize(
    ("credential", "body"),
    [
        (CREDENTIAL, {"message": f"Incorrect API key provided: {KEY}."}),
        (CREDENTIAL, {"error": {"message": f"Bearer {KEY} is unknown"}}),
        (CREDENTIAL, {"detail": [{"loc": ["header", KEY], "msg": f"{KEY}{KEY}"}]}),
        ({"X-Api-Key": KEY}, {"message": f"Key '{KEY}' is unknown"}),
    ],
)
@pytest.mark.parametrize("status", [400, 401, 402, 404, 429, 500])
async def test_a_key_echoed_by_a_provider_is_masked(status: int, credential: dict[str, str], body: object) -> None:
    answer = reply(status, body)
    error = await refusal(answer, credential=credential)
    assert KEY not in f"{error} {error!r}"
    assert "[key]" in str(error)
    async with provider_with(answer, credential) as wire:
        with pytest.raises(ReadFailed) as caught:
            await wire.upstream.get("/")
        assert KEY not in caught.value.message
        assert KEY not in (wire.upstream.dialect.message_in(answer_of(orjson.dumps(body))) or "")


def test_reprs_contain_neither_bytes_nor_bodies() -> None:
    assert "hush" not in f"{answer_of(b'hush')!r} {File('a', 'image/png', b'hush')!r}"


# --- addresses ---


async def test_a_relative_result_url_is_on_the_providers_origin() -> None:
    async with provider_with(hang_up) as wire:
        origin = wire.site.url
        assert wire.upstream.absolute("/files/1.mp4") == f"{origin}/files/1.mp4"
        assert wire.upstream.absolute("files/1.mp4?a=1") == f"{origin}/files/1.mp4?a=1"
        assert wire.upstream.absolute("https://cdn.example.com/1.mp4") == "https://cdn.example.com/1.mp4"
        assert wire.upstream.is_own(f"{origin}/files/1.mp4")
        assert not wire.upstream.is_own("https://cdn.example.com/1.mp4")


@pytest.mark.parametrize("path", ["/a%2fb/c%20d.mp4", "/b/../c", "/~%7E?u=https%3A%2F%2Fa&f=*%3DUTF-8%27%27my%2Ffilm"])
async def test_a_result_url_is_kept_verbatim_because_it_may_be_signed(path: str) -> None:
    async with provider_with(hang_up) as wire:
        assert wire.upstream.absolute(f"https://cdn.example.com{path}") == f"https://cdn.example.com{path}"


async def test_invalid_characters_of_a_result_url_are_escaped() -> None:
    async with provider_with(hang_up) as wire:
        assert wire.upstream.absolute("https://a.example/my film.mp4?100%") == "https://a.example/my%20film.mp4?100%25"


@pytest.mark.parametrize(
    "url", ["", "https://[", "https://", "javascript:alert(1)", "data:text/html,x", "http://a:99999/"]
)
async def test_a_result_url_that_cannot_be_opened_is_unreadable(url: str) -> None:
    async with provider_with(hang_up) as wire:
        with pytest.raises(UnreadableAnswer, match="cannot be opened"):
            wire.upstream.absolute(url)


async def test_cookies_are_not_kept() -> None:
    async with provider_with(reply(200, {}, {"Set-Cookie": "who=first; Path=/"})) as wire:
        origin = wire.site.url.replace("127.0.0.1", "localhost")
        async with Upstream(origin, Dialect(CREDENTIAL), JumpClock(), rate=50) as upstream:
            for _ in range(2):
                await upstream.get("/")
                await upstream.submit(ORDER)
        assert [request.headers.get("Cookie") for request in wire.site.asked] == [None] * 4


async def test_the_origin_is_available_with_and_without_the_credential() -> None:
    async with provider_with(hang_up) as wire:
        assert dict(wire.upstream.origin.credential) == CREDENTIAL
        assert dict(wire.upstream.without_credential.credential) == {}
        assert wire.upstream.without_credential.origin == wire.upstream.origin.origin
