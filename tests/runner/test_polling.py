"""The pace of polls, learnt from a model's durations, and the failures that end a job."""

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
    BreakerOpen,
    CredentialRefused,
    CreditRefused,
    LastAnswers,
    NotReady,
    ReadFailed,
    Transient,
    Unchanged,
    UnknownToProvider,
    UnreadableAnswer,
)
from tests.support.deployment import JumpClock


def polls(pace: Pace, duration: float, first: float = 2.0) -> list[float]:
    """Return the ages at which a job of that duration is polled, up to the poll that sees its end."""
    age = interval = first
    asked = [age]
    while age < duration:
        interval = pace.next_interval(interval, age)
        age += interval
        asked.append(age)
    return asked


def pace_of(durations: list[float]) -> Pace:
    pace = Pace(2.0)
    for seconds in durations:
        pace.learn(seconds)
    return pace


def test_there_is_no_window_before_ten_jobs_have_ended() -> None:
    assert pace_of([60.0] * 9).window is None
    assert pace_of([60.0] * 10).window == (60.0, 60.0)


def test_the_window_excludes_outliers() -> None:
    early, late = pace_of([1.0, 1000.0, *([60.0] * 98)]).window or (0, 0)
    assert (early, late) == (60.0, 60.0)


@pytest.mark.parametrize(("known", "share"), [(10, 0.97), (30, 0.98), (500, 0.99)])
def test_the_window_covers_nearly_all_jobs_even_when_few_are_known(known: int, share: float) -> None:
    """It covers 99 of 100 jobs once 500 durations are known, and 97 of 100 with ten."""
    chance = random.Random(7)
    held = 0
    for _ in range(100):
        durations = [60 * math.exp(chance.gauss(0, 0.2)) for _ in range(known + 100)]
        early, late = pace_of(durations[:known]).window or (0, 0)
        held += sum(early <= duration <= late for duration in durations[known:])
    assert share * 10_000 <= held < 10_000


def test_the_window_follows_a_model_that_becomes_slower_or_faster() -> None:
    """A twentieth of the kept durations, 25 jobs, is enough."""
    for before, now in ((60.0, 90.0), (60.0, 40.0)):
        early, late = pace_of([before] * 1000 + [now] * 30).window or (0, 0)
        assert early <= now <= late


def test_forgotten_durations_no_longer_widen_the_window() -> None:
    assert pace_of([10.0] * 500 + [60.0] * 500).window == (60.0, 60.0)


def test_durations_of_zero_and_less_can_be_pace_of() -> None:
    pace = pace_of([0.0, -1.0] * 20)
    assert pace.next_interval(2.0, 0.0) == 2.0


def test_polls_before_the_window_are_evenly_spaced_up_to_its_start() -> None:
    asked = [age for age in polls(pace_of([47.0] * 20), 50) if age <= 47]
    assert asked == pytest.approx([2, 11, 20, 29, 38, 47])


def test_without_known_durations_a_job_is_polled_each_tenth_of_its_age() -> None:
    asked = polls(Pace(2.0), 200)
    gaps = [(earlier, later - earlier) for earlier, later in pairwise(asked)]
    assert all(gap <= max(2.0, age / 10) + 1e-9 for age, gap in gaps)
    assert [gap for age, gap in gaps if age < 20] == pytest.approx([2.0] * 9)


def test_without_known_durations_intervals_grow_to_ten_seconds() -> None:
    asked = polls(Pace(2.0), 200)
    gaps = [later - earlier for earlier, later in pairwise(asked)]
    assert gaps == sorted(gaps)
    assert gaps[-1] == 10


def test_polls_are_fast_within_the_window_and_slow_before_it() -> None:
    pace = pace_of([100.0 + n for n in range(20)])
    asked = polls(pace, 140)
    in_window = [later - earlier for earlier, later in pairwise(asked) if 100 <= earlier <= 120]
    assert in_window == pytest.approx([2.0] * len(in_window))
    assert len([age for age in asked if age < 90]) <= 11


def test_a_job_beyond_the_window_is_polled_more_and_more_slowly() -> None:
    asked = polls(pace_of([10.0] * 20), 200)
    gaps = [later - earlier for earlier, later in pairwise(asked) if earlier > 10]
    assert gaps == sorted(gaps)
    assert gaps[-1] == 10


@pytest.mark.parametrize(("spread", "saved"), [(0.05, 0.6), (0.15, 0.45), (0.3, 0.15)])
def test_learning_saves_polls_of_a_fixed_interval_at_the_same_median_lag(spread: float, saved: float) -> None:
    chance = random.Random(7)
    durations = [max(20, chance.gauss(120, 120 * spread)) for _ in range(2500)]
    pace = pace_of(durations[:500])
    asked = [polls(pace, duration, chance.uniform(1.8, 2.2)) for duration in durations[500:]]
    fixed = sum(duration / 2 for duration in durations[500:])
    lags = sorted(ages[-1] - duration for ages, duration in zip(asked, durations[500:], strict=True))
    assert sum(map(len, asked)) <= (1 - saved) * fixed
    assert lags[len(lags) // 2] <= 1.05
    assert lags[int(len(lags) * 0.98)] <= 2


# --- failed polls ---


class Scripted:
    """A provider that answers each poll with the next of these, and repeats the last one."""

    name = "Scripted"

    def __init__(self, *answers: Update | Exception) -> None:
        self._answers = list(answers)
        self.clock = JumpClock()
        self.polling = Polling(
            cast("Provider", self), Pace(2.0), {}, self.clock, submitted_at=self.clock.at, interval=2.0, resumed=False
        )

    async def check(self, ticket: Ticket, last_answers: LastAnswers) -> Update:
        del ticket, last_answers
        answer = self._answers[0] if len(self._answers) == 1 else self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def details(self, times: int, seconds: float = 10.0) -> list[str | None]:
        """Poll `times` times, `seconds` apart, and return the details that the client sees."""
        shown = []
        for _ in range(times):
            update = await self.polling.poll(self.clock.at)
            shown.append(update.detail if update else None)
            self.clock.at += seconds
        return shown


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


async def test_a_readable_answer_resets_the_count_of_unreadable_ones() -> None:
    scripted = Scripted(*[PAGE] * 100, WORKING, PAGE)
    await scripted.details(101, seconds=2)
    await scripted.details(19, seconds=100)


@pytest.mark.parametrize("answer", [CredentialRefused("No."), CreditRefused("No."), NotReady("No."), Transient("No.")])
async def test_passing_trouble_never_ends_a_job(answer: ReadFailed) -> None:
    scripted = Scripted(answer)
    (*_, detail) = await scripted.details(1000)
    assert (detail or "").endswith("No.")
    assert scripted.polling.trouble == detail


async def test_an_error_inside_the_adapter_is_an_unreadable_answer() -> None:
    scripted = Scripted(KeyError("status"), WORKING)
    assert await scripted.details(2) == [
        "Waiting for a readable answer: Pollcast cannot read the provider's answer.",
        "Running",
    ]


async def test_a_readable_answer_without_detail_replaces_shown_trouble() -> None:
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


async def test_the_circuit_breaker_s_wait_sets_the_next_poll() -> None:
    scripted = Scripted(BreakerOpen("Not now.", 1.0))
    await scripted.details(1)
    assert scripted.polling.delay == 1
