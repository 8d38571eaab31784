"""The client of this server's own API, for the command line: orders, streams that come back by themselves, files.

Every order carries an `Idempotency-Key`, so that one whose answer was lost is sent again without making a second job.
A stream that breaks is taken up after the last event that was read, until the job is over or the server has been away
for too long.
"""

import asyncio
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote
from urllib.request import getproxies, proxy_bypass

import aiohttp
import orjson
from aiohttp import BasicAuth, ClientError, ClientResponse, ClientSession, ClientTimeout, FormData
from yarl import URL

from proxy.cli.unreachable import reason
from proxy.core import sse
from proxy.upstream.sessions import HEADER_LIMITS, USER_AGENT

Event = Mapping[str, Any]

FINAL: Final = frozenset({"Completed", "Error", "Canceled"})
_PATIENCE: Final = 300.0
"""Seconds of waiting after which a server that stays away is given up."""
_SLOWEST: Final = 15.0
"""Seconds between two tries, at the most."""
_PASSING: Final = frozenset({"rate_limited", "unavailable"})
"""The server's own codes that are likely to pass."""
_MALFORMED: Final = frozenset({400, 405, 411, 413, 414, 415, 431})
"""Statuses by which a proxy before the server refuses a request for good; all its others are likely to pass."""
_PAUSES: Final = (1.0, 3.0, 10.0)
"""Seconds before a plain call or a download is repeated that something before the server has answered."""
_SILENCE: Final = ClientTimeout(total=None, connect=10, sock_read=60)
_CHUNK: Final = 1 << 18
_JOB_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
"""Job ids that are accepted from a server: they become parts of file names and URLs."""


class Refused(Exception):
    """The server's answer to what it will not do: its message and code."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Lost(Exception):
    """No connection, a broken one, or an answer that is likely to pass (`answered`).

    `wait` is what the server asks for, in seconds.
    """

    def __init__(self, message: str, wait: float | None = None, *, answered: bool = False) -> None:
        super().__init__(message)
        self.wait = wait
        self.answered = answered


@dataclass(slots=True)
class _Place:
    """How far a stream has been read, and how long its server has been waited for since."""

    job: str = ""
    last: str = ""
    retry: float = 2.0
    tries: int = 0
    waited: float = 0.0

    def read(self, message: sse.Message) -> Event:
        event = _checked(message.data)
        self.job, self.last = event["job"], message.id
        self.tries, self.waited = 0, 0.0
        return event

    def lost(self, error: Lost) -> float:
        """How long to wait for the next try, in seconds; raises `error` when that has been long enough."""
        wait = error.wait or min(self.retry * 1.5**self.tries, _SLOWEST)
        self.tries += 1
        self.waited += wait
        if self.waited > _PATIENCE:
            raise error
        return wait


class Client:
    """One account's view of a server. `told` hears of each connection that was lost."""

    def __init__(
        self,
        server: str,
        key: str,
        *,
        told: Callable[[str], None] = lambda _: None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._server = server.rstrip("/")
        self._key = key
        self._told = told
        self._sleep = sleep

    async def __aenter__(self) -> Self:
        headers = {"User-Agent": USER_AGENT} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        options: dict[str, Any] = {"middlewares": [_through_proxy], **HEADER_LIMITS}
        self._session = ClientSession(headers=headers, timeout=_SILENCE, **options)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    # --- plain calls ---

    async def models(self) -> Sequence[dict[str, Any]]:
        """The catalogue. Raises Refused and Lost."""
        models: Sequence[dict[str, Any]] = (await self._json("GET", "/api/models"))["models"]
        return models

    async def jobs(self, limit: int, **filters: str) -> AsyncGenerator[dict[str, Any]]:
        """Up to `limit` of the account's jobs, newest first. Raises Refused and Lost."""
        before = ""
        while limit > 0:
            params = {"limit": str(min(limit, 200)), "before": before, **filters}
            page = await self._json("GET", "/api/jobs", params={name: value for name, value in params.items() if value})
            for job in page["jobs"]:
                yield job
            limit, before = limit - len(page["jobs"]), page["next"]
            if before is None or not page["jobs"]:
                return

    async def upload(self, file: Path) -> str:
        """Bring in a file; returns the asset's id. Raises Refused, Lost and OSError."""
        data = await asyncio.to_thread(file.read_bytes)

        def form() -> FormData:
            form = FormData()
            form.add_field("file", data, filename=file.name, content_type="application/octet-stream")
            return form

        return str((await self._json("POST", "/api/assets", form))["id"])

    async def _json(self, method: str, path: str, form: Callable[[], FormData] | None = None, **options: Any) -> Any:
        """A call's answer. It is repeated a few times while something before the server answers in its place."""
        for pause in (*_PAUSES, None):
            try:
                data = form() if form else None  # each can be sent once
                async with self._answer(method, path, "application/json", data=data, **options) as response:
                    return orjson.loads(await response.read())
            except Lost as error:
                if pause is None or not error.answered:
                    raise
                self._told(str(error))
                await self._sleep(error.wait or pause)
        raise AssertionError

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, media_type: str = "", **options: Any
    ) -> AsyncIterator[ClientResponse]:
        """A successful answer, of that type if one is named. Raises Lost for what is likely to pass, and Refused."""
        try:
            async with self._session.request(method, self._server + path, **options) as response:
                if response.status >= 300 or media_type not in {"", response.content_type}:
                    raise await _refusal(response)
                yield response
        except (ClientError, TimeoutError, ConnectionError) as error:
            raise Lost(f"{self._server} cannot be reached: {reason(error)}") from None

    # --- streams ---

    async def generate(self, order: Mapping[str, Any], idempotency_key: str) -> AsyncGenerator[Event]:
        """Order, and yield the job's events to the last one. Raises Refused, and Lost when the server stays away."""
        headers = {"Idempotency-Key": idempotency_key}
        async with aclosing(self._events(_Place(), {"data": orjson.dumps(order), "headers": headers})) as events:
            async for event in events:
                yield event

    async def watch(self, job: str) -> AsyncGenerator[Event]:
        """Yield a job's events, from the first to the last. Raises as `generate` does."""
        async with aclosing(self._events(_Place(job), {})) as events:
            async for event in events:
                yield event

    async def _events(self, place: _Place, order: Mapping[str, Any]) -> AsyncGenerator[Event]:
        while True:
            lost = Lost("The stream broke off.")
            try:
                async with aclosing(self._read(place, order)) as events:
                    async for event in events:
                        yield event
                        if event["status"] in FINAL:
                            return
            except Lost as error:
                lost = error
            wait = place.lost(lost)
            self._told(str(lost))
            await self._sleep(wait)

    async def _read(self, place: _Place, order: Mapping[str, Any]) -> AsyncGenerator[Event]:
        """What one connection brings. Once the job is known it is watched; until then the order is sent (again)."""
        method, path, options = "POST", "/api/generate", dict(order)
        if place.job:
            method, path, options = "GET", f"/api/jobs/{_quoted(place.job)}/events", {"headers": _after(place.last)}
        parser = sse.Parser(sse.OWN_MESSAGE_LIMIT)
        async with self._answer(method, path, "text/event-stream", **options) as response:
            async for chunk in response.content.iter_any():
                for message in parser.feed(chunk):
                    yield place.read(message)
                place.retry = parser.retry or place.retry

    # --- files ---

    async def save(self, job: str, n: int, place: Path) -> None:
        """Write output `n` of a job into a file, whole or not at all. Raises Refused, Lost and OSError."""
        part = place.with_name(f".{place.name}.{os.getpid()}.part")
        try:
            for pause in (*_PAUSES, None):
                try:
                    part.unlink(missing_ok=True)
                    await self._download(f"/api/jobs/{_quoted(job)}/content/{n}", part)
                    break
                except Lost as error:
                    if pause is None:
                        raise
                    if error.answered:
                        await self._sleep(error.wait or pause)
            part.replace(place)
        finally:
            part.unlink(missing_ok=True)

    async def _download(self, path: str, part: Path) -> None:
        # A redirect to the provider's own URL is followed; aiohttp leaves the key behind at another origin.
        async with self._answer("GET", path) as response:
            # "x" makes the file: one that is there, or a link to another, is never written to.
            with await asyncio.to_thread(part.open, "xb") as file:
                async for chunk in response.content.iter_chunked(_CHUNK):
                    await asyncio.to_thread(file.write, chunk)


def _checked(data: str) -> Event:
    """A server's event, with fields of the types that the client uses. Raises Refused."""
    try:
        event = orjson.loads(data)
        good = (
            _JOB_ID.fullmatch(event["job"])
            and isinstance(event["status"], str)
            and isinstance(event["n"], int)
            and isinstance(event.get("progress", 0), int | float)
            and isinstance(event.get("delta", ""), str)
            and isinstance(event.get("offset", 0), int)
            and isinstance(event.get("text", ""), str)
            and all(isinstance(output[name], str) for output in event.get("outputs", ()) for name in _named(output))
        )
    except (orjson.JSONDecodeError, AttributeError, LookupError, TypeError):
        good = False
    if not good:
        raise Refused(502, f"The server sent an event that cannot be read: {data[:200]}")
    return dict(event)


def _named(output: Mapping[str, Any]) -> Sequence[str]:
    """The fields of an output that a client goes by; only one that can be opened has a type and a URL."""
    return ("type", "url") if output.get("url") else ()


def _quoted(job: str) -> str:
    """A job's id as one part of a path."""
    return quote(job, safe="")


def _after(last: str) -> dict[str, str]:
    return {"Last-Event-ID": last} if last else {}


async def _refusal(response: ClientResponse) -> Exception:
    """What an answer that is no success means. Only the server's own word is final: an error in its JSON form."""
    asked = response.headers.get("Retry-After", "")
    wait = min(float(asked), _PATIENCE) if asked.isascii() and asked.isdigit() else None
    try:
        body = orjson.loads(await response.read())
        own, message, code = body["status"] == "Error", str(body["message"]), str(body["code"])
    except (orjson.JSONDecodeError, ClientError, TypeError, KeyError):
        own = False
    if not own:
        message = f"{response.url.origin()} answers {response.status} ({response.content_type}): no Pollcast?"
        code = ""
    if code in _PASSING or not (own or response.status in _MALFORMED):
        return Lost(message, wait, answered=True)
    return Refused(response.status, message, code)


async def _through_proxy(
    request: aiohttp.ClientRequest, handler: Callable[[aiohttp.ClientRequest], Awaitable[ClientResponse]]
) -> ClientResponse:
    """Use the environment's proxies. aiohttp's `trust_env` would send the passwords of ~/.netrc as well."""
    proxy = getproxies().get(request.url.scheme)
    if proxy and not proxy_bypass(request.url.host or ""):
        url = URL(proxy)
        request.update_proxy(url.with_user(None), BasicAuth.from_url(url), None)
    return await handler(request)
