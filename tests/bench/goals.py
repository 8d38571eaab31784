"""The goals: ratios between figures of one run. `must` is the least, `wanted` the goal."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tests.bench.book import Book, Name

OURS: Final = "pollcast"


@dataclass(frozen=True, slots=True)
class Goal:
    """`figure`, divided by `by` where that is given, is at most (or at least) so much."""

    text: str
    figure: Name
    by: Name | None
    must: float
    wanted: float
    at_least: bool = False

    def value(self, book: Book) -> float | None:
        """What the run says; None where it did not measure that."""
        figure, by = book.figures.get(self.figure), book.figures.get(self.by or ())
        if figure is None or (self.by and (by is None or not by.median)):
            return None
        return figure.median / (by.median if by else 1)

    def reached(self, value: float) -> int:
        """How many of its two marks are reached."""
        marks = (self.must, self.wanted)
        return sum(value >= mark if self.at_least else value <= mark for mark in marks)


@dataclass(frozen=True, slots=True)
class _Case:
    """A case of the delivery row."""

    name: str

    def against(
        self, peer: str, what: str, must: float, wanted: float | None = None, *, at_least: bool = False
    ) -> Goal:
        text = f"{what}, {self.name}, against {peer}"
        ours, theirs = ("delivery", self.name, what, OURS), ("delivery", self.name, what, peer)
        return Goal(text, ours, theirs, must, must if wanted is None else wanted, at_least)


def _delivery() -> Iterator[Goal]:
    for case in map(_Case, ("1 x 1,000", "1 x 10,000")):
        yield case.against("nchan", "cpu", 1.25, 1.0)
        yield case.against("naive", "cpu", 1 / 5, 1 / 7)
        yield case.against("nchan", "cpu, 8 in flight", 0.3)
    for case in map(_Case, ("1,000 x 1", "10,000 x 1")):
        yield case.against("naive", "cpu", 1 / 5)
        yield case.against("nchan", "cpu", 0.7)
    yield _Case("1 x 10,000").against("nchan", "p99 of one event", 1.5, 1.2)
    for case in map(_Case, ("1 x 1,000", "1 x 10,000")):
        memory = ("delivery", case.name, "memory", OURS)
        yield Goal(f"memory, {case.name}, KiB per idle stream", memory, None, 12, 12)
        yield case.against("nchan", "memory", 1.2)
        yield case.against("naive", "streams opened", 4, at_least=True)


GOALS: Final = tuple(_delivery())
