"""The circuit breaker: opening, refused accounts, and the choice of the trial."""

import pytest

from proxy.upstream.breaker import Breaker, Subject
from tests.support.deployment import JumpClock
from tests.support.outcomes import failed, sending_for, sending_for_all, succeeded


@pytest.fixture
def clock() -> JumpClock:
    return JumpClock()


@pytest.fixture
def breaker(clock: JumpClock) -> Breaker:
    return Breaker(clock)


def test_repeated_failures_of_one_job_do_not_open_the_breaker(breaker: Breaker) -> None:
    failed(breaker, *["1"] * 100)
    assert breaker.wait == 0


def test_a_job_counts_again_once_another_has_failed(breaker: Breaker) -> None:
    failed(breaker, "1", "1", "2", "2", "1", "2")
    assert breaker.wait == 0
    failed(breaker, "1")
    assert breaker.wait == 9


def test_one_accounts_failures_do_not_open_the_breaker_while_others_succeed(breaker: Breaker, clock: JumpClock) -> None:
    succeeded(breaker, "9", "b")
    failed(breaker, "1", "2", "3", "4", "5", "6")
    assert breaker.wait == 0
    clock.at += 30
    failed(breaker, "1", "2", "3")
    assert breaker.wait == 0
    clock.at += 31
    failed(breaker, "4", "5", "1", "2", "3")
    assert breaker.wait == 9


def test_failures_of_two_accounts_open_it(breaker: Breaker) -> None:
    succeeded(breaker, "9", "c")
    failed(breaker, "1", "2", "3", "4")
    failed(breaker, "5", account="b")
    assert breaker.wait == 9


def test_an_account_whose_own_requests_succeed_is_not_refused(breaker: Breaker) -> None:
    succeeded(breaker, "9", "c")
    failed(breaker, "1", "2", "3", "4")
    failed(breaker, "5", account="b")
    assert (breaker.wait_of("a"), breaker.wait_of("b"), breaker.wait_of("c")) == (9, 9, 0)
    failed(breaker, "9", account="c")
    assert breaker.wait_of("c") == 9


def test_a_success_closes_it(breaker: Breaker) -> None:
    failed(breaker, "1", "2", "3", "4", "5")
    succeeded(breaker, "1")
    assert breaker.wait == 0
    failed(breaker, "1", "2", "3", "4")
    assert breaker.wait == 0


def test_failures_are_forgotten_after_a_minute(breaker: Breaker, clock: JumpClock) -> None:
    failed(breaker, "1", "2", "3")
    clock.at += 61
    failed(breaker, "4", "5")
    assert breaker.wait == 0


def test_late_failures_do_not_prolong_the_pause(breaker: Breaker, clock: JumpClock) -> None:
    failed(breaker, "1", "2", "3", "4", "5")
    clock.at += 5
    failed(breaker, "6", "7")
    assert breaker.wait == 4


def test_requests_without_a_job_do_not_count(breaker: Breaker) -> None:
    failed(breaker, "1", "2", "3", "4")
    for _ in range(9):
        breaker.record_failure()
    assert breaker.wait == 0
    breaker.record_success()
    failed(breaker, "5")
    assert breaker.wait == 9


async def test_the_trial_is_another_jobs_poll_before_a_failing_ones(breaker: Breaker, clock: JumpClock) -> None:
    failed(breaker, "1", "2", "3", "4", "5")
    clock.at += 9
    with sending_for("1"):
        assert await breaker.hold() == 0.5
    with sending_for("6"):
        assert await breaker.hold() == 0
        assert await breaker.hold() == 1  # the trial is running
    clock.at += 0.5
    with sending_for("1"):
        assert await breaker.hold() == 1


async def test_a_failing_jobs_poll_is_the_trial_if_no_other_is_due(breaker: Breaker, clock: JumpClock) -> None:
    failed(breaker, "1", "2", "3", "4", "5")
    clock.at += 9.5
    with sending_for("1"):
        assert await breaker.hold() == 0
        breaker.record_failure()
        assert breaker.wait == 9


async def test_a_paid_submit_is_the_trial_only_after_the_polls(breaker: Breaker, clock: JumpClock) -> None:
    failed(breaker, "1", "2", "3", "4", "5")
    clock.at += 9
    with sending_for("6"):
        assert await breaker.hold(paid=True) == 1
        clock.at += 1
        assert await breaker.hold(paid=True) == 0


async def test_a_trial_without_an_answer_is_followed_by_another(breaker: Breaker, clock: JumpClock) -> None:
    failed(breaker, "1", "2", "3", "4", "5")
    clock.at += 9
    with sending_for("6"):
        assert await breaker.hold() == 0
    clock.at += 9
    with sending_for("7"):
        assert await breaker.hold() == 0


# --- requests for several jobs ---

SIX = tuple(Subject(account, job) for account in "ab" for job in "123")


def test_a_failed_request_for_several_jobs_counts_once(breaker: Breaker) -> None:
    with sending_for_all(*SIX):
        breaker.record_failure()
    failed(breaker, "7", "8", "9")
    assert breaker.wait == 0
    failed(breaker, "10")
    assert breaker.wait == 9


def test_failed_requests_with_a_common_job_count_once_together(breaker: Breaker) -> None:
    """The common job may be why they fail."""
    for others in (SIX[1:], SIX[2:], SIX[3:], SIX[1:3], SIX[4:]):
        with sending_for_all(*others, SIX[1]):
            breaker.record_failure()
    failed(breaker, "7", "8", "9")
    assert breaker.wait == 0


def test_failed_requests_for_different_jobs_count_each(breaker: Breaker) -> None:
    for sender in SIX[:5]:
        with sending_for_all(sender, Subject(sender.account, f"{sender.job} too")):
            breaker.record_failure()
    assert breaker.wait == 9


async def test_a_success_for_several_jobs_keeps_each_account_s_requests(breaker: Breaker) -> None:
    with sending_for_all(*SIX):
        breaker.record_success()
    failed(breaker, "1", "2", "3", "4", account="c")
    failed(breaker, "5", account="d")
    assert [breaker.wait_of(account) for account in "abcd"] == [0, 0, 9, 9]


async def test_a_request_for_a_healthy_account_among_others_is_sent(breaker: Breaker) -> None:
    succeeded(breaker, "9", "c")
    failed(breaker, "1", "2", "3", "4")
    failed(breaker, "5", account="b")
    with sending_for_all(Subject("a", "1"), Subject("b", "5")):
        assert await breaker.hold() > 0
    with sending_for_all(Subject("a", "1"), Subject("c", "9")):
        assert await breaker.hold() == 0


async def test_one_job_without_a_failure_makes_a_shared_poll_an_early_trial(breaker: Breaker, clock: JumpClock) -> None:
    failed(breaker, "1", "2", "3", "4", "5")
    clock.at += 9.1
    with sending_for_all(Subject("a", "1"), Subject("a", "2")):
        assert await breaker.hold() == pytest.approx(0.4)
    with sending_for_all(Subject("a", "1"), Subject("a", "6")):
        assert await breaker.hold() == 0
