"""The generic adapter: what a provider is sent, and what its literal answers become."""

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
import pytest_asyncio

from proxy.core import errors
from proxy.core.job import Order, Output, Role, Status
from proxy.providers.base import Update
from proxy.providers.declared import Declared, DeclaredKind
from proxy.upstream.answers import (
    CreditRefused,
    LastAnswers,
    NotReady,
    NotTaken,
    Transient,
    UnknownToProvider,
    UnreadableAnswer,
)
from proxy.upstream.requests import Request, dump_json
from tests.support.literal import Literal, Reply, said
from tests.support.provider_file import ACME, KEY, Brought, adapter, parse, short

pytestmark = pytest.mark.asyncio(loop_scope="module")

SUBMIT = ("POST", "/v1/videos/text2video")
POLL = ("GET", "/v1/videos/text2video/t1")
TICKET = {"model": "one", "id": "t1"}
PNG = "data:image/png;base64," + base64.b64encode(b"\x89PNG").decode()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[Literal]:
    async with Literal() as upstream:
        yield upstream


@pytest.fixture
def upstream(server: Literal) -> Literal:
    server.clear()
    return server


@pytest_asyncio.fixture(loop_scope="module")
async def acme(upstream: Literal) -> AsyncIterator[Declared]:
    async with adapter(ACME.read_text(), upstream.origin) as provider:
        yield provider


def answered(data: dict[str, Any], status: int = 200, code: object = 0) -> Reply:
    return said({"code": code, "data": data}, status)


async def prepared(provider: Declared, model: str = "acme/one", /, **fields: Any) -> Request:
    kind = next(kind for kind in provider.models if kind.name == model)
    read = kind.fields.model_validate(fields)
    return await provider.prepare(Order(model, read.model_dump(exclude_none=True)), Brought())


async def body_of(provider: Declared, model: str = "acme/one", /, **fields: Any) -> Any:
    return json.loads(dump_json((await prepared(provider, model, **fields)).json, str))


async def sent_to(upstream: Literal, text: str, **fields: Any) -> Any:
    async with adapter(text, upstream.origin) as provider:
        return await body_of(provider, "short/one", **fields)


async def check(provider: Declared, ticket: dict[str, Any] | None = None) -> Update:
    return await provider.check(ticket or TICKET, LastAnswers())


async def polled(upstream: Literal, text: str, answer: Reply, ticket: dict[str, Any] | None = None) -> Update:
    """The update that a short file makes of one answer."""
    upstream.on("GET", "/jobs/1", answer)
    async with adapter(text, upstream.origin) as provider:
        return await check(provider, ticket or {"model": "one", "id": "1"})


def urls(update: Update) -> list[str | None]:
    return [made.output.url for made in update.outputs]


# --- the request ---


async def test_absent_fields_and_items_drop_out_of_the_body(acme: Declared) -> None:
    assert await body_of(acme, prompt="A cat") == {
        "model_name": "acme-one-v2",
        "content": [{"type": "text", "text": "A cat"}],
        "parameters": {"duration": "5", "resolution": "720p", "watermark": False},
    }


async def test_all_fields_stand_where_the_template_has_them(acme: Declared, upstream: Literal) -> None:
    upstream.on("POST", "/v1/files", said({"code": 0, "file": {"id": 7}}))
    body = await body_of(acme, prompt="A", image="asset_1", references=["asset_2", "asset_3"], duration=10, seed=4)
    uploaded = {"type": "image_url", "image_url": {"url": "acme_file://7"}, "role": "reference"}
    assert body["content"] == [
        {"type": "text", "text": "A"},
        {"type": "image_url", "image_url": {"url": PNG}, "role": "first_frame"},
        uploaded,
        uploaded,
    ]
    assert body["parameters"] == {"duration": "10", "resolution": "720p", "seed": 4, "watermark": False}


async def test_a_url_may_be_passed_where_assets_are_inlined(acme: Declared) -> None:
    body = await body_of(acme, prompt="A", image="https://example.com/a.png")
    assert body["content"][1]["image_url"] == {"url": "https://example.com/a.png"}


async def test_a_models_body_goes_over_the_providers(acme: Declared) -> None:
    body = await body_of(acme, "acme/one-lite", prompt="A", duration=8)
    assert body["parameters"] == {"duration": "8", "watermark": True}


async def test_extra_goes_into_the_table_that_the_file_names(acme: Declared) -> None:
    order = Order("acme/one", {"prompt": "A", "duration": 5, "resolution": "720p"}, extra={"camera": {"pan": 1}})
    request = await acme.prepare(order, Brought())
    assert request.json["parameters"]["camera"] == {"pan": 1}


async def test_all_given_fields_can_be_the_body(upstream: Literal) -> None:
    fields = 'fields = { prompt = { type = "text" }, image = { type = "media", name = "image_url", send = "base64" } }'
    text = short(model=f'name = "one"\nkind = "video"\nprice = 5\ntypical_seconds = [1, 9]\n{fields}')
    sent = await sent_to(upstream, text, prompt="A", image="asset_1")
    assert sent == {"prompt": "A", "image_url": base64.b64encode(b"\x89PNG").decode()}


async def test_a_shape_can_have_the_media_type(upstream: Literal) -> None:
    field = 'type = "media", send = "base64", shape = { bytesBase64Encoded = "{value}", mimeType = "{type}" }'
    model = f'name = "one"\nkind = "video"\nprice = 5\ntypical_seconds = [1, 9]\nfields = {{ image = {{ {field} }} }}'
    submit = 'path = "/jobs"\nid = "id"\nbody = { instances = [{ image = "{image}" }] }'
    sent = await sent_to(upstream, short(model=model, submit=submit), image="asset_1")
    assert sent["instances"][0]["image"]["mimeType"] == "image/png"


async def test_a_multipart_request_has_texts_and_files(upstream: Literal) -> None:
    fields = (
        'prompt = { type = "text" }, n = { type = "integer" }, image = { type = "media", many = true, send = "part" }'
    )
    text = short(
        submit='path = "/jobs"\nid = "id"\nencoding = "multipart"',
        model=f'name = "one"\nkind = "image"\nprice = 5\ntypical_seconds = [1, 9]\nfields = {{ {fields} }}',
    )
    upstream.on("POST", "/jobs", said({"id": 1}))
    async with adapter(text, upstream.origin) as provider:
        await provider.submit(await prepared(provider, "short/one", prompt="A", n=2, image=["asset_1", "asset_2"]))
    parts = upstream.once("POST", "/jobs").parts
    assert [(part.name, part.body) for part in parts] == [
        ("prompt", b"A"),
        ("n", b"2"),
        ("image", b"\x89PNG"),
        ("image", b"\x89PNG"),
    ]


async def test_an_upload_has_the_texts_of_its_form(acme: Declared, upstream: Literal) -> None:
    upstream.on("POST", "/v1/files", said({"code": 0, "file": {"id": "f"}}))
    await body_of(acme, prompt="A", references=["asset_1"])
    parts = upstream.once("POST", "/v1/files").parts
    assert [(part.name, part.filename, part.body) for part in parts] == [
        ("purpose", None, b"video"),
        ("file", "asset_1.png", b"\x89PNG"),
    ]


async def test_a_file_above_the_limit_is_not_uploaded(acme: Declared) -> None:
    order = Order("acme/one", {"prompt": "A", "references": ["asset_1"], "duration": 5, "resolution": "720p"})
    with pytest.raises(errors.UpstreamRejected, match="at most 10485760 bytes"):
        await acme.prepare(order, Brought(bytes((10 << 20) + 1)))


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (said({"code": 1302, "message": "Slow down."}), Transient),
        (said({"code": 1302, "message": "Slow down."}, 400), Transient),
        (said({"code": 1101, "message": "Used up."}), errors.UpstreamCredits),
        (said({"code": 9, "message": "No."}), errors.UpstreamRejected),
        (said({"message": "No."}, 500), Transient),
        (said({"code": 0}), UnreadableAnswer),
    ],
)
async def test_a_refused_upload_orders_nothing(
    acme: Declared, upstream: Literal, reply: Reply, error: type[Exception]
) -> None:
    upstream.on("POST", "/v1/files", reply)
    with pytest.raises(error):
        await body_of(acme, prompt="A", references=["asset_1"])


# --- prices and fields ---


async def test_a_price_table_gives_each_order_its_price() -> None:
    one, lite = DeclaredKind(parse(ACME.read_text())).models
    assert one.tokens * one.units({"resolution": "1080p", "duration": 10}) == 80
    assert one.tokens * one.units({"resolution": "720p", "duration": 5}) == 20
    assert lite.tokens * lite.units({"duration": 8}) == 24


async def test_fields_have_the_types_limits_and_choices_of_the_file() -> None:
    one = DeclaredKind(parse(ACME.read_text())).models[0]
    invalid: list[dict[str, Any]] = [{"duration": 7}, {"duration": "5"}, {"seed": -1}, {"references": []}, {"other": 1}]
    for fields in [*invalid, {"prompt": None}, {"prompt": " "}]:
        with pytest.raises(ValueError, match="validation error"):
            one.fields.model_validate({"prompt": "A", **fields})
    assert one.allowed_extra == frozenset({"camera"})


# --- the submit ---


async def test_the_key_our_id_and_the_headers_are_sent(acme: Declared, upstream: Literal) -> None:
    upstream.on(*SUBMIT, answered({"task_id": "t1", "status_url": "/v1/videos/x"}))
    request = await prepared(acme, prompt="A")
    ticket = await acme.submit(Request(request.path, json=request.json, key="job_1", model=request.model))
    assert ticket == {"model": "one", "id": "t1", "status_url": "/v1/videos/x"}
    asked = upstream.once(*SUBMIT)
    assert asked.headers["Authorization"] == f"Bearer {KEY}"
    assert (asked.headers["X-Acme-Version"], asked.headers["X-Acme-Async"]) == ("2026-11", "enable")
    assert asked.json["external_id"] == "job_1"


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (said({"code": 1101, "message": "Used up."}, 429), errors.UpstreamCredits),
        (said({"code": "1302", "message": "Too fast."}, 429), NotTaken),
        (said({"code": 1102, "message": "Used up."}), errors.UpstreamCredits),
        (said({"message": "Oops."}, 500), errors.OutcomeUnknown),
        (said({"message": "No."}, 400), errors.UpstreamRejected),
        (said({"code": 9, "message": "No."}), errors.UpstreamRejected),
        (answered({}), errors.OutcomeUnknown),
    ],
)
async def test_a_submit_ends_as_the_rules_say(
    acme: Declared, upstream: Literal, reply: Reply, error: type[Exception]
) -> None:
    upstream.on(*SUBMIT, reply)
    with pytest.raises(error):
        await acme.submit(await prepared(acme, prompt="A"))


async def test_without_a_rule_429_is_not_sent_again(upstream: Literal) -> None:
    upstream.on("POST", "/jobs", said({"message": "Too fast."}, 429))
    async with adapter(short(), upstream.origin) as provider:
        with pytest.raises(errors.UpstreamRejected, match=r"Too fast\."):
            await provider.submit(await prepared(provider, "short/one", prompt="A"))


async def test_a_lost_order_is_looked_up_by_our_key(acme: Declared, upstream: Literal) -> None:
    upstream.on("GET", "/v1/videos/text2video/job_1", answered({"task_id": "t1"}))
    lost = Request("/v1/videos/text2video", key="job_1", model="one")
    assert await acme.lookup(lost) == {"model": "one", "id": "t1"}
    assert await acme.lookup(Request("/v1/videos/text2video", key="job_2", model="one")) is None


# --- credentials ---


async def test_a_key_pair_is_sent_as_a_signed_token(upstream: Literal) -> None:
    upstream.on("GET", "/jobs/1", said({"status": "working"}))
    auth = 'header = "Authorization"\nvalue = "Bearer {key}"\n[auth.jwt]\nlifetime = 600'
    async with adapter(short(auth=auth), upstream.origin) as provider:
        await check(provider, {"model": "one", "id": "1"})
        access, _, secret = KEY.partition(":")
        assert {access, secret} <= set(provider.dialect.secrets)
    token = upstream.once("GET", "/jobs/1").headers["Authorization"].removeprefix("Bearer ")
    claims = jwt.decode(token, secret, algorithms=["HS256"])
    assert (claims["iss"], claims["exp"] - claims["nbf"]) == (access, 605)


async def test_a_key_can_be_a_parameter_of_the_query(upstream: Literal) -> None:
    upstream.on("GET", "/jobs/1", said({"status": "working"}))
    upstream.on("POST", "/jobs", said({"id": 1}))
    async with adapter(short(auth='query = "key"'), upstream.origin, key="q-key") as provider:
        await provider.submit(await prepared(provider, "short/one", prompt="A"))
        await check(provider, {"model": "one", "id": "1"})
    assert [asked.query for asked in upstream.requests] == [{"key": "q-key"}, {"key": "q-key"}]


async def test_the_key_is_proven_at_the_path_of_the_file(acme: Declared, upstream: Literal) -> None:
    upstream.on("GET", "/v1/me", said({"id": 1}))
    assert await acme.check_key() == ""
    upstream.once("GET", "/v1/me")


# --- polls ---


async def test_a_word_that_goes_on_is_shown_with_its_progress(acme: Declared, upstream: Literal) -> None:
    upstream.on(*POLL, answered({"task_status": "Processing", "percent": 40}))
    update = await check(acme)
    assert (update.detail, update.progress, update.status, update.unknown_words) == ("Processing", 40, None, ())


async def test_an_unknown_word_is_shown_and_counted(acme: Declared, upstream: Literal) -> None:
    upstream.on(*POLL, answered({"task_status": "dreaming"}))
    update = await check(acme)
    assert (update.detail, update.status, update.unknown_words) == ("dreaming", None, ("dreaming",))


async def test_a_done_job_has_its_outputs(acme: Declared, upstream: Literal) -> None:
    video = {"id": 2**63 + 1, "url": "https://cdn.example.com/v.mp4", "cover_url": "https://cdn.example.com/c.jpg"}
    upstream.on(*POLL, answered({"task_status": "succeed", "task_result": {"videos": [video]}}))
    update = await check(acme)
    (made,) = update.outputs
    assert update.status is Status.COMPLETED
    assert made.output == Output(
        Role.VIDEO,
        "video/mp4",
        url="https://cdn.example.com/v.mp4",
        thumbnail_url="https://cdn.example.com/c.jpg",
        ids={"id": str(2**63 + 1)},
    )


@pytest.mark.parametrize(
    ("data", "code", "message"),
    [
        ({"task_status": "failed", "error": {"code": "moderation", "message": "No."}}, "upstream_rejected", "No."),
        ({"task_status": "processing", "error": {"message": "Broke."}}, "upstream_failed", "Broke."),
        ({"task_status": "failed"}, "upstream_failed", "gave no reason"),
        ({"task_status": "succeed", "respects_moderation": False}, "upstream_rejected", "because of its content"),
        ({"task_status": "succeed", "filtered": 1, "filter_reasons": ["Faces."]}, "upstream_rejected", "Faces."),
    ],
)
async def test_a_failed_job_ends_with_the_files_code(
    acme: Declared, upstream: Literal, data: dict[str, Any], code: str, message: str
) -> None:
    upstream.on(*POLL, answered(data))
    update = await check(acme)
    assert update.status is Status.ERROR
    assert update.error is not None
    assert update.error.code == code
    assert message in update.error.message


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (answered({"task_status": "lost"}), UnknownToProvider),
        (answered({"task_status": "succeed"}), NotReady),
        (said({"code": 1302, "message": "Slow down."}), Transient),
        (said({"code": 1101, "message": "Used up."}, 429), CreditRefused),
        (said({"code": 7, "message": "What?"}), UnreadableAnswer),
        (said({"message": "Gone."}, 404), UnknownToProvider),
    ],
)
async def test_trouble_of_a_poll_does_not_end_the_job(
    acme: Declared, upstream: Literal, reply: Reply, error: type[Exception]
) -> None:
    upstream.on(*POLL, reply)
    with pytest.raises(error):
        await check(acme)


async def test_a_canceled_job_is_canceled(acme: Declared, upstream: Literal) -> None:
    upstream.on(*POLL, answered({"task_status": "stopped"}))
    assert (await check(acme)).status is Status.CANCELED


async def test_an_http_status_stands_for_a_missing_word(acme: Declared, upstream: Literal) -> None:
    upstream.on(*POLL, answered({"percent": 1}, 202))
    update = await check(acme)
    assert (update.status, update.progress, update.unknown_words) == (None, 1, ())


BOOLEAN = short(
    poll='path = "/jobs/{id}"\nstatus = "done"\nwords = { true = "done", false = "running" }\nabsent = "running"\n'
    'failed = "error"'
)


async def test_a_boolean_can_be_the_status(upstream: Literal) -> None:
    assert (await polled(upstream, BOOLEAN, said({}))).status is None
    done = await polled(upstream, BOOLEAN, said({"done": True, "url": "https://example.com/v.mp4"}))
    assert done.status is Status.COMPLETED
    failed = await polled(upstream, BOOLEAN, said({"done": True, "error": {"code": 3, "message": "Broke."}}))
    assert failed.status is Status.ERROR


async def test_a_rule_that_ends_the_job_ends_it_at_a_poll(upstream: Literal) -> None:
    rules = 'code = "code"\nrules = [{ http = 410, code = "EXPIRED", means = "upstream_failed", ends = true }]'
    update = await polled(upstream, short(errors=rules), said({"code": "EXPIRED", "message": "Too late."}, 410))
    assert update.error is not None
    assert "Too late." in update.error.message


# --- URLs from answers ---


KEPT = {
    "submit": 'path = "/jobs"\nid = "id"\nkeep = { status_url = "status_url" }',
    "poll": 'path = ["{status_url}", "/jobs/{id}"]\nstatus = "status"\nwords = { working = "running", ready = "done" }',
}


@pytest.mark.parametrize("form", ["{origin}/at/1", "/at/1"])
async def test_a_url_of_an_answer_is_polled(upstream: Literal, form: str) -> None:
    upstream.on("GET", "/at/1", said({"status": "working"}))
    ticket = {"model": "one", "id": "1", "status_url": form.format(origin=upstream.origin)}
    assert (await polled(upstream, short(**KEPT), said({}), ticket)).detail == "working"
    assert "Authorization" in upstream.once("GET", "/at/1").headers


async def test_without_that_url_the_next_path_is_polled(upstream: Literal) -> None:
    assert (await polled(upstream, short(**KEPT), said({"status": "working"}))).detail == "working"


@pytest.mark.parametrize(
    "url", ["https://evil.example/at/1", "//evil.example/1", "http://u:p@{host}/1", "at/1", "file:///x"]
)
async def test_a_url_on_another_host_ends_the_job(upstream: Literal, url: str) -> None:
    url = url.format(host=upstream.origin.removeprefix("http://"))
    with pytest.raises(errors.UpstreamProtocol):
        await polled(upstream, short(**KEPT), said({}), {"model": "one", "id": "1", "status_url": url})
    assert upstream.requests == []


async def test_an_id_cannot_leave_its_path(upstream: Literal) -> None:
    async with adapter(short(), upstream.origin) as provider:
        with pytest.raises(UnknownToProvider):
            await check(provider, {"model": "one", "id": "../../admin?x=1"})
    assert upstream.requests[0].path == "/jobs/../../admin?x=1"  # one segment, decoded by the server


# --- results ---


async def test_a_further_request_gets_the_result(upstream: Literal) -> None:
    text = short(
        poll='path = "/jobs/{id}"\nstatus = "status"\nwords = { ready = "done" }\nkeep = { file = "file_id" }',
        result='path = "/files/{file}"\noutput = "file.url"\nhttp_failure = [422, 500]',
    )
    upstream.on("GET", "/files/7", said({"file": {"url": "https://example.com/v.mp4"}}))
    assert urls(await polled(upstream, text, said({"status": "ready", "file_id": 7}))) == ["https://example.com/v.mp4"]
    upstream.on("GET", "/files/7", said({"detail": "Broke."}, 500))
    failed = await polled(upstream, text, said({"status": "ready", "file_id": 7}))
    assert failed.error is not None
    assert "Broke." in failed.error.message


async def test_json_inside_a_text_is_decoded_once(upstream: Literal) -> None:
    text = short(result='decode = "data.result"\noutput = "urls"')
    inner = json.dumps({"urls": ["https://example.com/1.mp4", "https://example.com/2.mp4"]})
    update = await polled(upstream, text, said({"status": "ready", "data": {"result": inner}}))
    assert urls(update) == ["https://example.com/1.mp4", "https://example.com/2.mp4"]


async def test_results_can_be_inside_the_answer(upstream: Literal) -> None:
    text = short(result='output = "image"\nbase64 = "data[].b64"\ntext = "caption"')
    png = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
    answer = {"status": "ready", "image": f"data:image/png;base64,{png}", "data": [{"b64": png}], "caption": "Hi"}
    update = await polled(upstream, text, said(answer))
    assert [(made.output.type, made.data) for made in update.outputs] == [
        ("image/png", b"\x89PNG\r\n\x1a\n"),
        ("image/png", b"\x89PNG\r\n\x1a\n"),
        ("text/plain; charset=utf-8", b"Hi"),
    ]


async def test_a_result_that_needs_the_key_is_relayed(upstream: Literal) -> None:
    text = short(result='output = "url"\nkeyed = true')
    answer = said({"status": "ready", "url": f"{upstream.origin}/files/1"})
    update = await polled(upstream, text, answer)
    made = update.outputs[0].output
    assert (made.url, made.relayed) == (None, True)
    async with adapter(text, upstream.origin) as provider:
        source = await provider.content({"model": "one", "id": "1"}, made, 0)
    assert (source.url, source.needs_key) == (f"{upstream.origin}/files/1", True)


async def test_a_renewable_url_is_read_again(upstream: Literal) -> None:
    upstream.on("GET", "/jobs/1", said({"status": "ready", "url": "https://example.com/new"}))
    old = Output(Role.VIDEO, "video/mp4", url="https://example.com/old")
    ticket = {"model": "one", "id": "1"}
    async with adapter(short(result='output = "url"\nrenewable = true'), upstream.origin) as provider:
        assert (await provider.content(ticket, old, 0)).url == "https://example.com/new"
    async with adapter(short(), upstream.origin) as provider:
        assert (await provider.content(ticket, old, 0)).url == "https://example.com/old"


# --- cancels ---


async def test_a_cancel_is_sent_as_the_file_says(acme: Declared, upstream: Literal) -> None:
    upstream.on("DELETE", POLL[1], said({}))
    await acme.cancel(TICKET)
    upstream.once("DELETE", POLL[1])


async def test_without_a_cancel_nothing_is_sent(upstream: Literal) -> None:
    async with adapter(short(), upstream.origin) as provider:
        await provider.cancel({"model": "one", "id": "1"})
    assert upstream.requests == []
