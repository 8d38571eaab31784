from typing import Any

import pytest

from proxy.simulator import Simulator
from proxy.simulator.files import Sample
from tests.simulator.wire import Client, Clock, speech, upload_of


def avatar(source: object, audio: object, **changes: Any) -> dict[str, Any]:
    """Return the body of the page's second example."""
    conditions = [{"type": "audio", "content": audio}, {"type": "text", "content": "smile, wave"}]
    chunk = {"duration": 5, "conditions": conditions, "enablePromptEnhancement": True}
    order = {"model": "avatar-h1-pro", "resolution": "720p", "seed": 12345, "aspectRatio": "16:9", "chunks": [chunk]}
    return {**order, "source": {"type": "image", "content": source}, **changes}


async def test_a_generation_passes_through_the_documented_states_to_a_video(client: Client, clock: Clock) -> None:
    status, reply = await client.submit("gaga")
    assert status == 200
    seen = []
    for _ in range(40):
        _, document = await client.check("gaga", reply)
        if document["status"] not in seen:
            seen.append(document["status"])
        clock.time += 0.25
    assert seen == ["PreProcessing", "Pending", "Running", "Success"]
    assert document["id"] == reply["id"] > 2**31
    assert isinstance(document["resultVideoId"], int)
    assert document["createTime"].endswith("Z")
    assert await client.get("gaga", document["resultVideoURL"]) == (200, Sample.VIDEO.bytes)


async def test_an_uploaded_asset_has_an_id_and_a_url_that_returns_it(client: Client) -> None:
    number = await client.upload(Sample.IMAGE)
    status, asset = await client.get("gaga", f"/v1/assets/{number}")
    assert (status, asset["id"]) == (200, number)
    assert await client.get("gaga", asset["url"]) == (200, Sample.IMAGE.bytes)


@pytest.mark.parametrize("as_text", [True, False])
async def test_an_avatars_image_id_can_be_text_or_number(client: Client, *, as_text: bool) -> None:
    image, audio = await client.upload(Sample.IMAGE), await client.upload(Sample.AUDIO)
    order = avatar(str(image) if as_text else image, str(audio))
    status, reply = await client.post("gaga", "/v1/generations", json=order)
    assert (status, list(reply)) == (200, ["id"])


async def test_an_avatar_without_image_or_audio_is_refused_with_422(client: Client) -> None:
    image, audio = await client.upload(Sample.IMAGE), await client.upload(Sample.AUDIO)
    without_image = avatar(image, str(audio))
    del without_image["source"]
    without_audio = avatar(image, str(audio))
    del without_audio["chunks"][0]["conditions"][0]
    for order, loc in ((without_image, ["body", "source"]), (without_audio, ["body", "chunks", 0, "conditions"])):
        status, reply = await client.post("gaga", "/v1/generations", json=order)
        assert (status, reply["detail"][0]["loc"]) == (422, loc)


async def test_an_unknown_or_unsuitable_asset_is_refused(client: Client) -> None:
    image = await client.upload(Sample.IMAGE)
    for order in (avatar(999, "999"), avatar(image, str(image))):
        status, reply = await client.post("gaga", "/v1/generations", json=order)
        assert status == 422
        assert "sset" in reply["detail"][0]["msg"]


@pytest.mark.parametrize(
    "order",
    [
        speech("x", model="gaga-9"),
        speech("x", resolution=720),
        speech("x", aspectRatio="wide"),
        speech("x", aspect_ratio="16:9"),
        speech("x", chunks=[]),
        speech("x", enablePromptEnhancement="yes"),
        speech(""),
        [],
        {},
    ],
)
async def test_an_invalid_generation_is_refused_with_422(client: Client, order: object) -> None:
    status, reply = await client.post("gaga", "/v1/generations", json=order)
    assert status == 422
    assert {"loc", "msg", "type"} == set(reply["detail"][0])


async def test_only_documented_file_formats_are_accepted(client: Client) -> None:
    assert await client.post("gaga", "/v1/assets", data=upload_of(b"%PDF-1.7 ...")) == (
        400,
        {"detail": "Invalid file format"},
    )
    for body in (
        b"RIFF\0\0\0\0WAVEfmt ",
        b"RIFF\0\0\0\0WEBPVP8 ",
        b"OggS\0",
        b"\xff\xfb\x90",
        b"GIF89a",
        b"\xff\xd8\xff\xe0",
    ):
        assert (await client.post("gaga", "/v1/assets", data=upload_of(body)))[0] == 200


async def test_an_upload_without_a_file_is_refused(client: Client) -> None:
    status, reply = await client.post("gaga", "/v1/assets", data={"file": "text"})
    assert (status, reply["detail"][0]["loc"]) == (422, ["body", "file"])


async def test_ids_can_exceed_the_precision_of_a_double(simulator: Simulator, client: Client) -> None:
    simulator.gaga.wide_ids = True
    _, reply = await client.submit("gaga")
    assert reply["id"] > 2**53
    assert int(float(reply["id"])) != reply["id"]


async def test_an_unknown_generation_is_404_and_a_non_numeric_id_is_422(client: Client) -> None:
    assert (await client.get("gaga", "/v1/generations/1"))[0] == 404
    assert (await client.get("gaga", "/v1/generations/one"))[0] == 422
    assert (await client.get("gaga", "/v1/assets/1"))[0] == 404


async def test_the_variants_of_other_clients_can_be_switched_on(
    simulator: Simulator, client: Client, clock: Clock
) -> None:
    simulator.gaga.url_field = "result.videoURL"
    simulator.gaga.reason_field = "failReason"
    simulator.gaga.spelling = {"Success": "SUCCESS", "Fail": "Failed"}
    _, good = await client.submit("gaga")
    _, bad = await client.submit("gaga", "[fail]")
    clock.time += 100
    _, document = await client.check("gaga", good)
    assert document["status"] == "SUCCESS"
    assert document["result"]["videoURL"].endswith(".mp4")
    _, document = await client.check("gaga", bad)
    assert document["status"] == "Failed"
    assert document["failReason"]


async def test_an_unreadable_form_is_refused(client: Client) -> None:
    headers = {"Content-Type": "multipart/form-data"}
    status, reply = await client.post("gaga", "/v1/assets", data=b"--x", headers=headers)
    assert (status, reply["detail"][0]["loc"]) == (422, ["body", "file"])


async def test_an_empty_file_is_a_failed_upload(client: Client) -> None:
    assert await client.post("gaga", "/v1/assets", data=upload_of(b"")) == (400, {"detail": "File upload failed"})
