"""Unwatched running jobs: the memory of each and the CPU time of a poll, compared with a bare aiohttp loop.

The providers never finish and always give the same answer, so a poll makes no event. The bare loops poll the same
number of jobs at the same total rate.
"""

import asyncio
from dataclasses import dataclass

from tests.bench import machine, pollcast
from tests.bench.goals import OURS, TASKS
from tests.bench.plan import Plan
from tests.bench.polling import IN_FLIGHT
from tests.bench.process import Process, python, started

WARM = 400
"""Number of jobs that start before memory is measured."""
PACE = {False: 10.0, True: 2.0}
"""Seconds from a job's order to its first poll, and between the polls of a long job, by `quick`."""
COUNTED = {False: 20.0, True: 5.0}
"""Seconds for which polls are counted, by `quick`."""
LOOPS = (TASKS, "bare loop, in turns")


async def run(plan: Plan) -> None:
    """Run all numbers of jobs. In each round, the loops run after Pollcast, at its rate."""
    for jobs in plan.jobs:
        for round_ in range(plan.long_rounds):
            row = _Row(plan, jobs)
            plan.say(f"jobs, round {round_ + 1}: {jobs:,} under way")
            rate = await row.ours()
            for name in LOOPS[:1] if plan.quick else LOOPS:
                plan.say(f"jobs, round {round_ + 1}: {name}")
                await row.bare(name, rate)


@dataclass(frozen=True, slots=True)
class _Row:
    plan: Plan
    jobs: int

    def _add(self, what: str, unit: str, who: str, value: float) -> None:
        self.plan.book.add(("jobs", f"{self.jobs:,} under way", what, who), unit, value)

    async def ours(self) -> float:
        """Start the jobs and count their polls. Return the polls per second."""
        settings = {**pollcast.WITHOUT_BOUNDS, "POLL_INTERVAL": PACE[self.plan.quick]}
        async with pollcast.serving(self.plan.place(), settings) as server:
            await self._take_in(server, WARM, "warm")
            before = machine.memory(server.pid)
            await self._take_in(server, self.jobs, "jobs")
            await asyncio.sleep(1.2 * PACE[self.plan.quick])  # Every job has been polled once.
            self._add("memory", "KiB per job", OURS, (machine.memory(server.pid) - before) / self.jobs)
            began, cpu = await server.asked(), machine.cpu(server.pid)
            await asyncio.sleep(COUNTED[self.plan.quick])
            polls = (await server.asked())["polls"] - began["polls"]
            self._add("cpu", "us per poll", OURS, (machine.cpu(server.pid) - cpu) / polls * 1e6)
            self._add("polls", "1/s", OURS, polls / COUNTED[self.plan.quick])
            return float(polls / COUNTED[self.plan.quick])

    async def _take_in(self, server: pollcast.Pollcast, number: int, name: str) -> None:
        """Order `number` jobs of all kinds, and wait until the providers have them."""
        already = (await server.asked())["submits"]
        orders = [server.order("/api/jobs", order, name) for order in pollcast.ORDERS]
        answer = await self.plan.load.requests(server.port, orders, number, in_flight=IN_FLIGHT, keep_alive=True)
        if answer["refused"] or answer["broken"]:
            raise RuntimeError(f"not all orders were taken: {answer}\n{server.process.tail()}")
        async with asyncio.timeout(60 + number / 50):
            while (await server.asked())["submits"] - already < number:
                await asyncio.sleep(0.25)

    async def bare(self, name: str, rate: float) -> None:
        """Poll the same number of jobs at the same rate, with a loop of a few lines."""
        folder, core = self.plan.place(), machine.cores()[0]
        async with pollcast.upstream(folder) as (port, _):
            command = python("polling", f"http://127.0.0.1:{port}", (self.jobs + WARM) / rate)
            async with started(*command, core=core, folder=folder, name="polling") as loop:
                await self._measured(name, loop)

    async def _measured(self, name: str, loop: Process) -> None:
        order = {"do": "order", "jobs": self.jobs + WARM, "rate": 1000, "manner": name.rpartition(", ")[2]}
        await loop.ask(order)
        before = await loop.ask({"do": "stats"})
        await asyncio.sleep(COUNTED[self.plan.quick])
        after = await loop.ask({"do": "stats"})
        polls = after["polls"] - before["polls"]
        self._add("cpu", "us per poll", name, (after["cpu"] - before["cpu"]) / polls * 1e6)
        self._add("polls", "1/s", name, polls / COUNTED[self.plan.quick])
