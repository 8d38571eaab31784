"""`python -m tests.chaos`: checks that no job is lost and none bought twice, under kills and bad upstream answers.

A campaign has four parts; `cluster` is a fifth. Each prints a summary line. If an invariant is broken, the evidence
is printed and the exit status is 1. Everything stays on loopback and in a temporary folder.
"""

import argparse
import asyncio
import logging
import secrets
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol

import uvloop

from tests.chaos import cluster, cuts, exchanges, kills, oddities, stores
from tests.chaos.odd_answers import KINDS

Part = Callable[[int, int], Awaitable[tuple["Judgement", str]]]


class Judgement(Protocol):
    """The findings of a part."""

    @property
    def findings(self) -> Sequence[object]: ...
    def evidence(self) -> str: ...


def main() -> int:
    """Run the requested parts, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("part", nargs="?", choices=["cluster"], help="three nodes on one Redis instead of one server")
    parser.add_argument("--kills", type=int, default=200, help="kills of a real server process (0: none)")
    parser.add_argument("--exchanges", type=int, default=10_000, help="randomised upstream exchanges (0: none)")
    parser.add_argument("--odd", type=int, default=5_000, help="odd answers of upstreams, over all kinds (0: none)")
    parser.add_argument("--cuts", type=int, default=1000, help="bytes at which a paid answer is cut (0: none)")
    parser.add_argument("--kinds", default="".join(KINDS), help="the kinds of odd answers, by their letters")
    parser.add_argument("--jobs", type=int, default=300, help="cluster: orders")
    parser.add_argument("--strikes", type=int, default=14, help="cluster: kills and pauses of one node after the other")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="of all that is chosen by chance")
    parser.add_argument("--store", choices=stores.STORES, default="sqlite", help="what the server keeps its jobs in")
    chosen = parser.parse_args()
    logging.disable(logging.CRITICAL)  # The server logs much about such upstreams.
    say(f"seed {chosen.seed}")
    parts: list[tuple[Part, int]] = [
        (partial(kills.run, store=chosen.store), chosen.kills),
        (partial(exchanges.run, store=chosen.store), chosen.exchanges),
        (partial(oddities.run, store=chosen.store, kinds=chosen.kinds), chosen.odd),
        (partial(cuts.run, store=chosen.store), chosen.cuts),
    ]
    if chosen.part == "cluster":
        parts = [(partial(cluster.run, jobs=chosen.jobs), chosen.strikes)]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        held = [runner.run(_told(part, number, chosen.seed)) for part, number in parts if number]
    return 0 if all(held) else 1


async def _told(part: Part, number: int, seed: int) -> bool:
    """Run a part and print its line. Return True if all invariants held."""
    verdict, line = await part(number, seed)
    say(line)
    if verdict.findings:
        say(f"\n{verdict.evidence()}\n")
    return not verdict.findings


def say(text: str) -> None:
    """Print without buffering."""
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
