"""HTTP client of the Pollcast API for the command line: places orders, reads streams and downloads files.

Every order carries an `Idempotency-Key`, so an order whose response was lost is sent again without creating a second
job. A broken stream resumes after the last event that was read. It ends when the job is over, or when the server has
been unreachable for five minutes.
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
_GIVE_UP_AFTER: Final = 300.0
"""Total seconds of waiting for an unreachable server, after which the client gives up."""
_MAX_RETRY_DELAY: Final = 15.0
"""Maximum seconds between two attempts to reconnect."""
_TRANSIENT_CODES: Final = frozenset({"rate_limited", "unavailable"})
"""Error codes of Pollcast after which a request is repeated."""
_PERMANENT_STATUSES: Final = frozenset({400, 405, 411, 413, 414, 415, 431})
"""Statuses of a proxy in front of Pollcast that blame the request itself. After all others a request is repeated."""
_RETRY_DELAYS: Final = (1.0, 3.0, 10.0)
"""Seconds before each repetition of a call or a download after a transient error."""
_TIMEOUT: Final = ClientTimeout(total=None, connect=10, sock_read=60)
"""A response without any byte for 60 seconds has failed. Heartbeats keep a healthy stream below this limit."""
_CHUNK_SIZE: Final = 1 << 18
"""Bytes of a download that are written to disk at once."""
_JOB_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
"""Pattern of job ids that the client accepts. Ids become parts of file names and URLs."""


class Refused(Exception):
    """Pollcast, or a proxy in front of it, refused the request for good. Holds the HTTP status and error code."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Lost(Exception):
    """Transient failure: no connection, a broken one, or an error response after which a retry can succeed.

    `answered` is true for an error response. `wait` is its `Retry-After` in seconds.
    """

    def __init__(self, message: str, wait: float | None = None, *, answered: bool = False) -> None:
        super().__init__(message)
        self.wait = wait
        self.answered = answered


@dataclass(slots=True)
class _Cursor:
    """Position in a job's stream: last event read, attempts to reconnect since then, and seconds waited."""

    job: str = ""
    last: str = ""
    retry: float = 2.0
    attempts: int = 0
    waited: float = 0.0

    def read(self, message: sse.Message) -> Event:
        event = _parse_event(message.data)
        self.job, self.last = event["job"], message.id
        self.attempts, self.waited = 0, 0.0
        return event

    def next_delay(self, error: Lost) -> float:
        """Return the seconds to wait before the next attempt. Raises `error` after `_GIVE_UP_AFTER` seconds."""
        wait = error.wait or min(self.retry * 1.5**self.attempts, _MAX_RETRY_DELAY)
        self.attempts += 1
        self.waited += wait
        if self.waited > _GIVE_UP_AFTER:
            raise error
        return wait


class Client:
    """Asynchronous client of a Pollcast server. `on_lost` is called with a message after each lost connection."""

    def __init__(
        self,
        server: str,
        key: str,
        *,
        on_lost: Callable[[str], None] = lambda _: None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._server = server.rstrip("/")
        self._key = key
        self._on_lost = on_lost
        self._sleep = sleep

    async def __aenter__(self) -> Self:
        headers = {"User-Agent": USER_AGENT} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        options: dict[str, Any] = {"middlewares": [_use_proxy], **HEADER_LIMITS}
        self._session = ClientSession(headers=headers, timeout=_TIMEOUT, **options)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    # --- plain calls ---

    async def models(self) -> Sequence[dict[str, Any]]:
        """Return the catalogue. Raises Refused and Lost."""
        models: Sequence[dict[str, Any]] = (await self._json("GET", "/api/models"))["models"]
        return models

    async def jobs(self, limit: int, **filters: str) -> AsyncGenerator[dict[str, Any]]:
        """Yield up to `limit` of the account's jobs, newest first. Raises Refused and Lost."""
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
        """Upload a file and return the asset's id. Raises Refused, Lost and OSError."""
        data = await asyncio.to_thread(file.read_bytes)

        def form() -> FormData:
            form = FormData()
            form.add_field("file", data, filename=file.name, content_type="application/octet-stream")
            return form

        return str((await self._json("POST", "/api/assets", form))["id"])

    async def _json(self, method: str, path: str, form: Callable[[], FormData] | None = None, **options: Any) -> Any:
        """Return the JSON of a response. Repeats the call a few times after transient error responses."""
        for pause in (*_RETRY_DELAYS, None):
            try:
                data = form() if form else None  # a form can be sent only once
                async with self._open(method, path, "application/json", data=data, **options) as response:
                    return orjson.loads(await response.read())
            except Lost as error:
                if pause is None or not error.answered:
                    raise
                self._on_lost(str(error))
                await self._sleep(error.wait or pause)
        raise AssertionError

    @asynccontextmanager
    async def _open(
        self, method: str, path: str, media_type: str = "", **options: Any
    ) -> AsyncIterator[ClientResponse]:
        """Open a successful response, of `media_type` if given. Raises Lost (transient) or Refused."""
        try:
            async with self._session.request(method, self._server + path, **options) as response:
                if response.status >= 300 or media_type not in {"", response.content_type}:
                    raise await _error_of(response)
                yield response
        except (ClientError, TimeoutError, ConnectionError) as error:
            raise Lost(f"{self._server} cannot be reached: {reason(error)}") from None

    # --- streams ---

    async def generate(self, order: Mapping[str, Any], idempotency_key: str) -> AsyncGenerator[Event]:
        """Place an order and yield the job's events, up to the final one.

        Raises Refused, and Lost if the server stays unreachable.
        """
        headers = {"Idempotency-Key": idempotency_key}
        async with aclosing(self._events(_Cursor(), {"data": orjson.dumps(order), "headers": headers})) as events:
            async for event in events:
                yield event

    async def watch(self, job: str) -> AsyncGenerator[Event]:
        """Yield all events of a job, up to the final one. Raises Refused and Lost."""
        async with aclosing(self._events(_Cursor(job), {})) as events:
            async for event in events:
                yield event

    async def _events(self, cursor: _Cursor, order: Mapping[str, Any]) -> AsyncGenerator[Event]:
        while True:
            lost = Lost("The stream was interrupted.")
            try:
                async with aclosing(self._read(cursor, order)) as events:
                    async for event in events:
                        yield event
                        if event["status"] in FINAL:
                            return
            except Lost as error:
                lost = error
            wait = cursor.next_delay(lost)
            self._on_lost(str(lost))
            await self._sleep(wait)

    async def _read(self, cursor: _Cursor, order: Mapping[str, Any]) -> AsyncGenerator[Event]:
        """Yield the events of one connection.

        While the job's id is unknown, this sends the order (again). Afterwards it watches the job.
        """
        method, path, options = "POST", "/api/generate", dict(order)
        if cursor.job:
            method, path, options = (
                "GET",
                f"/api/jobs/{_segment(cursor.job)}/events",
                {"headers": _resume_headers(cursor.last)},
            )
        parser = sse.Parser(sse.OWN_MESSAGE_LIMIT)
        async with self._open(method, path, "text/event-stream", **options) as response:
            async for chunk in response.content.iter_any():
                for message in parser.feed(chunk):
                    yield cursor.read(message)
                cursor.retry = parser.retry or cursor.retry

    # --- files ---

    async def save(self, job: str, n: int, path: Path) -> None:
        """Download output `n` of a job into a file, completely or not at all. Raises Refused, Lost and OSError."""
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            for pause in (*_RETRY_DELAYS, None):
                try:
                    part.unlink(missing_ok=True)
                    await self._download(f"/api/jobs/{_segment(job)}/content/{n}", part)
                    break
                except Lost as error:
                    if pause is None:
                        raise
                    if error.answered:
                        await self._sleep(error.wait or pause)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    async def _download(self, path: str, part: Path) -> None:
        # aiohttp follows a redirect to the provider's URL, and drops the Authorization header at another origin.
        async with self._open("GET", path) as response:
            # "x" creates the file. It never writes to an existing file or through a symbolic link.
            with await asyncio.to_thread(part.open, "xb") as file:
                async for chunk in response.content.iter_chunked(_CHUNK_SIZE):
                    await asyncio.to_thread(file.write, chunk)


def _parse_event(data: str) -> Event:
    """Parse an event and check the types of the fields that the client uses. Raises Refused."""
    try:
        event = orjson.loads(data)
        is_valid = (
            _JOB_ID.fullmatch(event["job"])
            and isinstance(event["status"], str)
            and isinstance(event["n"], int)
            and isinstance(event.get("progress", 0), int | float)
            and isinstance(event.get("delta", ""), str)
            and isinstance(event.get("offset", 0), int)
            and isinstance(event.get("text", ""), str)
            and all(
                isinstance(output[name], str) for output in event.get("outputs", ()) for name in _used_fields(output)
            )
        )
    except (orjson.JSONDecodeError, AttributeError, LookupError, TypeError):
        is_valid = False
    if not is_valid:
        raise Refused(502, f"The server sent an unreadable event: {data[:200]}")
    return dict(event)


def _used_fields(output: Mapping[str, Any]) -> Sequence[str]:
    """Return the fields of an output that the client uses. Only an output with a URL has a type."""
    return ("type", "url") if output.get("url") else ()


def _segment(job: str) -> str:
    """Return a job's id, percent-encoded as one segment of a path."""
    return quote(job, safe="")


def _resume_headers(last: str) -> dict[str, str]:
    return {"Last-Event-ID": last} if last else {}


async def _error_of(response: ClientResponse) -> Exception:
    """Return the exception for an unsuccessful response.

    Only an error in Pollcast's JSON format is final. An error page of a proxy is transient, unless its status blames
    the request.
    """
    retry_after = response.headers.get("Retry-After", "")
    wait = min(float(retry_after), _GIVE_UP_AFTER) if retry_after.isascii() and retry_after.isdigit() else None
    try:
        body = orjson.loads(await response.read())
        is_own, message, code = body["status"] == "Error", str(body["message"]), str(body["code"])
    except (orjson.JSONDecodeError, ClientError, TypeError, KeyError):
        is_own = False
    if not is_own:
        message = (
            f"{response.url.origin()} answered {response.status} ({response.content_type}). Is this a Pollcast server?"
        )
        code = ""
    if code in _TRANSIENT_CODES or not (is_own or response.status in _PERMANENT_STATUSES):
        return Lost(message, wait, answered=True)
    return Refused(response.status, message, code)


async def _use_proxy(
    request: aiohttp.ClientRequest, handler: Callable[[aiohttp.ClientRequest], Awaitable[ClientResponse]]
) -> ClientResponse:
    """Middleware that uses the proxies of the environment.

    aiohttp's `trust_env` does the same, but also sends the passwords of ~/.netrc.
    """
    proxy = getproxies().get(request.url.scheme)
    if proxy and not proxy_bypass(request.url.host or ""):
        url = URL(proxy)
        request.update_proxy(url.with_user(None), BasicAuth.from_url(url), None)
    return await handler(request)
