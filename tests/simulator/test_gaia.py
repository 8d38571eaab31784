import asyncio
import base64
import json
from typing import Any

import aiohttp
import pytest

from proxy.simulator import Simulator
from proxy.simulator.files import Sample
from tests.simulator.wire import Client, Clock, video_form

IMAGES = "/v1/images/generations"
CHAT = {"model": "gpt-5.4-mini", "messages": [{"role": "user", "content": "Who are you?"}]}


def frames(body: bytes) -> list[str]:
    """Return the data of each server-sent event."""
    return [block.removeprefix("data: ") for block in body.decode().split("\n\n") if block]


async def test_a_video_is_queued_then_in_progress_then_completed(client: Client, clock: Clock) -> None:
    status, reply = await client.submit("gaia")
    assert status == 200
    assert reply["id"].startswith("vidjob_")
    seen: list[str] = []
    progress: list[int] = []
    for _ in range(45):
        _, document = await client.check("gaia", reply)
        progress.append(document["progress"])
        if document["status"] not in seen:
            seen.append(document["status"])
        clock.time += 0.25
    assert seen == ["queued", "in_progress", "completed"]
    assert progress == sorted(progress)
    assert (progress[0], progress[-1]) == (0, 100)
    assert not [key for key in document if "url" in key]


async def test_the_content_needs_the_key_and_is_409_before_the_end(client: Client, clock: Clock) -> None:
    _, reply = await client.submit("gaia")
    path = f"/v1/videos/async/{reply['id']}/content"
    assert (await client.get("gaia", path))[0] == 409
    clock.time += 100
    assert await client.get("gaia", path) == (200, Sample.VIDEO.bytes)
    async with client.session.get(path) as keyless:
        assert keyless.status == 401


async def test_the_content_can_redirect_to_a_signed_url(simulator: Simulator, client: Client, clock: Clock) -> None:
    simulator.gaia.content_redirects = True
    _, reply = await client.submit("gaia")
    clock.time += 100
    path = f"/v1/videos/async/{reply['id']}/content"
    async with client.session.get(path, headers=client.key("gaia"), allow_redirects=False) as response:
        assert response.status == 302
        location = response.headers["Location"]
    async with client.session.get(location) as response:
        assert await response.read() == Sample.VIDEO.bytes


async def test_the_compatible_spelling_submits_too_and_needs_async(client: Client) -> None:
    assert (await client.post("gaia", "/v1/videos?async=true", data=video_form("x")))[0] == 200
    assert (await client.post("gaia", "/v1/videos", data=video_form("x")))[0] == 400
    order = {"model": "image2", "prompt": "x"}
    assert (await client.post("gaia", f"{IMAGES}?async=true", json=order))[0] == 200
    assert (await client.post("gaia", IMAGES, json=order))[0] == 400


async def test_reference_images_are_repeated_files(simulator: Simulator, client: Client) -> None:
    simulator.gaia.needs_reference = True
    form = video_form("x")
    for name in ("one.png", "two.png"):
        form.add_field("input_reference[]", Sample.IMAGE.bytes, filename=name, content_type="image/png")
    assert (await client.post("gaia", "/v1/videos/async", data=form))[0] == 200
    files = [part for part in simulator.requests[-1].parts if part.filename]
    assert [part.filename for part in files] == ["one.png", "two.png"]
    assert {part.body for part in files} == {Sample.IMAGE.bytes}
    assert (await client.submit("gaia"))[0] == 400


def _with_file(name: str, content_type: str) -> aiohttp.FormData:
    form = video_form("x")
    form.add_field(name, b"6", filename="six", content_type=content_type)
    return form


@pytest.mark.parametrize(
    "options",
    [
        {"json": {"model": "grok-imagine-video", "prompt": "x", "seconds": "6"}},
        {"data": video_form("x", seconds="six")},
        {"data": video_form("x", model="sora")},
        {"data": video_form("")},
        {"data": video_form("x", duration="6")},
        {"data": _with_file("seconds", "application/octet-stream")},
        {"data": _with_file("input_reference[]", "text/plain")},
    ],
    ids=["json", "seconds", "model", "prompt", "unknown field", "seconds as file", "reference is no image"],
)
async def test_a_video_without_a_valid_form_is_refused(client: Client, options: dict[str, Any]) -> None:
    status, reply = await client.post("gaia", "/v1/videos/async", **options)
    assert status == 400
    assert reply["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("prompt", "form"), [("a cat", "b64_json"), ("a cat [url]", "url"), ("a cat [b64]", "b64_json")]
)
async def test_an_image_result_is_inline_or_a_url(client: Client, clock: Clock, prompt: str, form: str) -> None:
    order = {"model": "gpt-image-2", "prompt": prompt, "size": "1024x1024", "n": 2}
    _, reply = await client.post("gaia", f"{IMAGES}/async", json=order)
    assert reply["id"].startswith("imgjob_")
    path = f"{IMAGES}/async/{reply['id']}"
    assert (await client.get("gaia", f"{path}/result"))[0] == 409
    clock.time += 100
    assert (await client.get("gaia", path))[1]["status"] == "completed"
    _, result = await client.get("gaia", f"{path}/result")
    assert [list(each) for each in result["data"]] == [[form], [form]]
    first = result["data"][0][form]
    got = base64.b64decode(first) if form == "b64_json" else (await client.get("gaia", first))[1]
    assert got == Sample.IMAGE.bytes


async def test_a_text_is_streamed_in_openais_chunks_up_to_done(client: Client) -> None:
    status, body = await client.post("gaia", "/v1/chat/completions", json={**CHAT, "stream": True})
    *chunks, done = frames(body)
    assert (status, done) == (200, "[DONE]")
    parsed = [json.loads(chunk) for chunk in chunks]
    assert {each["object"] for each in parsed} == {"chat.completion.chunk"}
    assert "Who are you?" in "".join(each["choices"][0]["delta"].get("content", "") for each in parsed)
    assert parsed[0]["choices"][0]["delta"]["role"] == "assistant"
    assert parsed[-1]["choices"][0]["finish_reason"] == "stop"


async def test_a_text_without_a_stream_is_one_response_limited_by_max_tokens(client: Client) -> None:
    _, reply = await client.post("gaia", "/v1/chat/completions", json={**CHAT, "max_tokens": 3})
    assert reply["object"] == "chat.completion"
    assert reply["choices"][0]["message"] == {"role": "assistant", "content": "You asked: Who "}
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"]["completion_tokens"] == 3


async def test_a_failed_text_sends_an_error_in_the_stream_without_done(client: Client) -> None:
    order = {"model": "gpt-5.4-mini", "stream": True, "messages": [{"role": "user", "content": "x [fail]"}]}
    _, body = await client.post("gaia", "/v1/chat/completions", json=order)
    assert "error" in json.loads(frames(body)[-1])


async def test_the_listed_models_can_be_changed(simulator: Simulator, client: Client) -> None:
    _, reply = await client.get("gaia", "/v1/models")
    assert "grok-imagine-video" in [each["id"] for each in reply["data"]]
    simulator.gaia.listed_models = ["gpt-5.4-mini"]
    _, reply = await client.get("gaia", "/v1/models")
    assert (reply["object"], [each["id"] for each in reply["data"]]) == ("list", ["gpt-5.4-mini"])


async def test_a_job_is_unknown_after_an_hour(client: Client, clock: Clock) -> None:
    _, reply = await client.submit("gaia")
    clock.time += 3601
    status, document = await client.check("gaia", reply)
    assert (status, document["error"]["message"]) == (404, "Job expired")


async def test_a_video_is_not_found_among_images(client: Client) -> None:
    _, reply = await client.submit("gaia")
    assert (await client.get("gaia", f"{IMAGES}/async/{reply['id']}"))[0] == 404


async def test_the_variants_of_other_clients_can_be_switched_on(
    simulator: Simulator, client: Client, clock: Clock
) -> None:
    gaia = simulator.gaia
    gaia.has_envelope, gaia.id_field, gaia.progress_form, gaia.result_url = True, "job_id", "percent", True
    gaia.spelling = {"completed": "SUCCEEDED"}
    _, reply = await client.submit("gaia")
    number = reply["data"]["job_id"]
    clock.time += 100
    _, document = await client.get("gaia", f"/v1/videos/async/{number}")
    assert document["code"] == "success"
    assert document["data"]["status"] == "SUCCEEDED"
    assert document["data"]["progress"] == "100%"
    assert document["data"]["result_url"] == f"/v1/videos/async/{number}/content"


def chat_order(prompt: str, **changes: Any) -> dict[str, Any]:
    """Return the body of a streamed chat order."""
    return {"model": "gpt-5.4-mini", "stream": True, "messages": [{"role": "user", "content": prompt}], **changes}


async def test_a_streamed_text_reports_its_usage_on_request(client: Client) -> None:
    order = chat_order("x", stream_options={"include_usage": True})
    _, body = await client.post("gaia", "/v1/chat/completions", json=order)
    last = json.loads(frames(body)[-2])
    assert (last["choices"], last["usage"]["prompt_tokens"]) == ([], 8)


async def test_a_text_can_contain_an_undocumented_object(client: Client) -> None:
    _, body = await client.post("gaia", "/v1/chat/completions", json=chat_order("x [unknown]"))
    *chunks, done = frames(body)
    assert {"choices": [], "object": "chat.completion.reticulating"}.items() <= json.loads(
        next(chunk for chunk in chunks if "reticulating" in chunk)
    ).items()
    assert done == "[DONE]"


async def test_a_stuck_text_stops_in_the_middle_of_its_words(client: Client) -> None:
    async with client.session.post(
        "/v1/chat/completions", json=chat_order("x [stuck]"), headers=client.key("gaia")
    ) as response:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await response.read()


async def test_a_text_that_fails_without_a_stream_is_a_server_error(client: Client) -> None:
    status, reply = await client.post("gaia", "/v1/chat/completions", json=chat_order("[fail]", stream=False))
    assert (status, reply["error"]["type"]) == (500, "server_error")


async def test_the_result_url_of_an_image_is_relative_to_the_origin(
    simulator: Simulator, client: Client, clock: Clock
) -> None:
    simulator.gaia.result_url, simulator.gaia.progress_form = True, "none"
    _, reply = await client.post("gaia", f"{IMAGES}/async", json={"model": "image2", "prompt": "x"})
    clock.time += 100
    _, document = await client.get("gaia", f"{IMAGES}/async/{reply['id']}")
    assert "progress" not in document
    assert (await client.get("gaia", document["result_url"]))[0] == 200
