"""Lag: the time from the end of a provider's work to the arrival of the job's final event at a client.

Many jobs run at once. Each is watched by the client that ordered it, and its duration varies around its model's usual
one. Every provider's `POLL_INTERVAL` equals that of the bare loop in the comparison. The number of polls is compared
with a fixed interval that has the same median lag.
"""

import statistics
from dataclasses import dataclass
from typing import Final

from tests.bench import machine, pollcast
from tests.bench.goals import OURS, SHARE
from tests.bench.plan import Plan
from tests.bench.process import python, started

MEAN: Final = {False: 60.0, True: 4.0}
SPREAD: Final = 0.15
"""Duration of jobs: seconds (by `quick`), and the standard deviation as a share of it. The providers' pages speak of
one to five minutes. With one minute, all jobs have been ordered when the first ends."""
TAUGHT: Final = 1500
"""Number of jobs that end before the measured ones are ordered: as many of each model as the server remembers."""
INTERVAL: Final = 2.0
RATE: Final = 400.0
"""Maximum number of orders per second."""
PATIENCE: Final = 300.0


async def run(plan: Plan) -> None:
    """Run Pollcast and the bare loop in turn."""
    for round_ in range(plan.long_rounds):
        row = _Row(plan, plan.jobs[-1], MEAN[plan.quick])
        plan.say(f"lag, round {round_ + 1}: {row.jobs:,} jobs")
        await row.ours()
        plan.say(f"lag, round {round_ + 1}: a bare loop")
        await row.bare()


@dataclass(frozen=True, slots=True)
class _Row:
    plan: Plan
    jobs: int
    mean: float

    def _add(self, what: str, unit: str, who: str, value: float) -> None:
        case = f"{self.jobs:,} jobs of {self.mean:g} s, give or take {SPREAD:.0%}"
        self.plan.book.add(("lag", case, what, who), unit, value)

    def _found(self, who: str, median: float, p99: float, polls: float) -> None:
        """Record a run: lags in seconds, and polls per job."""
        self._add("lag, median", "s", who, median)
        self._add("lag, p99", "s", who, p99)
        self._add("polls", "per job", who, polls)
        # With a fixed interval, the median lag is half of it, and the last poll comes after the end.
        as_late = self.mean / (2 * median) + 0.5
        self._add(SHARE, "share", who, polls / as_late)

    async def ours(self) -> None:
        settings = {**pollcast.WITHOUT_BOUNDS, "POLL_INTERVAL": INTERVAL}
        async with pollcast.serving(self.plan.place(), settings) as server:
            await server.upstream.ask({"do": "last", "mean": self.mean, "spread": SPREAD})
            await self._watch(server, TAUGHT, "taught")
            before = len((await server.asked())["asked"])
            meter = machine.Meter(server.pid)
            answer = await self._watch(server, self.jobs, "jobs")
            asked = (await server.asked())["asked"][before:]
            self._found(OURS, answer["p50"] / 1e6, answer["p99"] / 1e6, statistics.mean(asked))
            self._add("cpu", "ms per job", OURS, meter.cpu / self.jobs * 1e3)
            self.plan.book.check_core(meter)

    async def _watch(self, server: pollcast.Pollcast, jobs: int, name: str) -> dict[str, float]:
        """Order `jobs` jobs and read their streams to the end. Return the lags in microseconds."""
        orders = [server.order("/api/generate", order, name, "Connection: close") for order in pollcast.SAYING_WHEN]
        async with self.plan.load.streams(server.port, orders, jobs, mark="?t=", in_flight=32) as streams:
            if streams.opened["refused"] or streams.opened["broken"]:
                raise RuntimeError(f"not all orders were taken: {streams.opened}")
            await streams.closing(PATIENCE)
            answer = await streams.counted(PATIENCE)
        if answer["samples"] != jobs:
            raise RuntimeError(f"{answer['samples']} of {jobs} jobs ended: {answer}")
        return answer

    async def bare(self) -> None:
        folder, core = self.plan.place(), machine.cores()[0]
        async with pollcast.upstream(folder) as (port, answering):
            await answering.ask({"do": "last", "mean": self.mean, "spread": SPREAD})
            command = python("polling", f"http://127.0.0.1:{port}", INTERVAL)
            async with started(*command, core=core, folder=folder, name="polling") as loop:
                await loop.ask({"do": "order", "jobs": self.jobs, "rate": RATE, "manner": "together"})
                answer = await loop.ask({"do": "over"}, PATIENCE)
                used = (await loop.ask({"do": "stats"}))["cpu"]
        who = f"a bare loop, every {INTERVAL:g} s"
        lags = answer["lags"]
        p99 = lags[int(0.99 * (len(lags) - 1))]
        self._found(who, statistics.median(lags), p99, answer["polls"] / self.jobs)
        self._add("cpu", "ms per job", who, used / self.jobs * 1e3)
