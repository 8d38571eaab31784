"""Who waits for a store, whichever it is: callers for their answers, listeners for changes."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

from proxy.core import errors
from proxy.store.types import Change


class ChangeListener:
    """One iterator over the changes; the store knows it weakly, so one that is dropped leaves nothing behind."""

    def __init__(self) -> None:
        self._queue = asyncio.Queue[Sequence[Change] | None]()
        self._told: Iterator[Change] = iter(())
        self.put = self._queue.put_nowait
        """Takes those of a commit together (a queue costs more than all else that is done with a change); None ends."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        while (change := next(self._told, None)) is None:
            told = await self._queue.get()
            if told is None:
                self.put(None)  # the end stays the end
                raise StopAsyncIteration
            self._told = iter(told)
        return change


def answer(callers: Iterable["asyncio.Future[Any]"], outcomes: Iterable[Any]) -> None:
    """Give each caller its outcome; one that is an exception is raised."""
    for caller, outcome in zip(callers, outcomes, strict=True):
        if caller.done():  # it was canceled; what it asked for has happened nevertheless
            continue
        if isinstance(outcome, Exception):
            caller.set_exception(outcome)
        else:
            caller.set_result(outcome)


def unavailable(error: Exception) -> errors.Unavailable:
    """The store's own error as ours, with its reason."""
    said = errors.Unavailable(f"The store cannot serve now: {str(error).rstrip('.')}.")
    said.__cause__ = error
    return said
