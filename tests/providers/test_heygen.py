"""HeyGen v1: its page's table, its envelope, and its codes."""

from typing import Any

import pytest

from tests.providers.conftest import KEY, pointed
from tests.support import examples
from tests.support.deployment import Deployment
from tests.support.examples import IMAGE, PROMPT, Examples, Way
from tests.support.literal import Literal, Reply, data, ended, page, said, words, written

pytestmark = pytest.mark.asyncio(loop_scope="module")

SPOKEN = {"prompt": PROMPT, "avatar_id": "Anna"}
EXAMPLES = Examples(
    orders={"heygen-v1": SPOKEN, "heygen-v3": SPOKEN},
    further_orders=[
        {"model": "heygen-v1", **SPOKEN, "background": IMAGE, "test": True},
        {"model": "heygen-v3", **SPOKEN, "captions": True},
        {
            "model": "heygen-v1",
            "clips": [SPOKEN, {"audio": examples.AUDIO, "avatar_id": "Bob"}],
            "background": "#FAFAFA",
        },
    ],
    failure="could not be rendered",
    ways=[
        Way(
            order={"model": "heygen-v1", "prompt": "x", "avatar_id": "a"},
            operation="heygen.submit",
            submit="/v1/video.generate",
            receipt={"code": 100, "data": {"video_id": "7"}},
            poll="/v1/video_status.get",
            documents=lambda url: {
                "/v1/video_status.get": {"code": 100, "data": {"status": "completed", "video_url": url}}
            },
            late={"/v1/video_status.get": {"code": 100, "data": {"status": "completed"}}},
            failure=lambda text: {"code": 100, "data": {"status": "failed", "error": {"message": text}}},
        )
    ],
    every_call=[
        {"model": "heygen-v1", "prompt": "Hello", "avatar_id": "Angela", "voice_id": "en-1"},
        {"model": "heygen-v3", "prompt": "Hello", "avatar_id": "Angela", "background": IMAGE},
    ],
    unused=frozenset({"heygen3.delete", "heygen3.me", "heygen3.statuses"}),
)

SUBMIT = ("POST", "/v1/video.generate")
STATUS = ("GET", "/v1/video_status.get")
VIDEO = "https://files.heygen.ai/v/video.mp4?Signature=1"
AUDIO = "https://93.184.216.34/voice.mp3"  # an address, so that no name is looked up


def enveloped(document: Any, code: Any = 100) -> Reply:
    return said({"code": code, "message": "Success", "data": document})


def video(status: str, **more: Any) -> Reply:
    return enveloped({"id": "vid1", "status": status, **more})


COMPLETED = video(
    "completed",
    video_url=VIDEO,
    video_url_caption=None,
    gif_url="https://files.heygen.ai/v/video.gif",
    thumbnail_url="https://files.heygen.ai/v/video.jpg",
    duration=2.5,
    error=None,
)


def scripted(upstream: Literal, *polls: Reply) -> None:
    upstream.on(*SUBMIT, enveloped({"video_id": "vid1"}))
    upstream.on(*STATUS, *(polls or (COMPLETED,)))


async def spoken(deployment: Deployment, upstream: Literal, *polls: Reply, **order: Any) -> list[dict[str, Any]]:
    scripted(upstream, *polls)
    return await deployment.generate("heygen-v1", **{"prompt": "Hello", "avatar_id": "Anna", **order})


# --- what it is sent ---


async def test_an_avatar_is_asked_for_as_the_pages_table_has_it(deployment: Deployment, upstream: Literal) -> None:
    await spoken(
        deployment,
        upstream,
        avatar_style="circle",
        voice_id="v7",
        scale=0.5,
        offset={"x": -0.5, "y": 0.25},
        background="#FAFAFA",
        aspect_ratio="16:9",
        captions=True,
        test=True,
    )
    clip = {
        "avatar_id": "Anna",
        "avatar_style": "circle",
        "input_text": "Hello",
        "voice_id": "v7",
        "scale": 0.5,
        "offset": {"x": -0.5, "y": 0.25},
    }
    assert upstream.once(*SUBMIT).written == written(
        {
            "background": "#FAFAFA",
            "ratio": "16:9",
            "test": True,
            "version": "v1alpha",
            "caption_open": True,
            "clips": [clip],
        }
    )


async def test_the_key_travels_in_its_own_header(deployment: Deployment, upstream: Literal) -> None:
    await spoken(deployment, upstream)
    for asked in (upstream.once(*SUBMIT), upstream.once(*STATUS)):
        assert asked.headers["X-Api-Key"] == KEY
        assert "Authorization" not in asked.headers


async def test_a_talking_photo_speaks_an_audio_url(deployment: Deployment, upstream: Literal) -> None:
    scripted(upstream)
    await deployment.generate("heygen-v1", audio=AUDIO, talking_photo_id="tp1", talking_photo_style="normal")
    (clip,) = upstream.once(*SUBMIT).json["clips"]
    assert clip == {"talking_photo_id": "tp1", "talking_photo_style": "normal", "input_audio": AUDIO}


async def test_clips_are_sent_in_their_order(deployment: Deployment, upstream: Literal) -> None:
    scripted(upstream)
    clips = [{"prompt": "One", "avatar_id": "Anna"}, {"audio": AUDIO, "talking_photo_id": "tp1"}]
    await deployment.generate("heygen-v1", clips=clips, aspect_ratio="9:16")
    sent = upstream.once(*SUBMIT).json
    assert sent["clips"] == [
        {"avatar_id": "Anna", "input_text": "One"},
        {"talking_photo_id": "tp1", "input_audio": AUDIO},
    ]
    assert (sent["ratio"], sent["version"]) == ("9:16", "v1alpha")


async def test_an_asset_travels_as_a_link_that_opens_without_a_key(deployment: Deployment, upstream: Literal) -> None:
    scripted(upstream)
    background, audio = await deployment.asset("image"), await deployment.asset("audio")
    await deployment.generate("heygen-v1", audio=audio, avatar_id="Anna", background=background)
    sent = upstream.once(*SUBMIT).json
    for url, kind in ((sent["background"], "image"), (sent["clips"][0]["input_audio"], "audio")):
        answer = await deployment.http.get(url, headers={"Authorization": ""})
        assert (answer.status_code, answer.content) == (200, deployment.media(kind))


async def test_an_asset_behind_a_loopback_address_is_refused_by_name(unstarted: Deployment) -> None:
    unstarted.providers = {"HeyGen": {"base_url": "https://api.heygen.com"}}
    async with unstarted:
        order = {"model": "heygen-v1", "prompt": "x", "avatar_id": "Anna", "background": await unstarted.asset("image")}
        refused = await unstarted.http.post("/api/jobs", json=order)
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "background")
        assert "POLLCAST_PUBLIC_URL" in refused.json()["message"]


BAD_ORDERS: list[dict[str, Any]] = [
    {"avatar_id": "Anna"},
    {"prompt": "x", "audio": AUDIO, "avatar_id": "Anna"},
    {"prompt": "x"},
    {"prompt": "x", "avatar_id": "Anna", "talking_photo_id": "tp1"},
    {"prompt": "x", "avatar_id": "Anna", "avatar_style": "square"},
    {"prompt": "x", "avatar_id": "Anna", "talking_photo_style": "circle"},
    {"audio": AUDIO, "avatar_id": "Anna", "captions": True},
    {"prompt": "x", "avatar_id": "Anna", "aspect_ratio": "1:1"},
    {"prompt": "x", "avatar_id": "Anna", "background": "#FAFAF"},
    {"prompt": "x", "avatar_id": "Anna", "clips": [{"prompt": "x", "avatar_id": "Anna"}]},
    {"clips": [{"prompt": "x"}]},
    {"clips": []},
]


@pytest.mark.parametrize("order", BAD_ORDERS, ids=written)
async def test_what_the_table_forbids_is_refused_before_anything_is_sent(
    deployment: Deployment, upstream: Literal, order: dict[str, Any]
) -> None:
    refused = await deployment.http.post("/api/jobs", json={"model": "heygen-v1", **order})
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
    assert refused.json()["errors"]
    assert not upstream.requests


async def test_a_test_costs_nothing(deployment: Deployment, upstream: Literal) -> None:
    final = ended(await spoken(deployment, upstream, test=True))
    assert (final["status"], await deployment.balance()) == ("Completed", 1000)


# --- what it says ---


async def test_each_state_is_shown_and_completed_completes(deployment: Deployment, upstream: Literal) -> None:
    polls = [video(word, video_url=None) for word in ("pending", "waiting", "processing", "processing", "rewinding")]
    events = await spoken(deployment, upstream, *polls, COMPLETED)
    final = ended(events)
    assert words(events) == ["pending", "waiting", "processing", "rewinding"]
    assert (final["status"], final["url"]) == ("Completed", VIDEO)
    (output,) = final["outputs"]
    assert (output["role"], output["type"]) == ("video", "video/mp4")
    assert output["thumbnail_url"] == "https://files.heygen.ai/v/video.jpg"
    assert [asked.query for asked in upstream.asked(*STATUS)] == [{"video_id": "vid1"}] * 6
    assert await deployment.balance() == 980


async def test_an_output_carries_the_providers_id(deployment: Deployment, upstream: Literal) -> None:
    assert ended(await spoken(deployment, upstream))["outputs"][0]["id"] == "vid1"


async def test_captions_make_a_second_output(deployment: Deployment, upstream: Literal) -> None:
    both = video("completed", video_url=VIDEO, video_url_caption="https://files.heygen.ai/v/captions.mp4")
    final = ended(await spoken(deployment, upstream, both, captions=True))
    assert [output["url"] for output in final["outputs"]] == [VIDEO, "https://files.heygen.ai/v/captions.mp4"]


BARE: list[dict[str, Any]] = [
    {"id": "vid1", "status": "completed", "video_url": VIDEO, "error": None},
    {"video_id": "vid1", "status": "completed", "video_url": VIDEO},
    {"id": "vid1", "status": "Completed", "video_url": VIDEO},
    {"code": "100", "data": {"status": "completed", "video_url": VIDEO}},
]


@pytest.mark.parametrize("document", BARE, ids=written)
async def test_the_envelope_may_be_missing_and_the_id_have_another_name(
    deployment: Deployment, upstream: Literal, document: dict[str, Any]
) -> None:
    assert ended(await spoken(deployment, upstream, said(document)))["url"] == VIDEO


TAKEN = [
    said({"code": 100, "message": "Success", "data": {"id": "vid1", "status": "processing"}}),
    said({"id": "vid1", "status": "processing"}),
    said({"code": None, "error": None, "data": {"video_id": "vid1"}}),
]


@pytest.mark.parametrize("reply", TAKEN, ids=["id", "no envelope", "no code"])
async def test_an_order_is_taken_under_either_name_of_its_id(
    deployment: Deployment, upstream: Literal, reply: Reply
) -> None:
    scripted(upstream)
    upstream.on(*SUBMIT, reply)
    assert ended(await deployment.generate("heygen-v1", prompt="x", avatar_id="Anna"))["status"] == "Completed"
    assert upstream.once(*STATUS).query == {"video_id": "vid1"}


ERRORS: list[Any] = [
    {"code": 40119, "message": "Video generation failed", "detail": "The avatar is too new"},
    {"code": 40119, "message": "", "detail": "The avatar is too new"},
    {"message": "The avatar is too new"},
    "The avatar is too new",
]


@pytest.mark.parametrize("error", ERRORS, ids=written)
async def test_failed_comes_with_http_200_and_the_providers_words(
    deployment: Deployment, upstream: Literal, error: Any
) -> None:
    final = ended(await spoken(deployment, upstream, video("failed", error=error)))
    assert (final["status"], final["code"], final["refunded"]) == ("Error", "upstream_failed", 20)
    assert "The avatar is too new" in final["message"]
    assert await deployment.balance() == 1000


@pytest.mark.parametrize("code", [40009, "40009"])
async def test_a_video_that_failed_for_want_of_credit_is_the_operators_affair(
    deployment: Deployment, upstream: Literal, code: Any
) -> None:
    error = {"code": code, "message": "Insufficient credit", "detail": None}
    final = ended(await spoken(deployment, upstream, video("failed", error=error)))
    assert (final["code"], final["refunded"]) == ("upstream_credits", 20)
    assert "Insufficient credit" in final["message"]


@pytest.mark.parametrize("error", [None, "", {}])
async def test_a_failure_without_a_reason_still_says_something(
    deployment: Deployment, upstream: Literal, error: Any
) -> None:
    final = ended(await spoken(deployment, upstream, video("failed", error=error)))
    assert (final["code"], bool(final["message"])) == ("upstream_failed", True)


PASSING = {
    "500": said({"code": 500000, "message": "Internal error"}, 500),
    "502": page(502),
    "429": said({"code": 40029, "message": "slow down"}, 429, Retry_After="3"),
    "404 at first": said({"code": 40040, "message": "Video not found"}, 404),
    "another code": said({"code": 40001, "message": "?", "data": None}),
    "html": page(200),
    "half": data(b'{"code": 100, "da', "application/json"),
    "no data": enveloped(None),
    "no url yet": video("completed", video_url=None),
}


@pytest.mark.parametrize("answer", PASSING.values(), ids=PASSING)
async def test_a_poll_that_cannot_be_read_is_asked_again(
    deployment: Deployment, upstream: Literal, answer: Reply
) -> None:
    assert ended(await spoken(deployment, upstream, answer, COMPLETED))["status"] == "Completed"
    assert len(upstream.asked(*SUBMIT)) == 1


@pytest.mark.parametrize("http", [401, 400, 200])
@pytest.mark.parametrize("code", [400112, 401057])
async def test_a_key_refused_in_the_middle_suspends_the_job_until_it_works_again(
    deployment: Deployment, upstream: Literal, http: int, code: int
) -> None:
    refused = [said({"code": code, "message": "Unauthorized"}, http)] * 20
    events = await spoken(deployment, upstream, video("processing"), *refused, COMPLETED)
    assert ended(events)["status"] == "Completed"
    assert any("Unauthorized" in word for word in words(events))


# --- its bytes ---


async def test_content_redirects_to_a_freshly_signed_url(deployment: Deployment, upstream: Literal) -> None:
    job = ended(await spoken(deployment, upstream))["job"]
    fresh = VIDEO.replace("Signature=1", "Signature=2")
    upstream.on(*STATUS, video("completed", video_url=fresh))
    answer = await deployment.http.get(f"/api/jobs/{job}/content")
    assert (answer.status_code, answer.headers["Location"]) == (302, fresh)


async def test_content_that_the_provider_has_forgotten_is_a_502(deployment: Deployment, upstream: Literal) -> None:
    job = ended(await spoken(deployment, upstream))["job"]
    upstream.on(*STATUS, said({"code": 40040, "message": "Video not found"}, 404))
    answer = await deployment.http.get(f"/api/jobs/{job}/content")
    assert (answer.status_code, answer.json()["code"]) == (502, "upstream_failed")
    assert "Video not found" in answer.json()["message"]


# --- what it refuses ---


CODES = [
    (400112, "upstream_auth"),
    (401057, "upstream_auth"),
    (40009, "upstream_credits"),
    (40001, "upstream_rejected"),
    (400175, "upstream_rejected"),
    (40039, "upstream_rejected"),
    (400105, "upstream_rejected"),
]


@pytest.mark.parametrize("http", [200, 400])
@pytest.mark.parametrize(("number", "code"), CODES)
async def test_a_code_that_is_not_100_is_a_refusal_whatever_the_http_status(
    deployment: Deployment, upstream: Literal, http: int, number: int, code: str
) -> None:
    upstream.on(*SUBMIT, said({"code": number, "message": "This is why", "data": None}, http))
    final = ended(await deployment.generate("heygen-v1", prompt="x", avatar_id="Anna"))
    assert (final["status"], final["code"], final["refunded"]) == ("Error", code, 20)
    assert "This is why" in final["message"]
    assert len(upstream.asked(*SUBMIT)) == 1


@pytest.mark.parametrize("http", [404, 405, 410])
@pytest.mark.parametrize("body", [{"code": 40044, "message": "API is gone"}, "gone", None])
async def test_an_endpoint_that_is_gone_is_retired(
    deployment: Deployment, upstream: Literal, http: int, body: Any
) -> None:
    upstream.on(*SUBMIT, said(body, http))
    final = ended(await deployment.generate("heygen-v1", prompt="x", avatar_id="Anna"))
    assert (final["code"], final["refunded"]) == ("upstream_retired", 20)


OTHERS = [
    (said({"code": 401057, "message": "Unauthorized"}, 401), "upstream_auth"),
    (said({"code": 500000, "message": "Internal error"}, 500), "upstream_failed"),
    (page(502), "outcome_unknown"),
    (page(200), "outcome_unknown"),
    (enveloped({}), "outcome_unknown"),
    (enveloped(None), "outcome_unknown"),
    (enveloped({"video_id": True}), "outcome_unknown"),
    (said({"data": None, "error": {"code": "blocked", "message": "Prompt blocked"}}), "upstream_rejected"),
]


@pytest.mark.parametrize(("reply", "code"), OTHERS, ids=[f"{r.status} {c}" for r, c in OTHERS])
async def test_any_other_answer_to_an_order_is_what_it_is_and_it_is_sent_once(
    deployment: Deployment, upstream: Literal, reply: Reply, code: str
) -> None:
    upstream.on(*SUBMIT, reply)
    final = ended(await deployment.generate("heygen-v1", prompt="x", avatar_id="Anna"))
    assert (final["code"], final["refunded"]) == (code, 20)
    assert len(upstream.asked(*SUBMIT)) == 1


async def test_an_order_that_was_too_much_is_sent_again(deployment: Deployment, upstream: Literal) -> None:
    scripted(upstream)
    busy = said({"code": 40029, "message": "Too many requests"}, 429, Retry_After="2")
    upstream.on(*SUBMIT, busy, enveloped({"video_id": "vid1"}))
    events = await deployment.generate("heygen-v1", prompt="x", avatar_id="Anna")
    assert ended(events)["status"] == "Completed"
    assert len(upstream.asked(*SUBMIT)) == 2


async def test_a_video_is_not_made_without_the_operators_key(unstarted: Deployment, upstream: Literal) -> None:
    async with pointed(unstarted, upstream):
        await unstarted.stop()
        unstarted.providers["HeyGen"]["api_key"] = None
        await unstarted.start()
        order = {"model": "heygen-v1", "prompt": "x", "avatar_id": "Anna"}
        refused = await unstarted.http.post("/api/jobs", json=order)
        assert (refused.status_code, refused.json()["code"]) == (503, "provider_unavailable")
        assert not upstream.requests
