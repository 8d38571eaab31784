"""What providers and the gateways before them say in unusual places, and what becomes of it on every adapter."""

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.providers.conftest import KEY, fresh_account, pointed
from tests.support.deployment import Deployment
from tests.support.examples import ways
from tests.support.literal import Literal, Reply, data, ended, moved, page, said, streamed, words

pytestmark = pytest.mark.asyncio(loop_scope="module")


PNG64 = base64.b64encode(Deployment.media("image")).decode()
FILM = "https://cdn.example.com/a.mp4"
WAYS = {way.model: way for way in ways()}
POLLED = [name for name, way in WAYS.items() if way.polled]
STREAMED = [name for name, way in WAYS.items() if not way.polled]
RESULT = ("GET", "/v1/images/generations/async/7/result")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def everyone(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Deployment, Literal]]:
    folder: Path = tmp_path_factory.mktemp("words")
    async with Literal() as upstream:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)  # no .env here
            async with pointed(Deployment(folder), upstream) as deployment:
                yield deployment, upstream


@pytest_asyncio.fixture(loop_scope="module")
async def deployment(everyone: tuple[Deployment, Literal]) -> Deployment:
    await fresh_account(everyone[0])
    return everyone[0]


@pytest.fixture
def upstream(everyone: tuple[Deployment, Literal]) -> Literal:
    everyone[1].clear()
    return everyone[1]


def success(model: str) -> Any:
    """The poll's answer of success."""
    way = WAYS[model]
    return way.documents(FILM)[way.poll]


async def submitted(deployment: Deployment, upstream: Literal, model: str, reply: Reply) -> dict[str, Any]:
    """The end of an order whose submit is answered so; it was sent once, and all of its tokens are back."""
    upstream.on("POST", WAYS[model].submit, reply)
    final = ended(await deployment.generate(**WAYS[model].order))
    assert len(upstream.asked("POST", WAYS[model].submit)) == 1
    assert await deployment.balance() == 1000
    return final


async def polled(deployment: Deployment, upstream: Literal, model: str, *answers: Reply) -> list[dict[str, Any]]:
    way = WAYS[model]
    upstream.on("POST", way.submit, said(way.receipt))
    for path, document in way.documents(FILM).items():
        upstream.on("GET", path, *(answers if path == way.poll else ()), said(document))
    return await deployment.generate(**way.order)


def text(body: str, status: int = 200, content_type: str = "text/plain") -> Reply:
    return Reply((body.encode(),), status, content_type)


# --- I: refusals ---

REFUSALS = {
    "plain text": (text("Your prompt is not allowed", 400), "upstream_rejected", "Your prompt is not allowed"),
    "page": (
        text("<!DOCTYPE html><html><title>Blocked by policy</title><p>x", 403, "text/html"),
        "upstream_rejected",
        "Blocked by policy",
    ),
    "problem": (
        said({"type": "about:blank", "title": "Bad prompt", "status": 422, "detail": "It is too long"}, 422),
        "upstream_rejected",
        "Bad prompt: It is too long",
    ),
    "errors": (
        said({"errors": [{"message": "too long"}, {"message": "too rude"}]}, 422),
        "upstream_rejected",
        "too long; too rude",
    ),
    "fields": (said({"errors": {"prompt": ["is rude"]}}, 422), "upstream_rejected", "prompt: is rude"),
    "code and msg": (said({"code": 1234, "msg": "prompt is rude"}), "upstream_rejected", "prompt is rude"),
    "200 error": (said({"error": {"message": "prompt is rude"}}), "upstream_rejected", "prompt is rude"),
    "200 request id": (
        said({"request_id": "r1", "error": {"message": "prompt is rude"}}),
        "upstream_rejected",
        "prompt is rude",
    ),
    "no credits": (text("Insufficient credits", 403), "upstream_credits", "Insufficient credits"),
    "zero": (text("Account balance is zero", 400), "upstream_credits", "Account balance is zero"),
    "key": (text("Invalid API key", 403), "upstream_auth", "Invalid API key"),
    "200 key": (said({"success": False, "message": "API key is invalid"}), "upstream_auth", "API key is invalid"),
}


@pytest.mark.parametrize("model", WAYS)
@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
async def test_a_refusal_reaches_the_client_in_the_providers_words(
    deployment: Deployment, upstream: Literal, model: str, refusal: tuple[Reply, str, str]
) -> None:
    reply, code, message = refusal
    final = await submitted(deployment, upstream, model, reply)
    assert final["code"] == code
    assert message in final["message"]


@pytest.mark.parametrize("model", POLLED)
async def test_an_empty_account_in_plain_text_with_http_200_is_the_operators(
    deployment: Deployment, upstream: Literal, model: str
) -> None:
    final = await submitted(deployment, upstream, model, text("Insufficient credits"))
    assert final["code"] == "upstream_credits"


@pytest.mark.parametrize("model", WAYS)
async def test_a_refusal_in_plain_text_shows_neither_the_key_nor_its_length(
    deployment: Deployment, upstream: Literal, model: str
) -> None:
    final = await submitted(deployment, upstream, model, text(f"Blocked: {KEY} " + "x" * 5000, 400))
    assert KEY not in final["message"]
    assert "Blocked: [key]" in final["message"]
    assert len(final["message"]) < 600


# --- I: polls ---

ODD_POLLS = {
    "error": said({"error": {"message": "The queue is broken"}}),
    "code": said({"code": 5001, "msg": "The queue is broken"}),
    "page": text("<html><title>The queue is broken</title>", 200, "text/html"),
    "text": text("The queue is broken"),
    "list": said([{"message": "The queue is broken"}]),
}


@pytest.mark.parametrize("model", POLLED)
@pytest.mark.parametrize("answer", ODD_POLLS.values(), ids=ODD_POLLS)
async def test_words_without_a_state_are_shown_and_do_not_end_a_job(
    deployment: Deployment, upstream: Literal, model: str, answer: Reply
) -> None:
    events = await polled(deployment, upstream, model, answer)
    assert any("The queue is broken" in word for word in words(events))
    assert ended(events)["status"] == "Completed"


@pytest.mark.parametrize("model", POLLED)
async def test_a_key_that_is_refused_with_http_200_suspends_a_job(
    deployment: Deployment, upstream: Literal, model: str
) -> None:
    events = await polled(deployment, upstream, model, *[said({"error": "Invalid API key"})] * 30)
    assert any(word.startswith("Suspended") and "Invalid API key" in word for word in words(events))
    assert ended(events)["status"] == "Completed"


@pytest.mark.parametrize("model", POLLED)
@pytest.mark.parametrize("error", [{"code": 500}, 500, True, {"why": {"it": "broke"}}], ids=str)
async def test_an_error_without_words_in_a_poll_is_unreadable_and_ends_nothing(
    deployment: Deployment, upstream: Literal, model: str, error: Any
) -> None:
    events = await polled(deployment, upstream, model, said({"error": error}))
    assert any(word.startswith("Waiting for a readable answer") for word in words(events))
    assert ended(events)["status"] == "Completed"


@pytest.mark.parametrize("model", POLLED)
@pytest.mark.parametrize("body", [{}, {"error": None}, {"error": {"code": 0, "message": ""}}], ids=json.dumps)
async def test_an_object_without_a_state_or_an_error_is_still_working(
    deployment: Deployment, upstream: Literal, model: str, body: dict[str, Any]
) -> None:
    events = await polled(deployment, upstream, model, said(body))
    assert not any(word.startswith("Waiting") for word in words(events))
    assert ended(events)["status"] == "Completed"


@pytest.mark.parametrize("model", POLLED)
@pytest.mark.parametrize(
    "answer", [text("Insufficient credits"), text("Insufficient credits", 400)], ids=["200", "400"]
)
async def test_an_empty_account_in_plain_text_suspends_a_job(
    deployment: Deployment, upstream: Literal, model: str, answer: Reply
) -> None:
    events = await polled(deployment, upstream, model, *[answer] * 3)
    assert any(word.startswith("Suspended: the operator's account") for word in words(events))
    assert ended(events)["status"] == "Completed"


@pytest.mark.parametrize("model", POLLED)
async def test_a_gateways_words_about_a_key_suspend_no_job(
    deployment: Deployment, upstream: Literal, model: str
) -> None:
    events = await polled(deployment, upstream, model, *[said({"message": "Invalid API key"}, 502)] * 3)
    assert not any(word.startswith("Suspended") for word in words(events))
    assert ended(events)["status"] == "Completed"


async def test_a_refusal_in_plain_text_in_place_of_a_result_is_shown(deployment: Deployment, upstream: Literal) -> None:
    way = WAYS["gpt-image-2"]
    upstream.on("POST", way.submit, said(way.receipt))
    upstream.on("GET", way.poll, said(way.documents(FILM)[way.poll]))
    upstream.on(*RESULT, text("The queue is broken"), said({"data": [{"b64_json": PNG64}] * 3}))
    events = await deployment.generate(**way.order)
    assert any("The queue is broken" in word for word in words(events))
    assert ended(events)["status"] == "Completed"


# --- I: streams ---

ERROR_FRAMES = {
    "named": b'event: error\ndata: {"message": "Too many cats"}\n\n',
    "plain": b"event: error\ndata: Too many cats\n\n",
    "object": b'data: {"error": {"message": "Too many cats"}}\n\n',
    "text": b'data: {"error": "Too many cats"}\n\n',
    "code": b'data: {"code": 500, "msg": "Too many cats"}\n\n',
    "typed": b'data: {"type": "error", "message": "Too many cats"}\n\n',
}


@pytest.mark.parametrize("model", STREAMED)
@pytest.mark.parametrize("frame", ERROR_FRAMES.values(), ids=ERROR_FRAMES)
async def test_an_error_in_a_stream_ends_a_job_in_the_providers_words(
    deployment: Deployment, upstream: Literal, model: str, frame: bytes
) -> None:
    final = await submitted(deployment, upstream, model, streamed(frame))
    assert (final["code"], final["message"]) == ("upstream_failed", "Too many cats")


@pytest.mark.parametrize("model", STREAMED)
async def test_an_empty_account_in_a_stream_is_the_operators(
    deployment: Deployment, upstream: Literal, model: str
) -> None:
    final = await submitted(deployment, upstream, model, streamed(b"event: error\ndata: Insufficient balance\n\n"))
    assert final["code"] == "upstream_credits"


UNCHARGED = (
    "No credits were charged for this generation",
    "The face is out of frame; credits were returned",
    "No usable voice; balance unchanged",
)


@pytest.mark.parametrize("message", UNCHARGED)
async def test_words_about_credits_that_were_not_spent_are_no_empty_account(
    deployment: Deployment, upstream: Literal, message: str
) -> None:
    events = await polled(deployment, upstream, "gaga-1", said({"status": "Failed", "message": message}))
    assert (ended(events)["code"], ended(events)["message"]) == ("upstream_failed", message)


# --- K: gateways ---


@pytest.mark.parametrize("model", WAYS)
@pytest.mark.parametrize("status", [408, 499, 502, 504, 520, 522, 524, 530, 598])
async def test_a_gateways_answer_to_a_submit_is_an_unknown_outcome(
    deployment: Deployment, upstream: Literal, model: str, status: int
) -> None:
    final = await submitted(deployment, upstream, model, said({"error": {"message": "Insufficient credits"}}, status))
    assert (final["code"], "Insufficient credits" in final["message"]) == ("outcome_unknown", True)


@pytest.mark.parametrize("model", WAYS)
@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (said({"message": "no GPU"}, 500), "upstream_failed"),
        (said({"message": "no GPU"}, 503), "upstream_failed"),
        (page(500), "outcome_unknown"),
        (page(503), "outcome_unknown"),
        (text("no healthy upstream", 503), "outcome_unknown"),
    ],
)
async def test_a_5xx_is_the_providers_failure_only_in_its_own_json(
    deployment: Deployment, upstream: Literal, model: str, reply: Reply, code: str
) -> None:
    assert (await submitted(deployment, upstream, model, reply))["code"] == code


async def test_an_upload_behind_a_gateways_timeout_is_repeated(deployment: Deployment, upstream: Literal) -> None:
    upstream.on("POST", "/v1/assets", said({"message": "timed out"}, 524), said({"m": 1}, 499), said({"id": 3}))
    upstream.on("POST", "/v1/generations", said({"id": 7}))
    upstream.on("GET", "/v1/generations/7", said(success("gaga-1")))
    final = ended(await deployment.generate("gaga-1", prompt="x", image=await deployment.asset("image")))
    assert (final["status"], len(upstream.asked("POST", "/v1/assets"))) == ("Completed", 3)


# --- M: states, ids, redirects, urls ---


def spelt(document: Any, spell: Any) -> Any:
    """The document with its state written otherwise."""
    if not isinstance(document, dict):
        return document
    return {
        name: spell(value) if name in {"status", "gen_status"} else spelt(value, spell)
        for name, value in document.items()
    }


SPELLINGS = {
    "blanks": lambda word: f" \t{word}\r\n",
    "controls": lambda word: f"\0{word}\u200b\ufeff",
    "upper": str.upper,
    "dashes": lambda word: f"-{word}_",
}


@pytest.mark.parametrize("model", POLLED)
@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS)
async def test_a_state_ends_a_job_however_it_is_spelt(
    deployment: Deployment, upstream: Literal, model: str, spell: Any
) -> None:
    events = await polled(deployment, upstream, model, said(spelt(success(model), spell)))
    assert ended(events)["status"] == "Completed"
    assert len(upstream.asked("GET", WAYS[model].poll)) == 1


IDS = {
    "above 2^64": (b"36893488147419103233", "36893488147419103233"),
    "with a point": (b"747324435023237.0", "747324435023237"),
    "with an exponent": (b"7.47324435023237e14", "747324435023237"),
    "above 2^53 with an exponent": (b"9.007199254740993e15", "9007199254740993"),
    "negative": (b"-5", "-5"),
    "text": (b'" 0012 "', "0012"),
}


@pytest.mark.parametrize(("written", "id_"), IDS.values(), ids=IDS)
@pytest.mark.parametrize("model", ["gaga-1", "grok-imagine-video"])
async def test_an_id_keeps_all_its_digits(
    deployment: Deployment, upstream: Literal, model: str, written: bytes, id_: str
) -> None:
    way = WAYS[model]
    upstream.on("POST", way.submit, data(b'{"id": ' + written + b"}", "application/json"))
    path = way.poll.removesuffix("7") + id_
    upstream.on("GET", path, said(way.documents(FILM)[way.poll]))
    assert ended(await deployment.generate(**way.order))["status"] == "Completed"
    assert upstream.asked("GET", path)


async def test_an_id_beside_a_number_that_is_none_keeps_its_digits(deployment: Deployment, upstream: Literal) -> None:
    way = WAYS["gaga-1"]
    reply = b'{"eta": NaN, "cost": -Infinity, "id": 36893488147419103233}'
    upstream.on("POST", way.submit, data(reply, "application/json"))
    upstream.on("GET", "/v1/generations/36893488147419103233", said(way.documents(FILM)[way.poll]))
    assert ended(await deployment.generate("gaga-1", prompt="x"))["status"] == "Completed"


@pytest.mark.parametrize("written", [b"true", b"null", b"1.5", b"[]", b'" "', b"1e999999999999999999999"])
async def test_what_is_no_id_is_no_ticket(deployment: Deployment, upstream: Literal, written: bytes) -> None:
    reply = data(b'{"id": ' + written + b"}", "application/json")
    assert (await submitted(deployment, upstream, "gaga-1", reply))["code"] == "outcome_unknown"


async def test_an_uploads_large_id_is_sent_as_it_came(deployment: Deployment, upstream: Literal) -> None:
    upstream.on("POST", "/v1/assets", data(b'{"id": 36893488147419103233}', "application/json"))
    upstream.on("POST", "/v1/generations", said({"id": 7}))
    upstream.on("GET", "/v1/generations/7", said(success("gaga-1")))
    order = {"image": await deployment.asset("image"), "audio": await deployment.asset("audio")}
    assert ended(await deployment.generate("avatar-h1", **order))["status"] == "Completed"
    assert upstream.once("POST", "/v1/generations").json["source"]["content"] == 36893488147419103233


RECEIPTS = [
    {"request_id": "7"},
    {"data": {"task_id": "7"}},
    {"request_id": "trace", "data": {"task_id": "7"}},
    {"result": [{"uuid": "7"}]},
    {"generation_id": 7},
]


@pytest.mark.parametrize("receipt", RECEIPTS, ids=json.dumps)
@pytest.mark.parametrize("model", ["gaga-1", "grok-imagine-video", "gpt-image-2", "heygen-v1"])
async def test_a_receipts_id_is_found_under_other_names(
    deployment: Deployment, upstream: Literal, model: str, receipt: dict[str, Any]
) -> None:
    way = WAYS[model]
    upstream.on("POST", way.submit, said(receipt))
    upstream.on("GET", way.poll, said(way.documents(FILM)[way.poll]))
    upstream.on(*RESULT, said({"data": [{"b64_json": PNG64}] * 3}))
    assert ended(await deployment.generate(**way.order))["status"] == "Completed"


@pytest.mark.parametrize("model", POLLED)
@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_poll_follows_a_redirect_within_the_providers_origin(
    deployment: Deployment, upstream: Literal, model: str, status: int
) -> None:
    upstream.on("GET", "/elsewhere", said(success(model)))
    events = await polled(deployment, upstream, model, Reply((b"",), status, headers={"Location": "/elsewhere"}))
    assert ended(events)["status"] == "Completed"
    assert upstream.asked("GET", "/elsewhere")


async def test_a_poll_never_follows_a_redirect_to_another_origin(deployment: Deployment, upstream: Literal) -> None:
    async with Literal() as other:
        events = await polled(deployment, upstream, "gaga-1", moved(f"{other.origin}/x"))
        assert (ended(events)["status"], other.requests) == ("Completed", [])


async def test_a_poll_that_redirects_in_a_circle_is_asked_a_bounded_number_of_times(
    deployment: Deployment, upstream: Literal
) -> None:
    upstream.on("GET", "/circle", moved("/circle"))
    assert ended(await polled(deployment, upstream, "gaga-1", moved("/circle")))["status"] == "Completed"
    assert len(upstream.asked("GET", "/circle")) == 5


async def test_a_paid_submit_follows_no_redirect(deployment: Deployment, upstream: Literal) -> None:
    final = await submitted(deployment, upstream, "gaga-1", moved("/elsewhere"))
    assert (final["code"], upstream.asked("POST", "/elsewhere")) == ("upstream_rejected", [])


FILMS = [f"https://cdn.example.com/{n}.mp4" for n in range(3)]


@pytest.mark.parametrize("urls", [FILMS, [{"url": film} for film in FILMS]], ids=["texts", "objects"])
async def test_every_url_of_a_list_is_an_output(deployment: Deployment, upstream: Literal, urls: list[Any]) -> None:
    frame = b'data: {"status": "Completed", "url": ' + json.dumps(urls).encode() + b"}\n\n"
    upstream.on("POST", "/api/generate", streamed(frame))
    assert [output["url"] for output in ended(await deployment.generate("luma", prompt="x"))["outputs"]] == FILMS
    gaga = await polled(deployment, upstream, "gaga-1", said({"status": "Success", "resultVideoURL": urls}))
    assert [output["url"] for output in ended(gaga)["outputs"]] == FILMS
    success = {"code": 100, "data": {"status": "completed", "video_url": urls}}
    heygen = await polled(deployment, upstream, "heygen-v1", said(success))
    assert [output["url"] for output in ended(heygen)["outputs"]] == FILMS
    gaia = await polled(deployment, upstream, "grok-imagine-video", said({"status": "completed", "result_url": urls}))
    assert len(ended(gaia)["outputs"]) == 3


async def test_a_url_that_cannot_be_opened_is_left_out_of_a_list(deployment: Deployment, upstream: Literal) -> None:
    frame = {"status": "Completed", "urls": ["javascript:alert(1)", *FILMS]}
    upstream.on("POST", "/api/generate", said(frame))
    assert [output["url"] for output in ended(await deployment.generate("luma", prompt="x"))["outputs"]] == FILMS


async def test_a_large_number_in_json_in_place_of_a_stream_loses_nothing(
    deployment: Deployment, upstream: Literal
) -> None:
    body = json.dumps({"seed": 2**80, "eta": float("nan"), "status": "Completed", "url": FILM}).encode()
    upstream.on("POST", "/api/generate", data(body, "text/event-stream"))
    assert ended(await deployment.generate("luma", prompt="x"))["status"] == "Completed"


# --- J: a part of the work ---


async def pictured(deployment: Deployment, upstream: Literal, result: Any, n: int = 3) -> dict[str, Any]:
    way = WAYS["gpt-image-2"]
    upstream.on("POST", way.submit, said(way.receipt))
    upstream.on("GET", way.poll, said(way.documents(FILM)[way.poll]))
    upstream.on(*RESULT, said(result))
    return ended(await deployment.generate("gpt-image-2", prompt="x", n=n))


IMAGE = {"b64_json": PNG64}
NOT_MADE: dict[str, tuple[list[Any], str]] = {
    "null": ([IMAGE, None, IMAGE], "left this image out"),
    "empty": ([IMAGE, {}, IMAGE], "left this image out"),
    "error": ([IMAGE, {"error": {"message": "It was filtered"}}, IMAGE], "It was filtered"),
    "code": ([IMAGE, {"error": {"code": "moderation_blocked"}}, IMAGE], "moderation_blocked"),
    "finish": ([IMAGE, {"finish_reason": "content_filter"}, IMAGE], "content_filter"),
    "prompt": ([IMAGE, {"revised_prompt": "a cat"}, IMAGE], "left this image out"),
    "no image": ([IMAGE, {"b64_json": base64.b64encode(b"It was filtered").decode()}, IMAGE], "It was filtered"),
    "no base64": ([IMAGE, {"b64_json": "It was filtered!"}, IMAGE], "It was filtered!"),
    "no url": ([IMAGE, {"url": "javascript:alert(1)"}, IMAGE], "cannot be opened"),
}


@pytest.mark.parametrize(("results", "message"), NOT_MADE.values(), ids=NOT_MADE)
async def test_an_image_that_was_not_made_is_a_failed_output_and_refunded(
    deployment: Deployment, upstream: Literal, results: list[Any], message: str
) -> None:
    final = await pictured(deployment, upstream, {"data": results})
    first, second, third = final["outputs"]
    assert (final["status"], final["refunded"], await deployment.balance()) == ("Completed", 5, 990)
    assert (second["status"], "url" in second, message in second["message"]) == ("Error", False, True)
    job = f"/api/jobs/{final['job']}"
    answers = [(await deployment.http.get(f"{job}/content/{n}")).status_code for n in range(4)]
    assert (answers, "status" in first, "status" in third) == ([200, 404, 200, 404], False, False)
    assert (await deployment.http.get(job)).json()["refunded"] == 5


async def test_images_that_do_not_come_are_failed_outputs_in_the_providers_words(
    deployment: Deployment, upstream: Literal
) -> None:
    final = await pictured(deployment, upstream, {"data": [IMAGE], "errors": [{"message": "Two were filtered"}]})
    assert [output.get("message") for output in final["outputs"]] == [None, "Two were filtered", "Two were filtered"]
    assert (final["refunded"], await deployment.balance()) == (10, 995)


async def test_more_images_than_ordered_are_kept_without_a_charge(deployment: Deployment, upstream: Literal) -> None:
    final = await pictured(deployment, upstream, {"data": [IMAGE, None, IMAGE]}, n=2)
    assert (len(final["outputs"]), final.get("refunded"), await deployment.balance()) == (3, None, 990)


async def test_an_order_of_which_no_image_was_made_is_an_error(deployment: Deployment, upstream: Literal) -> None:
    refused = {"error": {"message": "It was filtered"}}
    final = await pictured(deployment, upstream, {"data": [refused, None, refused]})
    assert (final["code"], final["message"], final["refunded"]) == ("upstream_failed", "It was filtered", 15)
    assert await deployment.balance() == 1000


async def bulk(deployment: Deployment, upstream: Literal, reply: Any) -> dict[str, Any]:
    upstream.on("POST", "/create_video/bulk", said(reply))
    for n in (1, 2):
        upstream.on(
            "GET", f"/projects/p/inference/{n}/video_status", said({"gen_status": "SUCCEEDED", "video_url": FILM})
        )
    return ended(
        await deployment.generate("ganai-bulk", items=[{"unique_id": "a"}, {"unique_id": "b"}], project_id="p")
    )


A, B = {"unique_id": "a", "inference_id": 1}, {"unique_id": "b", "inference_id": 2}
WHOLE = {
    "wrapped": {"data": [A, B]},
    "twice": [A, B, {"unique_id": "b", "error": "a duplicate"}],
    "twice, the worse first": [{"unique_id": "a", "error": "a duplicate"}, A, B],
    "without unique ids": [{"inference_id": 1}, {"inference_id": "2"}],
    "other names": [{"unique_id": "a", "id": 1}, {"unique_id": "b", "request_id": "2"}],
}


@pytest.mark.parametrize("reply", WHOLE.values(), ids=WHOLE)
async def test_a_bulk_reply_is_whole_however_it_is_written(
    deployment: Deployment, upstream: Literal, reply: Any
) -> None:
    final = await bulk(deployment, upstream, reply)
    assert [output["status"] for output in final["outputs"]] == ["Completed", "Completed"]


@pytest.mark.parametrize("entry", [None, "?", {"unique_id": "b", "error": {"message": "no face"}}, {"unique_id": "b"}])
async def test_an_item_that_was_refused_is_refunded_alone(
    deployment: Deployment, upstream: Literal, entry: Any
) -> None:
    final = await bulk(deployment, upstream, [A, entry])
    assert [output["status"] for output in final["outputs"]] == ["Completed", "Error"]
    assert (final["refunded"], await deployment.balance()) == (10, 990)
    if isinstance(entry, dict) and "error" in entry:
        assert final["outputs"][1]["message"] == "no face"


# --- M: base64, texts ---

BYTES = Deployment.media("image")
URL_SAFE = base64.urlsafe_b64encode(BYTES).decode()
ALPHABETS = {
    "url-safe": URL_SAFE,
    "unpadded": URL_SAFE.rstrip("="),
    "blanks": " \n".join([PNG64[:20], PNG64[20:], ""]),
    "data url": f"data:image/png;charset=utf-8;base64,{URL_SAFE}",
    "escaped": f"data:image/png;base64,{PNG64.replace('+', '%2B').replace('/', '%2F')}",
    "upper": f"DATA:image/png;BASE64,{PNG64}",
}


@pytest.mark.parametrize("name", ["b64_json", "url", "b64", "image_base64"])
@pytest.mark.parametrize("inline", ALPHABETS.values(), ids=ALPHABETS)
async def test_base64_is_read_in_every_spelling(
    deployment: Deployment, upstream: Literal, name: str, inline: str
) -> None:
    final = await pictured(deployment, upstream, {"data": [{name: inline}]}, n=1)
    assert (await deployment.http.get(final["url"])).content == BYTES


def chunk(content: str | None, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": content} if content else {}, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("content_filter", "content_filter"),
        ("MAX_TOKENS", "length"),
        ("?", None),
    ],
)
async def test_why_a_text_ended_is_in_the_event_and_the_job(
    deployment: Deployment, upstream: Literal, given: str, shown: str | None
) -> None:
    whole = said({"choices": [{"message": {"content": "Hi"}, "finish_reason": given}]})
    in_its_place = data(whole.pieces[0], "text/event-stream")
    for reply in (streamed(chunk("Hi"), chunk(None, given), b"data: [DONE]\n\n"), whole, in_its_place):
        upstream.on("POST", "/v1/chat/completions", reply)
        final = ended(await deployment.generate("gpt-5.4-mini", prompt="x"))
        job = (await deployment.http.get(f"/api/jobs/{final['job']}")).json()
        assert (final["text"], final.get("finish_reason"), job.get("finish_reason")) == ("Hi", shown, shown)


NOTHING = {
    "streamed": streamed(chunk(None, "content_filter"), b"data: [DONE]\n\n"),
    "whole": said({"choices": [{"message": {"content": None}, "finish_reason": "content_filter"}]}),
}


@pytest.mark.parametrize("reply", NOTHING.values(), ids=NOTHING)
async def test_a_text_of_nothing_is_an_error_with_its_reason(
    deployment: Deployment, upstream: Literal, reply: Reply
) -> None:
    final = await submitted(deployment, upstream, "gpt-5.4-mini", reply)
    assert (final["code"], "content_filter" in final["message"]) == ("upstream_failed", True)
