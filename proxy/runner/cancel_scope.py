"""Cancel scope of a job: ends a step that waits, at the job's deadline or when the client cancels."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from proxy.core.clock import Clock, cut_short


class Canceled(Exception):
    """The client has canceled the job."""


class DeadlinePassed(Exception):
    """The job's deadline passed before a step, or during it."""


class CancelScope:
    """Deadline and cancellation of one job.

    A `step` holds only work that may be abandoned. Writes to the store run outside of it: they are short, and a write
    that is cut off may or may not have been committed.
    """

    __slots__ = ("_clock", "_timeout", "deadline", "is_canceled")

    def __init__(self, clock: Clock, deadline: float, *, is_canceled: bool) -> None:
        self.deadline = deadline
        """Monotonic seconds, because the wall clock may be set at any moment."""
        self.is_canceled = is_canceled
        self._clock = clock
        self._timeout: asyncio.Timeout | None = None
        """Around the step that runs now, if a cancel ends it."""

    def cancel(self) -> None:
        """End the running step, and refuse further ones."""
        self.is_canceled = True
        if self._timeout is not None:
            cut_short(self._timeout)
            self._timeout = None

    def step(self) -> AbstractAsyncContextManager[None]:
        """Run the body until the deadline, or until the client cancels. Raises DeadlinePassed and Canceled."""
        return self._until_deadline(is_cancelable=True)

    def paid_request(self) -> AbstractAsyncContextManager[None]:
        """Run the body until the deadline, even if the client cancels meanwhile.

        Raises DeadlinePassed, and Canceled if the client has canceled before the body runs.
        """
        return self._until_deadline(is_cancelable=False)

    @asynccontextmanager
    async def _until_deadline(self, *, is_cancelable: bool) -> AsyncIterator[None]:
        if self.is_canceled:
            raise Canceled
        left = self.deadline - self._clock.monotonic()
        if left <= 0:
            raise DeadlinePassed
        try:
            async with asyncio.timeout(left) as timeout:
                self._timeout = timeout if is_cancelable else None
                yield
        except TimeoutError:
            if not timeout.expired():
                raise
            raise (Canceled if is_cancelable and self.is_canceled else DeadlinePassed) from None
        finally:
            self._timeout = None
