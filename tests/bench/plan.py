"""What a run is: how large, how often, with which servers; handed to every row."""

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
    """`streams` and `jobs` are the sizes that are stepped through; `quick` is for a run that is over in two minutes."""

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
        """Rounds of what takes minutes."""
        return min(self.rounds, 2)

    def place(self) -> Path:
        """A new folder."""
        place = self.folder / str(next(self._places))
        place.mkdir()
        return place

    def say(self, text: str) -> None:
        """Say on standard error what is being done."""
        print(f"{time.monotonic() - self._began:5.0f} s  {text}", file=sys.stderr, flush=True)  # noqa: T201
