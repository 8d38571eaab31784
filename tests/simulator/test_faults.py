import asyncio
import contextlib
import json

import aiohttp
import pytest

from proxy.simulator import UNDOCUMENTED, Kind, Simulator
from tests.simulator.wire import ALL, POLLED, Client, Clock, status_of

STATUSES = ["400", "401", "402", "403", "404", "405", "409", "410", "418", "422", "429", "500", "502", "503", "504"]
NOT_TAKEN = ["500", "502 html", "503", "429", "html", "redirect", "reject", "credits"]
TAKEN = ["drop", "cut", "malformed", "wrong types", "empty", "unknown status", "drip", "huge", "slow"]
ERROR_FIELDS = {
    "gaga": {"detail"},
    "gaia": {"error"},
    "ainow": {"status", "message"},
    "ganai": {"detail"},
    "heygen": {"code", "message"},
}


@pytest.mark.parametrize("provider", ALL)
async def test_a_status_fault_has_the_providers_error_format(
    simulator: Simulator, client: Client, provider: str
) -> None:
    for status in STATUSES:
        simulator.fault(f"{provider}.*", status, times=1)
        got, reply = await client.submit(provider)
        assert (got, set(reply)) == (int(status), ERROR_FIELDS[provider])
    assert (await client.submit(provider))[0] == 200


@pytest.mark.parametrize("provider", ALL)
async def test_a_replaced_answer_creates_no_job(simulator: Simulator, client: Client, provider: str) -> None:
    for kind in NOT_TAKEN:
        simulator.fault(f"{provider}.*", kind, times=1)
        await client.submit(provider)
    simulator.fault(f"{provider}.*", "reset", times=1)
    with pytest.raises(aiohttp.ClientConnectionError):
        await client.submit(provider)
    assert (simulator.submits[provider], simulator.jobs(provider)) == (0, [])


@pytest.mark.parametrize("provider", ALL)
async def test_a_broken_answer_hides_a_paid_job(simulator: Simulator, client: Client, provider: str) -> None:
    for kind in TAKEN:
        simulator.fault(f"{provider}.*", kind, times=1, size=1024 * 1024)
        with contextlib.suppress(aiohttp.ClientError, ValueError):
            await client.submit(provider)
    assert simulator.submits[provider] == len(simulator.jobs(provider)) == len(TAKEN)


@pytest.mark.parametrize("provider", ALL)
async def test_a_dropped_request_gets_no_answer_and_a_cut_one_half(
    simulator: Simulator, client: Client, provider: str
) -> None:
    simulator.fault(f"{provider}.*", "drop", times=1)
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await client.submit(provider)
    simulator.fault(f"{provider}.*", "cut", times=1)
    with pytest.raises(aiohttp.ClientPayloadError):
        await client.submit(provider)


async def test_faults_429_and_503_have_a_retry_after(simulator: Simulator, client: Client) -> None:
    for kind in ("429", "503"):
        simulator.fault("gaga.submit", kind, times=1, retry_after=7)
        async with client.session.post("/v1/generations", json={}, headers=client.key("gaga")) as response:
            assert (response.status, response.headers["Retry-After"]) == (int(kind), "7")


async def test_faults_can_start_later_end_and_follow_each_other(simulator: Simulator, client: Client) -> None:
    simulator.fault("gaga.check", "500", after=1, times=2)
    simulator.fault("gaga.check", "404", after=1, times=1)
    _, reply = await client.submit("gaga")
    assert [(await client.check("gaga", reply))[0] for _ in range(5)] == [200, 500, 500, 404, 200]


async def test_a_fault_can_match_some_requests(simulator: Simulator, client: Client) -> None:
    simulator.fault("gaga.submit", "500", match="cat")
    simulator.fault("gaga.check", "404", match="dog")
    simulator.fault("gaga.check", "reset", match=lambda received: received.path.endswith("/1"))
    assert (await client.submit("gaga", "a cat"))[0] == 500
    _, reply = await client.submit("gaga", "a dog")
    assert (await client.check("gaga", reply))[0] == 404
    _, reply = await client.submit("gaga", "a bird")
    assert (await client.check("gaga", reply))[0] == 200
    with pytest.raises(aiohttp.ClientError):
        await client.get("gaga", "/v1/generations/1")


async def test_faults_can_be_cleared(simulator: Simulator, client: Client) -> None:
    fault = simulator.fault("*", "500")
    assert (await client.submit("gaga"))[0] == 500
    simulator.clear_faults()
    assert (await client.submit("gaga"))[0] == 200
    assert fault.hit_count == 1


def test_a_fault_for_an_unknown_operation_is_an_error() -> None:
    simulator = Simulator()
    with pytest.raises(ValueError, match=r"no operation is called 'gaga\.poll'; there are .*gaga\.check"):
        simulator.fault("gaga.poll", "500")
    with pytest.raises(ValueError, match="thunder"):
        simulator.fault("gaga.check", "thunder")


def test_every_kind_can_be_armed_by_its_name() -> None:
    simulator = Simulator()
    assert [simulator.fault("gaga.check", kind.value).kind for kind in Kind] == list(Kind)


@pytest.mark.parametrize("kind", ["timeout", "stall"])
@pytest.mark.parametrize("provider", ALL)
async def test_a_timeout_lasts_until_the_client_gives_up(
    simulator: Simulator, client: Client, provider: str, kind: str
) -> None:
    simulator.fault(f"{provider}.*", kind, times=1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.25):
            await client.submit(provider)
    assert simulator.submits[provider] == 1


async def test_slow_waits_for_simulated_seconds(simulator: Simulator, client: Client, clock: Clock) -> None:
    simulator.fault("heygen.submit", "slow", seconds=30)
    assert (await client.submit("heygen"))[0] == 200
    assert clock.slept == [30]


@pytest.mark.parametrize("provider", POLLED)
async def test_an_unknown_status_replaces_the_word_of_a_poll(
    simulator: Simulator, client: Client, provider: str
) -> None:
    simulator.fault(f"{provider}.check", "unknown status")
    _, reply = await client.submit(provider)
    assert status_of((await client.check(provider, reply))[1]) == UNDOCUMENTED


async def test_a_redirect_leads_to_another_origin_and_is_recorded(simulator: Simulator, client: Client) -> None:
    simulator.fault("gaga.check", "redirect")
    assert await client.get("gaga", "/v1/generations/1?x=2") == (200, {"moved": "v1/generations/1"})
    arrived = simulator.requests[-1]
    assert (arrived.operation, arrived.query) == ("media.moved", {"x": "2"})
    assert arrived.headers["Host"].startswith("localhost:")


async def test_a_stream_can_end_cleanly_before_its_last_frame(simulator: Simulator, client: Client) -> None:
    simulator.fault("ainow.generate", "unfinished")
    status, body = await client.submit("ainow")
    assert (status, body.count(b"\n\n")) == (200, 2)


async def test_a_stream_is_cut_in_the_middle_of_a_frame(simulator: Simulator, client: Client) -> None:
    simulator.fault("ainow.generate", "cut")
    order = {"model": "pika", "prompt": "x"}
    async with client.session.post("/api/generate", json=order, headers=client.key("ainow")) as response:
        first = await response.content.readuntil(b"\n\n")
        second = await response.content.readuntil(b"\n\n")
        half = await response.content.readexactly(10)
        assert first.startswith(half) and second.startswith(half)  # noqa: PT018 - one sentence
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.content.readuntil(b"\n\n")


async def test_a_frame_can_be_malformed_json(simulator: Simulator, client: Client) -> None:
    simulator.fault("ainow.generate", "malformed")
    _, body = await client.submit("ainow")
    first = body.split(b"\n\n")[0].removeprefix(b"data: ")
    with pytest.raises(json.JSONDecodeError):
        json.loads(first)


async def test_a_slow_transfer_delivers_the_same_bytes(simulator: Simulator, client: Client) -> None:
    _, reply = await client.submit("gaga")
    whole = await client.check("gaga", reply)
    simulator.fault("gaga.check", "drip")
    assert await client.check("gaga", reply) == whole


async def test_a_media_file_can_be_cut_too(simulator: Simulator, client: Client, clock: Clock) -> None:
    simulator.fault("media.get", "cut", times=1)
    _, reply = await client.submit("gaga")
    clock.time += 100
    _, document = await client.check("gaga", reply)
    with pytest.raises(aiohttp.ClientPayloadError):
        await client.get("gaga", document["resultVideoURL"])
    assert (await client.get("gaga", document["resultVideoURL"]))[0] == 200


@pytest.mark.parametrize(
    ("kind", "first"),
    [
        ("drip", b'data: {"status": "Processing started"}'),
        ("wrong types", b'data: {"status":[18]}'),
        ("unknown status", b'data: {"status":"Reticulating"}'),
        ("empty", b""),
    ],
)
async def test_a_fault_changes_every_frame_of_a_stream(
    simulator: Simulator, client: Client, kind: str, first: bytes
) -> None:
    simulator.fault("ainow.generate", kind)
    status, body = await client.submit("ainow")
    assert (status, body.partition(b"\n\n")[0]) == (200, first)


async def test_a_frame_can_be_huge(simulator: Simulator, client: Client) -> None:
    simulator.fault("ainow.generate", "huge", size=1024 * 1024)
    _, body = await client.submit("ainow")
    assert body.startswith(b'data: {"padding": "xxx')
    assert len(body) > 1024 * 1024
    assert body.count(b"\n\n") == 1


async def test_a_stream_can_stall_in_the_middle(simulator: Simulator, client: Client) -> None:
    simulator.fault("ainow.generate", "stall")
    order = {"model": "pika", "prompt": "x"}
    async with client.session.post("/api/generate", json=order, headers=client.key("ainow")) as response:
        assert await response.content.readuntil(b"\n\n") == b'data: {"status": "Processing started"}\n\n'
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await response.read()
