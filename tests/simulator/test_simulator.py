import asyncio
import json
import logging
import socket
import time

import aiohttp
import pytest

from proxy.simulator import Simulator, default_keys, provider_types
from proxy.simulator.files import FOLDER, Sample
from tests.simulator.wire import ALL, POLLED, Client, Clock, speech

LIMITS = {"video.mp4": 60, "image.png": 20, "audio.mp3": 40, "thumbnail.jpg": 20, "preview.gif": 40}
READS = {
    "gaga": "/v1/generations/1",
    "gaia": "/v1/models",
    "ainow": "/api/ping",
    "ganai": "/projects/p1/inference/x/video_status",
    "heygen": "/v1/video_status.get?video_id=x",
}


def test_each_provider_of_the_folder_is_an_attribute_with_its_own_key() -> None:
    simulator = Simulator()
    assert [getattr(simulator, kind.name) for kind in provider_types()] == list(simulator.providers)
    assert len(set(simulator.keys.values())) == len(provider_types())
    assert not hasattr(simulator, "unknown")


def test_keys_given_to_the_simulator_override_the_default_keys() -> None:
    assert Simulator().keys == default_keys()
    assert Simulator(keys={"gaga": "mine"}).keys == {**default_keys(), "gaga": "mine"}


@pytest.mark.parametrize("provider", ALL)
async def test_a_key_may_stop_working_at_any_time(simulator: Simulator, client: Client, provider: str) -> None:
    old = client.key(provider)
    assert (await client.submit(provider))[0] == 200
    simulator.keys[provider] = "another"
    async with client.session.get(READS[provider], headers=old) as response:
        assert response.status == 401
    assert (await client.get(provider, READS[provider]))[0] != 401


@pytest.mark.parametrize("provider", ALL)
async def test_a_request_without_a_key_is_counted_and_refused(
    simulator: Simulator, client: Client, provider: str
) -> None:
    async with client.session.get(READS[provider]) as response:
        assert response.status == 401
    assert sum(simulator.calls.values()) == 1
    assert simulator.submits.total() == 0


async def test_requests_are_kept_as_they_came(simulator: Simulator, client: Client) -> None:
    await client.submit("gaga", "Hello")
    received = simulator.requests[-1]
    assert (received.operation, received.method, received.path) == ("gaga.submit", "POST", "/v1/generations")
    assert received.headers["authorization"] == "Bearer sim-gaga"
    assert received.body == speech("Hello")
    await client.submit("gaia", "Hello")
    assert simulator.requests[-1].form()["seconds"] == "6"
    assert simulator.calls == {"gaga.submit": 1, "gaia.submit": 1}


async def test_jobs_are_listed_with_their_prompts(simulator: Simulator, client: Client) -> None:
    for provider in POLLED:
        await client.submit(provider, f"for {provider}")
    assert [(job.provider, job.prompt) for job in simulator.jobs()] == [(name, f"for {name}") for name in POLLED]
    assert [job.provider for job in simulator.jobs("ganai")] == ["ganai"]


async def test_the_same_seed_gives_the_same_ids_and_another_gives_others() -> None:
    async def ids(seed: int) -> list[tuple[str, float]]:
        clock = Clock()
        async with (
            Simulator(seed=seed, now=clock.now, sleep=clock.sleep) as simulator,
            aiohttp.ClientSession(simulator.origin) as session,
        ):
            client = Client(simulator, session)
            for provider in ALL:
                await client.submit(provider)
            return [(job.id, job.seconds) for job in simulator.jobs()]

    assert await ids(1) == await ids(1) != await ids(2)


async def test_speed_makes_simulated_time_pass_faster() -> None:
    clock = Clock()
    async with (
        Simulator(speed=10, now=clock.now, sleep=clock.sleep) as simulator,
        aiohttp.ClientSession(simulator.origin) as session,
    ):
        client = Client(simulator, session)
        _, reply = await client.submit("gaga")
        clock.time += 1
        assert (await client.check("gaga", reply))[1]["status"] == "Success"
        await client.submit("ainow")
        assert all(pause < 0.2 for pause in clock.slept)


async def test_stopping_is_quick_though_requests_hang(clock: Clock) -> None:
    simulator = Simulator(now=clock.now, sleep=clock.sleep)
    await simulator.start()
    simulator.fault("gaga.submit", "timeout")
    async with aiohttp.ClientSession(simulator.origin) as session:
        client = Client(simulator, session)
        asked = [asyncio.create_task(client.submit("gaga")), asyncio.create_task(client.submit("ainow", "[stuck]"))]
        async with asyncio.timeout(5):
            while simulator.submits.total() < 2:
                await asyncio.sleep(0.001)
        began = time.monotonic()
        await simulator.stop()
        assert time.monotonic() - began < 1
        results = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(result, aiohttp.ClientError) for result in results)


async def test_a_restart_on_the_same_port_keeps_the_jobs(clock: Clock) -> None:
    simulator = Simulator(now=clock.now, sleep=clock.sleep)
    origin = await simulator.start()
    async with aiohttp.ClientSession(origin) as session:
        client = Client(simulator, session)
        _, reply = await client.submit("gaga")
        await simulator.stop()
        with pytest.raises(aiohttp.ClientConnectionError):
            await client.check("gaga", reply)
        assert await simulator.start(port=int(origin.rsplit(":", 1)[1])) == origin
        assert (await client.check("gaga", reply))[0] == 200
        await simulator.stop()


async def test_it_survives_clients_that_leave(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    for _ in range(3):
        order = {"model": "pika", "prompt": "[stuck]"}
        async with client.session.post("/api/generate", json=order, headers=client.key("ainow")) as response:
            await response.content.readuntil(b"\n\n")
            response.close()
    host, port = client.simulator.origin.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(b"POST /v1/generations HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    await asyncio.sleep(0.01)
    assert (await client.submit("ainow"))[0] == 200
    assert caplog.records == []


@pytest.mark.parametrize("sample", Sample)
def test_the_media_are_small_and_real(sample: Sample) -> None:
    name = sample.file.path.name
    assert sample.file.path.parent == FOLDER
    assert 500 < len(sample.bytes) < LIMITS[name] * 1024
    starts = {
        "video.mp4": b"ftyp",
        "image.png": b"PNG",
        "audio.mp3": b"ID3",
        "thumbnail.jpg": b"JFIF",
        "preview.gif": b"GIF8",
    }
    assert starts[name] in sample.bytes[:16]


async def test_media_come_with_type_ranges_and_head(simulator: Simulator, client: Client) -> None:
    url = simulator.files.publish("a b/song.mp3", Sample.AUDIO)
    size = len(Sample.AUDIO.bytes)
    async with client.session.head(url) as response:
        assert (response.status, response.content_type, response.content_length) == (200, "audio/mpeg", size)
    async with client.session.get(url, headers={"Range": "bytes=10-19"}) as response:
        assert (response.status, response.headers["Content-Range"]) == (206, f"bytes 10-19/{size}")
        assert await response.read() == Sample.AUDIO.bytes[10:20]
    assert (await client.get("gaga", "/media/nothing.mp4"))[0] == 404


async def test_a_body_that_is_no_json_is_refused_by_every_provider(client: Client) -> None:
    paths = {
        "gaga": "/v1/generations",
        "gaia": "/v1/images/generations/async",
        "ainow": "/api/generate",
        "ganai": "/create_video/bulk?project_id=p1",
        "heygen": "/v1/video.generate",
    }
    for provider, path in paths.items():
        headers = {"Content-Type": "application/json"}
        status, reply = await client.post(provider, path, data=b'{"model":', headers=headers)
        assert status in {400, 422}
        assert json.dumps(reply)
