"""Batches of polls at HeyGen's bulk status, over a socket: what each job learns of an answer, and what it costs."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from proxy.core.job import Status
from proxy.providers.base import Update
from proxy.providers.heygen import HeyGen, HeyGenSettings
from proxy.runner.poll_batches import BatchedPoll, PollBatches
from proxy.runner.polling import Pace, Polling
from proxy.runner.services import RunnerTimes
from proxy.simulator import Simulator, default_keys
from proxy.telemetry import trace
from proxy.telemetry.trace import Traces
from proxy.upstream import breaker
from proxy.upstream.requests import Request
from tests.support.deployment import JumpClock
from tests.support.literal import Literal, Reply, said
from tests.support.outcomes import failed

BULK, SINGLE = "heygen3.statuses", "heygen3.check"
NUMBERS = count(1)
STATUSES = ("GET", "/v3/videos/statuses")


@dataclass
class Polled:
    """One job: its polls, and the account that ordered it."""

    name: str
    account: str
    polling: Polling
    clock: JumpClock
    recorder: trace.Recorder | None

    @property
    def video(self) -> str:
        return str(self.polling.ticket["video"])

    async def poll(self) -> Update | None:
        breaker.subjects.set((breaker.Subject(self.account, self.name),))
        trace.recorder.set(self.recorder)
        return await self.polling.poll(self.clock.at)


@dataclass
class Rig:
    """Jobs at one provider, and its shared polls."""

    provider: HeyGen
    clock: JumpClock
    batches: PollBatches
    traces: Traces | None = None

    def job(self, video: str, account: str = "a") -> Polled:
        name = f"job_{video}"
        polling = Polling(
            BatchedPoll(self.provider, self.batches),
            Pace(5),
            {"video": video},
            self.clock,
            submitted_at=self.clock.at,
            interval=5,
            resumed=False,
        )
        recorder = self.traces.of(name) if self.traces else None
        return Polled(name, account, polling, self.clock, recorder)

    async def order(self, number: int, script: str = "Hello") -> list[Polled]:
        """Order so many videos."""
        request = Request("/v3/videos", json={"type": "avatar", "avatar_id": "Anna", "script": script})
        tickets = [await self.provider.submit(replace(request, key=f"order-{next(NUMBERS)}")) for _ in range(number)]
        return [self.job(ticket["video"]) for ticket in tickets]


async def together(jobs: Collection[Polled]) -> list[Update | None]:
    """Poll the jobs in the same turn of the event loop, each in a task of its own."""
    return await asyncio.gather(*(asyncio.create_task(job.poll()) for job in jobs))


def details(updates: Sequence[Update | None]) -> list[str | None]:
    return [update.detail if update else None for update in updates]


@asynccontextmanager
async def rig_at(
    origin: str, clock: JumpClock, traces: Traces | None = None, rate: float = 10_000
) -> AsyncIterator[Rig]:
    settings = HeyGenSettings(base_url=origin, api_key=SecretStr(default_keys()["heygen"]), rate=rate)
    provider = HeyGen(settings, clock, "https://pollcast.example")
    async with provider.upstream:
        batches = PollBatches(clock, RunnerTimes())
        running = asyncio.create_task(batches.run())
        await asyncio.sleep(0)
        yield Rig(provider, clock, batches, traces)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


@pytest.fixture
def clock() -> JumpClock:
    return JumpClock()


@pytest.fixture
def gate() -> asyncio.Event:
    """Ends the pauses of the simulator's `slow` answers."""
    return asyncio.Event()


@pytest.fixture
async def simulator(clock: JumpClock, gate: asyncio.Event) -> AsyncIterator[Simulator]:
    async def pause(_: float) -> None:
        await gate.wait()

    async with Simulator(now=clock.now, sleep=pause) as simulator:
        yield simulator


@pytest.fixture
async def rig(simulator: Simulator, clock: JumpClock) -> AsyncIterator[Rig]:
    async with rig_at(simulator.origin, clock) as rig:
        yield rig


@pytest.fixture
async def upstream() -> AsyncIterator[Literal]:
    async with Literal() as upstream:
        yield upstream


@pytest.fixture
async def literal(upstream: Literal, clock: JumpClock, tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig_at(upstream.origin, clock, Traces(str(tmp_path / "traces"))) as rig:
        yield rig


def bulk(statuses: Mapping[str, str], *, status: int = 200, **headers: str) -> Reply:
    items = [{"video_id": video, "status": status} for video, status in statuses.items()]
    return said({"data": items, "has_more": False, "next_token": None}, status, **headers)


def single(video: str, status: str, **more: Any) -> Reply:
    return said({"data": {"id": video, "status": status, **more}})


# --- what becomes one request ---


async def test_250_jobs_due_together_make_three_requests(simulator: Simulator, rig: Rig) -> None:
    updates = await together(await rig.order(250))
    asked = [request.query["video_ids"].split(",") for request in simulator.requests if request.operation == BULK]
    assert sorted(map(len, asked)) == [50, 100, 100]
    assert len({video for ids in asked for video in ids}) == 250
    assert details(updates) == ["pending"] * 250
    assert simulator.calls[SINGLE] == 0


async def test_a_poll_that_is_due_alone_is_a_single_check(simulator: Simulator, rig: Rig) -> None:
    (job,) = await rig.order(1)
    await job.poll()
    assert (simulator.calls[BULK], simulator.calls[SINGLE]) == (0, 1)


async def test_each_job_is_given_its_own_state(rig: Rig) -> None:
    (early,) = await rig.order(1)
    rig.clock.at += 5
    (late,) = await rig.order(1)
    assert details(await together([late, early])) == ["pending", "processing"]


async def test_ended_jobs_learn_their_end_from_the_single_status(simulator: Simulator, rig: Rig) -> None:
    """The bulk status has neither URLs nor the reason of a failure."""
    jobs = await rig.order(2)
    jobs += await rig.order(1, "[fail]")
    rig.clock.at += 60
    completed, _, failed = await together(jobs)
    assert completed
    assert failed
    assert (completed.status, len(completed.outputs)) == (Status.COMPLETED, 3)
    assert failed.error
    assert "could not be rendered" in failed.error.message
    assert (simulator.calls[BULK], simulator.calls[SINGLE]) == (1, 3)


async def test_an_end_that_only_the_bulk_status_knows_is_asked_for_again(literal: Rig, upstream: Literal) -> None:
    """The single status may be behind. Its unchanged answer must not hide the end."""
    one, other = literal.job("v1"), literal.job("v2")
    upstream.on(*STATUSES, bulk({"v1": "completed", "v2": "processing"}))
    video = single("v1", "completed", video_url="https://files.heygen.ai/v.mp4")
    upstream.on("GET", "/v3/videos/v1", *[single("v1", "processing")] * 3, video)
    statuses = []
    for _ in range(4):
        update, _ = await together([one, other])
        statuses.append(update.status if update else None)
    assert statuses == [None, None, None, Status.COMPLETED]


async def test_the_bulk_status_and_the_single_one_use_the_same_words(rig: Rig) -> None:
    """The bulk status says `queued` where the single one says `pending`."""
    jobs = await rig.order(2)
    rig.clock.at += 2
    alone = await jobs[0].poll()
    shared = await together(jobs)
    assert details([alone, *shared]) == ["pending"] * 3


# --- refusals ---


async def test_a_refused_request_is_halved_until_the_bad_id_is_alone(simulator: Simulator, rig: Rig) -> None:
    jobs = await rig.order(8)
    bad = jobs[5]
    simulator.fault(BULK, "400", match=lambda received: bad.video in received.query["video_ids"])
    assert details(await together(jobs)) == ["pending"] * 4 + ["waiting"] * 2 + ["pending"] * 2
    assert (simulator.calls[BULK], simulator.calls[SINGLE]) == (5, 2)


async def test_a_refused_id_is_polled_alone_for_a_while(simulator: Simulator, rig: Rig) -> None:
    jobs = await rig.order(8)
    bad = jobs[5]
    simulator.fault(BULK, "400", match=lambda received: bad.video in received.query["video_ids"])
    await together(jobs)
    for _ in range(3):
        await together(jobs)
    assert simulator.calls[BULK] == 5 + 3


async def test_a_bad_id_s_single_refusal_is_told_to_its_job_only(simulator: Simulator, rig: Rig) -> None:
    jobs = await rig.order(4)
    bad = jobs[0]
    simulator.fault(BULK, "400", match=lambda received: bad.video in received.query["video_ids"])
    simulator.fault(SINGLE, "422", match=lambda received: received.params["job"] == bad.video)
    update, *others = await together(jobs)
    assert update
    assert "Waiting for a readable answer" in (update.detail or "")
    assert not [each for each in details(others) if each not in {"waiting", "pending"}]


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        ("401", "credentialrefused"),
        ("402", "creditrefused"),
        ("429", "ratelimited"),
        ("500", "transient"),
        ("502 html", "transient"),
        ("cut", "transient"),
    ],
)
async def test_trouble_that_is_not_an_id_s_is_not_halved(
    simulator: Simulator, rig: Rig, fault: str, outcome: str
) -> None:
    jobs = await rig.order(8)
    simulator.fault(BULK, fault)
    await together(jobs)
    assert {job.polling.outcome for job in jobs} == {outcome}
    assert (simulator.calls[BULK], simulator.calls[SINGLE]) == (1, 0)


@pytest.mark.parametrize(("fault", "shared"), [("500", 3), ("429", 5), ("401", 5), ("402", 5)])
async def test_jobs_are_polled_alone_while_batches_fail(
    simulator: Simulator, rig: Rig, fault: str, shared: int
) -> None:
    """Not after a rate limit, because they would be more requests, nor with a refused key."""
    jobs = await rig.order(2)
    simulator.fault(BULK, fault)
    for _ in range(5):
        await together(jobs)
    assert (simulator.calls[BULK], simulator.calls[SINGLE]) == (shared, 2 * (5 - shared))


@pytest.mark.parametrize("fault", ["html", "wrong types"])
async def test_after_an_unreadable_batch_each_job_is_polled_alone_at_once(
    simulator: Simulator, rig: Rig, fault: str
) -> None:
    jobs = await rig.order(2)
    simulator.fault(BULK, fault)
    assert None not in details(await together(jobs))
    assert (simulator.calls[BULK], simulator.calls[SINGLE]) == (1, 2)


# --- unknown and missing ids ---


async def test_not_found_ends_nothing_and_is_asked_about_alone(simulator: Simulator, rig: Rig) -> None:
    jobs = await rig.order(2)
    simulator.heygen.v3.deleted.add(jobs[0].video)
    shown = []
    for _ in range(3):
        shown.append(details(await together(jobs))[0])
        rig.clock.at += 6
    assert shown[:2] == [None, None]
    assert "The provider does not know this job now" in str(shown[2])
    simulator.heygen.v3.deleted.clear()
    update, _ = await together(jobs)
    assert update
    assert update.status is Status.COMPLETED


async def test_an_id_that_the_answer_leaves_out_is_checked_alone(literal: Rig, upstream: Literal) -> None:
    one, other = literal.job("v1"), literal.job("v2")
    upstream.on(*STATUSES, bulk({"v2": "processing"}))
    upstream.on("GET", "/v3/videos/v1", single("v1", "pending"))
    assert details(await together([one, other])) == ["pending", "processing"]


async def test_answers_are_matched_by_id_and_not_by_place(literal: Rig, upstream: Literal) -> None:
    upstream.on(*STATUSES, bulk({"v3": "queued", "other": "failed", "v1": "processing", "v2": "waiting"}))
    jobs = [literal.job(video) for video in ("v1", "v2", "v3")]
    assert details(await together(jobs)) == ["processing", "waiting", "pending"]


# --- the circuit breaker, the rate limit and hints ---


async def test_a_failed_request_counts_once_for_the_breaker(simulator: Simulator, rig: Rig) -> None:
    jobs = await rig.order(8)
    for job in jobs[::2]:
        job.account = "b"
    simulator.fault("heygen3.*", "500")
    await together(jobs)
    for job in jobs[1:4]:
        await job.poll()
        assert rig.provider.upstream.breaker.wait == 0
    await jobs[4].poll()
    assert rig.provider.upstream.breaker.wait > 0


async def test_a_batch_that_succeeds_counts_for_each_of_its_accounts(rig: Rig) -> None:
    jobs = await rig.order(2)
    jobs[1].account = "b"
    await together(jobs)
    failed(rig.provider.upstream.breaker, "1", "2", "3", "4", account="c")
    failed(rig.provider.upstream.breaker, "5", account="d")
    assert [rig.provider.upstream.breaker.wait_of(account) for account in "abcd"] == [0, 0, 9, 9]


async def test_a_shared_poll_takes_one_turn_of_the_rate_limit(simulator: Simulator, clock: JumpClock) -> None:
    async with rig_at(simulator.origin, clock, rate=1) as rig:
        jobs = await rig.order(50)
        began = clock.at
        await together(jobs)
        await together(jobs)
        await together(jobs)
        assert 1 < clock.at - began < 2.5


@pytest.mark.parametrize(
    "reply", [bulk({"v1": "processing", "v2": "queued"}, Retry_After="33"), bulk({}, status=429, Retry_After="33")]
)
async def test_a_hint_delays_the_next_poll_of_every_job(literal: Rig, upstream: Literal, reply: Reply) -> None:
    jobs = [literal.job("v1"), literal.job("v2")]
    upstream.on(*STATUSES, reply)
    for _ in range(2):  # the second answer is unchanged
        await together(jobs)
        assert [job.polling.delay for job in jobs] == [33, 33]


# --- one job and the others ---


async def test_a_job_that_is_canceled_leaves_the_shared_request_to_the_others(
    simulator: Simulator, rig: Rig, gate: asyncio.Event
) -> None:
    jobs = await rig.order(3)
    simulator.fault(BULK, "slow")
    tasks = [asyncio.create_task(job.poll()) for job in jobs]
    while not simulator.calls[BULK]:
        await asyncio.sleep(0.001)
    tasks[0].cancel()
    tasks[2].cancel()
    gate.set()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in ended] == [asyncio.CancelledError, Update, asyncio.CancelledError]
    assert (simulator.calls[BULK], simulator.calls[SINGLE]) == (1, 0)


async def test_a_job_that_is_canceled_before_the_request_is_not_asked_about(simulator: Simulator, rig: Rig) -> None:
    jobs = await rig.order(3)
    tasks = [asyncio.create_task(job.poll()) for job in jobs]
    await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    (asked,) = [request for request in simulator.requests if request.operation == BULK]
    assert asked.query["video_ids"] == f"{jobs[1].video},{jobs[2].video}"


async def test_a_job_compares_only_its_own_part_with_the_last_answer(literal: Rig, upstream: Literal) -> None:
    jobs = [literal.job("v1"), literal.job("v2")]
    statuses = [{"v1": "queued", "v2": "queued"}, {"v1": "queued", "v2": "processing"}]
    upstream.on(*STATUSES, *map(bulk, statuses))
    await together(jobs)
    await together(jobs)
    assert [job.polling.outcome for job in jobs] == ["unchanged", "news"]


async def test_a_job_s_trace_has_only_its_own_part(literal: Rig, upstream: Literal) -> None:
    jobs = [literal.job("v1"), literal.job("v2")]
    upstream.on(*STATUSES, bulk({"v1": "queued", "v2": "processing"}), said({"message": "v1 and v2 failed"}, 500))
    await together(jobs)
    await together(jobs)
    assert literal.traces is not None
    for own, other, job in (("v1", "v2", jobs[0]), ("v2", "v1", jobs[1])):
        answered, failed = literal.traces.read(job.name)
        assert (answered["method"], answered["path"], answered["status"]) == (*STATUSES, 200)
        assert own in answered["body"]
        assert other not in str([answered, failed])
        assert failed["error"]
