"""Part 1: a real server process that is killed repeatedly while jobs of all providers run.

The simulated providers run in this process, so they survive and count purchases. A kill comes at a random time or at a
step of a job: when the upstream receives a request, shortly after that, or while a client orders.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from random import Random
from time import monotonic, time
from types import MappingProxyType

import httpx

from proxy.core import keys as api_keys
from proxy.core.clock import SystemClock
from proxy.simulator import Fault, PromptFault, ReceivedRequest, Simulator, default_keys
from proxy.store import open_store
from tests.chaos import stores
from tests.chaos.clients import BREAKS, Client, connected
from tests.chaos.ear import ASKS_AGAIN, Ear, Mischief
from tests.chaos.orders import Order, Orders
from tests.chaos.verdict import Broken, Event, Verdict, end_of
from tests.support.ports import free_port
from tests.support.root import ROOT

SERVER = ROOT / "server.py"
ACCOUNTS, UNDER_WAY, IDENTICAL = 3, 24, 50
GRANTED = 10_000_000
SPEED = 16.0
"""Speed of the simulated providers, as a multiple of real ones. A job takes about half a second."""
DEADLINE = 60.0
"""Deadline of jobs, in seconds. It is long, because several short-lived processes may retry one order."""
PATIENCE = 90.0
"""Maximum time, in seconds, until all jobs have ended after the last kill."""
LEASE = 0.3
"""Duration of a lease, in seconds. The next process must take over jobs before it is killed itself."""
EVERY = 25
"""Number of kills between two rounds of identical orders."""
_OURS = ("POLLCAST_", "GAGA_", "GAIA_", "AINOW_", "GANAI_", "HEYGEN_")


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a job: the operation that marks it, and the delay of the kill in seconds."""

    name: str
    heard: tuple[str, ...]
    seconds: tuple[float, float] = (0, 0)

    def met(self, operation: str) -> bool:
        """Return True if an operation marks this step."""
        return any(fnmatchcase(operation, pattern) for pattern in self.heard)


REFUSING_REPEATS = {PromptFault.CREDITS, PromptFault.SERVER_ERROR}
"""Words that have every repeat refused for reasons of the provider's account or server, and so for no final reason."""
STREAMS = ("ainow.generate", "gaia.chat")
PAID = ("*.submit", *STREAMS)
START = Step("start", ("server.start",), (0.25, 0.6))
STEPS = (
    Step("order being taken", ("client.order",), (0, 0.01)),
    Step("upload", ("gaga.upload",), (0, 0.004)),
    Step("submit sent", ("*.submit",)),
    Step("submit answered", ("*.submit",), (0.001, 0.012)),
    Step("poll sent", ("*.check",)),
    Step("poll answered", ("*.check",), (0.001, 0.012)),
    Step("result read", ("gaia.result",), (0, 0.01)),
    Step("stream asked for", STREAMS),
    Step("stream begun", STREAMS, (0.002, 0.03)),
    Step("middle of a stream", STREAMS, (0.05, 0.4)),
    Step("cancel being taken", ("client.cancel",), (0, 0.01)),
    Step("final event", ("client.final",), (0, 0.002)),
    START,
)


class Server:
    """The server process, restarted on the same port and store. Servers of one folder share their assets.

    `settings` are added to the environment of every campaign.
    """

    def __init__(
        self,
        folder: Path,
        origin: str,
        store: str,
        *,
        name: str = "server",
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._port = free_port()
        self.origin = f"http://127.0.0.1:{self._port}"
        self.store = store
        self.log = folder / f"{name}.log"
        self.kills: list[float] = []
        """Times of the kills, in seconds of the epoch."""
        self._folder = folder
        self._environment = _environment(origin) | {
            "POLLCAST_PORT": str(self._port),
            "POLLCAST_STORE": self.store,
            "POLLCAST_ASSETS": f"{folder}/assets",
            "POLLCAST_LEASE": str(LEASE),
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process. It does not serve yet."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, SERVER, "serve"],
                env=self._environment,
                cwd=self._folder,
                stdout=output,
                stderr=output,
            )

    async def serves(self) -> None:
        """Wait until the process runs jobs. Its port opens much earlier, and a kill at that time would test nothing."""
        async with asyncio.timeout(30), httpx.AsyncClient(base_url=self.origin, trust_env=False, timeout=30) as http:
            while not await _ready(http):
                if self._process is None or self._process.poll() is not None:
                    raise RuntimeError(f"The server did not start:\n{self.log.read_text()[-2000:]}")
                await asyncio.sleep(0.005)

    def kill(self) -> None:
        """Send SIGKILL."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.send_signal(signal.SIGKILL)
        self.kills.append(time())
        self._process.wait()

    @property
    def pid(self) -> int:
        """Id of the last started process."""
        assert self._process is not None
        return self._process.pid

    def pause(self) -> None:
        """Send SIGSTOP. `wake` resumes the process."""
        os.kill(self.pid, signal.SIGSTOP)
        self.kills.append(time())

    def wake(self) -> None:
        """Resume the process."""
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        """Stop the process with SIGTERM."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            self._process.wait(20)


async def _ready(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/readyz")).is_success
    except BREAKS:
        return False


def _refusing(chance: Random) -> Mischief:
    """Return a function that refuses some submits with a retry, so that kills also come between two attempts."""

    def mischief(received: ReceivedRequest) -> Fault | None:
        refused = any(fnmatchcase(received.operation, pattern) for pattern in PAID) and chance.random() < 0.1
        return Fault(received.operation, chance.choice(ASKS_AGAIN)) if refused else None

    return mischief


def _environment(origin: str) -> dict[str, str]:
    """Return this process's environment without Pollcast settings, and with the simulator for every provider."""
    found = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    for provider, key in default_keys().items():
        settings: Mapping[str, object] = {
            "BASE_URL": origin,
            "API_KEY": key,
            "POLL_INTERVAL": 0.05,
            "DEADLINE": DEADLINE,
            "RATE": 2000,
        }
        found |= {f"{provider.upper()}_{name}": str(value) for name, value in settings.items()}
    return found | {"GANAI_PROJECT_ID": "demo"}


@dataclass(slots=True)
class Kills:
    """The campaign of this part."""

    number: int
    server: Server
    verdict: Verdict
    orders: Orders
    clients: list[Client]
    chance: Random
    at_steps: Counter[str] = field(default_factory=Counter)
    _coming: list[Step] = field(default_factory=list)
    _armed: Step | None = None
    _met: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the step was reached. The kill may follow a moment later."""
    _struck: asyncio.Event = field(default_factory=asyncio.Event)
    _ending: bool = False

    async def run(self) -> None:
        """Order and kill, wait until all jobs have ended, and inspect the accounts."""
        each = min(UNDER_WAY, 4 * self.number) // ACCOUNTS
        work = [asyncio.create_task(self._work(client)) for client in self.clients for _ in range(each)]
        crowds = []
        for kill in range(self.number):
            if kill % EVERY == 0:
                crowds.append(asyncio.create_task(self._identical(self.chance.choice(self.clients))))
            await self._kill()
        self._ending = True
        await self.server.serves()
        await self._finish([*work, *crowds])
        for client in self.clients:
            await self.verdict.inspect(client, self._truth)
        self._check_log()

    async def _work(self, client: Client) -> None:
        while not self._ending:
            await client.carry_out(self.orders.new(client.assets))

    async def _identical(self, client: Client) -> None:
        """Send many identical orders with one Idempotency-Key at once, while kills continue."""
        order = self.orders.new(client.assets)
        client.orders.append(order)
        copies = [replace(order) for _ in range(IDENTICAL)]
        await asyncio.gather(*(client.place(copy) for copy in copies))
        made = {copy.job for copy in copies}
        order.job = copies[0].job
        if len(made) != 1:
            self.verdict.note(Broken.LOST, f"{IDENTICAL} identical orders made {made}", order)
        await client.follow(order)

    async def _finish(self, work: list["asyncio.Task[None]"]) -> None:
        done, late = await asyncio.wait(work, timeout=PATIENCE)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        for task in done:
            task.result()
        for order in self.orders.made:
            if order.watched and not order.over and late:
                self.verdict.note(Broken.UNFINISHED, f"not over {PATIENCE:g} s after the last kill", order)
        await self._unwatched()

    async def _unwatched(self) -> None:
        """Wait for the unwatched jobs."""
        until = monotonic() + DEADLINE
        for client in self.clients:
            for order in client.orders:
                async with asyncio.timeout(max(until - monotonic(), 1)):
                    if order.job and not order.over:
                        await client.events(order.job)

    # --- kills ---

    def tell(self, operation: str) -> None:
        """Handle an operation: trigger the kill if it marks the awaited step."""
        step = self._armed
        if step is None or not step.met(operation):
            return
        self._armed = None
        self._met.set()
        self.at_steps[step.name] += 1
        seconds = self.chance.uniform(*step.seconds)
        if seconds:
            asyncio.get_running_loop().call_later(seconds, self._strike)
        else:
            self._strike()

    def _strike(self) -> None:
        self.server.kill()
        self._struck.set()

    async def _kill(self) -> None:
        """Kill the server once, and restart it."""
        step = self._next_step() if self.chance.random() < 0.7 else None
        self._met.clear()
        self._struck.clear()
        if step is not START:
            await self.server.serves()
            await asyncio.sleep(self.chance.uniform(0, 0.2 if step else 0.5))
        self._armed = step
        if step is START:
            self.tell("server.start")
        await self._wait()
        self.server.start()

    def _next_step(self) -> Step:
        """Return the next step. Each round has all steps, in random order."""
        if not self._coming:
            self._coming = self.chance.sample(STEPS, len(STEPS))
        return self._coming.pop()

    async def _wait(self) -> None:
        """Wait for the kill. Without a step, or if the step is not reached in time, kill now."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2 if self._armed else 0):
                await self._met.wait()
        if not self._met.is_set():
            self._armed = None
            self._strike()
        await self._struck.wait()

    # --- the truth of a final event ---

    def _truth(self, order: Order, events: Sequence[Event], *, bought: bool) -> str | None:
        return untrue(self.verdict.ear, self.server.kills, order, events, bought=bought)

    def _check_log(self) -> None:
        check_log(self.verdict, self.server)


def untrue(ear: Ear, kills: Sequence[float], order: Order, events: Sequence[Event], *, bought: bool) -> str | None:
    """Return a false statement of a job's final event, or None. `kills` are the times of the server's kills."""
    final = events[-1]
    end = end_of(final)
    if end == order.end or (end == "Canceled" and order.cancels):
        return None
    if end == "outcome_unknown" and ear.polled(order.token):
        return "its outcome is called unknown, and yet its ticket was polled"
    if end == "outcome_unknown" and order.repeatable and order.word not in REFUSING_REPEATS:
        return "its outcome is called unknown, and yet its order could be sent again"
    in_flight = end == "outcome_unknown" or (end == "interrupted" and order.streamed and bought)
    if in_flight and any(time_of(events[0]) - 0.1 <= kill <= time_of(final) for kill in kills):
        return None
    return f"ended as {end}, not as {order.end}, and was not in flight at a kill that could explain it"


def check_log(verdict: Verdict, server: Server) -> None:
    """Add a finding for each internal error in the server's log."""
    log = server.log.read_text()
    if "Traceback" in log:
        verdict.note(Broken.ANSWER, f"the server's log: ...{log[log.index('Traceback') :][:3000]}")


def time_of(event: Event) -> float:
    """Return the time at which an event was recorded, in seconds of the epoch."""
    return datetime.fromisoformat(str(event["at"])).timestamp()


@asynccontextmanager
async def _opened(number: int, seed: int, store: str) -> AsyncIterator[Kills]:
    chance = Random(seed)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        simulator = await stack.enter_async_context(Simulator(seed=seed, speed=SPEED))
        ear = Ear(simulator, _refusing(chance))
        server = Server(folder, simulator.origin, stack.enter_context(stores.opened(store, folder)))
        stack.callback(server.stop)
        kills = Kills(number, server, Verdict(ear), Orders(chance, trouble=0.35, stuck=False), [], chance)
        ear.tell = kills.tell
        keys = await new_keys(server.store)
        server.start()
        await server.serves()
        for key in keys:
            kills.clients.append(await _client(stack, kills, key))
        yield kills


async def new_keys(store_url: str) -> list[str]:
    """Create the accounts with many tokens, and return a key of each."""
    keys = [api_keys.new_key() for _ in range(ACCOUNTS)]
    async with open_store(store_url, SystemClock()) as store:
        for n, key in enumerate(keys):
            await store.create_key(f"account-{n}", api_keys.digest(key), GRANTED)
    return keys


async def _client(stack: AsyncExitStack, kills: Kills, key: str) -> Client:
    http = await stack.enter_async_context(connected(kills.server.origin, key))
    client = Client(http, kills.verdict, kills.chance, kills.tell)
    await client.bring_assets()
    return client


async def run(number: int, seed: int, store: str = "sqlite") -> tuple[Verdict, str]:
    """Kill a server `number` times. Return the findings and the summary line."""
    began = monotonic()
    async with _opened(number, seed, store) as kills:
        await kills.run()
        verdict = kills.verdict
    unsure = f"{verdict.ends['outcome_unknown']} of unknown outcome, {verdict.ends['interrupted']} interrupted"
    done = f"{len(kills.server.kills)} kills ({kills.at_steps.total()} at {len(kills.at_steps)} recorded steps)"
    return verdict, f"kills: {store}, seed {seed}, {done}, {verdict.summary}, {unsure}, {monotonic() - began:.0f} s"
