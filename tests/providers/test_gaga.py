"""Gaga: its page's documents, and what becomes of them."""

from typing import Any

import pytest

from tests.providers.conftest import KEY
from tests.support.deployment import Deployment
from tests.support.examples import AUDIO, IMAGE, PROMPT, Examples, Way
from tests.support.literal import Literal, Reply, data, ended, page, said, words, written

pytestmark = pytest.mark.asyncio(loop_scope="module")

SPOKEN_BY = {"image": IMAGE, "audio": AUDIO, "prompt": PROMPT}
EXAMPLES = Examples(
    orders={"gaga-1": {"prompt": PROMPT}, "avatar-h1": SPOKEN_BY, "avatar-h1-pro": SPOKEN_BY},
    further_orders=[
        {"model": "gaga-1", "prompt": PROMPT, "image": IMAGE, "audio": AUDIO, "seed": 7, "extra": {"tier": "pro"}},
        {"model": "gaga-1", "chunks": [{"prompt": "Hello", "audio": AUDIO}, {"prompt": "and bye", "duration": 2.5}]},
        {"model": "avatar-h1", "image": IMAGE, "audio": AUDIO},
        {"model": "avatar-h1-pro", "image": IMAGE, "chunks": [{"audio": AUDIO}, {"audio": AUDIO}]},
    ],
    failure="no face was found",
    ways=[
        Way(
            order={"model": "gaga-1", "prompt": "x"},
            operation="gaga.submit",
            submit="/v1/generations",
            receipt={"id": 7},
            poll="/v1/generations/7",
            documents=lambda url: {"/v1/generations/7": {"id": 7, "status": "Success", "resultVideoURL": url}},
            late={"/v1/generations/7": {"status": "Success"}},
            failure=lambda text: {"status": "Fail", "message": text},
        )
    ],
    every_call=[{"model": "avatar-h1", **SPOKEN_BY}],
    unused=frozenset({"gaga.asset"}),
    canceled_by_word=frozenset({"gaga-1", "avatar-h1", "avatar-h1-pro"}),
)

ASSETS = ("POST", "/v1/assets")
SUBMIT = ("POST", "/v1/generations")
STATUS = ("GET", "/v1/generations/123456789")
VIDEO = "https://example.com/video.mp4"


def generation(status: str, **more: Any) -> Reply:
    return said({"id": 123456789, "status": status, **more})


SUCCESS = generation("Success", resultVideoURL=VIDEO, resultVideoId=987654321, createTime="2024-01-01T00:00:00Z")


def scripted(upstream: Literal, *polls: Reply) -> None:
    upstream.on(*SUBMIT, said({"id": 123456789}))
    upstream.on(*STATUS, *(polls or (SUCCESS,)))


async def hello(deployment: Deployment, upstream: Literal, *polls: Reply) -> list[dict[str, Any]]:
    scripted(upstream, *polls)
    return await deployment.generate("gaga-1", prompt="Hello, World!")


# --- what it is sent ---


async def test_gaga_1_is_asked_for_as_the_page_shows_it(deployment: Deployment, upstream: Literal) -> None:
    scripted(upstream)
    upstream.on(*ASSETS, said({"id": 747324435023237}))
    await deployment.generate("gaga-1", prompt="Hello, World!", image=await deployment.asset("image"))
    asked = upstream.once(*SUBMIT)
    assert asked.headers["Authorization"] == f"Bearer {KEY}"
    assert asked.headers["Content-Type"] == "application/json"
    assert asked.written == written(
        {
            "model": "gaga-1",
            "resolution": "720p",
            "aspectRatio": "16:9",
            "source": {"type": "image", "content": "747324435023237"},
            "chunks": [{"duration": 10, "conditions": [{"type": "text", "content": "Hello, World!"}]}],
            "enablePromptEnhancement": True,
        }
    )


async def test_an_avatar_is_asked_for_as_the_page_shows_it(deployment: Deployment, upstream: Literal) -> None:
    scripted(upstream)
    upstream.on(*ASSETS, said({"id": 123}), said({"id": 11232355}))
    image, audio = await deployment.asset("image"), await deployment.asset("audio")
    await deployment.generate("avatar-h1-pro", image=image, audio=audio, prompt="smile, wave", seed=12345)
    conditions = [{"type": "audio", "content": "11232355"}, {"type": "text", "content": "smile, wave"}]
    assert upstream.once(*SUBMIT).written == written(
        {
            "model": "avatar-h1-pro",
            "resolution": "720p",
            "seed": 12345,
            "aspectRatio": "16:9",
            "source": {"type": "image", "content": 123},
            "chunks": [{"duration": 5, "conditions": conditions, "enablePromptEnhancement": True}],
        }
    )


async def test_an_asset_is_uploaded_as_the_multipart_part_named_file(deployment: Deployment, upstream: Literal) -> None:
    scripted(upstream)
    upstream.on(*ASSETS, said({"id": 123}))
    await deployment.generate("gaga-1", prompt="x", image=await deployment.asset("image"))
    asked = upstream.once(*ASSETS)
    (part,) = asked.parts
    assert asked.headers["Authorization"] == f"Bearer {KEY}"
    assert (part.name, part.content_type, part.body) == ("file", "image/png", deployment.media("image"))
    assert part.filename
    assert part.filename.endswith(".png")


async def test_gaga_1_without_an_image_names_no_source_and_no_seed(deployment: Deployment, upstream: Literal) -> None:
    await hello(deployment, upstream)
    assert sorted(upstream.once(*SUBMIT).json) == [
        "aspectRatio",
        "chunks",
        "enablePromptEnhancement",
        "model",
        "resolution",
    ]
    assert not upstream.asked(*ASSETS)


async def test_gaga_1_takes_audio_as_a_condition_before_the_text(deployment: Deployment, upstream: Literal) -> None:
    scripted(upstream)
    upstream.on(*ASSETS, said({"id": 55}))
    await deployment.generate("gaga-1", prompt="Hello", audio=await deployment.asset("audio"))
    (chunk,) = upstream.once(*SUBMIT).json["chunks"]
    assert chunk["conditions"] == [{"type": "audio", "content": "55"}, {"type": "text", "content": "Hello"}]


async def test_chunks_keep_their_order_durations_and_audio(deployment: Deployment, upstream: Literal) -> None:
    scripted(upstream)
    upstream.on(*ASSETS, said({"id": 55}))
    chunks = [{"prompt": "One", "duration": 4}, {"prompt": "Two", "audio": await deployment.asset("audio")}]
    await deployment.generate("gaga-1", chunks=chunks)
    sent = upstream.once(*SUBMIT).json["chunks"]
    assert written(sent[0]) == written({"duration": 4, "conditions": [{"type": "text", "content": "One"}]})
    assert sent[1]["conditions"][0] == {"type": "audio", "content": "55"}
    assert sent[1]["duration"] == 10


async def test_every_avatar_chunk_says_whether_to_enhance(deployment: Deployment, upstream: Literal) -> None:
    scripted(upstream)
    upstream.on(*ASSETS, said({"id": 55}))
    image, audio = await deployment.asset("image"), await deployment.asset("audio")
    await deployment.generate(
        "avatar-h1", image=image, chunks=[{"audio": audio}, {"audio": audio}], enhance_prompt=False
    )
    sent = upstream.once(*SUBMIT).json
    assert [chunk["enablePromptEnhancement"] for chunk in sent["chunks"]] == [False, False]
    assert "enablePromptEnhancement" not in sent


async def test_ids_above_2_to_the_53_lose_no_digit(deployment: Deployment, upstream: Literal) -> None:
    huge = 9007199254740993
    upstream.on(*ASSETS, said({"id": huge + 2}))
    upstream.on(*SUBMIT, said({"id": huge}))
    upstream.on(
        "GET", f"/v1/generations/{huge}", said({"status": "Success", "resultVideoURL": VIDEO, "resultVideoId": huge})
    )
    image, audio = await deployment.asset("image"), await deployment.asset("audio")
    final = ended(await deployment.generate("avatar-h1", image=image, audio=audio))
    sent = upstream.once(*SUBMIT).json
    assert sent["source"]["content"] == huge + 2
    assert sent["chunks"][0]["conditions"][0]["content"] == str(huge + 2)
    assert final["outputs"][0]["id"] == str(huge)


async def test_extra_is_merged_into_the_body_but_may_not_name_what_is_sent(
    deployment: Deployment, upstream: Literal
) -> None:
    scripted(upstream)
    await deployment.generate("gaga-1", prompt="x", extra={"watermark": False})
    assert upstream.once(*SUBMIT).json["watermark"] is False
    refused = await deployment.http.post("/api/jobs", json={"model": "gaga-1", "prompt": "x", "extra": {"source": 1}})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "extra.source")


@pytest.mark.parametrize(
    ("model", "fields", "missing"),
    [("gaga-1", {}, "prompt"), ("avatar-h1", {"prompt": "x"}, "image"), ("avatar-h1", {"image": "?"}, "audio")],
)
async def test_what_the_page_requires_is_required_by_name(
    deployment: Deployment, upstream: Literal, model: str, fields: dict[str, str], missing: str
) -> None:
    given = {name: await deployment.asset("image") if value == "?" else value for name, value in fields.items()}
    refused = await deployment.http.post("/api/jobs", json={"model": model, **given})
    assert refused.status_code == 422
    assert missing in [fault["field"] for fault in refused.json()["errors"]]
    assert not upstream.requests


# --- what it says ---


async def test_each_documented_state_is_shown_once_and_success_completes(
    deployment: Deployment, upstream: Literal
) -> None:
    polls = [generation(word) for word in ("PreProcessing", "PreProcessing", "Pending", "Running", "Running")]
    events = await hello(deployment, upstream, *polls, SUCCESS)
    final = ended(events)
    assert words(events) == ["PreProcessing", "Pending", "Running"]
    assert (final["status"], final["url"]) == ("Completed", VIDEO)
    assert final["outputs"] == [{"url": VIDEO, "role": "video", "type": "video/mp4", "id": "987654321"}]
    assert await deployment.balance() == 980


async def test_the_poll_carries_the_key(deployment: Deployment, upstream: Literal) -> None:
    await hello(deployment, upstream)
    assert upstream.once(*STATUS).headers["Authorization"] == f"Bearer {KEY}"


async def test_content_redirects_to_the_public_video(deployment: Deployment, upstream: Literal) -> None:
    job = ended(await hello(deployment, upstream))["job"]
    answer = await deployment.http.get(f"/api/jobs/{job}/content")
    assert (answer.status_code, answer.headers["Location"]) == (302, VIDEO)


async def test_content_redirects_to_the_video_as_the_status_call_names_it_now(
    deployment: Deployment, upstream: Literal
) -> None:
    job = ended(await hello(deployment, upstream))["job"]
    upstream.on(*STATUS, generation("Success", resultVideoURL=VIDEO + "?signature=2"))
    answer = await deployment.http.get(f"/api/jobs/{job}/content")
    assert (answer.status_code, answer.headers["Location"]) == (302, VIDEO + "?signature=2")


@pytest.mark.parametrize("reply", [said({"detail": "Not found"}, 404), page(502), said({"status": "Success"})])
async def test_content_of_a_generation_that_is_forgotten_is_where_it_was(
    deployment: Deployment, upstream: Literal, reply: Reply
) -> None:
    job = ended(await hello(deployment, upstream))["job"]
    upstream.on(*STATUS, reply)
    answer = await deployment.http.get(f"/api/jobs/{job}/content")
    assert (answer.status_code, answer.headers["Location"]) == (302, VIDEO)


@pytest.mark.parametrize("word", ["Canceled", "canceled", "Cancelled"])
async def test_canceled_ends_the_job_and_refunds_it(deployment: Deployment, upstream: Literal, word: str) -> None:
    final = ended(await hello(deployment, upstream, generation("Running"), generation(word)))
    assert (final["status"], final["refunded"]) == ("Canceled", 20)
    assert final["message"]
    assert await deployment.balance() == 1000


REASONS: list[dict[str, Any]] = [
    {"message": "No face was found"},
    {"error": "No face was found"},
    {"error": {"message": "No face was found", "code": 7}},
    {"detail": "No face was found"},
    {"detail": [{"loc": ["body", "source"], "msg": "No face was found", "type": "value_error"}]},
    {"msg": "No face was found"},
    {"failReason": "No face was found"},
    {"reason": "No face was found"},
    {"error": None, "message": "", "reason": "No face was found"},
]


@pytest.mark.parametrize("reason", REASONS, ids=written)
async def test_fail_is_an_error_with_the_providers_words(
    deployment: Deployment, upstream: Literal, reason: dict[str, Any]
) -> None:
    final = ended(await hello(deployment, upstream, generation("Fail", **reason)))
    assert (final["status"], final["code"], final["refunded"]) == ("Error", "upstream_failed", 20)
    assert "No face was found" in final["message"]
    assert await deployment.balance() == 1000


@pytest.mark.parametrize("word", ["Fail", "FAIL", "Failed", "Error", "error"])
async def test_a_failure_without_a_reason_still_says_something(
    deployment: Deployment, upstream: Literal, word: str
) -> None:
    final = ended(await hello(deployment, upstream, generation(word)))
    assert final["code"] == "upstream_failed"
    assert final["message"]


PLACES: list[dict[str, Any]] = [
    {"resultVideoURL": VIDEO},
    {"result": {"videoURL": VIDEO}},
    {"url": VIDEO},
    {"video_url": VIDEO},
    {"resultVideoURL": None, "result": None, "url": VIDEO},
]


@pytest.mark.parametrize("place", PLACES, ids=written)
async def test_the_url_is_found_wherever_it_was_seen(
    deployment: Deployment, upstream: Literal, place: dict[str, Any]
) -> None:
    assert ended(await hello(deployment, upstream, generation("Success", **place)))["url"] == VIDEO


@pytest.mark.parametrize("word", ["success", "SUCCESS"])
async def test_success_may_be_spelt_in_any_case(deployment: Deployment, upstream: Literal, word: str) -> None:
    assert ended(await hello(deployment, upstream, generation(word, resultVideoURL=VIDEO)))["status"] == "Completed"


async def test_an_unknown_word_goes_on_visibly(deployment: Deployment, upstream: Literal) -> None:
    events = await hello(deployment, upstream, generation("Reticulating"), SUCCESS)
    assert words(events) == ["Reticulating"]
    assert ended(events)["status"] == "Completed"


async def test_success_without_a_url_is_waited_for(deployment: Deployment, upstream: Literal) -> None:
    assert ended(await hello(deployment, upstream, generation("Success"), SUCCESS))["url"] == VIDEO


async def test_success_without_a_url_is_waited_for_until_the_deadline(
    deployment: Deployment, upstream: Literal
) -> None:
    final = ended(await hello(deployment, upstream, generation("Success")))
    assert (final["code"], final["refunded"]) == ("deadline_exceeded", 20)
    assert final["message"].endswith("Gaga reports Success, but names no video URL yet.")


PASSING = {
    "500": said({"detail": "Internal Server Error"}, 500),
    "502": page(502),
    "429": said({"detail": "Too many requests"}, 429, Retry_After="3"),
    "html": page(200),
    "half": data(b'{"id": 123456789, "sta', "application/json"),
    "list": said([]),
    "no status": said({"id": 123456789}),
    "number": said({"status": 3}),
    "404 at first": said({"detail": "Not Found"}, 404),
}


@pytest.mark.parametrize("answer", PASSING.values(), ids=PASSING)
async def test_a_poll_that_cannot_be_read_is_asked_again(
    deployment: Deployment, upstream: Literal, answer: Reply
) -> None:
    events = await hello(deployment, upstream, answer, SUCCESS)
    assert ended(events)["status"] == "Completed"
    assert len(upstream.asked(*SUBMIT)) == 1


async def test_a_job_that_the_provider_has_forgotten_fails(deployment: Deployment, upstream: Literal) -> None:
    final = ended(await hello(deployment, upstream, generation("Running"), said({"detail": "Task not found"}, 404)))
    assert (final["code"], final["refunded"]) == ("upstream_failed", 20)
    assert "Task not found" in final["message"]


@pytest.mark.parametrize("gone", [page(404), page(400), said({"detail": "Not Found"}, 404)])
async def test_a_job_that_the_provider_does_not_know_for_a_moment_goes_on(
    deployment: Deployment, upstream: Literal, gone: Reply
) -> None:
    before = [generation("Running")] * 20
    events = await hello(deployment, upstream, *before, gone, gone, generation("Running"), gone, gone, SUCCESS)
    assert ended(events)["status"] == "Completed"


async def test_a_job_that_is_not_known_now_and_then_between_other_failures_goes_on(
    deployment: Deployment, upstream: Literal
) -> None:
    restarting = [page(404), *[page(502)] * 7] * 4
    events = await hello(deployment, upstream, *[generation("Running")] * 20, *restarting, SUCCESS)
    assert ended(events)["status"] == "Completed"


async def test_a_key_refused_in_the_middle_suspends_the_job_until_it_works_again(
    deployment: Deployment, upstream: Literal
) -> None:
    refused = [said({"detail": "Invalid API Key"}, 401)] * 20
    events = await hello(deployment, upstream, generation("Running"), *refused, SUCCESS)
    assert ended(events)["status"] == "Completed"
    assert any("Invalid API Key" in word for word in words(events))


async def test_a_key_that_works_again_takes_the_suspension_back_though_nothing_else_has_changed(
    deployment: Deployment, upstream: Literal
) -> None:
    refused = said({"detail": "Invalid API Key"}, 401)
    events = await hello(deployment, upstream, generation("Running"), refused, generation("Running"), SUCCESS)
    assert [word.split()[0] for word in words(events)] == ["Running", "Suspended:", "Running"]


# --- what it refuses ---


async def refused(deployment: Deployment, upstream: Literal, *replies: Reply) -> dict[str, Any]:
    upstream.on(*SUBMIT, *replies)
    final = ended(await deployment.generate("gaga-1", prompt="x"))
    assert (final["status"], final["refunded"], await deployment.balance()) == ("Error", 20, 1000)
    assert len(upstream.asked(*SUBMIT)) == 1
    return final


REFUSALS = [
    (said({"detail": "Invalid API Key"}, 401), "upstream_auth", "Invalid API Key"),
    (
        said({"detail": [{"loc": ["body", "resolution"], "msg": "Input should be 720p", "type": "enum"}]}, 422),
        "upstream_rejected",
        "Input should be 720p (body.resolution)",
    ),
    (said({"message": "Invalid parameter"}, 400), "upstream_rejected", "Invalid parameter"),
    (said({"detail": "Insufficient credits"}, 400), "upstream_credits", "Insufficient credits"),
    (said({"error": {"message": "Insufficient credits."}}, 402), "upstream_credits", "Insufficient credits"),
    (said({"error": "Account balance is zero"}, 403), "upstream_credits", "Account balance is zero"),
    (said({"message": "Account balance is zero"}, 422), "upstream_credits", "Account balance is zero"),
    (said({"message": "Insufficient credits"}, 500), "upstream_credits", "Insufficient credits"),
    (said({"detail": "Internal Server Error"}, 500), "upstream_failed", "Internal Server Error"),
    (page(502), "outcome_unknown", "502"),
    (page(200), "outcome_unknown", ""),
    (said({"message": "ok"}), "outcome_unknown", ""),
    (said([]), "outcome_unknown", ""),
    (said({"detail": "Moved"}, 307, Location="/elsewhere"), "upstream_rejected", "redirect"),
]


@pytest.mark.parametrize(
    ("reply", "code", "says"), REFUSALS, ids=[f"{r.status} {r.pieces[0][:40]!r}" for r, *_ in REFUSALS]
)
async def test_a_refused_order_ends_as_what_it_is_and_is_sent_once(
    deployment: Deployment, upstream: Literal, reply: Reply, code: str, says: str
) -> None:
    final = await refused(deployment, upstream, reply)
    assert final["code"] == code
    assert says in final["message"]


@pytest.mark.parametrize("document", [{"error": "Insufficient credits"}, {"message": "Account balance is zero"}])
async def test_an_empty_account_is_told_with_whatever_http_status(
    deployment: Deployment, upstream: Literal, document: dict[str, str]
) -> None:
    assert (await refused(deployment, upstream, said(document)))["code"] == "upstream_credits"


@pytest.mark.parametrize("busy", [said({}, 429, Retry_After="2"), said({}, 503, Retry_After="2")])
async def test_an_order_that_was_not_taken_is_sent_again(
    deployment: Deployment, upstream: Literal, busy: Reply
) -> None:
    scripted(upstream)
    upstream.on(*SUBMIT, busy, said({"id": 123456789}))
    assert ended(await deployment.generate("gaga-1", prompt="x"))["status"] == "Completed"
    assert len(upstream.asked(*SUBMIT)) == 2
    assert await deployment.balance() == 980


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (said({"detail": "File upload failed"}, 400), "upstream_rejected"),
        (said({"detail": "Invalid file format"}, 422), "upstream_rejected"),
        (said({"message": "File upload failed"}, 500), "upstream_rejected"),
        (said({"error": "Invalid file format"}, 200), "upstream_rejected"),
        (said({"detail": "Invalid API Key"}, 401), "upstream_auth"),
    ],
)
async def test_an_upload_that_is_refused_ends_the_job_before_anything_is_paid(
    deployment: Deployment, upstream: Literal, reply: Reply, code: str
) -> None:
    scripted(upstream)
    upstream.on(*ASSETS, reply)
    final = ended(await deployment.generate("gaga-1", prompt="x", image=await deployment.asset("image")))
    assert (final["code"], final["refunded"]) == (code, 20)
    assert reply.pieces[0].decode().split('"')[3] in final["message"]
    assert not upstream.asked(*SUBMIT)


async def test_an_order_whose_answer_tells_of_an_error_is_a_refusal(deployment: Deployment, upstream: Literal) -> None:
    upstream.on(*SUBMIT, said({"error": "Prompt blocked"}))
    final = ended(await deployment.generate("gaga-1", prompt="x"))
    assert (final["code"], final["message"]) == ("upstream_rejected", "Prompt blocked (HTTP 200)")


async def test_true_is_no_id(deployment: Deployment, upstream: Literal) -> None:
    upstream.on(*SUBMIT, said({"id": True}))
    assert ended(await deployment.generate("gaga-1", prompt="x"))["code"] == "outcome_unknown"


async def test_an_upload_that_stumbles_is_repeated(deployment: Deployment, upstream: Literal) -> None:
    scripted(upstream)
    upstream.on(*ASSETS, page(502), said({"id": 123}))
    final = ended(await deployment.generate("gaga-1", prompt="x", image=await deployment.asset("image")))
    assert final["status"] == "Completed"
    assert len(upstream.asked(*ASSETS)) == 2


async def test_an_id_that_is_a_text_is_as_good(deployment: Deployment, upstream: Literal) -> None:
    scripted(upstream)
    upstream.on(*SUBMIT, said({"id": "123456789"}))
    upstream.on(*ASSETS, said({"id": "123"}))
    image, audio = await deployment.asset("image"), await deployment.asset("audio")
    assert ended(await deployment.generate("avatar-h1", image=image, audio=audio))["status"] == "Completed"
    assert upstream.once(*SUBMIT).json["source"]["content"] == 123
