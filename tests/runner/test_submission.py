"""Joining of streamed text: its pieces keep a distance, and other updates pass unchanged."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.core.errors import Interrupted
from proxy.providers.base import Update
from proxy.runner.submission import join_text
from tests.support.stepped_clock import SteppedClock


class Pieces:
    """A stream whose updates a test sends by hand, and the output of `join_text`."""

    def __init__(self) -> None:
        self.clock = SteppedClock()
        self.out: list[str | None] = []
        self._in: asyncio.Queue[Update | Exception | None] = asyncio.Queue()
        self.reading = asyncio.create_task(self._read())

    async def _stream(self) -> AsyncIterator[Update]:
        while (update := await self._in.get()) is not None:
            if isinstance(update, Exception):
                raise update
            yield update

    async def _read(self) -> None:
        async for update in join_text(self._stream(), 0.2, self.clock):
            self.out.append(update.delta or update.detail)

    async def send(self, *updates: str | Update | Exception | None) -> None:
        for update in updates:
            self._in.put_nowait(Update(delta=update) if isinstance(update, str) else update)
        for _ in range(20):
            await asyncio.sleep(0)


async def test_the_first_text_is_not_held_back() -> None:
    pieces = Pieces()
    await pieces.send("Hi", None)
    await pieces.reading
    assert pieces.out == ["Hi"]


async def test_text_within_the_gap_is_joined() -> None:
    pieces = Pieces()
    await pieces.send("a", "b", "c")
    assert pieces.out == ["a"]
    await pieces.clock.step(0.1)
    await pieces.send("d")
    assert pieces.out == ["a"]
    await pieces.clock.step(0.1)
    await pieces.send()
    assert pieces.out == ["a", "bcd"]
    await pieces.send(None)
    await pieces.reading


async def test_the_last_text_keeps_its_distance() -> None:
    pieces = Pieces()
    await pieces.send("a", "b", None)
    assert pieces.out == ["a"]
    await pieces.clock.step(0.2)
    await pieces.reading
    assert pieces.out == ["a", "b"]


async def test_text_comes_before_an_update_that_follows_it() -> None:
    pieces = Pieces()
    await pieces.send("a", "b", Update(detail="Done"), None)
    await pieces.clock.step(0.2)
    await pieces.reading
    assert pieces.out == ["a", "b", "Done"]


async def test_text_before_a_break_is_kept() -> None:
    pieces = Pieces()
    await pieces.send("a", "b", Interrupted("It broke."))
    await pieces.clock.step(0.2)
    with pytest.raises(Interrupted):
        await pieces.reading
    assert pieces.out == ["a", "b"]


async def test_a_reader_that_stops_ends_the_stream() -> None:
    pieces = Pieces()
    await pieces.send("a")
    pieces.reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pieces.reading
    assert asyncio.all_tasks() == {asyncio.current_task()}
