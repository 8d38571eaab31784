"""Cancel scope of a job: ends a step that waits, at the job's deadline or when the client cancels."""

import asyncio
from contextlib import AbstractAsyncContextManager
from types import TracebackType

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

    __slots__ = ("_clock", "deadline", "is_canceled", "timeout")

    def __init__(self, clock: Clock, deadline: float, *, is_canceled: bool) -> None:
        self.deadline = deadline
        """Monotonic seconds, because the wall clock may be set at any moment."""
        self.is_canceled = is_canceled
        self.timeout: asyncio.Timeout | None = None
        """Around the step that runs now, if a cancel ends it."""
        self._clock = clock

    def cancel(self) -> None:
        """End the running step, and refuse further ones."""
        self.is_canceled = True
        if self.timeout is not None:
            cut_short(self.timeout)
            self.timeout = None

    def step(self) -> AbstractAsyncContextManager[None]:
        """Run the body until the deadline, or until the client cancels. Raises DeadlinePassed and Canceled."""
        return _Step(self, is_cancelable=True)

    def paid_request(self) -> AbstractAsyncContextManager[None]:
        """Run the body until the deadline, even if the client cancels meanwhile.

        Raises DeadlinePassed, and Canceled if the client has canceled before the body runs.
        """
        return _Step(self, is_cancelable=False)

    def recovery(self) -> AbstractAsyncContextManager[None]:
        """Run the body until the deadline, whether or not the client has canceled. Raises DeadlinePassed.

        It is for an order that may have been bought: a cancel needs its ticket.
        """
        return _Step(self, is_cancelable=False, ignores_cancel=True)

    def start_timeout(self, *, ignores_cancel: bool = False) -> asyncio.Timeout:
        """Return a timeout up to the deadline. Raises DeadlinePassed, and Canceled if the client has canceled."""
        if self.is_canceled and not ignores_cancel:
            raise Canceled
        left = self.deadline - self._clock.monotonic()
        if left <= 0:
            raise DeadlinePassed
        return asyncio.timeout(left)


class _Step(AbstractAsyncContextManager[None]):
    """One step within a scope. It is a class, because a generator would cost each poll five microseconds more."""

    __slots__ = ("_ignores_cancel", "_is_cancelable", "_scope", "_timeout")

    def __init__(self, scope: CancelScope, *, is_cancelable: bool, ignores_cancel: bool = False) -> None:
        self._scope = scope
        self._ignores_cancel = ignores_cancel
        self._is_cancelable = is_cancelable

    async def __aenter__(self) -> None:
        self._timeout = self._scope.start_timeout(ignores_cancel=self._ignores_cancel)
        await self._timeout.__aenter__()
        self._scope.timeout = self._timeout if self._is_cancelable else None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._scope.timeout = None
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:  # raised only where this timeout has ended the body
            raise (Canceled if self._is_cancelable and self._scope.is_canceled else DeadlinePassed) from None
