"""Part 2: thousands of exchanges with upstreams that fail in every way, over real sockets, in one process.

The clock of the server and the providers runs `FACTOR` times as fast as real time. Timeouts of sockets are real, so
they are shortened (`TIMES`). The providers' clock wobbles, so that states and progress run backwards, and sometimes all
of them are away.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from random import Random
from time import monotonic

from proxy.simulator import Fault, Kind, ReceivedRequest, Simulator
from proxy.upstream.times import UpstreamTimes
from tests.chaos import stores
from tests.chaos.clients import Client, connected
from tests.chaos.ear import Ear
from tests.chaos.orders import Order, Orders
from tests.chaos.verdict import Broken, Event, Verdict, end_of
from tests.support.deployment import Deployment, JumpClock

ACCOUNTS, UNDER_WAY = 8, 64
GRANTED = 10_000_000
FACTOR = 40.0
"""Seconds of the world's clock in one of ours."""
WOBBLE = 1.5
DEADLINE = 120.0
PATIENCE = 60.0
"""Seconds, of ours, in which everything must be over after the last order."""
LATE = 120.0
"""Seconds that one exchange may take beyond a deadline: the longest time-out, and a busy machine's own slowness."""
TIMES = UpstreamTimes(
    connect=0.3, connect_in_all=0.3, read_silence=0.3, upload_silence=0.3, submit_silence=0.4, stream_silence=0.4
)

AT_ONCE = (
    Kind.BAD_REQUEST,
    Kind.UNAUTHORIZED,
    Kind.PAYMENT_REQUIRED,
    Kind.FORBIDDEN,
    Kind.NOT_FOUND,
    Kind.NOT_ALLOWED,
    Kind.CONFLICT,
    Kind.GONE,
    Kind.UNPROCESSABLE,
    Kind.SERVER_ERROR,
    Kind.BAD_GATEWAY,
    Kind.BAD_GATEWAY_PAGE,
    Kind.GATEWAY_TIMEOUT,
    Kind.REJECT,
    Kind.CREDITS,
    Kind.HTML,
    Kind.REDIRECT,
    Kind.HUGE,
)
OFTEN = (
    Kind.TOO_MANY,
    Kind.UNAVAILABLE,
    Kind.RESET,
    Kind.DROP,
    Kind.CUT,
    Kind.UNFINISHED,
    Kind.MALFORMED,
    Kind.WRONG_TYPES,
    Kind.EMPTY,
    Kind.UNKNOWN_STATUS,
    Kind.DRIP,
    Kind.SLOW,
)
SELDOM = (Kind.TIMEOUT, Kind.STALL)
"""Those that hold a job for a whole time-out."""
NOT_TAKEN = frozenset({"upstream_unreachable", "upstream_rejected", "upstream_auth", "upstream_retired"})
"""Ends that say that the provider did not take the order."""


class RunningClock(JumpClock):
    """A clock that runs fast, and sleeps in proportion."""

    def __init__(self) -> None:
        super().__init__()
        self._began = monotonic()

    def now(self) -> float:
        return self.at + (monotonic() - self._began) * FACTOR

    def monotonic(self) -> float:
        return self.now()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / FACTOR)


@dataclass(slots=True)
class Mischief:
    """Chooses what goes wrong with a request."""

    chance: Random
    share: float = 0.3

    def __call__(self, received: ReceivedRequest) -> Fault | None:
        """A fault, or none."""
        if self.chance.random() > self.share:
            return None
        kinds = self.chance.choices((AT_ONCE, OFTEN, SELDOM), (4, 6, 1))[0]
        return Fault(
            received.operation,
            self.chance.choice(kinds),
            seconds=self.chance.choice((1, 5, 30)),
            retry_after=self.chance.choice((1, 1, 5)),
            size=1 << 18,
        )


@dataclass(slots=True)
class Exchanges:
    """The campaign."""

    number: int
    deployment: Deployment
    verdict: Verdict
    orders: Orders
    clients: list[Client]
    chance: Random

    @property
    def under_way(self) -> int:
        """How many orders are under way at once."""
        return min(UNDER_WAY, max(self.number // 10, ACCOUNTS))

    @property
    def so_far(self) -> int:
        """How many requests the upstreams have been sent."""
        return self.deployment.simulator.calls.total()

    async def run(self) -> None:
        """Order until there were enough exchanges, wait for everything to finish, and inspect."""
        away = asyncio.create_task(self._go_away())
        work = [
            asyncio.create_task(self._work(client)) for client in self.clients for _ in range(UNDER_WAY // ACCOUNTS)
        ]
        done, late = await asyncio.wait(work, timeout=PATIENCE + self.number / 50)
        for task in (*late, away):
            task.cancel()
        await asyncio.gather(*late, away, return_exceptions=True)
        for task in done:
            task.result()
        for client in self.clients:
            await self._all_over(client)
            await self.verdict.inspect(client, self._truth)

    async def _work(self, client: Client) -> None:
        while self.so_far < self.number:
            # Nobody wants to wait for those in the end.
            self.orders.stuck = self.so_far < self.number - 1000
            await client.carry_out(self.orders.new(client.assets))

    async def _go_away(self) -> None:
        """Let all providers be away for a moment, every now and then."""
        simulator = self.deployment.simulator
        port = int(simulator.origin.rpartition(":")[2])
        while True:
            await asyncio.sleep(self.chance.uniform(0.5, 3))
            try:
                await simulator.stop()
                await asyncio.sleep(self.chance.uniform(0.01, 0.1))
            finally:
                await simulator.start(port=port)

    async def _all_over(self, client: Client) -> None:
        """Wait for the jobs that nobody watches, or note that they do not end."""
        for order in client.orders:
            if order.job is None or order.over:
                continue
            try:
                async with asyncio.timeout(PATIENCE):
                    await client.events(order.job)
            except TimeoutError:
                self.verdict.note(Broken.UNFINISHED, f"not over after {PATIENCE * FACTOR:g} s", order)

    def _truth(self, order: Order, events: Sequence[Event], *, bought: bool) -> str | None:
        final = events[-1]
        end = end_of(final)
        took = _time(final) - _time(events[0])
        # Waiting for room at the provider has a deadline of its own.
        if took > 2 * DEADLINE + LATE:
            self.verdict.note(
                Broken.UNFINISHED, f"ended only after {took:.0f} s, with deadlines of {DEADLINE:g} s", order
            )
        if bought and end in NOT_TAKEN and not self.verdict.ear.polled(order.token):
            return f"ended as {end}, and yet the provider had taken it"
        return None


def _time(event: Event) -> float:
    return datetime.fromisoformat(str(event["at"])).timestamp()


@asynccontextmanager
async def _opened(number: int, seed: int, store: str) -> AsyncIterator[Exchanges]:
    chance = Random(seed)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        clock = RunningClock()
        deployment = Deployment(folder, clock, provider={"deadline": DEADLINE}, providers={"Gaga": {"concurrency": 6}})
        deployment.upstream_times = TIMES
        deployment.store_url = stack.enter_context(stores.opened(store, folder))
        deployment.simulator = Simulator(
            seed=seed, now=lambda: clock.now() + chance.uniform(-WOBBLE, WOBBLE), sleep=clock.sleep
        )
        mischief = Mischief(chance)
        ear = Ear(deployment.simulator, mischief)
        await stack.enter_async_context(deployment)
        exchanges = Exchanges(number, deployment, Verdict(ear), Orders(chance, trouble=0.15), [], chance)
        for n in range(ACCOUNTS):
            key = await deployment.new_key(f"account-{n}", GRANTED)
            exchanges.clients.append(await _client(stack, exchanges, key))
        yield exchanges


async def _client(stack: AsyncExitStack, exchanges: Exchanges, key: str) -> Client:
    http = await stack.enter_async_context(connected(exchanges.deployment.origin, key))
    clock = exchanges.deployment.clock
    client = Client(http, exchanges.verdict, exchanges.chance, pause=clock.sleep, cancels_within=20)
    await client.bring_assets()
    return client


async def run(number: int, seed: int, store: str = "sqlite") -> tuple[Verdict, str]:
    """Exchange so many requests with the upstreams; gives the findings and the summary line."""
    began = monotonic()
    async with _opened(number, seed, store) as exchanges:
        await exchanges.run()
        calls = exchanges.so_far
        verdict = exchanges.verdict
    faults = sum(line.fault is not None for order in exchanges.orders.made for line in verdict.ear.lines(order.token))
    done = f"{calls:,} exchanges ({faults:,} went wrong)"
    return verdict, f"exchanges: {store}, seed {seed}, {done}, {verdict.summary}, {monotonic() - began:.0f} s"
