"""Stopping: the time from SIGTERM to the end of a server with many open streams."""

import time

from tests.bench import pollcast
from tests.bench.goals import OURS
from tests.bench.plan import Plan

STREAMS = {False: 5000, True: 500}


async def run(plan: Plan) -> None:
    """Open streams of one endless job, then stop the server with SIGTERM."""
    number = STREAMS[plan.quick]
    for round_ in range(plan.rounds):
        plan.say(f"stop, round {round_ + 1}: {number:,} streams")
        async with pollcast.serving(plan.place()) as server:
            job = await server.started_job()
            async with plan.load.streams(server.port, [server.get(f"/api/jobs/{job}/events")], number) as streams:
                if streams.opened["open"] != number:
                    raise RuntimeError(f"not all streams were opened: {streams.opened}")
                await streams.closing(60)
                began = time.monotonic()
                server.process.interrupt()
                await server.process.ended()
                seconds = time.monotonic() - began
                closed = await streams.counted(60)
        case = f"{number:,} streams open"
        plan.book.add(("stop", case, "until the process has ended", OURS), "s", seconds)
        plan.book.add(("stop", case, "until the last stream was closed", OURS), "s", closed["seconds"])
