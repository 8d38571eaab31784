"""Jobs from their order to their one final event: submits, retries, refunds and restarts."""

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from proxy.core.clock import SystemClock
from proxy.core.errors import Unavailable
from proxy.core.job import Draft, Job, Order, Ticket
from proxy.runner.services import RunnerLimits
from proxy.store import open_store
from proxy.store.blobs import Blobs
from proxy.store.sqlite.store import SqliteStore
from proxy.store.types import Admission, Claim
from proxy.upstream.times import UpstreamTimes
from tests.support.deployment import Deployment, JumpClock
from tests.support.ports import free_port
from tests.support.site import Site


def final_of(events: list[dict[str, Any]]) -> dict[str, Any]:
    assert [event["status"] in {"Completed", "Error", "Canceled"} for event in events].count(True) == 1
    return events[-1]


def details_of(events: list[dict[str, Any]]) -> list[str]:
    return [event["detail"] for event in events if "detail" in event]


async def wait_for_calls(deployment: Deployment, operation: str, times: int = 1) -> None:
    """Wait until the simulator has received `times` calls of an operation."""
    while deployment.simulator.calls[operation] < times:
        await asyncio.sleep(0.001)


async def models_of(deployment: Deployment) -> dict[str, dict[str, Any]]:
    """Return the models by id."""
    models: list[dict[str, Any]] = (await deployment.http.get("/api/models")).json()["models"]
    return {model["id"]: model for model in models}


# --- the answer to a submit ---


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("401", "upstream_auth"),
        ("402", "upstream_credits"),
        ("418", "upstream_credits"),
        ("credits", "upstream_credits"),
        ("403", "upstream_rejected"),
        ("422", "upstream_rejected"),
        ("redirect", "upstream_rejected"),
        ("500", "upstream_failed"),
        ("502 html", "outcome_unknown"),
        ("drop", "outcome_unknown"),
        ("cut", "outcome_unknown"),
        ("malformed", "outcome_unknown"),
        ("empty", "outcome_unknown"),
        ("wrong types", "outcome_unknown"),
        ("html", "outcome_unknown"),
    ],
)
async def test_a_failed_submit_is_sent_once_named_and_refunded(deployment: Deployment, fault: str, code: str) -> None:
    deployment.simulator.fault("gaga.submit", fault)
    final = final_of(await deployment.generate("gaga-1", prompt="Hello"))
    assert (final["status"], final["code"], final["refunded"]) == ("Error", code, 20)
    assert final["message"]
    assert deployment.simulator.calls["gaga.submit"] == 1
    assert await deployment.balance() == 1000


@pytest.mark.parametrize("fault", ["429", "503"])
async def test_an_order_that_was_certainly_not_taken_is_sent_again(deployment: Deployment, fault: str) -> None:
    deployment.simulator.fault("gaga.submit", fault, times=2)
    events = await deployment.generate("gaga-1", prompt="Hello")
    assert final_of(events)["status"] == "Completed"
    assert deployment.simulator.calls["gaga.submit"] == 3
    assert deployment.simulator.submits["gaga"] == 1
    waiting, taken, *_ = details_of(events)
    assert waiting.startswith("Waiting to be taken")
    assert taken == "Under way"


async def test_a_text_taken_after_a_wait_no_longer_says_that_it_waits(deployment: Deployment) -> None:
    deployment.simulator.fault("gaia.chat", "429", times=1)
    job = final_of(await deployment.generate("gpt-5.4-mini", prompt="Hello"))["job"]
    assert (await deployment.http.get(f"/api/jobs/{job}")).json()["detail"] == "Under way"


async def test_refused_connections_until_the_deadline_end_as_unreachable(unstarted: Deployment) -> None:
    unstarted.providers["Gaga"] = {"base_url": f"http://127.0.0.1:{free_port()}"}
    async with unstarted as deployment:
        final = final_of(await deployment.generate("gaga-1", prompt="Hello"))
        assert (final["code"], final["refunded"]) == ("upstream_unreachable", 20)


async def test_an_upload_with_passing_failures_is_repeated_before_the_submit(deployment: Deployment) -> None:
    image = await deployment.asset()
    deployment.simulator.fault("gaga.upload", "500", times=2)
    events = await deployment.generate("gaga-1", prompt="Hello", image=image)
    assert final_of(events)["status"] == "Completed"
    assert deployment.simulator.calls["gaga.upload"] == 3
    assert deployment.simulator.calls["gaga.submit"] == 1


async def test_an_asset_that_is_briefly_unreadable_is_read_again(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    asset, read, away = await deployment.asset(), Blobs.read, [1]

    async def sometimes(blobs: Blobs, name: str) -> bytes:
        if away:
            away.pop()
            raise Unavailable("The asset storage cannot serve now.")
        return await read(blobs, name)

    monkeypatch.setattr(Blobs, "read", sometimes)
    assert final_of(await deployment.generate("gaga-1", prompt="Hello", image=asset))["status"] == "Completed"


async def test_a_job_of_an_unknown_model_is_released_and_blocks_no_other(
    deployment: Deployment, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_store(deployment.store_url, deployment.clock) as store:
        key = await store.create_key("web", b"digest")
        order = Order("gaga-99", {"prompt": "Hello"})
        later = (await store.admit(Admission(key.account, key.id, order, 1, queue="Gaga"))).job.id
    final = final_of(await deployment.generate("gaga-1", prompt="Hello"))
    assert final["status"] == "Completed"
    assert f"{later} has the unknown model gaga-99; it waits for a version with it" in caplog.messages


async def test_a_job_whose_end_could_not_be_recorded_is_retried(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, errors = SqliteStore.append, [RuntimeError("An internal error.")]

    async def fail_once(store: SqliteStore, claim: Claim, draft: Draft, ticket: Ticket | None = None) -> Job:
        if draft.status.final and errors:
            raise errors.pop()
        return await append(store, claim, draft, ticket)

    monkeypatch.setattr(SqliteStore, "append", fail_once)
    deployment.simulator.fault("gaga.submit", "422")
    final = final_of(await deployment.generate("gaga-1", prompt="Hello"))
    assert (final["status"], final["refunded"], await deployment.balance()) == ("Error", 20, 1000)


async def test_a_refused_upload_ends_the_job_with_nothing_sent(deployment: Deployment) -> None:
    image = await deployment.asset()
    deployment.simulator.fault("gaga.upload", "422")
    final = final_of(await deployment.generate("gaga-1", prompt="Hello", image=image))
    assert (final["code"], final["refunded"]) == ("upstream_rejected", 20)
    assert deployment.simulator.calls["gaga.submit"] == 0


async def test_an_unreachable_input_url_ends_the_job_with_nothing_sent(deployment: Deployment) -> None:
    image = "https://pollcast-test.invalid/cat.png"
    final = final_of(await deployment.generate("gaga-1", prompt="Hello", image=image))
    assert (final["code"], final["refunded"]) == ("upstream_unreachable", 20)
    assert "Nothing was sent" in final["message"]
    assert deployment.simulator.calls["gaga.submit"] == 0


# --- polls ---


@pytest.mark.parametrize("fault", ["500", "502 html", "503", "429", "drop", "cut", "malformed", "empty", "html"])
async def test_passing_failures_of_polls_change_nothing(deployment: Deployment, fault: str) -> None:
    deployment.simulator.fault("gaga.check", fault, times=3)
    events = await deployment.generate("gaga-1", prompt="Hello")
    assert final_of(events)["status"] == "Completed"
    assert await deployment.balance() == 980


async def test_a_ticket_that_the_provider_does_not_know_yet_is_polled_again(deployment: Deployment) -> None:
    deployment.simulator.fault("gaga.check", "404", times=2)
    assert final_of(await deployment.generate("gaga-1", prompt="Hello"))["status"] == "Completed"


async def test_a_ticket_that_the_provider_no_longer_knows_ends_the_job(deployment: Deployment) -> None:
    deployment.simulator.fault("gaga.check", "404", after=2)
    final = final_of(await deployment.generate("gaga-1", prompt="[stuck]"))
    assert (final["code"], final["refunded"]) == ("upstream_failed", 20)


async def test_polls_that_stay_unreadable_end_the_job(deployment: Deployment) -> None:
    deployment.simulator.fault("gaga.check", "malformed")
    final = final_of(await deployment.generate("gaga-1", prompt="Hello"))
    assert (final["code"], final["refunded"]) == ("upstream_protocol", 20)


async def test_a_refused_credential_suspends_the_job_without_ending_it(deployment: Deployment) -> None:
    deployment.simulator.fault("gaga.check", "401", times=5)
    events = await deployment.generate("gaga-1", prompt="Hello")
    assert final_of(events)["status"] == "Completed"
    assert any(detail.startswith("Suspended") for detail in details_of(events))


async def test_an_unknown_status_word_is_shown_and_the_job_continues(deployment: Deployment) -> None:
    events = await deployment.generate("gaga-1", prompt="[unknown] Hello")
    assert "Reticulating" in details_of(events)
    assert final_of(events)["status"] == "Completed"


@pytest.mark.parametrize(
    "order",
    [
        {"model": "gaga-1", "prompt": "[unknown]"},
        {"model": "grok-imagine-video", "prompt": "[unknown]"},
        {"model": "heygen-v1", "prompt": "[unknown]", "avatar_id": "a"},
        {"model": "ganai-bulk", "items": [{"unique_id": "a", "names": "[unknown]"}]},
    ],
)
async def test_an_unknown_status_word_is_logged_once(
    deployment: Deployment, caplog: pytest.LogCaptureFixture, order: dict[str, Any]
) -> None:
    for _ in range(2):
        await deployment.generate(**order)
    messages = [record.getMessage() for record in caplog.records if "page does not name" in record.getMessage()]
    assert len(messages) == 1
    assert "'Reticulating'" in messages[0]


async def test_a_job_that_never_ends_upstream_ends_at_its_deadline(deployment: Deployment) -> None:
    final = final_of(await deployment.generate("gaga-1", prompt="[stuck]"))
    assert (final["code"], final["refunded"]) == ("deadline_exceeded", 20)
    assert await deployment.balance() == 1000


async def test_a_poll_without_news_makes_no_event(deployment: Deployment) -> None:
    events = await deployment.generate("gaga-1", prompt="[stuck]")
    assert deployment.simulator.calls["gaga.check"] > 20
    assert len(events) < 8


async def test_a_cancel_by_the_provider_refunds_all(deployment: Deployment) -> None:
    final = final_of(await deployment.generate("gaga-1", prompt="[cancel]"))
    assert (final["status"], final["refunded"]) == ("Canceled", 20)
    assert await deployment.balance() == 1000


async def test_a_provider_with_one_slot_gets_one_order_at_a_time(unstarted: Deployment) -> None:
    unstarted.providers["Gaga"] = {"concurrency": 1}
    async with unstarted as deployment:
        jobs = [await deployment.submit("gaga-1", prompt=str(n)) for n in range(3)]
        for job in jobs:
            assert (await deployment.ended(job["id"]))["status"] == "Completed"
        asked = [request.operation for request in deployment.simulator.requests]
        submits = [n for n, operation in enumerate(asked) if operation == "gaga.submit"]
        # Between two submits the first job was polled to its end.
        assert all("gaga.check" in asked[first:second] for first, second in itertools.pairwise(submits))


async def test_requests_over_a_provider_s_rate_wait(unstarted: Deployment) -> None:
    unstarted.providers["Gaga"] = {"rate": 0.1}
    async with unstarted as deployment:
        began = deployment.clock.now()
        await deployment.generate("gaga-1", prompt="Hello")
        requests = sum(deployment.simulator.calls.values())
        assert deployment.clock.now() - began > (requests - 1) * 10 - 1


async def test_running_jobs_wait_while_their_provider_s_breaker_is_open(deployment: Deployment) -> None:
    deployment.simulator.fault("gaga.check", "500", times=12)
    events = await deployment.generate("gaga-1", prompt="Hello")
    assert final_of(events)["status"] == "Completed"


async def test_failures_between_successful_streams_do_not_open_the_breaker(
    deployment: Deployment,
) -> None:
    for _ in range(6):
        deployment.simulator.fault("gaia.chat", "500", times=1)
        assert final_of(await deployment.generate("gpt-5.4-mini", prompt="Hello"))["code"] == "upstream_failed"
        assert final_of(await deployment.generate("gpt-5.4-mini", prompt="Hello"))["status"] == "Completed"


async def test_an_open_breaker_refuses_new_orders(unstarted: Deployment) -> None:
    unstarted.providers["Gaga"] = {"poll_interval": 0.01}
    unstarted.clock = SystemClock()
    async with unstarted as deployment:
        deployment.simulator.fault("gaga.check", "500")
        job, _ = [await deployment.submit("gaga-1", prompt=prompt) for prompt in ("one", "two")]
        while (models := await models_of(deployment))["gaga-1"]["available"]:
            await asyncio.sleep(0.01)
        answer = await deployment.http.post("/api/jobs", json={"model": "gaga-1", "prompt": "Hello"})
        assert (answer.status_code, answer.json()["code"]) == (503, "provider_unavailable")
        assert 0 < int(answer.headers["retry-after"]) <= 10
        assert models["suno"]["available"]
        assert (await deployment.http.get(f"/api/jobs/{job['id']}")).json()["status"] == "Processing"
        asked = deployment.simulator.calls["gaga.check"]
        await asyncio.sleep(0.1)
        assert deployment.simulator.calls["gaga.check"] == asked


async def test_failed_polls_of_one_job_do_not_open_the_breaker(unstarted: Deployment) -> None:
    unstarted.providers["Gaga"] = {"poll_interval": 0.01}
    unstarted.clock = SystemClock()
    async with unstarted as deployment:
        deployment.simulator.fault("gaga.check", "500")
        await deployment.submit("gaga-1", prompt="Hello")
        await wait_for_calls(deployment, "gaga.check", 20)
        answer = await deployment.http.post("/api/jobs", json={"model": "gaga-1", "prompt": "Hello"})
        assert answer.status_code == 202


async def test_an_account_with_many_jobs_does_not_starve_another(unstarted: Deployment) -> None:
    unstarted.providers["Gaga"] = {"concurrency": 1}
    async with unstarted as deployment:
        many = [await deployment.submit("gaga-1", prompt=str(n)) for n in range(8)]
        other = {"Authorization": f"Bearer {await deployment.new_key('other', 100)}"}
        one = (await deployment.http.post("/api/jobs", json={"model": "gaga-1", "prompt": "one"}, headers=other)).json()
        await deployment.messages("GET", f"/api/jobs/{one['id']}/events", headers=other)
        last = (await deployment.http.get(f"/api/jobs/{many[-1]['id']}")).json()
        assert last["status"] == "Processing started"


# --- bulk ---


async def test_failed_items_are_refunded_in_the_final_event(deployment: Deployment) -> None:
    items = [{"unique_id": "a", "names": "A"}, {"unique_id": "b", "names": "[fail]"}, {"unique_id": "c", "names": "C"}]
    final = final_of(await deployment.generate("ganai-bulk", items=items))
    assert (final["status"], final["refunded"]) == ("Completed", 10)
    assert [(output["unique_id"], output["status"]) for output in final["outputs"]] == [
        ("a", "Completed"),
        ("b", "Error"),
        ("c", "Completed"),
    ]
    assert await deployment.balance() == 1000 - 30 + 10


async def test_a_process_suspended_past_a_deadline_polls_once_more(deployment: Deployment) -> None:
    job = (await deployment.submit("gaga-1", prompt="[slow]"))["id"]
    await wait_for_calls(deployment, "gaga.check")
    deployment.clock.at += 10 * 3600
    assert (await deployment.ended(job))["status"] == "Completed"


async def test_a_process_suspended_before_the_first_poll_polls_once(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = SqliteStore.append

    async def sleep_after_ticket(store: SqliteStore, claim: Claim, draft: Draft, ticket: Ticket | None = None) -> Job:
        job = await append(store, claim, draft, ticket)
        if ticket is not None:
            deployment.clock.at += 10 * 3600
        return job

    monkeypatch.setattr(SqliteStore, "append", sleep_after_ticket)
    assert final_of(await deployment.generate("gaga-1", prompt="Hello"))["status"] == "Completed"


async def test_at_the_deadline_unfinished_items_count_as_failed(deployment: Deployment) -> None:
    items = [{"unique_id": "a", "names": "A"}, {"unique_id": "b", "names": "[stuck]"}]
    final = final_of(await deployment.generate("ganai-bulk", items=items))
    assert (final["status"], final["refunded"]) == ("Completed", 10)
    assert final["outputs"][1]["status"] == "Error"
    assert await deployment.balance() == 990


async def test_a_bulk_job_without_finished_items_is_a_refunded_error(deployment: Deployment) -> None:
    items = [{"unique_id": "a", "names": "[fail]"}, {"unique_id": "b", "names": "[stuck]"}]
    final = final_of(await deployment.generate("ganai-bulk", items=items))
    assert (final["status"], final["refunded"]) == ("Error", 20)
    assert await deployment.balance() == 1000


# --- streams that cannot be resumed ---


@pytest.mark.parametrize(("model", "operation"), [("suno", "ainow.generate"), ("gpt-5.4-mini", "gaia.chat")])
@pytest.mark.parametrize("fault", ["cut", "unfinished"])
async def test_a_broken_upstream_stream_is_interrupted_and_not_ordered_again(
    deployment: Deployment, model: str, operation: str, fault: str
) -> None:
    deployment.simulator.fault(operation, fault)
    final = final_of(await deployment.generate(model, prompt="Hello"))
    assert final["code"] == "interrupted"
    assert deployment.simulator.calls[operation] == 1
    assert await deployment.balance() == 1000


async def test_an_endless_upstream_stream_does_not_fill_the_log(
    unstarted: Deployment,
) -> None:
    unstarted.runner_limits = RunnerLimits(events=50)

    async def chatter(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for n in range(10_000):
            await response.write(b'data: {"status": "Step %d"}\n\n' % n)
        return response

    async with Site(chatter) as site:
        unstarted.providers["AI-Now"] = {"base_url": site.url}
        async with unstarted as deployment:
            events = await deployment.generate("suno", prompt="song")
            assert (final_of(events)["code"], len(events)) == ("interrupted", 51)
            assert await deployment.balance() == 1000


async def test_endless_text_ends_the_job(unstarted: Deployment) -> None:
    unstarted.runner_limits = RunnerLimits(text=20)
    async with unstarted as deployment:
        final = final_of(await deployment.generate("gpt-5.4-mini", prompt="Hello"))
        assert (final["code"], final["refunded"]) == ("upstream_protocol", 1)


async def test_an_answer_that_arrives_too_slowly_is_cut_off(
    deployment: Deployment,
) -> None:
    deployment.upstream_times = UpstreamTimes(read_silence=0.05)
    await deployment.restart()
    deployment.simulator.fault("gaga.check", "drip", times=2)
    assert final_of(await deployment.generate("gaga-1", prompt="Hello"))["status"] == "Completed"


async def test_an_oversized_answer_is_not_read_to_its_end(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.upstream.client._ANSWER_LIMIT", 1 << 20)
    deployment.simulator.fault("gaga.check", "huge", times=1)
    assert final_of(await deployment.generate("gaga-1", prompt="Hello"))["status"] == "Completed"


async def test_streamed_pieces_add_up_to_the_whole_text(deployment: Deployment) -> None:
    events = await deployment.generate("gpt-5.4-mini", prompt="Hello")
    pieces = [event for event in events if "delta" in event]
    assert "".join(piece["delta"] for piece in pieces) == events[-1]["text"]
    offset = 0
    for piece in pieces:
        assert piece["offset"] == offset
        offset += len(piece["delta"])
    assert (await deployment.http.get(events[-1]["url"])).text == events[-1]["text"]


# --- restarts ---


async def test_a_model_s_pace_is_known_after_a_restart(deployment: Deployment) -> None:
    for _ in range(10):
        await deployment.generate("gaga-1", prompt="Hello")
    await deployment.restart()
    await deployment.generate("suno", prompt="A song")  # the runner has loaded the durations by now
    window = deployment.app._runner.paces["gaga-1"].window  # noqa: SLF001 - it shows only in the times of polls
    assert window is not None
    assert 0 < window[0] <= window[1] < 120


async def test_a_job_with_a_ticket_is_resumed_and_not_ordered_again(deployment: Deployment) -> None:
    deployment.simulator.fault("gaga.check", "stall", after=1, times=1)
    job = await deployment.submit("gaga-1", prompt="Hello")
    await wait_for_calls(deployment, "gaga.check", 2)
    before = (await deployment.http.get(f"/api/jobs/{job['id']}")).json()["event"]
    await deployment.restart()
    messages = await deployment.messages("GET", f"/api/jobs/{job['id']}/events", last=str(before))
    assert [message.id for message in messages] == [str(before + n) for n in range(1, len(messages) + 1)]
    assert '"Completed"' in messages[-1].data
    assert deployment.simulator.submits["gaga"] == 1


async def test_a_resumed_job_past_its_deadline_is_polled_once_more(deployment: Deployment) -> None:
    deployment.simulator.fault("gaga.check", "timeout", times=1)
    job = await deployment.submit("gaga-1", prompt="Hello")
    await wait_for_calls(deployment, "gaga.check")
    await deployment.stop()
    deployment.clock.at += 10 * 3600  # its deadline has passed long ago
    await deployment.start()
    assert (await deployment.ended(job["id"]))["status"] == "Completed"


class EndlessSleepClock(JumpClock):
    """A clock on which a sleep of 100 seconds or more does not end before the stop."""

    async def sleep(self, seconds: float) -> None:
        if seconds >= 100:
            await asyncio.Event().wait()
        await super().sleep(seconds)


async def test_an_order_not_taken_before_a_stop_is_sent_after_it(tmp_path: Path) -> None:
    async with Deployment(tmp_path, clock=EndlessSleepClock()) as deployment:
        deployment.simulator.fault("gaga.submit", "503", times=1, retry_after=100)
        job = await deployment.submit("gaga-1", prompt="Hello")
        while (await deployment.http.get(f"/api/jobs/{job['id']}")).json()["event"] < 2:
            await asyncio.sleep(0.001)
        await deployment.restart()
        assert (await deployment.ended(job["id"]))["status"] == "Completed"
        assert deployment.simulator.calls["gaga.submit"] == 2
        assert deployment.simulator.submits["gaga"] == 1


async def test_a_submit_cut_off_by_a_stop_is_never_sent_again(deployment: Deployment) -> None:
    deployment.simulator.fault("gaga.submit", "timeout")
    job = await deployment.submit("gaga-1", prompt="Hello")
    await wait_for_calls(deployment, "gaga.submit")
    await deployment.restart()
    ended = await deployment.ended(job["id"])
    assert (ended["code"], ended["refunded"]) == ("outcome_unknown", 20)
    assert deployment.simulator.calls["gaga.submit"] == 1
    assert await deployment.balance() == 1000


async def test_a_stream_cut_off_by_a_stop_ends_as_interrupted(deployment: Deployment) -> None:
    deployment.simulator.fault("ainow.generate", "stall")
    job = await deployment.submit("suno", prompt="song")
    while (await deployment.http.get(f"/api/jobs/{job['id']}")).json()["event"] < 2:
        await asyncio.sleep(0.001)
    await deployment.restart()
    assert (await deployment.ended(job["id"]))["code"] == "interrupted"
    assert await deployment.balance() == 1000


async def test_a_draining_stop_reads_a_stream_to_its_end(unstarted: Deployment) -> None:
    unstarted.settings["drain"] = 10
    async with unstarted as deployment:
        job = await deployment.submit("suno", prompt="song")
        await wait_for_calls(deployment, "ainow.generate")
        await deployment.restart()
        assert (await deployment.ended(job["id"]))["status"] == "Completed"
        assert deployment.simulator.calls["ainow.generate"] == 1


async def test_a_draining_stop_waits_for_a_running_submit(unstarted: Deployment) -> None:
    asked = asyncio.Event()

    async def refuse_in_a_while(_: web.Request) -> web.Response:
        asked.set()
        await asyncio.sleep(0.3)  # real time: a stop waits in no other
        return web.json_response({"detail": "Invalid parameter"}, status=422)

    unstarted.settings["drain"] = 10
    async with Site(refuse_in_a_while) as site:
        unstarted.providers["Gaga"] = {"base_url": site.url}
        async with unstarted as deployment:
            job = await deployment.submit("gaga-1", prompt="Hello")
            await asked.wait()
            await deployment.restart()
            assert (await deployment.ended(job["id"]))["code"] == "upstream_rejected"


async def test_a_job_not_sent_before_a_stop_is_sent_after_it(deployment: Deployment) -> None:
    image = await deployment.asset()
    deployment.simulator.fault("gaga.upload", "timeout", times=1)
    job = await deployment.submit("gaga-1", prompt="Hello", image=image)
    await wait_for_calls(deployment, "gaga.upload")
    await deployment.restart()
    assert (await deployment.ended(job["id"]))["status"] == "Completed"
    assert deployment.simulator.submits["gaga"] == 1


# --- results ---


async def test_results_that_need_the_key_are_relayed_behind_a_link(deployment: Deployment) -> None:
    final = final_of(await deployment.generate("grok-imagine-video", prompt="rain"))
    assert final["url"].startswith(f"{deployment.origin}/api/jobs/")
    answer = await deployment.http.get(final["url"], headers={"Authorization": ""})
    assert answer.content == deployment.media("video")
    assert answer.headers["content-type"] == "video/mp4"
    ranged = await deployment.http.get(final["url"], headers={"Authorization": "", "Range": "bytes=4-7"})
    assert (ranged.status_code, ranged.content) == (206, b"ftyp")


async def test_inline_results_are_stored_and_served(deployment: Deployment) -> None:
    final = final_of(await deployment.generate("gpt-image-2", prompt="[b64] cat", n=2))
    assert len(final["outputs"]) == 2
    for output in final["outputs"]:
        answer = await deployment.http.get(output["url"])
        assert answer.content == deployment.media("image")
        assert answer.headers["x-content-type-options"] == "nosniff"
    suffix = await deployment.http.get(final["url"], headers={"Range": "bytes=-4"})
    assert (suffix.status_code, suffix.content) == (206, deployment.media("image")[-4:])
    beyond = await deployment.http.get(final["url"], headers={"Range": "bytes=999999-"})
    assert (beyond.status_code, beyond.json()["code"]) == (416, "range_not_satisfiable")


async def test_public_results_are_redirected_to_a_fresh_url(deployment: Deployment) -> None:
    events = await deployment.generate("heygen-v1", prompt="hi", avatar_id="a")
    job = events[0]["job"]
    answer = await deployment.http.get(f"/api/jobs/{job}/content")
    assert answer.status_code == 302
    assert answer.headers["location"] != final_of(events)["url"]
    assert (await deployment.http.get(answer.headers["location"])).content == deployment.media("video")


async def test_with_results_on_relay_no_provider_url_is_shown(unstarted: Deployment) -> None:
    unstarted.settings["results"] = "relay"
    async with unstarted as deployment:
        final = final_of(await deployment.generate("gaga-1", prompt="Hello"))
        assert final["url"].startswith(deployment.origin)
        assert (await deployment.http.get(final["url"], headers={"Authorization": ""})).content == deployment.media(
            "video"
        )


async def test_content_is_409_before_the_end_and_404_for_failed_jobs(deployment: Deployment) -> None:
    job = await deployment.submit("gpt-5.4-mini", prompt="[stuck]")
    answer = await deployment.http.get(f"/api/jobs/{job['id']}/content")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    failed = (await deployment.generate("gaga-1", prompt="[fail]"))[0]["job"]
    assert (await deployment.http.get(f"/api/jobs/{failed}/content")).status_code == 404


async def test_content_of_a_failed_or_missing_item_is_404(deployment: Deployment) -> None:
    items = [{"unique_id": "a", "names": "[fail]"}, {"unique_id": "b", "names": "B"}]
    job = (await deployment.generate("ganai-bulk", items=items))[0]["job"]
    failed, made, beyond = [await deployment.http.get(f"/api/jobs/{job}/content/{n}") for n in (0, 1, 2)]
    assert [failed.status_code, made.status_code, beyond.status_code] == [404, 302, 404]
    assert failed.json()["message"].startswith(f"Output 0 of {job} failed: ")
    assert beyond.json()["message"].startswith(f"{job} has no output 2.")


# --- assets ---


async def test_an_asset_is_stored_described_served_and_deleted(deployment: Deployment) -> None:
    asset = await deployment.asset()
    shown = (await deployment.http.get(f"/api/assets/{asset}")).json()
    assert (shown["id"], shown["type"], shown["size"]) == (asset, "image/png", len(deployment.media("image")))
    assert (await deployment.http.get(shown["url"], headers={"Authorization": ""})).content == deployment.media("image")
    head = await deployment.http.head(f"/api/assets/{asset}/content")
    assert head.headers["content-length"] == str(len(deployment.media("image")))
    assert (await deployment.http.delete(f"/api/assets/{asset}")).status_code == 204
    assert (await deployment.http.get(f"/api/assets/{asset}")).status_code == 404


async def test_the_bytes_decide_an_asset_s_type(deployment: Deployment) -> None:
    files = {"file": ("cat.png", b"<html><script>alert(1)</script>", "image/png")}
    answer = await deployment.http.post("/api/assets", files=files)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_type")


async def test_an_asset_over_the_limit_is_413(unstarted: Deployment) -> None:
    unstarted.settings["asset_limit"] = 1000
    async with unstarted as deployment:
        for size in (2000, 200_000):
            files = {"file": ("cat.png", b"\x89PNG\r\n\x1a\n" + b"x" * size, "image/png")}
            answer = await deployment.http.post("/api/assets", files=files)
            assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


@pytest.mark.parametrize(
    "url", ["http://example.com/a.png", "https://127.0.0.1/a.png", "https://localhost/", "ftp://x/", "x", ""]
)
async def test_an_asset_url_must_be_public_https(deployment: Deployment, url: str) -> None:
    answer = await deployment.http.post("/api/assets", json={"url": url})
    assert (answer.status_code, [fault["field"] for fault in answer.json()["errors"]]) == (422, ["url"])


async def test_an_asset_upload_without_a_file_names_the_field(deployment: Deployment) -> None:
    answer = await deployment.http.post("/api/assets", files={"image": ("a.png", b"x")})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "file")
    assert (await deployment.http.post("/api/assets", content=b"\x89PNG")).status_code == 400


async def test_an_asset_used_by_an_unfinished_job_cannot_be_deleted(deployment: Deployment) -> None:
    image = await deployment.asset()
    deployment.simulator.fault("gaga.upload", "timeout")
    await deployment.submit("gaga-1", prompt="Hello", image=image)
    answer = await deployment.http.delete(f"/api/assets/{image}")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
