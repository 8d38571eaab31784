"""Refunds of final events, by the job's status and its outputs."""

import pytest

from proxy.core.job import Output, Role, Status
from proxy.runner.recording import refund

MADE = Output(Role.VIDEO, "video/mp4", status=Status.COMPLETED)
FAILED = Output(Role.VIDEO, "video/mp4", status=Status.ERROR)


@pytest.mark.parametrize("status", [Status.ERROR, Status.CANCELED])
@pytest.mark.parametrize("ordered", [1, 2])
def test_an_error_and_the_provider_s_canceled_refund_all(status: Status, ordered: int) -> None:
    assert refund(20, status, [MADE, FAILED], ordered) == 20


def test_a_completed_job_refunds_nothing() -> None:
    assert refund(20, Status.COMPLETED, [MADE]) == 0
    assert refund(20, Status.COMPLETED, [MADE, FAILED]) == 0
    assert refund(20, Status.COMPLETED, [MADE] * 2, 1) == 0


@pytest.mark.parametrize(
    ("charged", "made", "failed", "given_back"),
    [(30, 3, 0, 0), (30, 2, 1, 10), (30, 1, 2, 20), (2000, 1, 199, 1990), (0, 1, 1, 0), (10, 0, 1, 10)],
)
def test_a_completed_bulk_job_refunds_the_share_of_failed_items(
    charged: int, made: int, failed: int, given_back: int
) -> None:
    assert refund(charged, Status.COMPLETED, [MADE] * made + [FAILED] * failed, made + failed) == given_back


def test_surplus_outputs_make_up_for_failed_ones() -> None:
    assert refund(15, Status.COMPLETED, [MADE, FAILED, MADE, MADE], 3) == 0


def test_an_order_without_a_price_refunds_nothing() -> None:
    assert refund(0, Status.COMPLETED, [MADE], 0) == 0
