import json
from typing import Any

import pytest

from proxy.simulator import Simulator
from proxy.simulator.ainow import RUN_STYLES
from proxy.simulator.files import Sample
from tests.simulator.wire import Client, Clock


def statuses(body: bytes) -> list[dict[str, str]]:
    """Return the documents of the stream."""
    return [json.loads(block.removeprefix("data: ")) for block in body.decode().split("\n\n") if block]


async def generate(client: Client, **order: str) -> tuple[int, Any]:
    return await client.post("ainow", "/api/generate", json=order)


async def test_ping_answers_pong_to_a_key(client: Client) -> None:
    assert await client.get("ainow", "/api/ping") == (200, b"pong")
    async with client.session.get("/api/ping") as response:
        assert (response.status, (await response.json())["status"]) == (401, "Error")


@pytest.mark.parametrize(("model", "sample"), [("suno", Sample.AUDIO), ("pika", Sample.VIDEO)])
async def test_the_stream_equals_the_pages_example(client: Client, model: str, sample: Sample) -> None:
    _, body = await generate(client, model=model, prompt="A serene lake surrounded by mountains")
    assert body.startswith(
        b'data: {"status": "Processing started"}\n\n'
        b'data: {"status": "Processing"}\n\n'
        b'data: {"status": "Cookie generated"}\n\n'
        b'data: {"status": "Processing"}\n\n'
    )
    last = statuses(body)[-1]
    assert last["status"] == "Completed"
    assert "/a_serene_lake_surrounded_" in last["url"]
    assert last["url"].endswith(".mp3" if model == "suno" else ".mp4")
    assert await client.get("ainow", last["url"]) == (200, sample.bytes)


async def test_the_frames_come_about_a_second_apart(client: Client, clock: Clock) -> None:
    await generate(client, model="suno", prompt="x")
    assert len(clock.slept) > 4
    assert all(0.8 < pause < 1.2 for pause in clock.slept)


async def test_each_model_accepts_only_its_own_styles(client: Client) -> None:
    assert len(RUN_STYLES) == 25
    for model, style, expected in (
        ("pika", "4", 200),
        ("run", "3d_cartoon", 200),
        ("pika", "anime", 400),
        ("suno", "1", 400),
    ):
        assert (await generate(client, model=model, prompt="x", style=style))[0] == expected


async def test_tokens_are_charged_and_missing_tokens_are_answered_with_418(
    simulator: Simulator, client: Client
) -> None:
    simulator.ainow.tokens = 45
    assert (await generate(client, model="run", prompt="x"))[0] == 200
    assert (await generate(client, model="suno", prompt="x"))[0] == 200
    assert simulator.ainow.tokens == 5
    assert await generate(client, model="pika", prompt="x") == (
        418,
        {"status": "Error", "message": "Insufficient tokens"},
    )
    assert simulator.submits["ainow"] == 2


@pytest.mark.parametrize(
    "order", [{"model": "sora", "prompt": "x"}, {"model": "suno"}, {"model": "suno", "prompt": ""}]
)
async def test_an_invalid_order_is_refused_in_the_documented_format(client: Client, order: dict[str, str]) -> None:
    status, reply = await generate(client, **order)
    assert (status, reply["status"]) == (400, "Error")


async def test_luma_may_fail_at_peak_hours(simulator: Simulator, client: Client) -> None:
    simulator.ainow.peak_hours = True
    _, body = await generate(client, model="luma", prompt="x")
    assert statuses(body)[-1]["status"] == "Error"
    _, body = await generate(client, model="pika", prompt="x")
    assert statuses(body)[-1]["status"] == "Completed"


async def test_the_line_ending_can_be_changed(simulator: Simulator, client: Client) -> None:
    simulator.ainow.line_end = "\r\n"
    _, body = await generate(client, model="pika", prompt="x")
    assert body.startswith(b'data: {"status": "Processing started"}\r\n\r\ndata: ')
