"""Gaia Video Factory: its page's requests, the answers that gateways of its kind were seen to give."""

import base64
from typing import Any

import pytest

from proxy.providers.gaia import Gaia
from tests.providers.conftest import KEY, pointed
from tests.support import examples
from tests.support.deployment import Deployment
from tests.support.examples import Examples, Way
from tests.support.literal import Literal, Reply, data, ended, moved, page, said, streamed, words, written

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXAMPLES = Examples(
    orders={model.name: {"prompt": examples.PROMPT} for model in Gaia.models},
    further_orders=[
        {"model": "grok-imagine-video", "prompt": "rain", "extra": {"watermark": False}},
        {"model": "grok-imagine-video", "prompt": "rain", "images": [examples.IMAGE, examples.IMAGE]},
        {"model": "gpt-image-2", "prompt": "studio", "n": 2},
        {"model": "gpt-image-2", "prompt": "studio", "images": [examples.IMAGE]},
        {"model": "image2", "prompt": "studio", "images": [examples.IMAGE, examples.IMAGE]},
        {"model": "gpt-5.4-mini", "messages": [{"role": "user", "content": "Why?"}], "temperature": 0.5},
    ],
    failure="model failed to",
    ways=[
        Way(
            order={"model": "grok-imagine-video", "prompt": "x"},
            operation="gaia.submit",
            submit="/v1/videos/async",
            receipt={"id": "7"},
            poll="/v1/videos/async/7",
            documents=lambda url: {"/v1/videos/async/7": {"id": "7", "status": "completed", "result_url": url}},
            failure=lambda text: {"status": "failed", "error": text},
        ),
        Way(
            order={"model": "gpt-image-2", "prompt": "x", "n": 3},
            operation="gaia.submit",
            submit="/v1/images/generations/async",
            receipt={"id": "7"},
            poll="/v1/images/generations/async/7",
            documents=lambda url: {
                "/v1/images/generations/async/7": {"id": "7", "status": "completed"},
                "/v1/images/generations/async/7/result": {"data": [{"url": url}] * 3},
            },
            late={
                "/v1/images/generations/async/7": {"status": "completed"},
                "/v1/images/generations/async/7/result": {"data": []},
            },
            failure=lambda text: {"status": "failed", "error": text},
        ),
        Way(
            order={"model": "gpt-5.4-mini", "prompt": "x"},
            operation="gaia.chat",
            submit="/v1/chat/completions",
            frames=lambda _: [
                {"choices": [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": None}]},
                {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
            ],
            last_frame=b"data: [DONE]\n\n",
            failure=lambda text: {"error": {"message": text}},
        ),
    ],
    every_call=[
        {"model": "grok-imagine-video", "prompt": "Hello", "images": [examples.IMAGE]},
        {"model": "gpt-image-2", "prompt": "Hello [b64]"},
        {"model": "gpt-5.4-mini", "prompt": "Hello"},
    ],
    unused=frozenset({"gaia.models"}),
    canceled_by_word=frozenset({"grok-imagine-video", "gpt-image-2", "image2"}),
)

VIDEOS = ("POST", "/v1/videos/async")
VIDEO = ("GET", "/v1/videos/async/vidjob_xxx")
CONTENT = ("GET", "/v1/videos/async/vidjob_xxx/content")
IMAGES = ("POST", "/v1/images/generations/async")
IMAGE = ("GET", "/v1/images/generations/async/imgjob_xxx")
RESULT = ("GET", "/v1/images/generations/async/imgjob_xxx/result")
CHAT = ("POST", "/v1/chat/completions")
MODELS = ("GET", "/v1/models")

PROMPT = "雨夜街头,镜头缓慢推进,电影感真实光影"
MP4 = Deployment.media("video")
PNG = Deployment.media("image")
PNG64 = base64.b64encode(PNG).decode()


def job(status: str, **more: Any) -> Reply:
    return said({"id": "vidjob_xxx", "object": "video", "status": status, **more})


def video(upstream: Literal, *polls: Reply) -> None:
    upstream.on(*VIDEOS, job("queued", progress=0))
    upstream.on(*VIDEO, *(polls or (job("completed", progress=100),)))
    upstream.on(*CONTENT, data(MP4, "video/mp4"))


async def filmed(deployment: Deployment, upstream: Literal, *polls: Reply) -> list[dict[str, Any]]:
    video(upstream, *polls)
    return await deployment.generate("grok-imagine-video", prompt=PROMPT)


def image(upstream: Literal, result: Reply, *polls: Reply) -> None:
    upstream.on(*IMAGES, said({"id": "imgjob_xxx", "status": "queued"}))
    upstream.on(*IMAGE, *(polls or (said({"id": "imgjob_xxx", "status": "completed"}),)))
    upstream.on(*RESULT, result)


async def pictured(deployment: Deployment, upstream: Literal, result: Reply, **order: Any) -> dict[str, Any]:
    image(upstream, result)
    return ended(await deployment.generate("gpt-image-2", prompt="a cat", **order))


async def opened(deployment: Deployment, url: str, **headers: str) -> tuple[int, str, bytes]:
    """What somebody gets who holds nothing but the URL."""
    answer = await deployment.http.get(url, headers={"Authorization": "", **headers})
    return answer.status_code, answer.headers["Content-Type"], answer.content


# --- what it is sent ---


async def test_a_video_is_asked_for_with_the_parts_of_the_pages_curl(deployment: Deployment, upstream: Literal) -> None:
    video(upstream)
    await deployment.generate("grok-imagine-video", prompt=PROMPT, images=[await deployment.asset("image")])
    asked = upstream.once(*VIDEOS)
    *texts, reference = asked.parts
    assert asked.headers["Authorization"] == f"Bearer {KEY}"
    assert asked.headers["Content-Type"].startswith("multipart/form-data; boundary=")
    assert [(part.name, part.filename, part.text) for part in texts] == [
        ("model", None, "grok-imagine-video"),
        ("prompt", None, PROMPT),
        ("seconds", None, "6"),
        ("size", None, "1280x720"),
        ("resolution_name", None, "720p"),
        ("preset", None, "normal"),
    ]
    assert (reference.name, reference.content_type, reference.body) == ("input_reference[]", "image/png", PNG)
    assert reference.filename
    assert reference.filename.endswith(".png")


async def test_several_references_repeat_the_part(deployment: Deployment, upstream: Literal) -> None:
    video(upstream)
    references = [await deployment.asset("image"), await deployment.asset("image")]
    await deployment.generate("grok-imagine-video", prompt="x", images=references)
    names = [part.name for part in upstream.once(*VIDEOS).parts if part.filename]
    assert names == ["input_reference[]", "input_reference[]"]


async def test_a_video_from_text_alone_is_multipart_without_the_reference(
    deployment: Deployment, upstream: Literal
) -> None:
    await filmed(deployment, upstream)
    assert [part.name for part in upstream.once(*VIDEOS).parts if part.filename] == []


async def test_the_seconds_and_the_rest_are_the_orders(deployment: Deployment, upstream: Literal) -> None:
    video(upstream)
    order = {"duration": 10, "size": "720x1280", "resolution": "480p", "preset": "fun", "extra": {"seed": 7}}
    await deployment.generate("grok-imagine-video", prompt="x", **order)
    sent = {part.name: part.text for part in upstream.once(*VIDEOS).parts}
    assert sent["seconds"] == "10"
    assert sent["size"] == "720x1280"
    assert sent["resolution_name"] == "480p"
    assert sent["preset"] == "fun"
    assert sent["seed"] == "7"


async def test_an_extra_that_multipart_cannot_carry_is_refused_by_name(
    deployment: Deployment, upstream: Literal
) -> None:
    order = {"model": "grok-imagine-video", "prompt": "x", "extra": {"loras": ["a"]}}
    refused = await deployment.http.post("/api/jobs", json=order)
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "extra.loras")
    assert not upstream.asked(*VIDEOS)


async def test_an_image_is_asked_for_as_the_page_shows_it(deployment: Deployment, upstream: Literal) -> None:
    image(upstream, said({"data": [{"b64_json": PNG64}]}))
    prompt = "cinematic product photo, clean studio lighting"
    await deployment.generate("gpt-image-2", prompt=prompt)
    asked = upstream.once(*IMAGES)
    assert asked.headers["Authorization"] == f"Bearer {KEY}"
    assert asked.headers["Content-Type"] == "application/json"
    assert asked.written == written({"model": "gpt-image-2", "prompt": prompt, "size": "1024x1024"})


async def test_an_image_takes_n_quality_and_its_other_name(deployment: Deployment, upstream: Literal) -> None:
    image(upstream, said({"data": [{"b64_json": PNG64}] * 2}))
    await deployment.generate("image2", prompt="x", n=2, quality="high", size="auto")
    sent = {"model": "image2", "prompt": "x", "size": "auto", "n": 2, "quality": "high"}
    assert upstream.once(*IMAGES).written == written(sent)
    assert await deployment.balance() == 990


async def test_one_reference_is_the_image_and_several_are_images(deployment: Deployment, upstream: Literal) -> None:
    image(upstream, said({"data": [{"b64_json": PNG64}]}))
    asset = await deployment.asset("image")
    await deployment.generate("gpt-image-2", prompt="x", images=[asset])
    await deployment.generate("gpt-image-2", prompt="x", images=[asset, asset])
    one, two = (asked.json for asked in upstream.asked(*IMAGES))
    assert (one["image"], "images" in one) == (f"data:image/png;base64,{PNG64}", False)
    assert (two["images"], "image" in two) == ([f"data:image/png;base64,{PNG64}"] * 2, False)


async def test_a_text_is_asked_for_as_a_streamed_chat(deployment: Deployment, upstream: Literal) -> None:
    upstream.on(*CHAT, streamed(b"data: [DONE]\n\n"))
    await deployment.generate("gpt-5.4-mini", prompt="Who are you?")
    asked = upstream.once(*CHAT)
    assert asked.headers["Authorization"] == f"Bearer {KEY}"
    assert asked.written == written(
        {"model": "gpt-5.4-mini", "messages": [{"role": "user", "content": "Who are you?"}], "stream": True}
    )


async def test_a_conversation_and_its_options_are_passed_on(deployment: Deployment, upstream: Literal) -> None:
    upstream.on(*CHAT, streamed(b"data: [DONE]\n\n"))
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    await deployment.generate("gpt-5.4-mini", messages=turns, temperature=0.5, max_tokens=9, extra={"top_p": 0.1})
    sent = {"messages": turns, "temperature": 0.5, "max_tokens": 9, "stream": True, "top_p": 0.1}
    assert upstream.once(*CHAT).written == written({"model": "gpt-5.4-mini", **sent})


# --- video: what it says ---


async def test_states_and_progress_are_shown_until_it_is_completed(deployment: Deployment, upstream: Literal) -> None:
    polls = [job("queued", progress=0), job("in_progress", progress=45), job("in_progress", progress=45)]
    events = await filmed(deployment, upstream, *polls, job("in_progress", progress=80), job("completed", progress=100))
    assert words(events) == ["queued", "in_progress"]
    assert [event["progress"] for event in events if "progress" in event] == [0, 45, 80]
    assert ended(events)["status"] == "Completed"
    assert await deployment.balance() == 970


@pytest.mark.parametrize("word", ["queued", "running", "in_progress", "processing", "pending", "RUNNING", "Dreaming"])
async def test_every_other_word_goes_on_visibly(deployment: Deployment, upstream: Literal, word: str) -> None:
    events = await filmed(deployment, upstream, job(word), job("completed"))
    assert words(events) == [word]
    assert ended(events)["status"] == "Completed"


@pytest.mark.parametrize("word", ["completed", "succeeded", "done", "COMPLETED", "SUCCEEDED", "Done"])
async def test_every_word_for_success_completes(deployment: Deployment, upstream: Literal, word: str) -> None:
    assert ended(await filmed(deployment, upstream, job(word)))["status"] == "Completed"


@pytest.mark.parametrize("word", ["cancelled", "canceled", "CANCELLED"])
async def test_cancelled_ends_the_job_and_refunds_it(deployment: Deployment, upstream: Literal, word: str) -> None:
    final = ended(await filmed(deployment, upstream, job(word)))
    assert (final["status"], final["refunded"], await deployment.balance()) == ("Canceled", 30, 1000)


ERRORS: list[Any] = [
    {"code": "content_policy", "message": "The prompt was refused by Grok"},
    "The prompt was refused by Grok",
    [{"msg": "The prompt was refused by Grok"}],
]


@pytest.mark.parametrize("error", ERRORS, ids=written)
async def test_failed_is_an_error_with_the_providers_words(
    deployment: Deployment, upstream: Literal, error: Any
) -> None:
    final = ended(await filmed(deployment, upstream, job("failed", error=error)))
    assert (final["status"], final["code"], final["refunded"]) == ("Error", "upstream_failed", 30)
    assert "The prompt was refused by Grok" in final["message"]
    assert await deployment.balance() == 1000


@pytest.mark.parametrize("word", ["failed", "FAILED", "expired"])
async def test_a_failure_without_a_reason_still_says_something(
    deployment: Deployment, upstream: Literal, word: str
) -> None:
    final = ended(await filmed(deployment, upstream, job(word, error=None)))
    assert final["code"] == "upstream_failed"
    assert final["message"]


async def test_failure_in_upper_case_is_an_error_with_its_fail_reason(
    deployment: Deployment, upstream: Literal
) -> None:
    failed = {"status": "FAILURE", "fail_reason": "Grok is out of capacity", "progress": "100%"}
    final = ended(await filmed(deployment, upstream, said({"code": "success", "message": "", "data": failed})))
    assert (final["code"], final["message"]) == ("upstream_failed", "Grok is out of capacity")


async def test_the_reason_of_a_failure_may_stand_in_the_wrapper(deployment: Deployment, upstream: Literal) -> None:
    wrapped = said({"code": "fail", "message": "Grok is out of capacity", "data": {"status": "FAILED"}})
    assert "Grok is out of capacity" in ended(await filmed(deployment, upstream, wrapped))["message"]


@pytest.mark.parametrize("name", ["id", "job_id", "jobId", "task_id"])
async def test_the_job_id_is_found_under_each_name_that_was_seen(
    deployment: Deployment, upstream: Literal, name: str
) -> None:
    video(upstream)
    upstream.on(*VIDEOS, said({name: "vidjob_xxx", "status": "queued"}))
    assert ended(await deployment.generate("grok-imagine-video", prompt="x"))["status"] == "Completed"


async def test_everything_may_come_wrapped_in_code_message_data(deployment: Deployment, upstream: Literal) -> None:
    def wrapped(**document: Any) -> Reply:
        return said({"code": "success", "message": "", "data": document})

    video(upstream, wrapped(task_id="vidjob_xxx", status="IN_PROGRESS", progress="45%"), wrapped(status="SUCCEEDED"))
    upstream.on(*VIDEOS, wrapped(task_id="vidjob_xxx"))
    events = await deployment.generate("grok-imagine-video", prompt="x")
    assert (words(events), ended(events)["status"]) == (["IN_PROGRESS"], "Completed")
    assert [event["progress"] for event in events if "progress" in event] == [45]


@pytest.mark.parametrize("progress", [45, 45.0, "45%", "45", " 45 % ", 0.45, "45/100", "9/20"])
async def test_progress_is_a_number_however_it_is_written(
    deployment: Deployment, upstream: Literal, progress: Any
) -> None:
    events = await filmed(deployment, upstream, job("running", progress=progress), job("completed"))
    assert [event["progress"] for event in events if "progress" in event] == [45]


@pytest.mark.parametrize("progress", [None, "soon", True, -1, 101, "NaN", "3/0", "x/2", [], {}])
async def test_progress_that_is_no_percentage_is_left_out(
    deployment: Deployment, upstream: Literal, progress: Any
) -> None:
    events = await filmed(deployment, upstream, job("running", progress=progress), job("completed"))
    assert not [event for event in events if "progress" in event]
    assert ended(events)["status"] == "Completed"


async def test_progress_never_goes_back(deployment: Deployment, upstream: Literal) -> None:
    polls = [job("running", progress=share) for share in (10, 60, 30, 60, 70)]
    events = await filmed(deployment, upstream, *polls, job("completed"))
    assert [event["progress"] for event in events if "progress" in event] == [10, 60, 70]


PASSING = {
    "500": said({"error": {"message": "boom"}}, 500),
    "502": page(502),
    "504": page(504),
    "429": said({"error": {"message": "slow down"}}, 429, Retry_After="3"),
    "409": said({"error": {"message": "not yet"}}, 409),
    "400 at first": said({"error": {"message": "no such task"}}, 400),
    "html": page(200),
    "half": data(b'{"id": "vidj', "application/json"),
    "no task": said({"code": "task_not_exist", "message": "", "data": None}),
}


@pytest.mark.parametrize("answer", PASSING.values(), ids=PASSING)
async def test_a_poll_that_cannot_be_read_is_asked_again(
    deployment: Deployment, upstream: Literal, answer: Reply
) -> None:
    assert ended(await filmed(deployment, upstream, answer, job("completed")))["status"] == "Completed"
    assert len(upstream.asked(*VIDEOS)) == 1


@pytest.mark.parametrize("status", [400, 404])
async def test_a_job_that_the_provider_has_forgotten_fails(
    deployment: Deployment, upstream: Literal, status: int
) -> None:
    gone = said({"error": {"message": "Job expired"}}, status)
    final = ended(await filmed(deployment, upstream, job("running"), gone))
    assert (final["code"], final["refunded"]) == ("upstream_failed", 30)
    assert "Job expired" in final["message"]


HINTS = {
    "milliseconds": said({"status": "running"}, openai_poll_after_ms="90000"),
    "seconds": said({"status": "running"}, Retry_After="90"),
    "refused": said({"error": {"message": "slow down"}}, 429, Retry_After="90"),
}


@pytest.mark.parametrize("hinting", HINTS.values(), ids=HINTS)
async def test_a_hint_to_wait_is_heeded(deployment: Deployment, upstream: Literal, hinting: Reply) -> None:
    started = deployment.clock.now()
    assert ended(await filmed(deployment, upstream, hinting, job("completed")))["status"] == "Completed"
    assert 90 <= deployment.clock.now() - started < 100


async def test_a_job_that_runs_for_ever_ends_at_the_deadline(unstarted: Deployment, upstream: Literal) -> None:
    async with pointed(unstarted, upstream):
        await unstarted.stop()
        unstarted.providers["Gaia"]["deadline"] = 60
        await unstarted.start()
        final = ended(await filmed(unstarted, upstream, job("running", progress=99)))
        assert (final["code"], final["refunded"]) == ("deadline_exceeded", 30)


# --- video: its bytes ---


async def test_the_video_is_relayed_behind_a_link_with_the_providers_key(
    deployment: Deployment, upstream: Literal
) -> None:
    final = ended(await filmed(deployment, upstream))
    assert final["url"].startswith(f"{deployment.origin}/api/jobs/{final['job']}/content/0?")
    assert (final["outputs"][0]["role"], final["outputs"][0]["type"]) == ("video", "video/mp4")
    assert await opened(deployment, final["url"]) == (200, "video/mp4", MP4)
    assert upstream.once(*CONTENT).headers["Authorization"] == f"Bearer {KEY}"


async def test_a_range_is_passed_on_and_comes_back(deployment: Deployment, upstream: Literal) -> None:
    final = ended(await filmed(deployment, upstream))
    part = Reply((MP4[:4],), 206, "video/mp4", {"Content-Range": f"bytes 0-3/{len(MP4)}"})
    upstream.on(*CONTENT, part)
    answer = await deployment.http.get(final["url"], headers={"Range": "bytes=0-3"})
    assert (answer.status_code, answer.content) == (206, MP4[:4])
    assert answer.headers["Content-Range"] == f"bytes 0-3/{len(MP4)}"
    assert upstream.once(*CONTENT).headers["Range"] == "bytes=0-3"


async def test_a_redirect_on_the_providers_origin_is_followed_with_the_key(
    deployment: Deployment, upstream: Literal
) -> None:
    final = ended(await filmed(deployment, upstream))
    upstream.on(*CONTENT, moved("/files/result.mp4"))
    upstream.on("GET", "/files/result.mp4", data(MP4, "video/mp4"))
    assert await opened(deployment, final["url"]) == (200, "video/mp4", MP4)
    assert upstream.once("GET", "/files/result.mp4").headers["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("named", [False, True], ids=["redirected", "named by the job"])
async def test_another_origin_never_sees_the_key(deployment: Deployment, upstream: Literal, named: bool) -> None:
    async with Literal() as elsewhere:
        elsewhere.on("GET", "/result.mp4", data(MP4, "video/mp4"))
        url = f"{elsewhere.origin}/result.mp4"
        final = ended(await filmed(deployment, upstream, job("completed", **({"result_url": url} if named else {}))))
        upstream.on(*CONTENT, moved(url))
        status, _, _ = await opened(deployment, final["url"])
        assert status == 502  # on loopback another origin is not public; it is not even asked
        assert [asked.headers.get("Authorization") for asked in elsewhere.requests] in ([], [None])


async def test_a_result_url_is_relative_to_the_origin(deployment: Deployment, upstream: Literal) -> None:
    final = ended(await filmed(deployment, upstream, job("completed", result_url="/v1/files/7.mp4")))
    upstream.on("GET", "/v1/files/7.mp4", data(MP4, "video/mp4"))
    assert await opened(deployment, final["url"]) == (200, "video/mp4", MP4)
    assert upstream.once("GET", "/v1/files/7.mp4").headers["Authorization"] == f"Bearer {KEY}"


async def test_content_that_the_provider_refuses_is_a_502_in_our_form(
    deployment: Deployment, upstream: Literal
) -> None:
    final = ended(await filmed(deployment, upstream))
    upstream.on(*CONTENT, said({"error": {"message": "not completed"}}, 409))
    answer = await deployment.http.get(final["url"])
    assert (answer.status_code, answer.json()["code"]) == (502, "upstream_failed")


@pytest.mark.parametrize("words", [said({"error": {"message": "expired"}}), page(200)])
async def test_words_in_the_place_of_the_video_are_a_502_in_our_form(
    deployment: Deployment, upstream: Literal, words: Reply
) -> None:
    final = ended(await filmed(deployment, upstream))
    upstream.on(*CONTENT, words)
    answer = await deployment.http.get(final["url"])
    assert (answer.status_code, answer.json()["code"]) == (502, "upstream_failed")


# --- images ---


RESULTS = {
    "b64_json": said({"created": 1, "data": [{"b64_json": PNG64}]}),
    "wrapped": said({"code": 0, "message": "", "data": {"created": 1, "data": [{"b64_json": PNG64}]}}),
    "data url": said({"data": [{"url": f"data:image/png;base64,{PNG64}"}]}),
    "data url in b64_json": said({"data": [{"b64_json": f"data:image/png;base64,{PNG64}"}]}),
    "base64 in lines": said({"data": [{"b64_json": base64.encodebytes(PNG).decode()}]}),
    "base64 without its padding": said({"data": [{"b64_json": PNG64.rstrip("=")}]}),
    "bytes": data(PNG, "image/png"),
    "bytes of no type": data(PNG, "application/octet-stream"),
}


@pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS)
async def test_an_inline_image_is_kept_and_served_behind_a_link(
    deployment: Deployment, upstream: Literal, result: Reply
) -> None:
    final = await pictured(deployment, upstream, result)
    assert (final["outputs"][0]["role"], final["outputs"][0]["type"]) == ("image", "image/png")
    assert await opened(deployment, final["url"]) == (200, "image/png", PNG)
    assert upstream.once(*RESULT).headers["Authorization"] == f"Bearer {KEY}"
    assert await deployment.balance() == 995


@pytest.mark.parametrize("inline", ["generation is blocked now", "data:image/png;base64,", "ab*d", "é", "A"])
async def test_what_is_no_base64_is_never_a_completed_image(
    deployment: Deployment, upstream: Literal, inline: str
) -> None:
    final = await pictured(deployment, upstream, said({"data": [{"b64_json": inline}]}))
    assert (final["code"], final["refunded"]) == ("upstream_failed", 5)


async def test_a_public_image_url_is_given_as_it_is(deployment: Deployment, upstream: Literal) -> None:
    final = await pictured(deployment, upstream, said({"data": [{"url": "https://cdn.example.com/a.webp"}]}))
    assert final["url"] == "https://cdn.example.com/a.webp"
    assert final["outputs"] == [{"url": "https://cdn.example.com/a.webp", "role": "image", "type": "image/webp"}]


@pytest.mark.parametrize("absolute", [False, True])
async def test_an_image_url_on_the_providers_origin_is_relayed(
    deployment: Deployment, upstream: Literal, absolute: bool
) -> None:
    url = f"{upstream.origin if absolute else ''}/v1/files/7.png"
    final = await pictured(deployment, upstream, said({"data": [{"url": url}]}))
    upstream.on("GET", "/v1/files/7.png", data(PNG, "image/png"))
    assert final["url"].startswith(deployment.origin)
    assert await opened(deployment, final["url"]) == (200, "image/png", PNG)
    assert upstream.once("GET", "/v1/files/7.png").headers["Authorization"] == f"Bearer {KEY}"


async def test_an_image_s_url_is_named_anew_by_the_result(deployment: Deployment, upstream: Literal) -> None:
    final = await pictured(deployment, upstream, said({"data": [{"url": "https://cdn.example.com/a.webp"}]}))
    upstream.on(*RESULT, said({"data": [{"url": "https://cdn.example.com/a.webp?signature=2"}]}))
    answer = await deployment.http.get(f"/api/jobs/{final['job']}/content")
    assert (answer.status_code, answer.headers["Location"]) == (302, "https://cdn.example.com/a.webp?signature=2")


@pytest.mark.parametrize("reply", [said({"error": "gone"}, 404), page(502), said({"data": []})])
async def test_an_image_of_a_job_that_is_forgotten_is_where_it_was(
    deployment: Deployment, upstream: Literal, reply: Reply
) -> None:
    final = await pictured(deployment, upstream, said({"data": [{"url": "https://cdn.example.com/a.webp"}]}))
    upstream.on(*RESULT, reply)
    answer = await deployment.http.get(f"/api/jobs/{final['job']}/content")
    assert (answer.status_code, answer.headers["Location"]) == (302, "https://cdn.example.com/a.webp")


async def test_each_of_several_images_has_its_own_output(deployment: Deployment, upstream: Literal) -> None:
    results = [{"b64_json": PNG64}, {"url": "https://cdn.example.com/b.png"}, {"url": "/v1/files/c.png"}]
    upstream.on("GET", "/v1/files/c.png", data(PNG[::-1], "image/png"))
    final = await pictured(deployment, upstream, said({"data": results}), n=3)
    first, second, third = (output["url"] for output in final["outputs"])
    assert final["url"] == first
    assert (await opened(deployment, first))[2] == PNG
    assert second == "https://cdn.example.com/b.png"
    assert (await opened(deployment, third))[2] == PNG[::-1]


@pytest.mark.parametrize(
    "early", [said({"error": {"message": "not ready"}}, 409), said({"error": "?"}, 404), page(502), said({"data": []})]
)
async def test_a_result_that_is_not_there_yet_is_waited_for(
    deployment: Deployment, upstream: Literal, early: Reply
) -> None:
    image(upstream, early)
    upstream.on(*RESULT, early, said({"data": [{"b64_json": PNG64}]}))
    assert ended(await deployment.generate("gpt-image-2", prompt="x"))["status"] == "Completed"


@pytest.mark.parametrize("status", [400, 404, 410])
async def test_a_result_that_is_refused_to_the_deadline_ends_in_the_providers_words(
    deployment: Deployment, upstream: Literal, status: int
) -> None:
    final = await pictured(deployment, upstream, said({"error": {"message": "The result has been removed"}}, status))
    assert (final["code"], final["refunded"]) == ("deadline_exceeded", 5)
    assert "The result has been removed" in final["message"]


@pytest.mark.parametrize("data", [{}, {"data": None}, {"data": []}])
async def test_a_result_that_tells_of_an_error_is_the_providers_failure(
    deployment: Deployment, upstream: Literal, data: dict[str, Any]
) -> None:
    final = await pictured(deployment, upstream, said({**data, "error": {"message": "Stopped by moderation"}}))
    assert (final["code"], final["message"], final["refunded"]) == ("upstream_failed", "Stopped by moderation", 5)
    assert len(upstream.asked(*RESULT)) == 1


async def test_a_result_without_an_image_is_waited_for_and_its_words_are_told(
    deployment: Deployment, upstream: Literal
) -> None:
    final = await pictured(
        deployment, upstream, said({"code": "blocked", "message": "Stopped by moderation", "data": None})
    )
    assert final["code"] == "deadline_exceeded"
    assert final["message"].endswith("Stopped by moderation")


async def test_a_failed_image_refunds_the_price_of_all_n(deployment: Deployment, upstream: Literal) -> None:
    image(upstream, page(404), said({"id": "imgjob_xxx", "status": "failed", "error": {"message": "Unsafe prompt"}}))
    final = ended(await deployment.generate("gpt-image-2", prompt="x", n=4))
    assert (final["code"], final["refunded"], await deployment.balance()) == ("upstream_failed", 20, 1000)
    assert "Unsafe prompt" in final["message"]


# --- text ---


def chunk(content: Any = None, finish: str | None = None) -> bytes:
    delta = {} if content is None else {"content": content}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + written({"object": "chat.completion.chunk", "choices": [choice]}).encode() + b"\n\n"


async def chat(deployment: Deployment, upstream: Literal, reply: Reply) -> list[dict[str, Any]]:
    upstream.on(*CHAT, reply)
    return await deployment.generate("gpt-5.4-mini", prompt="Who are you?")


async def test_deltas_stand_at_their_offsets_and_make_the_final_text(deployment: Deployment, upstream: Literal) -> None:
    pieces = [chunk(""), chunk("Grüß "), chunk("dich, 🌍"), chunk("!\n"), chunk(None, "stop"), b"data: [DONE]\n\n"]
    events = await chat(deployment, upstream, streamed(*pieces))
    final = ended(events)
    text = ""
    for event in events:
        if "delta" in event:
            assert event["offset"] == len(text)
            text += event["delta"]
    assert text == final["text"] == "Grüß dich, 🌍!\n"
    assert await opened(deployment, final["url"]) == (200, "text/plain; charset=utf-8", text.encode())
    assert final["outputs"][0]["role"] == "text"
    assert await deployment.balance() == 999


@pytest.mark.parametrize("end", [[b"data: [DONE]\n\n"], [chunk(None, "stop")], [chunk(None, "length")]])
async def test_a_text_ends_by_done_or_by_its_finish_reason(
    deployment: Deployment, upstream: Literal, end: list[bytes]
) -> None:
    assert ended(await chat(deployment, upstream, streamed(chunk("Hi"), *end)))["text"] == "Hi"


@pytest.mark.parametrize("end", [{"cut": True}, {"held": True}], ids=["breaks", "stays open"])
async def test_a_text_that_has_its_finish_reason_is_whole_whatever_becomes_of_the_connection(
    deployment: Deployment, upstream: Literal, end: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.providers.gaia._END_TIMEOUT", 0.1)
    final = ended(await chat(deployment, upstream, streamed(chunk("Hi"), chunk(None, "stop"), chunk("!"), **end)))
    assert (final["status"], final.get("text")) == ("Completed", "Hi!")


async def test_the_last_piece_of_a_text_keeps_its_distance_too(deployment: Deployment, upstream: Literal) -> None:
    began = deployment.clock.at
    events = await chat(
        deployment, upstream, streamed(chunk("Hi"), *(chunk(" ho") for _ in range(3)), chunk(None, "stop"))
    )
    assert "".join(event["delta"] for event in events if "delta" in event) == "Hi ho ho ho"
    assert deployment.clock.at - began >= 0.2


async def test_what_holds_no_text_is_passed_over(deployment: Deployment, upstream: Literal) -> None:
    noise = [b": ping\n\n", b"data:\n\n", b"data: []\n\n", b'data: {"choices": []}\n\n', b'data: {"usage": {}}\n\n']
    events = await chat(deployment, upstream, streamed(*noise, chunk("Hi"), *noise, b"data: [DONE]\n\n"))
    assert ended(events)["text"] == "Hi"


async def test_a_frame_that_cannot_be_read_is_a_hole_that_is_never_told_as_complete(
    deployment: Deployment, upstream: Literal
) -> None:
    pieces = [chunk("Do "), b'data: {"choices": [{"delta": {"content": "not\n\n', chunk(" pay."), chunk(None, "stop")]
    final = ended(await chat(deployment, upstream, streamed(*pieces)))
    assert (final["code"], final["refunded"]) == ("interrupted", 1)


HALVES = {
    "between two deltas": ([r"Hi \ud83d", r"\ude00!"], "Hi 😀!"),
    "around an empty delta": ([r"\ud83d", "", r"\ude00"], "😀"),
    "lost": ([r"a\ud83d", r"b\ude00c"], "a\ufffdb\ufffdc"),
    "at the end": (["Hi", r" \ud83d"], "Hi \ufffd"),
}


@pytest.mark.parametrize(("deltas", "text"), HALVES.values(), ids=HALVES)
async def test_halves_of_a_character_are_joined(
    deployment: Deployment, upstream: Literal, deltas: list[str], text: str
) -> None:
    pieces = [b'data: {"choices": [{"delta": {"content": "%s"}}]}\n\n' % delta.encode() for delta in deltas]
    events = await chat(deployment, upstream, streamed(*pieces, chunk(None, "stop")))
    assert ended(events)["text"] == "".join(event.get("delta", "") for event in events) == text


async def test_a_half_of_a_character_in_a_whole_text_costs_only_itself(
    deployment: Deployment, upstream: Literal
) -> None:
    body = rb'{"choices": [{"message": {"content": "Hi \ud83d"}, "finish_reason": "length"}]}'
    assert ended(await chat(deployment, upstream, data(body, "application/json")))["text"] == "Hi \ufffd"


async def test_only_the_first_of_several_choices_is_told(deployment: Deployment, upstream: Literal) -> None:
    other = {"index": 1, "delta": {"content": "Bonjour"}, "finish_reason": "stop"}
    first = {"index": 0, "delta": {"content": "lo"}, "finish_reason": "stop"}
    frames = [b"data: " + written({"choices": choices}).encode() + b"\n\n" for choices in ([other], [other, first])]
    assert ended(await chat(deployment, upstream, streamed(chunk("Hel"), *frames)))["text"] == "Hello"


@pytest.mark.parametrize("cut", [False, True])
async def test_a_text_that_stops_in_its_middle_is_interrupted(
    deployment: Deployment, upstream: Literal, cut: bool
) -> None:
    final = ended(await chat(deployment, upstream, streamed(chunk("Hi"), cut=cut)))
    assert (final["code"], final["refunded"], await deployment.balance()) == ("interrupted", 1, 1000)
    assert len(upstream.asked(*CHAT)) == 1


async def test_an_error_within_the_stream_is_the_providers_failure(deployment: Deployment, upstream: Literal) -> None:
    error = b'data: {"error": {"message": "The server had an error", "type": "server_error"}}\n\n'
    final = ended(await chat(deployment, upstream, streamed(chunk("Hi"), error)))
    assert (final["code"], final["refunded"]) == ("upstream_failed", 1)
    assert "The server had an error" in final["message"]


async def test_a_gateway_that_does_not_stream_gives_the_whole_text(deployment: Deployment, upstream: Literal) -> None:
    choice = {"message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}
    final = ended(await chat(deployment, upstream, said({"object": "chat.completion", "choices": [choice]})))
    assert (final["status"], final["text"]) == ("Completed", "Hello.")
    assert (await opened(deployment, final["url"]))[2] == b"Hello."


# --- what it refuses ---


def error(status: int, message: str, code: str | None = None) -> Reply:
    document = {"message": message, "type": "invalid_request_error", "code": code, "param": None}
    return said({"error": document}, status)


REFUSALS = [
    (error(401, "Invalid token"), "upstream_auth"),
    (error(402, "Payment required"), "upstream_credits"),
    (error(402, "User quota is not enough", "insufficient_user_quota"), "upstream_credits"),
    (error(403, "User quota is not enough", "insufficient_user_quota"), "upstream_credits"),
    (error(400, "seconds must be a string"), "upstream_rejected"),
    (error(500, "The server had an error"), "upstream_failed"),
]


@pytest.mark.parametrize("model", ["grok-imagine-video", "gpt-image-2", "gpt-5.4-mini"])
@pytest.mark.parametrize(("reply", "code"), REFUSALS, ids=[f"{r.status} {c}" for r, c in REFUSALS])
async def test_a_refused_order_ends_as_what_it_is_and_is_sent_once(
    deployment: Deployment, upstream: Literal, model: str, reply: Reply, code: str
) -> None:
    for submit in (VIDEOS, IMAGES, CHAT):
        upstream.on(*submit, reply)
    final = ended(await deployment.generate(model, prompt="x"))
    assert (final["status"], final["code"], await deployment.balance()) == ("Error", code, 1000)
    assert reply.pieces[0].decode().split('"')[5] in final["message"]
    assert len([asked for asked in upstream.requests if asked.method == "POST"]) == 1


async def test_a_refusal_with_http_200_is_a_refusal(deployment: Deployment, upstream: Literal) -> None:
    final = ended(await chat(deployment, upstream, error(200, "Model is overloaded")))
    assert (final["code"], final["refunded"]) == ("upstream_rejected", 1)


@pytest.mark.parametrize("reply", [page(502), page(504), page(200), said({"status": "queued"}), said({"id": True})])
async def test_an_order_without_a_readable_answer_is_never_sent_again(
    deployment: Deployment, upstream: Literal, reply: Reply
) -> None:
    upstream.on(*VIDEOS, reply)
    final = ended(await deployment.generate("grok-imagine-video", prompt="x"))
    assert (final["code"], final["refunded"]) == ("outcome_unknown", 30)
    assert len(upstream.asked(*VIDEOS)) == 1


async def test_an_order_that_was_too_much_is_sent_again(deployment: Deployment, upstream: Literal) -> None:
    video(upstream)
    upstream.on(*VIDEOS, said({"error": {"message": "busy"}}, 429, Retry_After="2"), job("queued"))
    assert ended(await deployment.generate("grok-imagine-video", prompt="x"))["status"] == "Completed"
    assert len(upstream.asked(*VIDEOS)) == 2


@pytest.mark.parametrize("status", [429, 503])
async def test_a_text_that_was_too_much_is_asked_for_again(
    deployment: Deployment, upstream: Literal, status: int
) -> None:
    busy = said({"error": {"message": "busy"}}, status, Retry_After="2")
    upstream.on(*CHAT, busy, streamed(chunk("Hi"), b"data: [DONE]\n\n"))
    assert ended(await deployment.generate("gpt-5.4-mini", prompt="x"))["status"] == "Completed"
    assert len(upstream.asked(*CHAT)) == 2


# --- what it lists ---


async def test_the_models_it_lists_are_those_that_can_be_ordered(unstarted: Deployment, upstream: Literal) -> None:
    listed = [{"id": "gpt-5.4-mini", "object": "model"}, {"id": "gpt-image-2", "object": "model"}]
    upstream.on(*MODELS, said({"object": "list", "data": listed}))
    async with pointed(unstarted, upstream):
        models = (await unstarted.http.get("/api/models")).json()["models"]
        available = {model["id"] for model in models if model["available"] and model["provider"] == "Gaia"}
        assert available == {"gpt-5.4-mini", "gpt-image-2"}
        assert upstream.once(*MODELS).headers["Authorization"] == f"Bearer {KEY}"


async def test_a_model_it_does_not_list_is_not_sold(unstarted: Deployment, upstream: Literal) -> None:
    upstream.on(*MODELS, said({"object": "list", "data": [{"id": "gpt-5.4-mini"}]}))
    async with pointed(unstarted, upstream):
        refused = await unstarted.http.post("/api/jobs", json={"model": "grok-imagine-video", "prompt": "x"})
        assert (refused.status_code, refused.json()["code"]) == (503, "provider_unavailable")
        assert await unstarted.balance() == 1000
        assert not upstream.asked(*VIDEOS)


@pytest.mark.parametrize("listing", [page(502), said({"data": []}), said([]), said({"error": "?"}, 401)])
async def test_a_list_that_says_nothing_takes_nothing_away(
    unstarted: Deployment, upstream: Literal, listing: Reply
) -> None:
    upstream.on(*MODELS, listing)
    async with pointed(unstarted, upstream):
        assert ended(await filmed(unstarted, upstream))["status"] == "Completed"
