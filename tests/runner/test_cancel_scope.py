"""Cancel scope: which steps a client's cancel and the deadline end."""

import asyncio

import pytest

from proxy.core.clock import SystemClock
from proxy.runner.cancel_scope import Canceled, CancelScope, DeadlinePassed

ENDLESS = 3600.0


def scope_of(seconds: float) -> CancelScope:
    clock = SystemClock()
    return CancelScope(clock, clock.monotonic() + seconds, is_canceled=False)


async def test_a_cancel_ends_a_step_that_waits() -> None:
    scope = scope_of(ENDLESS)
    asyncio.get_running_loop().call_soon(scope.cancel)
    with pytest.raises(Canceled):
        async with scope.step():
            await asyncio.Event().wait()


async def test_a_cancel_waits_for_a_paid_request() -> None:
    scope = scope_of(ENDLESS)
    asyncio.get_running_loop().call_soon(scope.cancel)
    async with scope.paid_request():
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert scope.is_canceled


async def test_a_canceled_job_begins_neither_a_step_nor_a_paid_request() -> None:
    scope = scope_of(ENDLESS)
    scope.cancel()
    for bound in (scope.step, scope.paid_request):
        with pytest.raises(Canceled):
            async with bound():
                pytest.fail("It began.")


async def test_the_deadline_ends_a_step_and_a_paid_request() -> None:
    scope = scope_of(0.01)
    for bound in (scope.step, scope.paid_request):
        scope.deadline = SystemClock().monotonic() + 0.01
        with pytest.raises(DeadlinePassed):
            async with bound():
                await asyncio.Event().wait()


async def test_after_the_deadline_neither_a_step_nor_a_paid_request_begins() -> None:
    scope = scope_of(0)
    for bound in (scope.step, scope.paid_request):
        with pytest.raises(DeadlinePassed):
            async with bound():
                pytest.fail("It began.")


async def test_a_timeout_of_the_step_itself_passes() -> None:
    scope = scope_of(ENDLESS)
    with pytest.raises(TimeoutError, match="its own"):
        async with scope.step():
            raise TimeoutError("its own")


async def test_a_cancel_after_a_step_ends_nothing_else() -> None:
    scope = scope_of(ENDLESS)
    async with scope.step():
        pass
    scope.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
