"""Orders: the rate of durable orders, and the time to the first byte of a job's stream.

The server runs with the defaults of a user. The providers' settings are the defaults too, so most jobs are queued.
"""

from tests.bench import machine, pollcast
from tests.bench.load import request
from tests.bench.plan import Plan

CONCURRENCY = 100
NUMBER = {False: 5000, True: 1000}


async def run(plan: Plan) -> None:
    """Measure `GET /api/ping` and both ways to order, with `CONCURRENCY` requests at once."""
    number = NUMBER[plan.quick]
    for round_ in range(plan.rounds):
        plan.say(f"orders, round {round_ + 1}")
        async with pollcast.serving(plan.place()) as server:
            row = _Row(plan, server)
            ping = request("GET", "/api/ping", server.port)
            order = pollcast.ORDERS[0]
            await row.measure("GET /api/ping", ping, number)
            await row.measure("GET /api/ping, connections kept", ping, number, keep_alive=True)
            await row.measure("POST /api/generate", server.order("/api/generate", order, "generate"), number)
            queued = server.order("/api/jobs", order, "jobs")
            await row.measure("POST /api/jobs, connections kept", queued, number, keep_alive=True)


class _Row:
    def __init__(self, plan: Plan, server: pollcast.Pollcast) -> None:
        self._plan = plan
        self._server = server

    async def measure(self, what: str, sent: bytes, number: int, *, keep_alive: bool = False) -> None:
        load, server, book = self._plan.load, self._server, self._plan.book
        await load.requests(server.port, [sent.replace(b"-@", b"-warm-@")], 100, in_flight=10)
        meter = machine.Meter(server.pid)
        answer = await load.requests(server.port, [sent], number, in_flight=CONCURRENCY, keep_alive=keep_alive)
        if answer["refused"] or answer["broken"]:
            raise RuntimeError(f"{what}: not all were answered: {answer}")
        case = f"{CONCURRENCY} at once"
        book.add(("orders", case, "first byte, p50", what), "ms", answer["p50"] / 1e3)
        book.add(("orders", case, "first byte, p99", what), "ms", answer["p99"] / 1e3)
        book.add(("orders", case, "answered", what), "1/s", answer["answered"] / answer["seconds"])
        book.add(("orders", case, "cpu", what), "us each", meter.cpu / number * 1e6)
        book.check_core(meter)
        book.check_load(what, answer["cpu"] / answer["wall"])
