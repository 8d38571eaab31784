"""The goals: ratios between figures of one run. `must` is the minimum, `wanted` the goal."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tests.bench.book import Book, Name

OURS: Final = "pollcast"
TASKS: Final = "bare loop, a task each"
EACH: Final = "one commit per event, plain SQL"
SHARE: Final = "polls, of those of a fixed interval with that median"


@dataclass(frozen=True, slots=True)
class Goal:
    """A limit for `figure`, divided by `by` if given."""

    text: str
    figure: Name
    by: Name | None
    must: float
    wanted: float
    at_least: bool = False

    def value(self, book: Book) -> float | None:
        """Return the value in a run, or None if it was not measured."""
        figure, by = book.figures.get(self.figure), book.figures.get(self.by or ())
        if figure is None or (self.by and (by is None or not by.median)):
            return None
        return figure.median / (by.median if by else 1)

    def reached(self, value: float) -> int:
        """Return how many of the two limits are reached."""
        marks = (self.must, self.wanted)
        return sum(value >= mark if self.at_least else value <= mark for mark in marks)


@dataclass(frozen=True, slots=True)
class _Case:
    """A case of the row `delivery`."""

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
        yield case.against("naive", "cpu to open", 1 / 4)


def _orders() -> Iterator[Goal]:
    first_byte = ("orders", "100 at once", "first byte, p50")
    generate, ping = (*first_byte, "POST /api/generate"), (*first_byte, "GET /api/ping")
    yield Goal("first byte of POST /api/generate, p50, against GET /api/ping", generate, ping, 4, 4)
    accepted = ("orders", "100 at once", "answered", "POST /api/generate")
    yield Goal("jobs accepted per second on SQLite", accepted, None, 1500, 1500, at_least=True)


def _jobs() -> Iterator[Goal]:
    case = "10,000 under way"
    ours = ("jobs", case, "cpu", OURS)
    yield Goal(f"CPU per poll, {case}, against a bare loop", ours, ("jobs", case, "cpu", TASKS), 1.1, 1.1)
    yield Goal(f"memory per running job, {case}, KiB", ("jobs", case, "memory", OURS), None, 6, 6)
    case = "10,000 jobs of 60 s, give or take 15%"
    yield Goal(f"lag, p99, {case}, s", ("lag", case, "lag, p99", OURS), None, 2.25, 2.25)
    yield Goal(f"polls of those of a fixed interval as late, {case}", ("lag", case, SHARE, OURS), None, 0.6, 0.6)


def _rest() -> Iterator[Goal]:
    recorded = ("journal", "64 jobs at once", "recorded")
    yield Goal("events journalled, against a commit each", (*recorded, OURS), (*recorded, EACH), 5, 5, at_least=True)
    until = ("stop", "5,000 streams open", "until the process has ended", OURS)
    yield Goal("stop with 5,000 streams open, s", until, None, 1, 1)


GOALS: Final = (*_delivery(), *_orders(), *_jobs(), *_rest())
