"""The benchmark: `python -m tests.bench` measures Pollcast and its peers in one run, and prints the ratios.

    python -m tests.bench                              every row (bounded; some forty minutes)
    python -m tests.bench --quick                      every row, small: under two minutes
    python -m tests.bench delivery --streams 1000      one row, at that size
    python -m tests.bench --json FILE                  keep the figures
    python -m tests.bench compare A B                  compare two kept runs
    python -m tests.bench soak --minutes 30            check for growth under changing streams and jobs

Everything is on loopback. The server has one core, the load another. No figure is asserted: read the ratios.
"""

import argparse
import functools
import os
import sys
import tempfile
from pathlib import Path

import uvloop

from tests.bench import (
    batches,
    delivery,
    jobs,
    journal,
    lag,
    load,
    machine,
    nodes,
    orders,
    report,
    servers,
    soak,
    stopping,
)
from tests.bench.book import Book
from tests.bench.plan import Plan

ROWS = {
    "delivery": delivery.run,
    "orders": orders.run,
    "jobs": jobs.run,
    "batches": batches.run,
    "lag": lag.run,
    "journal": journal.run,
    "nodes": nodes.run,
    "stop": stopping.run,
}


def main() -> int:
    arguments = _arguments()
    if arguments.row == "compare":
        _print(report.compared(*arguments.files))
        return 0
    machine.allow_descriptors()
    description = machine.description()
    machine.pin(os.getpid(), machine.cores()[1])
    if arguments.row == "soak":
        return 0 if _soaked(arguments) else 1
    book = Book()
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        plan = _plan(arguments, Path(folder), book)
        rows = [arguments.row] if arguments.row else list(ROWS)
        for row in rows:
            uvloop.run(_carried_out(row, plan))
    _print(report.written(book, description))
    if arguments.json:
        report.keep(arguments.json, book, description)
    return 1 if book.failed else 0


def _soaked(arguments: argparse.Namespace) -> bool:
    streams, jobs = (arguments.streams or (5000,))[0], (arguments.jobs or (2000,))[0]
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as name:
        generator = load.built(Path(name), fallback=arguments.fallback)
        say = functools.partial(print, flush=True)
        work = soak.run(generator, Path(name), say, minutes=arguments.minutes, streams=streams, jobs=jobs)
        return uvloop.run(work)


async def _carried_out(row: str, plan: Plan) -> None:
    """Run a row. If it fails, print the reason; the other rows still run."""
    try:
        await ROWS[row](plan)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other rows' figures are worth having
        plan.book.fail(f"{row}: {type(error).__name__}: {error}")


def _plan(arguments: argparse.Namespace, folder: Path, book: Book) -> Plan:
    found, left_out = servers.available()
    for note in left_out:
        book.note(note)
    generator = load.built(folder, fallback=arguments.fallback)
    if not generator.compiled:
        book.note("The load generator is the one in Python: it is the bottleneck of whatever is faster than itself.")
    if len(set(machine.cores())) == 1:
        book.note("There is one core only: server and load share it, and no figure is worth much.")
    quick = arguments.quick
    wanted = arguments.servers or (servers.QUICK if quick else servers.ALL)
    return Plan(
        generator,
        folder,
        book,
        tuple(name for name in found if name in wanted),
        rounds=arguments.rounds or (1 if quick else 3),
        streams=arguments.streams or ((1000,) if quick else (100, 1000, 10_000)),
        jobs=arguments.jobs or ((1000,) if quick else (100, 1000, 10_000)),
        quick=quick,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("row", nargs="?", choices=[*ROWS, "compare", "soak"], help="the one row to run (none: all)")
    parser.add_argument("files", nargs="*", type=Path, help="compare: two files that --json has written")
    parser.add_argument("--quick", action="store_true", help="small sizes, one round")
    parser.add_argument("--streams", type=_sizes, help="sizes of the rows of streams, such as 100,1000")
    parser.add_argument("--jobs", type=_sizes, help="sizes of the rows of jobs")
    parser.add_argument("--rounds", type=int, help="rounds, interleaved over the servers")
    parser.add_argument("--servers", type=lambda text: text.split(","), help=f"of {','.join(servers.ALL)}")
    parser.add_argument("--fallback", action="store_true", help="use the load generator in Python")
    parser.add_argument("--minutes", type=int, default=30, help="soak: for how long")
    parser.add_argument("--json", type=Path, help="keep the figures in this file")
    arguments = parser.parse_args()
    if arguments.row == "compare" and len(arguments.files) != 2:
        parser.error("compare takes two files")
    return arguments


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(part.replace("_", "")) for part in text.split(","))


def _print(text: str) -> None:
    sys.stdout.write(text)


if __name__ == "__main__":
    sys.exit(main())
