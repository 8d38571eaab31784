"""The pace of polls: what is learnt of a model's durations, and what that saves."""

import math
import random
from itertools import pairwise

import pytest

from proxy.providers.polled import Pace


def polls(pace: Pace, duration: float, first: float = 2.0) -> list[float]:
    """The ages at which a job of that duration is polled, up to the poll that sees its end."""
    age = interval = first
    asked = [age]
    while age < duration:
        interval = pace.after(interval, age)
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
    assert pace.after(2.0, 0.0) == 2.0


def test_the_polls_before_the_window_are_evenly_apart_and_the_last_is_at_its_beginning() -> None:
    asked = [age for age in polls(learnt([47.0] * 20), 50) if age <= 47]
    assert asked == pytest.approx([2, 11, 20, 29, 38, 47])


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
