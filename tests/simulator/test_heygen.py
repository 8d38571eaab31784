from typing import Any

import pytest

from proxy.simulator import Simulator
from proxy.simulator.files import Sample
from tests.simulator.wire import Client, Clock, clips


def with_clip(**clip: Any) -> dict[str, Any]:
    return clips("", clips=[{"avatar_id": "Anna", "input_text": "Hi", **clip}])


async def test_a_video_is_pending_then_waiting_then_processing_then_completed(client: Client, clock: Clock) -> None:
    status, reply = await client.submit("heygen")
    assert (status, reply["code"]) == (200, 100)
    seen: list[str] = []
    for _ in range(45):
        _, document = await client.check("heygen", reply)
        if document["data"]["status"] not in seen:
            seen.append(document["data"]["status"])
        clock.time += 0.25
    assert seen == ["pending", "waiting", "processing", "completed"]
    assert set(document["data"]) == {
        *("id", "status", "video_url", "video_url_caption", "gif_url", "thumbnail_url", "duration", "error"),
    }
    assert await client.get("heygen", document["data"]["video_url"]) == (200, Sample.VIDEO.bytes)


async def test_every_status_call_signs_a_fresh_link_and_old_ones_expire(
    simulator: Simulator, client: Client, clock: Clock
) -> None:
    simulator.heygen.link_lifetime = 60
    _, reply = await client.submit("heygen")
    clock.time += 100
    links = [(await client.check("heygen", reply))[1]["data"]["video_url"] for _ in range(2)]
    assert links[0] != links[1]
    assert [(await client.get("heygen", link))[0] for link in links] == [200, 200]
    clock.time += 61
    assert (await client.get("heygen", links[1]))[0] == 403
    _, document = await client.check("heygen", reply)
    assert (await client.get("heygen", document["data"]["video_url"]))[0] == 200


async def test_a_link_with_another_signature_is_refused(client: Client, clock: Clock) -> None:
    _, reply = await client.submit("heygen")
    clock.time += 100
    _, document = await client.check("heygen", reply)
    bare, _, _ = document["data"]["video_url"].partition("?")
    assert (await client.get("heygen", bare))[0] == 403
    assert (await client.get("heygen", f"{bare}?Expires=soon&Nonce=1&Signature=x"))[0] == 403


async def test_a_failure_is_http_200_with_an_error_inside(simulator: Simulator, client: Client, clock: Clock) -> None:
    _, reply = await client.submit("heygen", "Hi [fail]")
    clock.time += 100
    status, document = await client.check("heygen", reply)
    assert (status, document["code"], document["data"]["status"]) == (200, 100, "failed")
    assert set(document["data"]["error"]) == {"code", "message", "detail"}
    simulator.heygen.error_form = "text"
    _, document = await client.check("heygen", reply)
    assert isinstance(document["data"]["error"], str)


@pytest.mark.parametrize(
    ("order", "code"),
    [
        (with_clip(talking_photo_id="Tom"), 400175),
        (with_clip(input_audio="https://example.com/a.mp3"), 400175),
        (clips("", clips=[{"avatar_id": "Anna"}]), 400175),
        (clips("", clips=[{"input_text": "Hi"}]), 400175),
        (clips("", clips=[]), 40001),
        (clips("Hi", version="v1"), 40001),
        (clips("Hi", ratio="1:1"), 40001),
        (clips("Hi", test="true"), 40001),
        (clips("Hi", background="#FFF"), 400175),
        (clips("Hi", background="ftp://example.com/a.png"), 400175),
        (with_clip(avatar_style="square"), 40001),
        (with_clip(offset={"x": "left"}), 40001),
        (clips("", clips=[{"avatar_id": "Anna", "input_audio": "a.mp3"}]), 400175),
        (
            clips("", caption_open=True, clips=[{"avatar_id": "Anna", "input_audio": "https://example.com/a.mp3"}]),
            400175,
        ),
        (clips("   "), 40039),
        (clips("a BlockedWord"), 400105),
    ],
)
async def test_an_invalid_order_is_refused_with_a_code(client: Client, order: dict[str, Any], code: int) -> None:
    status, reply = await client.post("heygen", "/v1/video.generate", json=order)
    assert (status, reply["code"]) == (400, code)
    assert reply["message"]


async def test_every_field_of_the_reference_is_accepted(client: Client, clock: Clock) -> None:
    clip = {
        "talking_photo_id": "Tom",
        "talking_photo_style": "circle",
        "input_text": "Hi",
        "voice_id": "v",
        "scale": 0.5,
        "offset": {"x": -0.5, "y": 0},
    }
    order = clips("", clips=[clip], background="#FAFAFA", ratio="9:16", test=True, caption_open=True)
    _, reply = await client.post("heygen", "/v1/video.generate", json=order)
    clock.time += 100
    _, document = await client.check("heygen", reply)
    assert (await client.get("heygen", document["data"]["video_url_caption"]))[0] == 200


async def test_the_key_is_read_from_its_own_header(simulator: Simulator, client: Client) -> None:
    simulator.heygen.bad_key_code = 401057
    key = simulator.keys["heygen"]
    path = "/v1/video.generate"
    async with client.session.post(path, headers={"Authorization": f"Bearer {key}"}, json=clips("Hi")) as response:
        assert (response.status, (await response.json())["code"]) == (401, 401057)


async def test_an_unknown_or_missing_video_id_is_an_error(client: Client) -> None:
    assert (await client.get("heygen", "/v1/video_status.get"))[0] == 400
    assert (await client.get("heygen", "/v1/video_status.get?video_id=x"))[0] == 404


async def test_the_object_can_come_without_an_envelope(simulator: Simulator, client: Client) -> None:
    _, reply = await client.submit("heygen")
    simulator.heygen.has_envelope, simulator.heygen.id_field = False, "video_id"
    _, document = await client.check("heygen", reply)
    assert document["video_id"] == reply["data"]["video_id"]
