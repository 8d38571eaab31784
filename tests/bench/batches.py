"""Running jobs of HeyGen v3: the requests that their polls need, with the bulk status and without it.

The jobs never end. Without the bulk status, the provider answers it with 404, and each job is polled alone.
"""

import asyncio
from typing import Final

from tests.bench import machine, pollcast
from tests.bench.goals import OURS
from tests.bench.jobs import COUNTED, PACE
from tests.bench.plan import Plan
from tests.bench.polling import IN_FLIGHT

JOBS: Final = 1000
ORDER: Final = {"model": "heygen-v3", "prompt": "Hello", "avatar_id": "anna"}
SINGLY: Final = "without the bulk status"


async def run(plan: Plan) -> None:
    """Measure with and without the bulk status, in turn."""
    for round_ in range(plan.long_rounds):
        for name, offered in ((OURS, True), (SINGLY, False)):
            plan.say(f"batches, round {round_ + 1}: {JOBS:,} jobs of HeyGen v3, {name}")
            await _measure(plan, name, offered=offered)


async def _measure(plan: Plan, name: str, *, offered: bool) -> None:
    pace, counted = PACE[plan.quick], COUNTED[plan.quick]
    settings = {**pollcast.WITHOUT_BOUNDS, "POLL_INTERVAL": pace}
    async with pollcast.serving(plan.place(), settings) as server:
        await server.upstream.ask({"do": "bulk", "offered": offered})
        order = server.order("/api/jobs", ORDER, "batches")
        await plan.load.requests(server.port, [order], JOBS, in_flight=IN_FLIGHT, keep_alive=True)
        await asyncio.sleep(2.5 * pace)  # Each job has been polled twice.
        before, cpu = await server.asked(), machine.cpu(server.pid)
        await asyncio.sleep(counted)
        after, cpu = await server.asked(), machine.cpu(server.pid) - cpu
    polls = after["polls"] - before["polls"]
    row = ("batches", f"{JOBS:,} jobs of HeyGen v3")
    plan.book.add((*row, "requests", name), "1/s", (after["status_requests"] - before["status_requests"]) / counted)
    plan.book.add((*row, "polls", name), "1/s", polls / counted)
    plan.book.add((*row, "cpu", name), "us per poll", cpu / polls * 1e6)
