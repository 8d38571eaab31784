"""Delivery of results that both backends share: futures for callers, and listeners for changes."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

from proxy.core import errors
from proxy.store.types import Change


class ChangeListener:
    """Asynchronous iterator over changes, as `Store.changes()` returns it.

    The store keeps only a weak reference, so a listener without another reference is garbage-collected.
    """

    def __init__(self) -> None:
        self._queue = asyncio.Queue[Sequence[Change] | None]()
        self._batch: Iterator[Change] = iter(())
        self.put = self._queue.put_nowait
        """Add the changes of one commit, or None to end the iteration. Batches matter: the queue is the costly part."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        while (change := next(self._batch, None)) is None:
            batch = await self._queue.get()
            if batch is None:
                self.put(None)  # every further step ends as well
                raise StopAsyncIteration
            self._batch = iter(batch)
        return change


def resolve(callers: Iterable["asyncio.Future[Any]"], outcomes: Iterable[Any]) -> None:
    """Set the outcome of each caller's future: an exception if the outcome is one, else a result."""
    for caller, outcome in zip(callers, outcomes, strict=True):
        if caller.done():  # it was canceled, although the store carried out the call
            continue
        if isinstance(outcome, Exception):
            caller.set_exception(outcome)
        else:
            caller.set_result(outcome)


def unavailable(error: Exception) -> errors.Unavailable:
    """Return an `errors.Unavailable` with the reason of a backend's error, which becomes its cause."""
    failure = errors.Unavailable(f"The store cannot serve now: {str(error).rstrip('.')}.")
    failure.__cause__ = error
    return failure
