"""Polls that are due together become one request, and a batch ends no job."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from proxy.core.job import Ticket
from proxy.core.provider_health import Outcome
from proxy.providers.base import Provider, Update
from proxy.runner.poll_batches import BatchedPoll, PollBatches
from proxy.runner.services import RunnerTimes
from proxy.upstream import breaker
from proxy.upstream.answers import (
    Answer,
    CredentialRefused,
    CreditRefused,
    LastAnswers,
    RateLimited,
    ReadFailed,
    Transient,
    UnreadableAnswer,
)
from proxy.upstream.breaker import Subject
from tests.support.deployment import Deployment, JumpClock

# --- one provider that reads many states ---


class ManyStates:
    """A provider with `check_many`. It notes the ids of each request, and refuses a batch with the id `bad`."""

    name = "Many"

    def __init__(self, *failures: ReadFailed, size: int = 100) -> None:
        self.clock = JumpClock()
        self.batches = PollBatches(self.clock, RunnerTimes())
        self.breaker = breaker.Breaker(self.clock)
        self.upstream = self
        self.batched: list[list[str]] = []
        self.alone: list[str] = []
        self.missing: set[str] = set()
        self._failures = list(failures)
        self._size = size

    def batch_size(self, ticket: Ticket) -> int:
        del ticket
        return self._size

    async def check_many(self, tickets: Sequence[Ticket]) -> Sequence[Answer | None]:
        ids = [ticket["id"] for ticket in tickets]
        self.batched.append(ids)
        if self._failures:
            self.breaker.record_failure()
            raise self._failures.pop(0)
        if "bad" in ids:
            raise ReadFailed("Unknown id.", is_refusal=True)
        return [None if each in self.missing else Answer(200, {}, each.encode(), 0) for each in ids]

    def read_part(self, ticket: Ticket, part: Answer, last_answers: LastAnswers) -> Update:
        del last_answers
        assert part.body.decode() == ticket["id"]
        return Update(detail="batch")

    async def check(self, ticket: Ticket, last_answers: LastAnswers) -> Update:
        del last_answers
        self.alone.append(ticket["id"])
        return Update(detail="alone")

    def trace_failed_batch(self, error: ReadFailed) -> None:
        """Trace nothing."""

    def member(self) -> BatchedPoll:
        return BatchedPoll(cast("Provider", self), self.batches)

    async def poll(self, *ids: str, members: Sequence[BatchedPoll] = ()) -> list[Any]:
        """Poll all of them at once, and return each one's detail or error."""
        members = members or [self.member() for _ in ids]
        checks = (self._check(member, each) for member, each in zip(members, ids, strict=True))
        found = await asyncio.gather(*checks, return_exceptions=True)
        return [each.detail if isinstance(each, Update) else each for each in found]

    async def _check(self, member: BatchedPoll, each: str) -> Update:
        breaker.subjects.set((Subject(f"account of {each}", each),))
        return await member.check({"id": each}, LastAnswers())


@asynccontextmanager
async def running(provider: ManyStates) -> AsyncIterator[ManyStates]:
    sending = asyncio.create_task(provider.batches.run())
    try:
        yield provider
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


def ids(number: int) -> list[str]:
    return [f"v{n}" for n in range(number)]


async def test_polls_that_are_due_together_become_requests_of_a_hundred() -> None:
    async with running(ManyStates()) as provider:
        assert await provider.poll(*ids(250)) == ["batch"] * 250
        assert [len(batch) for batch in provider.batched] == [100, 100, 50]


async def test_a_poll_without_company_is_made_alone() -> None:
    async with running(ManyStates()) as provider:
        assert await provider.poll("v1") == ["alone"]
        assert provider.batched == []


async def test_a_ticket_that_no_batch_can_read_is_polled_at_once() -> None:
    provider = ManyStates(size=1)  # no batch is ever sent
    assert await provider.poll("v1", "v2") == ["alone", "alone"]


async def test_a_job_missing_in_the_answer_is_polled_alone() -> None:
    async with running(ManyStates()) as provider:
        provider.missing = {"v1"}
        assert await provider.poll(*ids(3)) == ["batch", "alone", "batch"]
        assert provider.alone == ["v1"]


async def test_a_refused_batch_is_halved_until_the_bad_id_is_alone() -> None:
    async with running(ManyStates()) as provider:
        assert await provider.poll(*ids(15), "bad") == ["batch"] * 14 + ["alone"] * 2
        assert provider.alone == ["v14", "bad"]
        assert [len(batch) for batch in provider.batched] == [16, 8, 8, 4, 4, 2, 2]


async def test_an_id_that_had_a_batch_refused_stays_alone() -> None:
    async with running(ManyStates()) as provider:
        members = [provider.member() for _ in range(5)]
        await provider.poll(*ids(4), "bad", members=members)
        provider.batched.clear()
        assert (await provider.poll(*ids(4), "bad", members=members))[-1] == "alone"
        assert all("bad" not in batch for batch in provider.batched)


@pytest.mark.parametrize("error", [Transient("HTTP 503", 7.0), CredentialRefused("HTTP 401")])
async def test_a_failed_batch_is_the_failure_of_each_of_its_polls(error: ReadFailed) -> None:
    async with running(ManyStates(error)) as provider:
        found = await provider.poll(*ids(3))
        assert [(type(each), each.message, each.wait) for each in found] == [
            (type(error), error.message, error.wait)
        ] * 3
        assert provider.alone == []


async def test_an_unreadable_batch_is_followed_by_polls_one_by_one() -> None:
    async with running(ManyStates(UnreadableAnswer("It is not JSON."))) as provider:
        assert await provider.poll(*ids(3)) == ["alone"] * 3


async def test_a_failed_batch_counts_once_for_the_circuit_breaker() -> None:
    async with running(ManyStates(*[Transient("HTTP 503")] * 2)) as provider:
        await provider.poll(*ids(50))
        await provider.poll(*ids(50))
        assert not provider.breaker.is_open


async def test_several_failed_batches_in_a_row_pause_the_batches() -> None:
    async with running(ManyStates(*[Transient("HTTP 503")] * 3)) as provider:
        for _ in range(3):
            await provider.poll(*ids(2))
        assert await provider.poll(*ids(2)) == ["alone", "alone"]
        provider.clock.at += RunnerTimes().batch_pause
        assert await provider.poll(*ids(2)) == ["batch", "batch"]


@pytest.mark.parametrize("error", [RateLimited("HTTP 429"), CredentialRefused("HTTP 401"), CreditRefused("HTTP 402")])
async def test_refusals_of_the_pace_or_the_key_do_not_pause_the_batches(error: ReadFailed) -> None:
    async with running(ManyStates(*[error] * 4)) as provider:
        for _ in range(4):
            await provider.poll(*ids(2))
        assert await provider.poll(*ids(2)) == ["batch", "batch"]


async def test_jobs_are_polled_one_by_one_while_the_breaker_is_open() -> None:
    async with running(ManyStates()) as provider:
        for each in ids(6):
            provider.breaker.add_outcomes([Outcome(f"account of {each}", each, succeeded=False)], 0)
        assert provider.breaker.is_open
        assert await provider.poll(*ids(3)) == ["alone"] * 3


async def test_a_canceled_poll_leaves_the_others_in_their_batch() -> None:
    async with running(ManyStates()) as provider:
        canceled = asyncio.create_task(provider.poll("v9"))
        await asyncio.sleep(0)
        canceled.cancel()
        assert await provider.poll(*ids(2)) == ["batch", "batch"]
        assert provider.batched == [["v0", "v1"]]


# --- HeyGen v3, at the simulator ---


@pytest.fixture
def many(tmp_path: Path) -> Deployment:
    times = RunnerTimes(batch_window=1.0)
    return Deployment(tmp_path, runner_times=times, provider={"concurrency": 1000}, settings={"max_jobs": 0})


async def order(deployment: Deployment, number: int, prompt: str = "Hello") -> list[str]:
    made = [await deployment.submit("heygen-v3", prompt=f"{prompt} {n}", avatar_id="Anna") for n in range(number)]
    return [job["id"] for job in made]


async def test_jobs_of_heygen_share_their_polls_and_complete(many: Deployment) -> None:
    async with many:
        jobs = await order(many, 20)
        ends = [await many.ended(job) for job in jobs]
        assert {end["status"] for end in ends} == {"Completed"}
        assert many.simulator.calls["heygen3.statuses"] > 0
        assert len({end["url"] for end in ends}) == 20


async def test_an_event_has_the_word_of_the_single_status(many: Deployment) -> None:
    async with many:
        jobs = await order(many, 10)
        await asyncio.gather(*map(many.ended, jobs))
        texts = [(await many.http.get(f"/api/jobs/{job}/events")).text for job in jobs]
        assert many.simulator.calls["heygen3.statuses"] > 0
        assert not any('"detail":"queued"' in text for text in texts)


async def test_a_video_that_only_the_bulk_status_does_not_find_goes_on(many: Deployment) -> None:
    async with many:
        jobs = await order(many, 3)
        many.simulator.heygen.v3.bulk_finds_videos = False
        assert {(await many.ended(job))["status"] for job in jobs} == {"Completed"}


async def test_a_trace_has_only_the_jobs_own_part(many: Deployment) -> None:
    many.settings["trace"] = str(many.folder / "traces")
    async with many:
        jobs = await order(many, 10)
        await asyncio.gather(*map(many.ended, jobs))
        videos = {job.id for (_, _), job in many.simulator.state.jobs.items()}
    texts = [file.read_text() for file in (many.folder / "traces").iterdir()]
    assert "/v3/videos/statuses" in "".join(texts)
    assert [sum(video in text for video in videos) for text in texts] == [1] * 10
