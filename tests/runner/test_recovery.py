"""Recovery of an order whose answer was lost: the same request with the same key, which buys once."""

import pytest

from proxy.runner.services import RunnerTimes
from tests.runner.test_cancel import cancel
from tests.runner.test_runner import final_of, wait_for_calls
from tests.support.deployment import Deployment

ORDER = {"prompt": "Hello", "avatar_id": "Anna"}


def keys_of(deployment: Deployment) -> list[str]:
    """Return the idempotency keys of the submits, in their order."""
    submits = [request for request in deployment.simulator.requests if request.operation == "heygen3.submit"]
    return [request.headers["Idempotency-Key"] for request in submits]


def bodies_of(deployment: Deployment) -> set[bytes]:
    """Return the different bodies of the submits."""
    return {request.raw for request in deployment.simulator.requests if request.operation == "heygen3.submit"}


def bought(deployment: Deployment) -> int:
    return int(deployment.simulator.heygen.v3.purchases.total())


@pytest.mark.parametrize(
    "fault", ["drop", "cut", "malformed", "empty", "wrong types", "html", "502 html", "504", "reset", "unfinished"]
)
async def test_an_order_with_a_lost_answer_is_repeated_and_bought_once(deployment: Deployment, fault: str) -> None:
    deployment.simulator.fault("heygen3.submit", fault, times=2)
    final = final_of(await deployment.generate("heygen-v3", **ORDER))
    assert final["status"] == "Completed", final
    keys = keys_of(deployment)
    assert set(keys) == {final["job"]}
    assert len(bodies_of(deployment) - {b""}) == 1
    assert bought(deployment) == 1
    assert await deployment.balance() == 980


async def test_a_redirected_repeat_does_not_end_an_order(deployment: Deployment) -> None:
    deployment.simulator.fault("heygen3.submit", "drop", times=1)
    deployment.simulator.fault("heygen3.submit", "redirect", times=2)
    final = final_of(await deployment.generate("heygen-v3", **ORDER))
    assert final["status"] == "Completed", final
    assert bought(deployment) == 1


async def test_a_request_in_progress_is_waited_for(deployment: Deployment) -> None:
    deployment.simulator.fault("heygen3.submit", "drop", times=1)
    deployment.simulator.heygen.v3.conflicts = 3
    final = final_of(await deployment.generate("heygen-v3", **ORDER))
    assert final["status"] == "Completed", final
    assert len(keys_of(deployment)) == 5
    assert bought(deployment) == 1


async def test_a_refused_repeat_ends_the_job_with_the_refusal(deployment: Deployment) -> None:
    deployment.simulator.fault("heygen3.submit", "502 html", times=1)
    deployment.simulator.fault("heygen3.submit", "422", times=1)
    final = final_of(await deployment.generate("heygen-v3", **ORDER))
    assert (final["code"], final["refunded"]) == ("upstream_rejected", 20)
    assert bought(deployment) == 0


@pytest.mark.parametrize("status", ["401", "402", "429", "500", "503"])
async def test_a_refusal_of_the_repeat_itself_does_not_end_the_job(deployment: Deployment, status: str) -> None:
    deployment.simulator.fault("heygen3.submit", "drop", times=1)
    deployment.simulator.fault("heygen3.submit", status, times=2)
    final = final_of(await deployment.generate("heygen-v3", **ORDER))
    assert final["status"] == "Completed", final
    assert (len(keys_of(deployment)), bought(deployment)) == (4, 1)


async def test_the_client_sees_why_an_answer_is_asked_for_again(deployment: Deployment) -> None:
    deployment.simulator.fault("heygen3.submit", "drop", times=1)
    deployment.simulator.fault("heygen3.submit", "402", times=3)
    events = await deployment.generate("heygen-v3", **ORDER)
    assert final_of(events)["status"] == "Completed"
    details = [event["detail"] for event in events if "detail" in event]
    assert details[0].startswith("Asking again for the provider's answer: The operator's account")
    assert sum(detail.startswith("Asking again") for detail in details) == 1
    assert details[1] == "Under way"


async def test_an_answer_lost_until_the_deadline_is_an_unknown_outcome(unstarted: Deployment) -> None:
    unstarted.providers["HeyGen"] = {"deadline": 120}
    async with unstarted as deployment:
        deployment.simulator.fault("heygen3.submit", "drop", times=1)
        deployment.simulator.fault("heygen3.submit", "402")
        final = final_of(await deployment.generate("heygen-v3", **ORDER))
        assert (final["code"], final["refunded"]) == ("outcome_unknown", 20)
        assert "Payment Required" in final["message"]
        assert bought(deployment) == 1
        assert await deployment.balance() == 1000


async def test_an_order_is_not_repeated_after_the_key_has_expired(unstarted: Deployment) -> None:
    unstarted.runner_times = RunnerTimes(repeat_limit=60)
    async with unstarted as deployment:
        deployment.simulator.fault("heygen3.submit", "drop")
        final = final_of(await deployment.generate("heygen-v3", **ORDER))
        assert final["code"] == "outcome_unknown"
        assert 5 <= len(keys_of(deployment)) <= 8


# --- after a crash ---


async def stopped_while_sending(deployment: Deployment, model: str = "heygen-v3") -> str:
    """Order a video, and stop the server between the submit and its ticket. Return the job's id."""
    deployment.simulator.fault("heygen3.submit", "timeout", times=1)
    job = await deployment.submit(model, **ORDER)
    await wait_for_calls(deployment, "heygen3.submit")
    await deployment.stop()
    deployment.simulator.clear_faults()
    return str(job["id"])


async def test_an_order_interrupted_by_a_stop_is_sent_again_unchanged(deployment: Deployment) -> None:
    job = await stopped_while_sending(deployment)
    await deployment.start()
    ended = await deployment.ended(job)
    assert ended["status"] == "Completed", ended
    assert keys_of(deployment) == [job, job]
    assert len(bodies_of(deployment)) == 1
    assert bought(deployment) == 1
    assert await deployment.balance() == 980


@pytest.mark.parametrize("v1", ["translate", "keep"])
async def test_a_translated_order_cut_off_by_a_stop_is_sent_again(unstarted: Deployment, v1: str) -> None:
    unstarted.providers["HeyGen"] = {"v1": "translate"}
    async with unstarted as deployment:
        job = await stopped_while_sending(deployment, "heygen-v1")
        deployment.providers["HeyGen"] = {"v1": v1}
        await deployment.start()
        ended = await deployment.ended(job)
        assert (ended["status"], ended["model"]) == ("Completed", "heygen-v1"), ended
        assert keys_of(deployment) == [job, job]
        assert (len(bodies_of(deployment)), bought(deployment)) == (1, 1)


async def test_an_untranslated_order_cut_off_by_a_stop_is_not_translated(deployment: Deployment) -> None:
    deployment.simulator.fault("heygen.submit", "timeout", times=1)
    job = await deployment.submit("heygen-v1", **ORDER)
    await wait_for_calls(deployment, "heygen.submit")
    await deployment.stop()
    deployment.providers["HeyGen"] = {"v1": "translate"}
    await deployment.start()
    assert (await deployment.ended(job["id"]))["code"] == "outcome_unknown"
    assert keys_of(deployment) == []


@pytest.mark.parametrize("changed", ["key", "url"])
async def test_an_order_is_not_repeated_at_another_account_or_url(deployment: Deployment, changed: str) -> None:
    job = await stopped_while_sending(deployment)
    if changed == "key":
        deployment.providers["HeyGen"] = {"api_key": "another"}
        deployment.simulator.keys["heygen"] = "another"
    else:
        deployment.providers["HeyGen"] = {"base_url": deployment.simulator.origin.replace("127.0.0.1", "localhost")}
    await deployment.start()
    ended = await deployment.ended(job)
    assert (ended["code"], ended["refunded"]) == ("outcome_unknown", 20)
    assert len(keys_of(deployment)) == 1


async def test_an_order_is_not_repeated_after_its_deadline(deployment: Deployment) -> None:
    job = await stopped_while_sending(deployment)
    deployment.clock.at += 2 * 3600
    await deployment.start()
    assert (await deployment.ended(job))["code"] == "outcome_unknown"
    assert len(keys_of(deployment)) == 1


@pytest.mark.parametrize(("hours", "submits"), [(22.9, 2), (23.1, 1)])
async def test_an_order_is_repeated_for_at_most_23_hours(unstarted: Deployment, hours: float, submits: int) -> None:
    unstarted.providers["HeyGen"] = {"deadline": 30 * 3600}
    async with unstarted as deployment:
        job = await stopped_while_sending(deployment)
        deployment.clock.at += hours * 3600
        await deployment.start()
        ended = await deployment.ended(job)
        assert (ended.get("code"), ended["refunded"]) == ((None, 0) if submits == 2 else ("outcome_unknown", 20))
        assert len(keys_of(deployment)) == submits
        assert bought(deployment) == 1


async def test_a_request_in_progress_is_waited_for_after_a_stop(deployment: Deployment) -> None:
    job = await stopped_while_sending(deployment)
    deployment.simulator.heygen.v3.conflicts = 3
    await deployment.start()
    assert (await deployment.ended(job))["status"] == "Completed"
    assert (len(keys_of(deployment)), bought(deployment)) == (5, 1)


async def test_a_canceled_order_is_sent_again_and_deleted(unstarted: Deployment) -> None:
    unstarted.providers["HeyGen"] = {"deadline": 80_000}
    async with unstarted as deployment:
        deployment.simulator.fault("heygen3.submit", "drop")
        job = await deployment.submit("heygen-v3", **ORDER)
        await wait_for_calls(deployment, "heygen3.submit")
        await cancel(deployment, job["id"])
        deployment.simulator.clear_faults()
        ended = await deployment.ended(job["id"])
        assert (ended["status"], ended["refunded"]) == ("Canceled", 0)
        assert bought(deployment) == 1
        assert deployment.simulator.calls["heygen3.delete"] == 1
        assert len(deployment.simulator.heygen.v3.deleted) == 1


async def test_an_order_canceled_before_a_stop_is_deleted_after_it(deployment: Deployment) -> None:
    deployment.simulator.fault("heygen3.submit", "timeout", times=1)
    job = await deployment.submit("heygen-v3", **ORDER)
    await wait_for_calls(deployment, "heygen3.submit")
    await cancel(deployment, job["id"])
    await deployment.restart()
    ended = await deployment.ended(job["id"])
    assert (ended["status"], ended["refunded"]) == ("Canceled", 0)
    assert (bought(deployment), deployment.simulator.calls["heygen3.delete"]) == (1, 1)
