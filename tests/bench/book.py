"""The measured figures: values by name, in rounds."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.bench.machine import Meter

Name = tuple[str, ...]
_LIMIT = 0.85
"""Share of its core above which the load generator may be the bottleneck."""


@dataclass(slots=True)
class Figure:
    """One figure, with a value for each round."""

    unit: str
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        low, high = min(self.values), max(self.values)
        return f"{number(self.median)} ({number(low)} to {number(high)})"


def number(value: float) -> str:
    """Return a value with about three digits."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


class Book:
    """All figures of a run, by name, such as `("delivery", "1 x 1,000", "pollcast", "cpu")`."""

    def __init__(self) -> None:
        self.figures: dict[Name, Figure] = {}
        self.notes: list[str] = []
        self.failed = False
        self.near_limit: list[str] = []
        """Measurements in which the load generator may have been the bottleneck."""

    def add(self, name: Name, unit: str, value: float) -> None:
        self.figures.setdefault(name, Figure(unit)).values.append(value)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def fail(self, text: str) -> None:
        """Record that a measurement failed. The run continues, and its exit status is a failure."""
        self.note(f"FAILED: {text}")
        self.failed = True

    def check_load(self, when: str, share: float) -> None:
        """Record the load generator's share of its core, and mark the measurement if it used nearly all."""
        self.add(("load generator",), "share of its core", share)
        if share > _LIMIT:
            self.near_limit.append(f"{when} ({share:.0%})")

    def check_core(self, meter: Meter) -> None:
        """Record the share of the server's core that other processes used."""
        self.add(("server's core",), "share that others had", meter.others)

    def under(self, *prefix: str) -> Iterator[tuple[Name, Figure]]:
        for name, figure in self.figures.items():
            if name[: len(prefix)] == prefix:
                yield name[len(prefix) :], figure

    def as_json(self) -> dict[str, Any]:
        return {
            " / ".join(name): {"unit": figure.unit, "values": figure.values} for name, figure in self.figures.items()
        }
