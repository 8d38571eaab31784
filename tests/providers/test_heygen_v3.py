"""HeyGen v3: the requests and answers of its reference, byte for byte."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from tests.providers.conftest import KEY
from tests.support.deployment import Deployment
from tests.support.literal import Literal, Reply, data, ended, said, words, written

pytestmark = pytest.mark.asyncio(loop_scope="module")

SUBMIT = ("POST", "/v3/videos")
STATUS = ("GET", "/v3/videos/vid1")
DELETE = ("DELETE", "/v3/videos/vid1")
ASSETS = ("POST", "/v3/assets")
VIDEO = "https://files.heygen.ai/v/video.mp4?Signature=1"
CAPTIONED = "https://files.heygen.ai/v/captioned.mp4?Signature=1"
SUBTITLE = "https://files.heygen.ai/v/captions.srt?Signature=1"
GIF = "https://files.heygen.ai/v/video.gif"
THUMBNAIL = "https://files.heygen.ai/v/video.jpg"
AUDIO = "https://93.184.216.34/voice.mp3"  # An IP address needs no DNS lookup.
IMAGE = "https://93.184.216.34/face.png"


def video(status: str, **more: Any) -> Reply:
    return said({"data": {"id": "vid1", "status": status, "failure_code": None, "failure_message": None, **more}})


def failure(status: int, code: str, message: str) -> Reply:
    return said({"error": {"code": code, "message": message, "doc_url": "https://developers.heygen.com"}}, status)


COMPLETED = video("completed", video_url=VIDEO, thumbnail_url=THUMBNAIL, duration=2.5)


def script_answers(upstream: Literal, *polls: Reply) -> None:
    upstream.on(*SUBMIT, said({"data": {"video_id": "vid1", "status": "waiting", "output_format": "mp4"}}))
    upstream.on(*STATUS, *(polls or (COMPLETED,)))
    upstream.on(*ASSETS, said({"data": {"asset_id": "up1", "mime_type": "image/png", "size_bytes": 4}}))


async def order_video(deployment: Deployment, upstream: Literal, *polls: Reply, **order: Any) -> list[dict[str, Any]]:
    script_answers(upstream, *polls)
    return await deployment.generate("heygen-v3", **{"prompt": "Hello", "avatar_id": "Anna", **order})


# --- requests ---


async def test_an_avatars_body_has_the_fields_of_the_reference(deployment: Deployment, upstream: Literal) -> None:
    await order_video(
        deployment,
        upstream,
        voice_id="v7",
        title="Greeting",
        resolution="1080p",
        aspect_ratio="9:16",
        background="#FAFAFA",
        captions=True,
        engine="avatar_iv",
        output_format="webm",
    )
    assert upstream.once(*SUBMIT).written == written(
        {
            "type": "avatar",
            "avatar_id": "Anna",
            "script": "Hello",
            "voice_id": "v7",
            "title": "Greeting",
            "resolution": "1080p",
            "aspect_ratio": "9:16",
            "background": {"type": "color", "value": "#FAFAFA"},
            "caption": {"file_format": "srt", "style": "default"},
            "engine": {"type": "avatar_iv"},
            "output_format": "webm",
        }
    )


async def test_the_jobs_id_is_the_idempotency_key(deployment: Deployment, upstream: Literal) -> None:
    final = ended(await order_video(deployment, upstream))
    headers = upstream.once(*SUBMIT).headers
    assert (headers["Idempotency-Key"], headers["X-Api-Key"]) == (final["job"], KEY)


async def test_an_image_speaks_an_audio_url(deployment: Deployment, upstream: Literal) -> None:
    script_answers(upstream)
    await deployment.generate("heygen-v3", audio=AUDIO, image=IMAGE)
    assert upstream.once(*SUBMIT).json == {
        "type": "image",
        "image": {"type": "url", "url": IMAGE},
        "audio_url": AUDIO,
    }


async def test_assets_are_uploaded_and_sent_by_id(deployment: Deployment, upstream: Literal) -> None:
    script_answers(upstream)
    image, audio = await deployment.asset("image"), await deployment.asset("audio")
    await deployment.generate("heygen-v3", audio=audio, image=image, background=image)
    assert upstream.once(*SUBMIT).json == {
        "type": "image",
        "image": {"type": "asset_id", "asset_id": "up1"},
        "audio_asset_id": "up1",
        "background": {"type": "image", "asset_id": "up1"},
    }
    uploads = [asked.parts[0] for asked in upstream.asked(*ASSETS)]
    assert [(part.name, part.body) for part in uploads] == [
        ("file", deployment.media("audio")),
        ("file", deployment.media("image")),
    ]


async def test_an_asset_over_32_mb_is_sent_as_a_link(deployment: Deployment, upstream: Literal) -> None:
    script_answers(upstream)
    await deployment.generate("heygen-v3", prompt="Hello", image=await large_asset(deployment))
    place = upstream.once(*SUBMIT).json["image"]
    assert place["type"] == "url"
    answer = await deployment.http.get(place["url"], headers={"Authorization": ""})
    assert (answer.status_code, len(answer.content)) == (200, len(deployment.media("image")) + (32 << 20))
    assert not upstream.asked(*ASSETS)


async def test_scenes_are_a_studio_video_and_cost_a_price_each(deployment: Deployment, upstream: Literal) -> None:
    script_answers(upstream)
    before = await deployment.balance()
    scenes = [{"prompt": "One", "avatar_id": "Anna", "background": "#000000"}, {"audio": AUDIO, "avatar_id": "Bob"}]
    final = ended(await deployment.generate("heygen-v3", scenes=scenes))
    assert upstream.once(*SUBMIT).json == {
        "type": "studio",
        "scenes": [
            {
                "type": "avatar_video",
                "avatar_id": "Anna",
                "script": "One",
                "background": {"type": "color", "value": "#000000"},
            },
            {"type": "avatar_video", "avatar_id": "Bob", "audio_url": AUDIO},
        ],
    }
    assert "refunded" not in final
    assert await deployment.balance() == before - 40


SPOKEN = {"prompt": "Hello", "avatar_id": "Anna"}


@pytest.mark.parametrize(
    ("order", "field"),
    [
        ({**SPOKEN, "audio": AUDIO}, "prompt"),
        ({**SPOKEN, "image": IMAGE}, "avatar_id"),
        ({"avatar_id": "Anna"}, "prompt"),
        ({"prompt": "Hello"}, "avatar_id"),
        ({"audio": AUDIO, "avatar_id": "Anna", "voice_id": "v"}, "voice_id"),
        ({**SPOKEN, "scenes": [SPOKEN]}, "prompt"),
        ({"scenes": [SPOKEN], "resolution": "4k"}, "resolution"),
        ({"scenes": [SPOKEN, {**SPOKEN, "audio": AUDIO}]}, "scenes.1.prompt"),
        ({"scenes": []}, "scenes"),
        ({**SPOKEN, "background": "#FFF"}, "background"),
        ({**SPOKEN, "resolution": "480p"}, "resolution"),
        ({**SPOKEN, "test": True}, "test"),
        ({**SPOKEN, "scale": 1}, "scale"),
        ({**SPOKEN, "talking_photo_id": "p"}, "talking_photo_id"),
        ({**SPOKEN, "avatar_style": "circle"}, "avatar_style"),
        ({**SPOKEN, "offset": {"x": 0}}, "offset"),
        ({"clips": [SPOKEN]}, "clips"),
        ({"scenes": [{**SPOKEN, "scale": 1}]}, "scenes.0.scale"),
        ({"scenes": [SPOKEN] * 51}, "scenes"),
        ({"scenes": [SPOKEN], "captions": True}, "captions"),
    ],
)
async def test_a_bad_order_is_refused_by_its_field(deployment: Deployment, order: dict[str, Any], field: str) -> None:
    refused = await deployment.http.post("/api/jobs", json={"model": "heygen-v3", **order})
    assert refused.status_code == 422
    assert field in [error["field"] for error in refused.json()["errors"]]


# --- its answers ---


async def test_the_references_words_for_unfinished_work_continue(deployment: Deployment, upstream: Literal) -> None:
    polls = [video(word) for word in ("waiting", "queued", "pending", "processing")]
    events = await order_video(deployment, upstream, *polls, COMPLETED)
    assert words(events) == ["waiting", "queued", "pending", "processing"]
    assert ended(events)["status"] == "Completed"


async def test_all_files_of_a_video_become_outputs_with_roles(deployment: Deployment, upstream: Literal) -> None:
    made = video(
        "completed",
        video_url=VIDEO,
        captioned_video_url=CAPTIONED,
        subtitle_url=SUBTITLE,
        gif_url=GIF,
        thumbnail_url=THUMBNAIL,
    )
    final = ended(await order_video(deployment, upstream, made))
    assert final["url"] == VIDEO
    assert [(output["url"], output["role"], output["type"]) for output in final["outputs"]] == [
        (VIDEO, "video", "video/mp4"),
        (CAPTIONED, "video", "video/mp4"),
        (GIF, "image", "image/gif"),
        (SUBTITLE, "text", "application/x-subrip"),
        (THUMBNAIL, "thumbnail", "image/jpeg"),
    ]
    assert final["outputs"][0]["id"] == "vid1"


async def test_a_failed_video_shows_its_code_and_message(deployment: Deployment, upstream: Literal) -> None:
    failed = video("failed", failure_code="moderated", failure_message="Not allowed.")
    final = ended(await order_video(deployment, upstream, failed))
    assert (final["status"], final["code"], final["refunded"]) == ("Error", "upstream_failed", 20)
    assert "Not allowed." in final["message"]
    assert "moderated" in final["message"]


async def test_a_moderated_order_is_refused_with_the_providers_message(
    deployment: Deployment, upstream: Literal
) -> None:
    script_answers(upstream)
    upstream.on(*SUBMIT, failure(400, "content_moderated", "The script was refused."))
    final = ended(await deployment.generate("heygen-v3", **SPOKEN))
    assert (final["code"], final["refunded"]) == ("upstream_rejected", 20)
    assert "The script was refused." in final["message"]


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (failure(402, "insufficient_credit", "Top up."), "upstream_credits"),
        (failure(400, "insufficient_credit", "Top up."), "upstream_credits"),
        (failure(401, "unauthorized", "Bad key."), "upstream_auth"),
        (failure(404, "not_found", "No such avatar."), "upstream_rejected"),
        (failure(400, "download_failed", "Cannot open the image."), "upstream_rejected"),
    ],
)
async def test_a_refused_submit_ends_with_its_code(
    deployment: Deployment, upstream: Literal, reply: Reply, code: str
) -> None:
    script_answers(upstream)
    upstream.on(*SUBMIT, reply)
    final = ended(await deployment.generate("heygen-v3", **SPOKEN))
    assert (final["status"], final["code"], final["refunded"]) == ("Error", code, 20)


async def test_a_submit_with_an_unreadable_answer_is_repeated(deployment: Deployment, upstream: Literal) -> None:
    script_answers(upstream)
    receipt = said({"data": {"video_id": "vid1", "status": "waiting"}})
    upstream.on(*SUBMIT, said({"data": {}}), failure(409, "request_in_progress", "In progress."), receipt)
    assert ended(await deployment.generate("heygen-v3", **SPOKEN))["status"] == "Completed"
    asked = upstream.asked(*SUBMIT)
    assert len(asked) == 3
    assert len({(one.headers["Idempotency-Key"], one.body) for one in asked}) == 1


async def test_an_order_that_comes_too_fast_is_sent_again_after_the_hint(
    deployment: Deployment, upstream: Literal
) -> None:
    script_answers(upstream)
    refusal = failure(429, "rate_limit_exceeded", "Too fast.")
    receipt = said({"data": {"video_id": "vid1", "status": "waiting"}})
    upstream.on(*SUBMIT, replace(refusal, headers={"Retry-After": "77"}), receipt)
    began = deployment.clock.now()
    events = await deployment.generate("heygen-v3", **SPOKEN)
    assert ended(events)["status"] == "Completed"
    assert any("Too fast." in word for word in words(events))
    assert deployment.clock.now() - began >= 77


async def test_a_canceled_video_is_deleted(deployment: Deployment, upstream: Literal) -> None:
    script_answers(upstream, *[video("processing")] * 10_000)
    upstream.on(*DELETE, said({"data": {"id": "vid1", "deleted": True}}))
    job = await deployment.submit("heygen-v3", **SPOKEN)
    while not upstream.asked(*STATUS):
        await asyncio.sleep(0.001)
    await deployment.http.post(f"/api/jobs/{job['id']}/cancel")
    assert (await deployment.ended(job["id"]))["status"] == "Canceled"
    upstream.once(*DELETE)


async def test_content_redirects_to_a_fresh_link(deployment: Deployment, upstream: Literal) -> None:
    fresh = VIDEO.replace("Signature=1", "Signature=2")
    final = ended(await order_video(deployment, upstream))
    upstream.on(*STATUS, video("completed", video_url=fresh, thumbnail_url=THUMBNAIL))
    answer = await deployment.http.get(f"/api/jobs/{final['job']}/content", follow_redirects=False)
    assert (answer.status_code, answer.headers["Location"]) == (302, fresh)


# --- the end of v1 ---


@pytest.mark.parametrize("status", [404, 405, 410])
async def test_a_retired_v1_names_its_successor_and_refunds(
    deployment: Deployment, upstream: Literal, status: int
) -> None:
    upstream.on("POST", "/v1/video.generate", said({"message": "Gone."}, status))
    final = ended(await deployment.generate("heygen-v1", **SPOKEN))
    assert (final["code"], final["refunded"]) == ("upstream_retired", 20)
    assert "heygen-v3" in final["message"]


async def test_the_catalogue_says_when_v1_ends(deployment: Deployment) -> None:
    models = {model["id"]: model for model in (await deployment.http.get("/api/models")).json()["models"]}
    assert models["heygen-v1"]["retired_on"] == "2026-10-31"
    assert "retired_on" not in models["heygen-v3"]


V1_SUBMIT = ("POST", "/v1/video.generate")


@pytest_asyncio.fixture(loop_scope="module")
async def translating(unstarted: Deployment, upstream: Literal) -> AsyncIterator[Deployment]:
    """A deployment that sends orders of heygen-v1 to v3."""
    script_answers(upstream)
    unstarted.providers["HeyGen"] = {"base_url": upstream.origin, "api_key": KEY, "v1": "translate"}
    async with unstarted:
        yield unstarted


async def test_a_translated_v1_order_is_sent_to_v3(translating: Deployment, upstream: Literal) -> None:
    order = {"prompt": "Hello", "talking_photo_id": "p1", "aspect_ratio": "9:16", "captions": True}
    assert ended(await translating.generate("heygen-v1", **order))["status"] == "Completed"
    assert await translating.balance() == 980
    assert upstream.once(*SUBMIT).json == {
        "type": "avatar",
        "avatar_id": "p1",
        "script": "Hello",
        "aspect_ratio": "9:16",
        "caption": {"file_format": "srt", "style": "default"},
    }


async def test_translated_clips_are_the_scenes_of_one_video_at_one_price(
    translating: Deployment, upstream: Literal
) -> None:
    clips = [{"prompt": "One", "avatar_id": "Anna"}, {"audio": AUDIO, "talking_photo_id": "p1"}]
    assert ended(await translating.generate("heygen-v1", clips=clips, background="#000000"))["status"] == "Completed"
    assert await translating.balance() == 980
    background = {"type": "color", "value": "#000000"}
    assert upstream.once(*SUBMIT).json["scenes"] == [
        {"type": "avatar_video", "avatar_id": "Anna", "script": "One", "background": background},
        {"type": "avatar_video", "avatar_id": "p1", "audio_url": AUDIO, "background": background},
    ]


@pytest.mark.parametrize(
    ("order", "field"),
    [
        ({**SPOKEN, "scale": 2}, "scale"),
        ({**SPOKEN, "offset": {"x": 0.1}}, "offset"),
        ({**SPOKEN, "test": True}, "test"),
        ({**SPOKEN, "avatar_style": "circle"}, "avatar_style"),
        ({"prompt": "x", "talking_photo_id": "p", "talking_photo_style": "circle"}, "talking_photo_style"),
        ({**SPOKEN, "background": "https://93.184.216.34/b.mp4"}, "background"),
        ({"clips": [SPOKEN, {**SPOKEN, "scale": 2}]}, "clips.1.scale"),
        ({"clips": [SPOKEN], "aspect_ratio": "9:16"}, "aspect_ratio"),
        ({"clips": [SPOKEN], "captions": True}, "captions"),
        ({**SPOKEN, "extra": {"callback_id": "c"}}, "extra.callback_id"),
    ],
)
async def test_a_v1_order_that_v3_cannot_carry_is_refused_by_name(
    translating: Deployment, order: dict[str, Any], field: str
) -> None:
    refused = await translating.http.post("/api/jobs", json={"model": "heygen-v1", **order})
    assert refused.status_code == 422
    (error,) = refused.json()["errors"]
    assert error["field"] == field
    assert "heygen-v3" in error["message"]


async def test_a_video_asset_as_translated_background_is_refused(translating: Deployment) -> None:
    order = {"model": "heygen-v1", **SPOKEN, "background": await translating.asset("video")}
    refused = await translating.http.post("/api/jobs", json=order)
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "background")


async def test_a_lost_answer_to_a_translated_order_is_asked_for_again(
    translating: Deployment, upstream: Literal
) -> None:
    receipt = said({"data": {"video_id": "vid1", "status": "waiting"}})
    upstream.on(*SUBMIT, data(b"{", "application/json"), receipt)
    final = ended(await translating.generate("heygen-v1", **SPOKEN))
    assert final["status"] == "Completed", final
    asked = upstream.asked(*SUBMIT)
    assert [one.headers["Idempotency-Key"] for one in asked] == [final["job"]] * 2


async def test_an_untranslated_v1_order_is_sent_once(deployment: Deployment, upstream: Literal) -> None:
    upstream.on(*V1_SUBMIT, data(b"{", "application/json"))
    final = ended(await deployment.generate("heygen-v1", **SPOKEN))
    assert (final["code"], final["refunded"]) == ("outcome_unknown", 20)
    assert len(upstream.asked(*V1_SUBMIT)) == 1


@pytest.mark.parametrize("model", ["heygen-v1", "heygen-v3"])
@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (failure(404, "not_found", "Avatar not found."), "upstream_rejected"),
        (said({"message": "Gone."}, 405), "upstream_retired"),
        (said({"message": "Gone."}, 410), "upstream_retired"),
    ],
)
async def test_a_retired_v3_is_told_from_an_unknown_avatar(
    translating: Deployment, upstream: Literal, model: str, reply: Reply, code: str
) -> None:
    upstream.on(*SUBMIT, reply)
    final = ended(await translating.generate(model, **SPOKEN))
    assert (final["code"], final["refunded"]) == (code, 20)
    assert not upstream.asked(*V1_SUBMIT)


# --- files that HeyGen must fetch ---


async def large_asset(deployment: Deployment) -> str:
    large = deployment.media("image") + bytes(32 << 20)
    uploaded = await deployment.http.post("/api/assets", files={"file": ("large.png", large, "image/png")})
    return str(uploaded.json()["id"])


@pytest.mark.parametrize("v1", ["keep", "translate"])
async def test_an_asset_that_heygen_can_neither_get_nor_fetch_is_refused(unstarted: Deployment, v1: str) -> None:
    unstarted.providers = {"HeyGen": {"base_url": "https://api.heygen.com", "v1": v1}}
    async with unstarted:
        large = await large_asset(unstarted)
        order = {"scenes": [SPOKEN, {"prompt": "x", "image": large}]}
        refused = await unstarted.http.post("/api/jobs", json={"model": "heygen-v3", **order})
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "scenes.1.image")
        assert "POLLCAST_PUBLIC_URL" in refused.json()["message"]
        refused = await unstarted.http.post("/api/jobs", json={"model": "heygen-v1", **SPOKEN, "background": large})
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "background")


async def test_a_small_asset_needs_no_public_url(unstarted: Deployment) -> None:
    unstarted.providers = {"HeyGen": {"base_url": "https://api.heygen.com"}}
    async with unstarted:
        order = {"model": "heygen-v3", "prompt": "x", "image": await unstarted.asset("image")}
        shown = await unstarted.http.post("/api/jobs?dry_run=1", json=order)
        assert shown.status_code == 200, shown.text


@pytest.mark.parametrize("scenes", [False, True])
async def test_images_that_are_too_large_together_are_refused_by_name(unstarted: Deployment, *, scenes: bool) -> None:
    unstarted.settings["asset_limit"] = 2 * len(unstarted.media("image")) - 1
    async with unstarted:
        first, second = await unstarted.asset("image"), await unstarted.asset("image")
        order: dict[str, Any] = {"prompt": "x", "image": first, "background": second}
        if scenes:
            order = {"scenes": [{"prompt": "x", "image": first}, {"prompt": "x", "image": second}]}
        refused = await unstarted.http.post("/api/jobs", json={"model": "heygen-v3", **order})
    assert refused.status_code == 422
    (error,) = refused.json()["errors"]
    assert error["field"] == ("scenes.1.image" if scenes else "background")
    assert str(unstarted.settings["asset_limit"]) in error["message"]


async def test_the_assets_of_a_translated_order_count_together(unstarted: Deployment, upstream: Literal) -> None:
    unstarted.providers["HeyGen"] = {"base_url": upstream.origin, "api_key": KEY, "v1": "translate"}
    unstarted.settings["asset_limit"] = len(unstarted.media("image")) + len(unstarted.media("audio")) - 1
    async with unstarted:
        order = {"audio": await unstarted.asset("audio"), "background": await unstarted.asset("image")}
        refused = await unstarted.http.post("/api/jobs", json={"model": "heygen-v1", "avatar_id": "Anna", **order})
        assert refused.status_code == 422, refused.text
