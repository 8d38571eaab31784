"""The pace of polls: what is learnt of a model's durations, and what that saves."""

import math
import random
from itertools import pairwise
from typing import cast

import pytest

from proxy.core.errors import JobError, UpstreamFailed, UpstreamProtocol
from proxy.core.job import Ticket
from proxy.providers.base import Provider, Update
from proxy.runner.polling import Pace, Polling
from proxy.upstream.answers import (
    CredentialRefused,
    CreditRefused,
    LastAnswers,
    NotReady,
    ReadFailed,
    Resting,
    Transient,
    Unchanged,
    UnknownToProvider,
    UnreadableAnswer,
)
from tests.support.deployment import JumpClock


def polls(pace: Pace, duration: float, first: float = 2.0) -> list[float]:
    """The ages at which a job of that duration is polled, up to the poll that sees its end."""
    age = interval = first
    asked = [age]
    while age < duration:
        interval = pace.next_interval(interval, age)
        age += interval
        asked.append(age)
    return asked


def learnt(durations: list[float]) -> Pace:
    pace = Pace(2.0)
    for seconds in durations:
        pace.learn(seconds)
    return pace


def test_nothing_is_believed_before_ten_jobs_have_ended() -> None:
    assert learnt([60.0] * 9).window is None
    assert learnt([60.0] * 10).window == (60.0, 60.0)


def test_the_window_leaves_outliers_out() -> None:
    early, late = learnt([1.0, 1000.0, *([60.0] * 98)]).window or (0, 0)
    assert (early, late) == (60.0, 60.0)


@pytest.mark.parametrize(("told", "share"), [(10, 0.97), (30, 0.98), (500, 0.99)])
def test_the_window_holds_99_of_100_jobs_and_hardly_fewer_where_few_have_told_of_it(told: int, share: float) -> None:
    chance = random.Random(7)
    held = 0
    for _ in range(100):
        durations = [60 * math.exp(chance.gauss(0, 0.2)) for _ in range(told + 100)]
        early, late = learnt(durations[:told]).window or (0, 0)
        held += sum(early <= duration <= late for duration in durations[told:])
    assert share * 10_000 <= held < 10_000


def test_a_model_that_has_become_slower_or_faster_is_known_again_by_a_twentieth_of_what_is_remembered() -> None:
    for before, now in ((60.0, 90.0), (60.0, 40.0)):
        early, late = learnt([before] * 1000 + [now] * 30).window or (0, 0)
        assert early <= now <= late


def test_what_is_no_longer_remembered_narrows_the_window_again() -> None:
    assert learnt([10.0] * 500 + [60.0] * 500).window == (60.0, 60.0)


def test_durations_of_nothing_at_all_can_be_learnt() -> None:
    pace = learnt([0.0, -1.0] * 20)
    assert pace.next_interval(2.0, 0.0) == 2.0


def test_the_polls_before_the_window_are_evenly_apart_and_the_last_is_at_its_beginning() -> None:
    asked = [age for age in polls(learnt([47.0] * 20), 50) if age <= 47]
    assert asked == pytest.approx([2, 11, 20, 29, 38, 47])


def test_until_something_is_known_a_job_is_polled_each_tenth_of_its_age() -> None:
    asked = polls(Pace(2.0), 200)
    gaps = [(earlier, later - earlier) for earlier, later in pairwise(asked)]
    assert all(gap <= max(2.0, age / 10) + 1e-9 for age, gap in gaps)
    assert [gap for age, gap in gaps if age < 20] == pytest.approx([2.0] * 9)


def test_intervals_grow_to_ten_seconds_where_nothing_is_known() -> None:
    asked = polls(Pace(2.0), 200)
    gaps = [later - earlier for earlier, later in pairwise(asked)]
    assert gaps == sorted(gaps)
    assert gaps[-1] == 10


def test_a_job_that_may_end_now_is_polled_at_the_fast_pace_and_one_that_cannot_be_over_slowly() -> None:
    pace = learnt([100.0 + n for n in range(20)])
    asked = polls(pace, 140)
    in_window = [later - earlier for earlier, later in pairwise(asked) if 100 <= earlier <= 120]
    assert in_window == pytest.approx([2.0] * len(in_window))
    assert len([age for age in asked if age < 90]) <= 11


def test_what_takes_longer_than_expected_is_polled_ever_more_slowly() -> None:
    asked = polls(learnt([10.0] * 20), 200)
    gaps = [later - earlier for earlier, later in pairwise(asked) if earlier > 10]
    assert gaps == sorted(gaps)
    assert gaps[-1] == 10


@pytest.mark.parametrize(("spread", "saved"), [(0.05, 0.6), (0.15, 0.45), (0.3, 0.15)])
def test_learning_saves_polls_of_a_fixed_interval_at_the_same_median_lag(spread: float, saved: float) -> None:
    chance = random.Random(7)
    durations = [max(20, chance.gauss(120, 120 * spread)) for _ in range(2500)]
    pace = learnt(durations[:500])
    asked = [polls(pace, duration, chance.uniform(1.8, 2.2)) for duration in durations[500:]]
    fixed = sum(duration / 2 for duration in durations[500:])
    lags = sorted(ages[-1] - duration for ages, duration in zip(asked, durations[500:], strict=True))
    assert sum(map(len, asked)) <= (1 - saved) * fixed
    assert lags[len(lags) // 2] <= 1.05
    assert lags[int(len(lags) * 0.98)] <= 2


# --- what ends a job, and what it says until then ---


class Scripted:
    """A provider that answers each poll with the next of these, the last one repeated; 10 seconds pass a poll."""

    name = "Scripted"

    def __init__(self, *answers: Update | Exception) -> None:
        self._answers = list(answers)
        self.clock = JumpClock()
        self.polling = Polling(
            cast("Provider", self), Pace(2.0), {}, self.clock, submitted_at=self.clock.at, interval=2.0, resumed=False
        )

    async def check(self, ticket: Ticket, seen: LastAnswers) -> Update:
        del ticket, seen
        answer = self._answers[0] if len(self._answers) == 1 else self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def details(self, times: int, seconds: float = 10.0) -> list[str | None]:
        """What the next so many polls tell the client."""
        told = []
        for _ in range(times):
            update = await self.polling.poll(self.clock.at)
            told.append(update.detail if update else None)
            self.clock.at += seconds
        return told


WORKING = Update(detail="Running")
PAGE = UnreadableAnswer("It is not JSON.")


@pytest.mark.parametrize(
    ("answer", "code"), [(PAGE, UpstreamProtocol), (UnknownToProvider("No such job."), UpstreamFailed)]
)
async def test_an_unreadable_answer_ends_a_job_after_twenty_polls_and_five_minutes(
    answer: ReadFailed, code: type[JobError]
) -> None:
    often, seldom = Scripted(answer), Scripted(answer)
    await often.details(200, seconds=1)
    await seldom.details(19, seconds=60)
    for scripted, seconds in ((often, 101), (seldom, 0)):
        scripted.clock.at += seconds
        with pytest.raises(code, match=answer.message):
            await scripted.polling.poll(scripted.clock.at)


async def test_one_readable_answer_renews_the_patience() -> None:
    scripted = Scripted(*[PAGE] * 100, WORKING, PAGE)
    await scripted.details(101, seconds=2)
    await scripted.details(19, seconds=100)


@pytest.mark.parametrize("answer", [CredentialRefused("No."), CreditRefused("No."), NotReady("No."), Transient("No.")])
async def test_passing_trouble_never_ends_a_job(answer: ReadFailed) -> None:
    scripted = Scripted(answer)
    (*_, detail) = await scripted.details(1000)
    assert (detail or "").endswith("No.")
    assert scripted.polling.trouble == detail


async def test_an_answer_that_the_adapter_cannot_cope_with_is_unreadable() -> None:
    scripted = Scripted(KeyError("status"), WORKING)
    assert await scripted.details(2) == [
        "Waiting for a readable answer: Pollcast cannot read the provider's answer.",
        "Running",
    ]


async def test_trouble_is_taken_back_by_an_answer_without_words() -> None:
    scripted = Scripted(Update(), PAGE, Update())
    assert await scripted.details(3) == [None, "Waiting for a readable answer: It is not JSON.", "Under way"]


async def test_a_failure_is_shown_once_it_has_lasted() -> None:
    scripted = Scripted(Transient("Bad gateway."))
    assert await scripted.details(3, seconds=6) == [None, None, "Waiting for the provider: Bad gateway."]


@pytest.mark.parametrize("wait", [0.0, 0.001, 1.0])
async def test_a_hint_never_shortens_the_interval(wait: float) -> None:
    for answer in (Update(wait=wait), Transient("Later.", wait), Unchanged(wait)):
        scripted = Scripted(answer)
        await scripted.details(1)
        assert scripted.polling.delay >= 1.9


async def test_a_hint_lengthens_the_interval() -> None:
    scripted = Scripted(Update(wait=60))
    await scripted.details(1)
    assert scripted.polling.delay == 60


async def test_the_circuit_breaker_says_when_the_next_poll_is_due() -> None:
    scripted = Scripted(Resting("Not now.", 1.0))
    await scripted.details(1)
    assert scripted.polling.delay == 1
