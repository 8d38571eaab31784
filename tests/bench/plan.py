"""Plan of a run: sizes, rounds and servers. Every row receives it."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from tests.bench.book import Book
from tests.bench.load import Load


@dataclass(frozen=True, slots=True)
class Plan:
    """Plan of a run. `streams` and `jobs` are the sizes to measure. `quick` is true for a run of two minutes."""

    load: Load
    folder: Path
    book: Book
    servers: tuple[str, ...]
    rounds: int
    streams: tuple[int, ...]
    jobs: tuple[int, ...]
    quick: bool = False
    _places: Iterator[int] = field(default_factory=count)
    _began: float = field(default_factory=time.monotonic)

    @property
    def long_rounds(self) -> int:
        """Number of rounds of rows that take minutes."""
        return min(self.rounds, 2)

    def place(self) -> Path:
        """Return a new folder."""
        place = self.folder / str(next(self._places))
        place.mkdir()
        return place

    def say(self, text: str) -> None:
        """Print progress to standard error."""
        print(f"{time.monotonic() - self._began:5.0f} s  {text}", file=sys.stderr, flush=True)  # noqa: T201
