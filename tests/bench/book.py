"""What was measured: values by name, in rounds; and the goals, as ratios between two of them."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.bench.machine import Meter

Name = tuple[str, ...]
_LIMIT = 0.85
"""The share of its core above which the load generator may have been what was measured."""


@dataclass(slots=True)
class Figure:
    """One thing measured, once a round."""

    unit: str
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        low, high = min(self.values), max(self.values)
        return f"{number(self.median)} ({number(low)} to {number(high)})"


def number(value: float) -> str:
    """A value in about three digits."""
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
        """When the load generator may have been the bottleneck."""

    def add(self, name: Name, unit: str, value: float) -> None:
        self.figures.setdefault(name, Figure(unit)).values.append(value)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def fail(self, text: str) -> None:
        """Note that something could not be measured; the run goes on, and ends in failure."""
        self.note(f"FAILED: {text}")
        self.failed = True

    def check_load(self, when: str, share: float) -> None:
        """Note the share of its core that the load generator used, and say where that was nearly all of it."""
        self.add(("load generator",), "share of its core", share)
        if share > _LIMIT:
            self.near_limit.append(f"{when} ({share:.0%})")

    def check_core(self, meter: Meter) -> None:
        """Note what others took of the server's core."""
        self.add(("server's core",), "share that others had", meter.others)

    def under(self, *prefix: str) -> Iterator[tuple[Name, Figure]]:
        for name, figure in self.figures.items():
            if name[: len(prefix)] == prefix:
                yield name[len(prefix) :], figure

    def as_json(self) -> dict[str, Any]:
        return {
            " / ".join(name): {"unit": figure.unit, "values": figure.values} for name, figure in self.figures.items()
        }
