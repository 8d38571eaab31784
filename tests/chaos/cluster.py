"""Part 3: several nodes on one Redis. One after the other is struck, while clients send requests to all of them.

A strike is either a kill with a restart a moment later, or a pause until other nodes have taken over the jobs. Each
request of a client goes to a random node, so a client often reconnects to another node.
"""

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median
from time import monotonic, time

import httpx

from proxy.simulator import Simulator
from tests.chaos import kills
from tests.chaos.clients import Client
from tests.chaos.ear import Ear
from tests.chaos.kills import PATIENCE, Server
from tests.chaos.orders import Order, Orders
from tests.chaos.verdict import Broken, Event, Verdict
from tests.support.deployment import NO_AUTHORITIES
from tests.support.redis_server import RedisServer

NODES = 3
SPEED = 8.0
"""Speed of the simulated providers, as a multiple of real ones. A job takes about a second."""
LEASE = 2.0
DEADLINE = 60.0
APART = (0.5, 2.0)
"""Shortest and longest time, in seconds, from a node's return to the next strike."""
DOWN = (0.0, 2 * LEASE)
"""Shortest and longest time, in seconds, until a killed node restarts: below and above a lease."""
PAUSED = LEASE + 2.0
"""Duration of a pause, in seconds. Other nodes look for expired leases every second."""
_SETTINGS = {"POLLCAST_LEASE": str(LEASE)} | {
    f"{provider}_DEADLINE": str(DEADLINE) for provider in ("GAGA", "GAIA", "AINOW", "GANAI", "HEYGEN")
}


class Spread(httpx.AsyncHTTPTransport):
    """Sends each request to a random node, like a load balancer without health checks."""

    def __init__(self, ports: Sequence[int], chance: Random) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        super().__init__(limits=limits, verify=NO_AUTHORITIES)
        self._ports = ports
        self._chance = chance

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request to a random node."""
        request.url = request.url.copy_with(port=self._chance.choice(self._ports))
        return await super().handle_async_request(request)


@dataclass(slots=True)
class Cluster:
    """Nodes with their Redis and providers, and clients of some accounts."""

    redis: RedisServer
    simulator: Simulator
    nodes: list[Server]
    verdict: Verdict
    orders: Orders
    chance: Random
    clients: list[Client] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    held: list[tuple[str, float]] = field(default_factory=list)
    """Jobs that a node held when it was struck, each with the time of the strike."""

    @property
    def strikes(self) -> list[float]:
        """Return the times at which a node was killed or paused."""
        return sorted(at for node in self.nodes for at in node.kills)

    def holds(self, node: Server) -> list[str]:
        """Return the unfinished jobs that a node has claimed, read from Redis."""
        with self.redis.client as client:
            owners = client.scan_iter(f"pollcast:held:{socket.gethostname()}:{node.pid}:*", count=1000)
            return [job.decode() for owner in owners for job in client.zrange(owner, 0, -1)]

    async def run(self, jobs: int, strikes: int) -> None:
        """Order and strike, wait until all jobs have ended, and inspect the accounts."""
        pace = strikes * (sum(APART) + sum(DOWN)) / 2 / jobs
        work = asyncio.create_task(self._order(jobs, pace))
        for strike in range(strikes):
            await asyncio.sleep(self.chance.uniform(*APART))
            # Strike the nodes in turn. Every third strike is a pause.
            await self._strike(self.nodes[strike % NODES], paused=strike % 3 == 2)
        try:
            async with asyncio.timeout(PATIENCE):
                await work
                await self._unwatched()
                for client in self.clients:
                    await self.verdict.inspect(client, self._truth)
        except TimeoutError:
            for order in self.orders.made:
                if order.watched and not order.over:
                    self.verdict.note(Broken.UNFINISHED, f"not over {PATIENCE:g} s after the last strike", order)
            self.verdict.note(Broken.UNFINISHED, f"the campaign, {PATIENCE:g} s after the last strike")
        for node in self.nodes:
            kills.check_log(self.verdict, node)

    async def _order(self, jobs: int, pace: float) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(jobs):
                client = self.clients[number % len(self.clients)]
                tasks.create_task(client.carry_out(self.orders.new(client.assets)))
                await asyncio.sleep(pace)

    async def _strike(self, node: Server, *, paused: bool) -> None:
        if paused:
            node.pause()
        else:
            node.kill()
        at = time()
        self.held += [(job, at) for job in await asyncio.to_thread(self.holds, node)]
        await asyncio.sleep(PAUSED if paused else self.chance.uniform(*DOWN))
        if paused:
            node.wake()
        else:
            node.start()
            await node.serves()

    async def _unwatched(self) -> None:
        for client in self.clients:
            for order in client.orders:
                if order.job and not order.over:
                    await client.events(order.job)

    def _truth(self, order: Order, events: Sequence[Event], *, bought: bool) -> str | None:
        return kills.untrue(self.verdict.ear, self.strikes, order, events, bought=bought)

    def taken_over_after(self) -> list[float]:
        """Return the seconds from a strike to the next event of each watched job that another node took over."""
        seen = {order.job: order.seen for order in self.orders.made if order.over}
        waits = []
        for job, at in self.held:
            later = [kills.time_of(event) for event in seen.get(job, ()) if kills.time_of(event) > at]
            waits += [later[0] - at] if later else []
        return waits


@asynccontextmanager
async def opened(seed: int) -> AsyncIterator[Cluster]:
    """Open a cluster, and wait until all nodes serve."""
    chance = Random(seed)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        redis = stack.enter_context(RedisServer(folder))
        simulator = await stack.enter_async_context(Simulator(seed=seed, speed=SPEED))
        verdict = Verdict(Ear(simulator))
        nodes = [
            Server(folder, simulator.origin, redis.url, name=f"node-{n}", settings=_SETTINGS) for n in range(NODES)
        ]
        cluster = Cluster(redis, simulator, nodes, verdict, Orders(chance, trouble=0.2, stuck=False), chance)
        cluster.keys = await kills.new_keys(redis.url)
        for node in nodes:
            stack.callback(node.stop)
            node.start()
        for node in nodes:
            await node.serves()
        for key in cluster.keys:
            http = httpx.AsyncClient(
                base_url="http://127.0.0.1",
                transport=Spread([int(node.origin.rpartition(":")[2]) for node in nodes], chance),
                headers={"Authorization": f"Bearer {key}"},
                timeout=20,
            )
            client = Client(await stack.enter_async_context(http), verdict, chance)
            await client.bring_assets()
            cluster.clients.append(client)
        yield cluster


async def run(strikes: int, seed: int, jobs: int = 300) -> tuple[Verdict, str]:
    """Strike nodes `strikes` times while `jobs` jobs run. Return the findings and the summary line."""
    began = monotonic()
    async with opened(seed) as cluster:
        await cluster.run(jobs, strikes)
    verdict, waits = cluster.verdict, cluster.taken_over_after()
    unsure = f"{verdict.ends['outcome_unknown']} of unknown outcome, {verdict.ends['interrupted']} interrupted"
    took = f"{len(waits)} jobs taken over with a lease of {LEASE:g} s"
    if waits:
        took += f", after {median(waits):.1f} s (median), {max(waits):.1f} s (worst)"
    done = f"{NODES} nodes, {len(cluster.strikes)} strikes, {took}"
    return verdict, f"cluster: seed {seed}, {done}, {verdict.summary}, {unsure}, {monotonic() - began:.0f} s"
