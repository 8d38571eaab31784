"""Report of a run: tables, goals and JSON; and the comparison of two runs."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from tests.bench.book import Book, Figure, number
from tests.bench.goals import GOALS, Goal

_ENDS = ("no", "first", "second")


def written(book: Book, machine: Mapping[str, str]) -> str:
    """Return the whole report."""
    parts = ["\n".join(f"{name:14}  {value}" for name, value in machine.items())]
    parts += [_section(row, case, book) for row, case in _sections(book)]
    parts.append(_goals(book))
    parts += [_load(book), _others(book)]
    parts.append("\n".join(book.notes))
    return "\n\n".join(part for part in parts if part) + "\n"


def _sections(book: Book) -> list[tuple[str, str]]:
    return list(dict.fromkeys((name[0], name[1]) for name in book.figures if len(name) == 4))


def _section(row: str, case: str, book: Book) -> str:
    """Return a table of the figures by server: the median of the rounds, and their spread."""
    figures = dict(book.under(row, case))
    servers = list(dict.fromkeys(name[1] for name in figures))
    lines = [[f"{row}, {case}", *servers]]
    for what in dict.fromkeys(name[0] for name in figures):
        unit = next(figure.unit for name, figure in figures.items() if name[0] == what)
        cells = [str(figures[what, server]) if (what, server) in figures else "" for server in servers]
        lines.append([f"{what} ({unit})", *cells])
    return table(lines)


def _goals(book: Book) -> str:
    found = [_goal(goal, book) for goal in GOALS]
    lines = [line for line in found if line]
    return table([["goal", "here", "must", "goal", "reached"], *lines]) if lines else ""


def _goal(goal: Goal, book: Book) -> list[str] | None:
    value = goal.value(book)
    if value is None:
        return None
    sign = "at least " if goal.at_least else "at most "
    return [goal.text, number(value), sign + number(goal.must), sign + number(goal.wanted), _ENDS[goal.reached(value)]]


def _load(book: Book) -> str:
    """Return the lines on whether the load generator was the bottleneck."""
    figure = book.figures.get(("load generator",))
    if figure is None:
        return ""
    busiest = f"The load generator used {max(figure.values):.0%} of its core at the most"
    if not book.near_limit:
        return f"{busiest}: it was not the bottleneck."
    return f"{busiest}. It may have been the bottleneck of: {'; '.join(dict.fromkeys(book.near_limit))}."


def _others(book: Book) -> str:
    """Return the lines on the use of the server's core by other processes."""
    figure = book.figures.get(("server's core",))
    if figure is None or max(figure.values) < 0.1:
        return ""
    return (
        f"Other processes had up to {max(figure.values):.0%} of the server's core while it was measured "
        f"({figure.median:.0%} at the median): what is per second or late was better alone; CPU and memory hold."
    )


def table(lines: Sequence[Sequence[str]]) -> str:
    """Return lines of cells as aligned columns. The first line is the heading."""
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    shown = [_line(line, widths) for line in lines]
    return "\n".join([shown[0], "-" * len(shown[0]), *shown[1:]])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = [
        cell.ljust(width) if n == 0 else cell.rjust(width)
        for n, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join([first, *rest])


# --- files and comparison ---


def keep(path: Path, book: Book, machine: Mapping[str, str]) -> None:
    """Write a run as JSON."""
    document = {"machine": dict(machine), "figures": book.as_json(), "notes": [*book.notes, _load(book), _others(book)]}
    path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))


def compared(first: Path, second: Path) -> str:
    """Compare two kept runs by figure: medians, their ratio, and whether the ranges of the rounds overlap."""
    documents = [orjson.loads(path.read_bytes()) for path in (first, second)]
    lines = [["figure", "unit", "A", "B", "B / A", ""]]
    figures = [_figures(document) for document in documents]
    lines += [_pair(name, figures[0][name], figures[1][name]) for name in figures[0] if name in figures[1]]
    only = [_only(label, figures[n], figures[1 - n]) for n, label in enumerate("AB")]
    machines = [document["machine"] for document in documents]
    differing = [
        f"{name}: {machines[0].get(name)} -> {machines[1].get(name)}"
        for name in machines[0] | machines[1]
        if machines[0].get(name) != machines[1].get(name)
    ]
    return "\n".join([table(lines), *filter(None, only), *differing]) + "\n"


def _figures(document: Mapping[str, Any]) -> dict[str, Figure]:
    return {name: Figure(kept["unit"], kept["values"]) for name, kept in document["figures"].items()}


def _pair(name: str, a: Figure, b: Figure) -> list[str]:
    apart = max(a.values) < min(b.values) or max(b.values) < min(a.values)
    ratio = f"{b.median / a.median:.2f}" if a.median else "-"
    return [name, a.unit, str(a), str(b), ratio, "" if apart else "within the spread"]


def _only(label: str, here: Iterable[str], there: Mapping[str, Figure]) -> str:
    names = [name for name in here if name not in there]
    return f"only in {label}: {', '.join(names)}" if names else ""
