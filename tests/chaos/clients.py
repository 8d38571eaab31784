"""Correct clients: they order with an Idempotency-Key, retry with the same key, and reconnect with Last-Event-ID."""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import httpx
import orjson
from httpx_sse import EventSource, ServerSentEvent

from tests.chaos.orders import Order
from tests.chaos.verdict import Broken, Verdict
from tests.support.deployment import MEDIA

_TRIES = 200
"""Maximum number of attempts to place an order."""
BREAKS = (httpx.TransportError, OSError, AttributeError)
"""Errors of a broken connection. anyio raises the last two if it breaks while httpx requests the peer's name."""
_WILL_PASS = frozenset({429, 503})


def connected(origin: str, key: str) -> httpx.AsyncClient:
    """Open an HTTP session with a server, for one account."""
    return httpx.AsyncClient(
        base_url=origin,
        headers={"Authorization": f"Bearer {key}"},
        trust_env=False,
        timeout=20,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
    )


class Unexpected(Exception):
    """An answer that a correct client must not get."""


class Client:
    """One account's client. It calls `tell` when it orders and when it reads a final event. `pause` waits."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        verdict: Verdict,
        chance: Random,
        tell: Callable[[str], None] = lambda _: None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        *,
        cancels_within: float = 0.6,
    ) -> None:
        self.http = http
        self._verdict = verdict
        self._chance = chance
        self._tell = tell
        self._pause = pause
        self._cancels_within = cancels_within
        self.assets: dict[str, str] = {}
        self.orders: list[Order] = []

    async def carry_out(self, order: Order) -> None:
        """Place an order, and read the job's stream to its end if it is watched. Deviations become findings."""
        self.orders.append(order)
        try:
            async with asyncio.TaskGroup() as tasks:
                if order.cancels:
                    tasks.create_task(self._cancel(order))
                if not order.by_generate:
                    await self.place(order)
                if order.by_generate or order.watched:
                    await self.follow(order)
        except* Unexpected as errors:
            for error in errors.exceptions:
                self._verdict.note(Broken.ANSWER, str(error), order)

    async def place(self, order: Order) -> None:
        """Order by POST /api/jobs, and repeat until the order is accepted."""
        for _ in range(_TRIES):
            self._tell("client.order")
            try:
                response = await self.http.post("/api/jobs", json=order.body, headers={"Idempotency-Key": order.token})
            except BREAKS:
                await self._pause(0.05)
                continue
            if response.status_code == 202:
                self._made(order, response.json()["id"])
                return
            await self._turned_away(response)
        order.refused = order.job is None

    async def follow(self, order: Order) -> None:
        """Read the job's events until the final one, and reconnect after each break."""
        tries = 0
        while not order.over and tries < _TRIES:
            known = len(order.seen)
            try:
                await self._connect(order)
            except BREAKS:
                await self._pause(0.05)
            # New events reset the number of tries.
            tries = 0 if len(order.seen) > known or order.job else tries + 1
        order.refused = order.job is None

    async def _cancel(self, order: Order) -> None:
        """Cancel the job at a random moment after the order."""
        await self._pause(self._chance.uniform(0, self._cancels_within))
        while order.job is None and not order.refused:
            await asyncio.sleep(0.01)
        while order.job is not None:
            self._tell("client.cancel")
            try:
                response = await self.http.post(f"/api/jobs/{order.job}/cancel")
            except BREAKS:
                await self._pause(0.05)
                continue
            if response.status_code in {202, 409}:  # 409: the job has already ended
                return
            await self._turned_away(response)

    async def _connect(self, order: Order) -> None:
        method, path, body = "GET", f"/api/jobs/{order.job}/events", None
        headers = {"Last-Event-ID": str(len(order.seen))} if order.seen else {}
        if order.job is None or (order.by_generate and self._chance.random() < 0.5):
            method, path, body = "POST", "/api/generate", order.body
            headers["Idempotency-Key"] = order.token
            self._tell("client.order")
        async with self.http.stream(method, path, headers=headers, json=body) as response:
            if response.status_code != 200:
                await response.aread()
                await self._turned_away(response)
                return
            async for message in EventSource(response).aiter_sse():
                self._take(order, message)
        if not order.over:
            self._verdict.note(Broken.GAP, "a stream ended cleanly before the final event", order)

    def _take(self, order: Order, message: ServerSentEvent) -> None:
        event: dict[str, Any] = orjson.loads(message.data)
        self._made(order, event["job"])
        wanted = len(order.seen) + 1
        if event["n"] != wanted or message.id != str(wanted):
            raise Unexpected(f"a reader that had {wanted - 1} events was given event {event['n']} (id {message.id})")
        order.seen.append(event)
        if order.over:
            self._tell("client.final")

    def _made(self, order: Order, job: str) -> None:
        if order.job not in {None, job}:
            raise Unexpected(f"one Idempotency-Key made {order.job} and {job}")
        order.job = job

    async def _turned_away(self, response: httpx.Response) -> None:
        if response.status_code not in _WILL_PASS:
            raise Unexpected(
                f"{response.request.method} {response.url.path} got {response.status_code}: {response.text}"
            )
        await self._pause(float(response.headers.get("Retry-After", "0.1")))

    # --- the account afterwards ---

    async def bring_assets(self) -> None:
        """Upload the files that orders name."""
        for kind, name in (("image", "image.png"), ("audio", "audio.mp3")):
            response = await self.http.post("/api/assets", files={"file": (name, (MEDIA / name).read_bytes())})
            self.assets[kind] = response.raise_for_status().json()["id"]

    async def balance(self) -> int:
        """Return the account's tokens."""
        return int((await self._json("/api/account"))["tokens"])

    async def listed(self, path: str, name: str) -> list[dict[str, Any]]:
        """Return all entries of a paged list."""
        found: list[dict[str, Any]] = []
        query = {"limit": "200"}
        while True:
            page = await self._json(path, query)
            found += page[name]
            if page["next"] is None:
                return found
            query["before"] = page["next"]

    async def events(self, job: str) -> list[dict[str, Any]]:
        """Return the job's events from the first to the end of the stream."""
        async with self.http.stream("GET", f"/api/jobs/{job}/events") as response:
            response.raise_for_status()
            return [orjson.loads(message.data) async for message in EventSource(response).aiter_sse()]

    async def _json(self, path: str, query: dict[str, str] | None = None) -> Any:
        for _ in range(_TRIES):
            response = await self.http.get(path, params=query or {})
            if response.status_code not in _WILL_PASS:
                return response.raise_for_status().json()
            await self._pause(float(response.headers.get("Retry-After", "0.1")))
        raise Unexpected(f"{path} never answered")
