"""Part 4: the answer to a submit cut at every byte, and the server killed at every step around it.

The order is of heygen-v3, whose provider sells once for a key. The provider is a few lines on a real socket: it counts
what it sells, and ends its first answers after a number of bytes. Each order has its own number of bytes and its own
step, at which the server is killed with SIGKILL.
"""

import asyncio
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any

import httpx
import orjson

from proxy.core import keys as api_keys
from proxy.core.clock import SystemClock
from proxy.store import open_store
from tests.chaos import stores
from tests.chaos.clients import BREAKS, connected
from tests.chaos.kills import GRANTED, Server
from tests.chaos.orders import FINAL

UNDER_WAY = 6
"""Orders at once. A kill hits all of them."""
PATIENCE = 120.0
"""Seconds that an order may take: those of several processes, and the pauses of a circuit breaker."""
RECEIPT = b'{"data": {"video_id": "vid1", "status": "waiting", "output_format": "mp4"}}'
STEPS = {
    "submit heard": 0.0,
    "answer cut": 0.02,
    "repeat heard": 0.0,
    "repeat answered": 0.012,
    "poll heard": 0.0,
    "poll answered": 0.012,
}
"""The steps, each with the longest delay of the kill in seconds."""


def answer(body: bytes) -> bytes:
    """Return a whole response."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    return head % len(body) + body


WHOLE = answer(RECEIPT)


@dataclass(slots=True)
class Order:
    """An order: the length at which its first answers are cut, their number, and the step of its kill."""

    length: int
    cuts: int
    step: str
    job: str = ""
    final: dict[str, Any] = field(default_factory=dict)
    keys: Counter[str] = field(default_factory=Counter)
    """Submits, by idempotency key."""
    bodies: set[bytes] = field(default_factory=set)
    polls: int = 0
    is_killed: bool = False

    @property
    def token(self) -> str:
        """Return the text by which the provider knows the order."""
        return f"order-{self.length:06}"


def _state(video: str, order: Order) -> dict[str, str]:
    state = {"id": video, "video_id": video, "status": "completed" if order.polls > 2 else "processing"}
    return state | ({"video_url": "https://files.heygen.ai/v.mp4"} if order.polls > 2 else {})


@dataclass(slots=True)
class CuttingProvider:
    """HeyGen v3 in a few bytes. `kill` is called at each order's step."""

    orders: dict[str, Order]
    chance: Random
    kill: Callable[[], None] = lambda: None
    at_steps: Counter[str] = field(default_factory=Counter)
    """Kills, by their step."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"POST"):
                length = re.search(rb"(?i)content-length: (\d+)", head)
                assert length is not None
                await self._sell(writer, head, await reader.readexactly(int(length[1])))
            else:
                await self._report(writer, head)
        writer.close()

    async def _sell(self, writer: asyncio.StreamWriter, head: bytes, body: bytes) -> None:
        key, token = re.search(rb"(?i)idempotency-key: (\S+)", head), re.search(rb"order-\d{6}", body)
        assert key is not None
        assert token is not None
        order = self.orders[token[0].decode()]
        order.keys[key[1].decode()] += 1
        order.bodies.add(body)
        submits = order.keys.total()
        self._reach(order, "submit heard" if submits == 1 else "repeat heard")
        receipt = WHOLE.replace(b"vid1", order.token[-4:].encode())
        is_cut = submits <= order.cuts
        writer.write(receipt[: order.length] if is_cut else receipt)
        await writer.drain()
        self._reach(order, "answer cut" if is_cut else "repeat answered")

    async def _report(self, writer: asyncio.StreamWriter, head: bytes) -> None:
        target = head.split(b" ", 2)[1]
        videos = [found.decode() for found in re.findall(rb"\d{4}", target)]
        orders = [self.orders[f"order-00{video}"] for video in videos]
        for order in orders:
            order.polls += 1
            self._reach(order, "poll heard")
        states = [_state(video, order) for video, order in zip(videos, orders, strict=True)]
        writer.write(answer(orjson.dumps({"data": states if b"/statuses" in target else states[0]})))
        await writer.drain()
        for order in orders:
            self._reach(order, "poll answered")

    def _reach(self, order: Order, step: str) -> None:
        """Kill the server if this is the order's step, once."""
        if order.is_killed or order.step != step:
            return
        order.is_killed = True
        self.at_steps[step] += 1
        delay = self.chance.uniform(0, STEPS[step])
        if delay:
            asyncio.get_running_loop().call_later(delay, self.kill)
        else:
            self.kill()


@dataclass(slots=True)
class Cuts:
    """The campaign."""

    server: Server
    chance: Random
    orders: dict[str, Order]
    key: str
    findings: list[str] = field(default_factory=list)
    _killed: asyncio.Event = field(default_factory=asyncio.Event)
    _is_ending: bool = False

    def kill(self) -> None:
        """Kill the server, unless the campaign is ending. It is started again at once."""
        if not self._is_ending:
            self.server.kill()
            self._killed.set()

    async def run(self) -> None:
        """Place all orders, a few at once, and judge them."""
        reviving = asyncio.create_task(self._revive())
        waiting = list(self.orders.values())
        self.chance.shuffle(waiting)
        async with connected(self.server.origin, self.key) as http:

            async def work() -> None:
                while waiting:
                    await self._carry_out(http, waiting.pop())

            await asyncio.gather(*(work() for _ in range(UNDER_WAY)))
            self._is_ending = True
            reviving.cancel()
            await asyncio.gather(reviving, return_exceptions=True)
            if self._killed.is_set():
                self.server.start()
            await self.server.serves()
            # On a busy machine, a client may see nothing between two kills. None comes from here on.
            late = [order for order in self.orders.values() if order.final.get("status") not in FINAL]
            await asyncio.gather(*(self._carry_out(http, order) for order in late))
            await self._judge(http)

    async def _revive(self) -> None:
        """Start the server again after each kill."""
        while True:
            await self._killed.wait()
            self._killed.clear()
            self.server.start()

    async def _carry_out(self, http: httpx.AsyncClient, order: Order) -> None:
        body = {"model": "heygen-v3", "prompt": order.token, "avatar_id": "Anna"}
        headers = {"Idempotency-Key": order.token}
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                order.job = (await _insist(http, "POST", "/api/jobs", json=body, headers=headers))["id"]
                while order.final.get("status") not in FINAL:
                    wait = {"after": order.final.get("event", 0), "wait": 5}
                    order.final = await _insist(http, "GET", f"/api/jobs/{order.job}", params=wait)

    async def _judge(self, http: httpx.AsyncClient) -> None:
        for order in self.orders.values():
            if order.final.get("status") != "Completed":
                self.findings.append(f"{order} did not complete")
            if set(order.keys) != {order.job} or len(order.bodies) != 1:
                self.findings.append(f"{order} was sent under {len(order.keys)} keys with {len(order.bodies)} bodies")
        balance = (await http.get("/api/account")).json()["tokens"]
        if balance != GRANTED - 20 * len(self.orders):
            self.findings.append(f"the balance is {balance} after {len(self.orders)} orders of 20 tokens")
        log = self.server.log.read_text()
        if "Traceback" in log:
            self.findings.append(f"the server's log: ...{log[log.index('Traceback') :][:3000]}")

    def evidence(self) -> str:
        """Return the first findings."""
        return "\n".join(self.findings[:10])


async def _insist(http: httpx.AsyncClient, method: str, path: str, **options: Any) -> dict[str, Any]:
    """Repeat a request until it succeeds, and return its answer."""
    while True:
        with suppress(*BREAKS):
            response = await http.request(method, path, **options)
            if response.is_success:
                found: dict[str, Any] = response.json()
                return found
        await asyncio.sleep(0.05)


def choose_orders(number: int, chance: Random) -> dict[str, Order]:
    """Return orders for a number of cuts, evenly spread over the answer, from before its first byte to its end."""
    last = len(WHOLE)
    lengths = sorted(
        {round(last * n / max(number - 1, 1)) for n in range(number)} if number <= last else range(last + 1)
    )
    steps = [*STEPS] * (len(lengths) // len(STEPS) + 1)
    chance.shuffle(steps)
    orders = [Order(length, chance.choice((1, 1, 2)), step) for length, step in zip(lengths, steps, strict=False)]
    return {order.token: order for order in orders}


async def run(number: int, seed: int, store: str = "sqlite") -> tuple[Cuts, str]:
    """Cut the answers to so many orders. Return the findings and the summary line."""
    began, chance = monotonic(), Random(seed)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        store_url = stack.enter_context(stores.opened(store, folder))
        key = api_keys.new_key()
        async with open_store(store_url, SystemClock()) as opened:
            await opened.create_key("account", api_keys.digest(key), GRANTED)
        provider = CuttingProvider(choose_orders(number, chance), chance)
        listening = await stack.enter_async_context(await asyncio.start_server(provider.serve, "127.0.0.1", 0))
        server = Server(folder, f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", store_url)
        stack.callback(server.stop)
        cuts = Cuts(server, chance, provider.orders, key)
        provider.kill = cuts.kill
        server.start()
        await server.serves()
        await cuts.run()
    orders = provider.orders.values()
    sent = f"{len(orders)} answers cut at as many of {len(WHOLE) + 1} places"
    kills = f"{len(server.kills)} kills at {len(provider.at_steps)} steps"
    submits = f"{sum(order.keys.total() for order in orders)} submits"
    videos = f"{sum(len(order.keys) for order in orders)} videos bought"
    completed = f"{sum(order.final.get('status') == 'Completed' for order in orders)} completed"
    done = f"{sent}, {kills}, {submits}, {videos}, {completed}"
    return cuts, f"cuts: {store}, seed {seed}, {done}, {monotonic() - began:.0f} s"
