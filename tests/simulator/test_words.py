import json

import aiohttp
import pytest

from proxy.simulator import PROMPT_FAULTS, UNDOCUMENTED, PromptFault, Simulator
from tests.simulator.wire import ALL, POLLED, Client, Clock, status_of

FAILED = {"gaga": "Fail", "gaia": "failed", "ganai": "FAILED", "heygen": "failed"}
CANCELED = {**FAILED, "gaga": "Canceled", "gaia": "cancelled"}
NO_CREDIT = {"gaga": 402, "gaia": 402, "ainow": 418, "ganai": 402, "heygen": 400}
REJECTED = {"gaga": 422, "gaia": 400, "ainow": 400, "ganai": 422, "heygen": 400}


def test_every_word_is_explained() -> None:
    assert set(PROMPT_FAULTS) == {word.value for word in PromptFault}


@pytest.mark.parametrize("provider", POLLED)
async def test_fail_and_cancel_end_a_job_without_a_result(client: Client, clock: Clock, provider: str) -> None:
    for prompt, ends in (("[fail] please", FAILED), ("please [CANCEL]", CANCELED)):
        _, reply = await client.submit(provider, prompt)
        clock.time += 100
        status, document = await client.check(provider, reply)
        assert (status, status_of(document)) == (200, ends[provider])


@pytest.mark.parametrize("provider", POLLED)
async def test_slow_takes_five_times_as_long_and_stuck_never_ends(client: Client, clock: Clock, provider: str) -> None:
    good = {"Success", "completed", "SUCCEEDED"}
    _, slow = await client.submit(provider, "[slow]")
    _, stuck = await client.submit(provider, "[stuck]")
    clock.time += 15
    assert status_of((await client.check(provider, slow))[1]) not in good
    clock.time += 50
    assert status_of((await client.check(provider, slow))[1]) in good
    clock.time += 1000
    assert status_of((await client.check(provider, stuck))[1]) not in {*good, *FAILED.values()}


@pytest.mark.parametrize("provider", POLLED)
async def test_unknown_shows_an_undocumented_word(client: Client, clock: Clock, provider: str) -> None:
    _, reply = await client.submit(provider, "[unknown]")
    seen = set()
    for _ in range(60):
        seen.add(status_of((await client.check(provider, reply))[1]))
        clock.time += 0.25
    assert UNDOCUMENTED in seen
    assert seen & {"Success", "completed", "SUCCEEDED"}


@pytest.mark.parametrize("provider", ALL)
async def test_429_refuses_the_first_submit_and_accepts_the_second(
    simulator: Simulator, client: Client, provider: str
) -> None:
    assert [(await client.submit(provider, "[429]"))[0] for _ in range(4)] == [429, 200, 429, 200]
    assert simulator.submits[provider] == 2


@pytest.mark.parametrize("provider", ALL)
async def test_a_submit_refused_by_a_word_creates_no_job(simulator: Simulator, client: Client, provider: str) -> None:
    assert (await client.submit(provider, "[500]"))[0] == 500
    assert (await client.submit(provider, "[reject]"))[0] == REJECTED[provider]
    assert (await client.submit(provider, "[credits]"))[0] == NO_CREDIT[provider]
    assert (simulator.submits[provider], simulator.jobs(provider)) == (0, [])


@pytest.mark.parametrize("provider", POLLED)
async def test_flaky_answers_every_second_poll_with_an_html_page(client: Client, provider: str) -> None:
    _, reply = await client.submit(provider, "[flaky]")
    answers = [await client.check(provider, reply) for _ in range(4)]
    assert [status for status, _ in answers] == [200, 502, 200, 502]
    assert b"<html>" in answers[1][1]


@pytest.mark.parametrize("provider", POLLED)
async def test_cut_breaks_one_poll_answer(client: Client, provider: str) -> None:
    _, reply = await client.submit(provider, "[cut]")
    assert (await client.check(provider, reply))[0] == 200
    with pytest.raises(aiohttp.ClientPayloadError):
        await client.check(provider, reply)
    assert (await client.check(provider, reply))[0] == 200


async def test_a_stream_obeys_the_words_too(client: Client) -> None:
    _, failed = await client.submit("ainow", "[fail]")
    assert json.loads(failed.strip().split(b"data: ")[-1])["status"] == "Error"
    _, odd = await client.submit("ainow", "[unknown]")
    assert UNDOCUMENTED.encode() in odd
    with pytest.raises(aiohttp.ClientPayloadError):
        await client.submit("ainow", "[cut]")


async def test_a_stuck_stream_continues_until_its_client_disconnects(client: Client) -> None:
    order = {"model": "pika", "prompt": "[stuck]"}
    async with client.session.post("/api/generate", json=order, headers=client.key("ainow")) as response:
        for _ in range(100):
            assert b"Completed" not in await response.content.readuntil(b"\n\n")
    assert (await client.submit("ainow"))[0] == 200
