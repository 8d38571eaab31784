"""HeyGen v3 in the simulator: the answers of its reference."""

import asyncio
from typing import Any

import aiohttp
import pytest

from proxy.simulator import Simulator
from tests.simulator.wire import Client, Clock, upload_of

CODES = {
    "400": "invalid_parameter",
    "401": "unauthorized",
    "402": "insufficient_credit",
    "403": "forbidden",
    "404": "not_found",
    "429": "rate_limit_exceeded",
    "500": "internal_error",
    "reject": "invalid_parameter",
    "credits": "insufficient_credit",
}


def order(**changes: Any) -> dict[str, Any]:
    return {"type": "avatar", "avatar_id": "Anna", "script": "Hi", **changes}


async def submit(client: Client, key: str = "", **changes: Any) -> tuple[int, Any]:
    headers = {"Idempotency-Key": key} if key else {}
    return await client.post("heygen", "/v3/videos", json=order(**changes), headers=headers)


async def made(client: Client, **changes: Any) -> str:
    status, reply = await submit(client, **changes)
    assert (status, reply["data"]["status"]) == (200, "waiting")
    return str(reply["data"]["video_id"])


def error_of(reply: Any) -> tuple[str, str | None]:
    """Return an error's code and param, after its shape was checked."""
    assert set(reply) == {"error"}
    error = dict(reply["error"])
    param = error.pop("param", None)
    assert set(error) == {"code", "message", "doc_url"}
    assert error["doc_url"].endswith(error["code"].replace("_", "-"))
    return error["code"], param


async def test_a_video_is_waiting_then_pending_then_processing_then_completed(client: Client, clock: Clock) -> None:
    video = await made(client)
    seen: list[str] = []
    for _ in range(45):
        _, document = await client.get("heygen", f"/v3/videos/{video}")
        if document["data"]["status"] not in seen:
            seen.append(document["data"]["status"])
        clock.time += 0.25
    assert seen == ["waiting", "pending", "processing", "completed"]
    assert (await client.get("heygen", document["data"]["video_url"]))[0] == 200


@pytest.mark.parametrize(("fault", "code"), CODES.items())
async def test_an_injected_error_has_the_shape_and_code_of_v3(
    simulator: Simulator, client: Client, fault: str, code: str
) -> None:
    simulator.fault("heygen3.submit", fault)
    status, reply = await submit(client)
    assert status == int({"reject": "400", "credits": "402"}.get(fault, fault))
    assert error_of(reply)[0] == code


async def test_too_many_requests_name_a_wait(simulator: Simulator, client: Client) -> None:
    simulator.fault("heygen3.check", "429", retry_after=7)
    async with client.session.get("/v3/videos/x", headers=client.key("heygen")) as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "7")
        assert error_of(await response.json())[0] == "rate_limit_exceeded"


async def test_a_wrong_key_is_unauthorized_in_the_shape_of_each_version(simulator: Simulator, client: Client) -> None:
    simulator.keys["heygen"] = "another"
    async with client.session.get("/v3/users/me", headers={"X-Api-Key": "wrong"}) as response:
        assert (response.status, error_of(await response.json())[0]) == (401, "unauthorized")
    async with client.session.get("/v1/video_status.get", headers={"X-Api-Key": "wrong"}) as response:
        assert (response.status, (await response.json())["code"]) == (401, 400112)


async def test_an_unknown_video_is_not_found(client: Client) -> None:
    for method in ("GET", "DELETE"):
        status, reply = await client.ask("heygen", method, "/v3/videos/x")
        assert (status, error_of(reply)[0]) == (404, "not_found")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"resolution": "480p"}, ("invalid_parameter", "resolution")),
        ({"unknown": 1}, ("invalid_parameter", "unknown")),
        ({"engine": {"type": "x"}}, ("invalid_parameter", "engine.type")),
        ({"audio_url": "https://example.com/a.mp3"}, ("invalid_parameter", None)),
        ({"script": "a BlockedWord"}, ("content_moderated", None)),
        ({"background": {"type": "image", "url": "https://files.invalid/b.png"}}, ("download_failed", None)),
    ],
)
async def test_a_bad_order_is_refused_with_400_and_its_field(
    simulator: Simulator, client: Client, changes: dict[str, Any], expected: tuple[str, str | None]
) -> None:
    status, reply = await submit(client, **changes)
    assert (status, error_of(reply)) == (400, expected)
    assert simulator.jobs("heygen") == []


async def test_a_captioned_video_has_files_of_their_types(client: Client, clock: Clock) -> None:
    video = await made(client, caption={"file_format": "srt", "style": "default"})
    clock.time += 100
    _, document = await client.get("heygen", f"/v3/videos/{video}")
    types = {}
    for name in ("video_url", "captioned_video_url", "subtitle_url", "gif_url", "thumbnail_url"):
        async with client.session.get(document["data"][name]) as response:
            types[name] = (response.status, response.content_type)
    assert types == {
        "video_url": (200, "video/mp4"),
        "captioned_video_url": (200, "video/mp4"),
        "subtitle_url": (200, "application/x-subrip"),
        "gif_url": (200, "image/gif"),
        "thumbnail_url": (200, "image/jpeg"),
    }


async def test_a_failed_video_has_a_code_and_a_message(client: Client, clock: Clock) -> None:
    video = await made(client, script="Hi [fail]")
    clock.time += 100
    _, document = await client.get("heygen", f"/v3/videos/{video}")
    assert document["data"]["status"] == "failed"
    assert document["data"]["failure_code"]
    assert document["data"]["failure_message"]


async def test_a_repeat_with_the_same_key_gets_the_first_answer(simulator: Simulator, client: Client) -> None:
    first = await submit(client, "key-1")
    assert await submit(client, "key-1", script="Another") == first
    assert (await submit(client, "key-2")) != first
    assert simulator.heygen.v3.purchases == {"key-1": 1, "key-2": 1}


async def test_a_key_is_forgotten_after_a_day(simulator: Simulator, client: Client, clock: Clock) -> None:
    first = await submit(client, "key-1")
    clock.time += 24 * 3600 + 1
    assert await submit(client, "key-1") != first
    assert simulator.heygen.v3.purchases["key-1"] == 2


async def test_a_repeat_of_a_request_in_progress_is_409(clock: Clock) -> None:
    begun, ends = asyncio.Event(), asyncio.Event()

    async def sleep(_: float) -> None:
        begun.set()
        await ends.wait()

    async with Simulator(now=clock.now, sleep=sleep) as simulator, aiohttp.ClientSession(simulator.origin) as session:
        client = Client(simulator, session)
        simulator.heygen.v3.submit_seconds = 5
        first = asyncio.create_task(submit(client, "key-1"))
        await begun.wait()
        status, reply = await submit(client, "key-1")
        assert (status, error_of(reply)[0]) == (409, "request_in_progress")
        ends.set()
        assert await first == await submit(client, "key-1")


async def test_the_bulk_status_names_queued_and_unknown_videos(client: Client, clock: Clock) -> None:
    old = await made(client)
    clock.time += 100
    new = await made(client)
    _, reply = await client.get("heygen", f"/v3/videos/statuses?video_ids={old},{new},x")
    assert [(one["video_id"], one["status"]) for one in reply["data"]] == [
        (old, "completed"),
        (new, "queued"),
        ("x", "not_found"),
    ]
    ids = ",".join(map(str, range(101)))
    status, reply = await client.get("heygen", f"/v3/videos/statuses?video_ids={ids}")
    assert (status, error_of(reply)) == (400, ("invalid_parameter", "video_ids"))


async def test_an_uploaded_file_is_named_by_its_id(client: Client) -> None:
    _, reply = await client.post("heygen", "/v3/assets", data=upload_of(b"picture"))
    asset = reply["data"]["asset_id"]
    image = {"type": "asset_id", "asset_id": asset}
    changes: dict[str, Any] = {"type": "image", "image": image, "avatar_id": None}
    assert (await submit(client, **changes))[0] == 200
    status, reply = await submit(client, **{**changes, "image": {**image, "asset_id": "other"}})
    assert (status, error_of(reply)[0]) == (404, "not_found")


async def test_a_file_that_is_too_large_or_missing_is_refused(simulator: Simulator, client: Client) -> None:
    assert simulator.heygen.v3.max_upload_size == 32 << 20
    simulator.heygen.v3.max_upload_size = 7
    status, reply = await client.post("heygen", "/v3/assets", data=upload_of(b"12345678"))
    assert (status, error_of(reply)) == (413, ("file_too_large", "file"))
    form = aiohttp.FormData(default_to_multipart=True)
    form.add_field("other", "x")
    status, reply = await client.post("heygen", "/v3/assets", data=form)
    assert (status, error_of(reply)) == (400, ("invalid_parameter", "file"))


async def test_a_deleted_video_is_gone(client: Client) -> None:
    video = await made(client)
    assert (await client.ask("heygen", "DELETE", f"/v3/videos/{video}"))[0] == 200
    assert (await client.get("heygen", f"/v3/videos/{video}"))[0] == 404
