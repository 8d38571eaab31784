"""The upstream of the odd answers: all providers on one socket, with a record of its answers to each job."""

import asyncio
import base64
import re
import socket
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count
from random import Random
from typing import Any, Self

import orjson

from tests.chaos.exchanges import RunningClock
from tests.chaos.odd_answers import (
    ADAPTERS,
    CHUNKS,
    COMPLETED,
    NUMBER,
    ODDITIES,
    SILENCE,
    STORM,
    Odd,
    Reply,
    provider_of,
    reply,
)

SHARE = 0.85
"""Share of a job's answers that are odd, until the job has had its number of odd answers."""
INTERVAL = 0.95
"""Minimum time, in seconds, between two polls of a job. The setting is 1 second, with 5 % of jitter."""
UNREADABLE_POLLS, UNREADABLE_SECONDS = 20, 300.0
"""A job may end without a readable answer only after both this number of polls and this time."""
STORM_SECONDS = 30.0
"""Length of a period, in seconds, in which one provider or none is unavailable, except for calm accounts."""
CALM = frozenset({0})
"""Accounts whose requests all succeed. With more of them, the circuit breaker would never open."""
_MEMORY = 50.0
"""Seconds for which a success proves that an account's requests succeed. The breaker remembers it a little longer."""
_IN_FLIGHT = 15.0
"""Maximum time, in seconds, until the server has noticed a failure."""
_SLOW_UPLOAD = 300_000
"""Size, in bytes, from which an upload is read slowly."""
ROUTES = (
    (r"POST /v1/assets$", "gaga", "upload"),
    (r"POST /v1/generations$", "gaga", "submit"),
    (r"GET /v1/generations/(\w+)$", "gaga", "poll"),
    (r"POST /v1/(?:videos|images/generations)/async$", "gaia", "submit"),
    (r"GET /v1/(?:videos|images/generations)/async/(\w+)$", "gaia", "poll"),
    (r"GET /v1/images/generations/async/(\w+)/result$", "gaia", "result"),
    (r"POST /v1/chat/completions$", "chat", "stream"),
    (r"POST /api/generate$", "ainow", "stream"),
    (r"POST /create_video/bulk\?", "ganai", "submit"),
    (r"GET /projects/p/inference/(\w+)/video_status$", "ganai", "poll"),
    (r"POST /v1/video.generate$", "heygen", "submit"),
    (r"GET /v1/video_status.get\?video_id=(\w+)$", "heygen", "poll"),
)
URL = "https://cdn.example.com/a.mp4"


@dataclass(slots=True)
class Work:
    """One order at the upstream, identified by the token in its prompt."""

    account: int
    model: str
    units: int
    left: int
    """Number of odd answers that it can still get."""
    running: int
    """Number of polls until it is done."""
    siege: str = ""
    """Kind of siege: `hopeless`, `nineteen` or `brief` for unreadable polls, `endless` for work that is never done."""
    items: list["Item"] = field(default_factory=list)
    sent: int = 0
    """Number of submits."""
    may_send: bool = True
    send_after: float = 0.0
    ends: str | None = None
    done: bool = False
    """True if its stream has ended."""
    failed: int = 0
    """Number of omitted outputs."""
    finish_reason: str | None = None
    shown: list[str] = field(default_factory=list)
    """Texts that the client must have seen in a `detail`."""
    last: list[str] = field(default_factory=list)
    """Texts that the final event must contain."""
    faults: list[str] = field(default_factory=list)
    """Errors of the server that the upstream noticed."""
    log: list[str] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        """True if the answers have reported every part of the order as done."""
        return self.done or (bool(self.items) and all(item.over for item in self.items))

    @property
    def given_up(self) -> bool:
        """True if answers were unreadable for so long that the job may end with an error."""
        return any(
            item.unreadable >= UNREADABLE_POLLS and item.polled - item.since >= UNREADABLE_SECONDS - _IN_FLIGHT
            for item in self.items
        )


@dataclass(slots=True)
class Item:
    """A polled id."""

    work: Work
    running: int
    polled: float = 0.0
    poll_after: float = 0.0
    over: bool = False
    unreadable: int = 0
    """Number of unreadable answers since the last readable one. `since` is the time of the first."""
    since: float = 0.0


class Upstream:
    """All providers on one socket. Each request gets the correct answer or an odd one."""

    def __init__(self, chance: Random, kinds: Collection[str], clock: RunningClock, *, storms: bool) -> None:
        self._chance = chance
        self._kinds = kinds
        self._odd = [odd for odd in ODDITIES if odd.kind in kinds]
        self._sieging = [odd for odd in ODDITIES if odd.kind == "B" and "poll" in odd.roles and _is_unreadable(odd)]
        self._clock = clock
        self._storms = storms and "A" in kinds
        self._ids = count(1001)
        self.works: dict[str, Work] = {}
        self._by_id: dict[str, Item] = {}
        self.exchanges = 0
        self.counted: Counter[tuple[str, str]] = Counter()
        """Number of odd answers, by kind and provider."""
        self._outcomes: dict[tuple[int, str], dict[bool, float]] = {}
        """Times of the last success and the last failure, by account and provider."""
        self.faults: list[str] = []

    async def __aenter__(self) -> Self:
        listening = socket.socket()
        # With a larger buffer, the system would accept a slow upload at once.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        listening.bind(("127.0.0.1", 0))
        self._server = await asyncio.start_server(self._serve, sock=listening, limit=1 << 14)
        self.origin = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, EOFError, asyncio.LimitOverrunError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            body = await self._body(reader, head)
            made = self._answer(head, body)
            if not made.pieces:
                await asyncio.sleep(made.pause)
            for piece in made.pieces:
                await asyncio.sleep(made.pause)
                writer.write(piece)
                await writer.drain()
        writer.close()

    async def _body(self, reader: asyncio.StreamReader, head: str) -> bytes:
        if length := re.search(r"(?im)^content-length: (\d+)", head):
            return await self._slowly(reader, int(length[1]))
        body = b""
        while "chunked" in head.lower():
            size = int(await reader.readuntil(b"\r\n"), 16)
            body += (await reader.readexactly(size + 2))[:-2]
            if not size:
                break
        return body

    async def _slowly(self, reader: asyncio.StreamReader, length: int) -> bytes:
        """Read a body. A large one takes longer than the allowed silence."""
        if length < _SLOW_UPLOAD or "C" not in self._kinds:
            return await reader.readexactly(length)
        self.counted["C", "gaga"] += 1
        body = bytearray()
        while len(body) < length:
            body += await reader.read(20_000)
            await asyncio.sleep(SILENCE / 25)  # at least 30 times
        return bytes(body)

    def _answer(self, head: str, body: bytes) -> Reply:
        self.exchanges += 1
        line = head.split(" HTTP/", 1)[0]
        if line.startswith("GET /moved?"):
            return reply(base64.urlsafe_b64decode(line.removeprefix("GET /moved?")))
        for pattern, adapter, role in ROUTES:
            if found := re.match(pattern, line):
                self._note_name(head, provider_of(adapter))
                return self._to_job(adapter, role, found[1] if found.re.groups else "", body)
        return reply(b'{"data": []}' if line == "GET /v1/models" else b"{}")

    def _note_name(self, head: str, provider: str) -> None:
        if "N" in self._kinds:
            self.counted["N", provider] += 1
            if not re.search(r"(?im)^user-agent: pollcast/", head):
                self.faults.append("a request without User-Agent: Pollcast")

    def _to_job(self, adapter: str, role: str, id_: str, body: bytes) -> Reply:
        """Record a request of a job, and return its answer."""
        item = self._by_id.get(id_)
        token = re.search(rb"token-\d+", body)
        work = item.work if item else self.works.get(token[0].decode() if token else "")
        if work is None:
            self.faults.append(f"a {role} at {adapter} for no order: {id_}")
            return reply(b"{}", "404 Not Found")
        self._note_request(work, item, role)
        new = self._new_items(adapter, role, work)
        right = self._right(adapter, role, item, new, body)
        odd, made = self._chosen(adapter, role, work, item, right)
        self._count(provider_of(adapter), role, work, odd, made)
        if role in {"submit", "stream"}:
            self._note_receipt(work, role, new, made)
        elif item:
            self._note_state(role, work, item, made)
        self._note_words(role, work, made)
        return made

    # --- choice of the answer ---

    def _new_items(self, adapter: str, role: str, work: Work) -> dict[str, Item]:
        if role not in {"submit", "upload"}:
            return {}
        number = work.units if adapter == "ganai" and role == "submit" else 1
        return {str(next(self._ids)): Item(work, work.running) for _ in range(number)}

    def _right(self, adapter: str, role: str, item: Item | None, new: dict[str, Item], body: bytes) -> bytes:
        if role == "stream":
            return CHUNKS if adapter == "chat" else b'data: {"status":"Processing"}\n\ndata: %b\n\n' % COMPLETED
        if role in {"submit", "upload"}:
            return orjson.dumps(_receipt(adapter, [*new], body))
        if role == "result":
            return orjson.dumps({"data": [{"url": f"https://cdn.example.com/{n}.png"} for n in range(3)]})
        return orjson.dumps(_state(adapter, done=item is not None and item.running <= 0))

    def _chosen(self, adapter: str, role: str, work: Work, item: Item | None, right: bytes) -> tuple[Odd | None, Reply]:
        odd = self._odd_one(adapter, role, work, item)
        made = odd.make(right) if odd else reply(right, carries=True)
        if (made.fails and work.account in CALM) or (made.ends and work.siege):
            odd, made = None, reply(right, carries=True)
        if work.siege == "nineteen" and odd and made.reading == "unreadable":
            made = _hinted(made, 20)
        number = f"{self.exchanges % 10 ** len(NUMBER):0{len(NUMBER)}d}"
        numbered = tuple(piece.replace(NUMBER.encode(), number.encode()) for piece in made.pieces)
        texts = (made.shows.replace(NUMBER, number), made.in_final.replace(NUMBER, number))
        return odd, replace(made, pieces=numbered, shows=texts[0], in_final=texts[1])

    def _odd_one(self, adapter: str, role: str, work: Work, item: Item | None) -> Odd | None:
        if work.siege in {"hopeless", "nineteen", "brief"}:
            return self._chance.choice(self._sieging) if item and self._besieged(work.siege, item) else None
        if work.account not in CALM and provider_of(adapter) == self._away():
            return STORM
        if work.left <= 0 or self._chance.random() > SHARE:
            return None
        several = adapter == "ganai" and work.units - work.failed > 1
        state = "done" if item and item.running <= 0 else "running"
        states = frozenset({state, "several" if several else "single" if work.units == 1 else ""})
        fitting = [odd for odd in self._odd if odd.fits(adapter, role, states)]
        kinds = sorted({odd.kind for odd in fitting})
        if not kinds:
            return None
        untried = [kind for kind in kinds if not self.counted[kind, provider_of(adapter)]]
        kind = "J" if "J" in kinds and self._chance.random() < 0.4 else self._chance.choice(untried or kinds)
        return self._chance.choice([odd for odd in fitting if odd.kind == kind])

    def _besieged(self, siege: str, item: Item) -> bool:
        if siege == "nineteen":
            return item.unreadable < UNREADABLE_POLLS - 1
        return siege == "hopeless" or not item.unreadable or self._clock.now() - item.since < UNREADABLE_SECONDS - 50

    def _away(self) -> str:
        """Return the provider that is unavailable now, or None."""
        if not self._storms:
            return ""
        return Random(int(self._clock.now() // STORM_SECONDS)).choice((*ADAPTERS, ""))

    # --- records ---

    def _note_request(self, work: Work, item: Item | None, role: str) -> None:
        now = self._clock.now()
        if work.ends or work.is_done:
            work.faults.append(f"a {role} after the end")
        if role == "poll" and item:
            if now < item.poll_after:
                work.faults.append(f"polled {item.poll_after - now:.2f} s too early")
            item.polled = now
        if role in {"submit", "stream"}:
            if not work.may_send:
                work.faults.append("sent again, although the provider may have taken it")
            if now < work.send_after:
                work.faults.append(f"sent again {work.send_after - now:.2f} s too early")
            work.sent += 1

    def _count(self, provider: str, role: str, work: Work, odd: Odd | None, made: Reply) -> None:
        self._outcomes.setdefault((work.account, provider), {})[not made.fails] = self._clock.now()
        work.ends, work.failed = made.ends, work.failed + made.failed
        if odd:
            work.left -= odd is not STORM
            work.log.append(f"{odd.kind} {role} {odd.name}")
            self.counted[odd.kind, provider] += 1

    def _note_receipt(self, work: Work, role: str, new: dict[str, Item], made: Reply) -> None:
        now = self._clock.now()
        work.may_send, work.send_after = made.again, now + made.wait
        if not made.carries:
            return
        if role == "stream":
            work.done, work.finish_reason = True, made.finish_reason or "stop"
            return
        kept = list(new.items())[: len(new) - made.failed]
        for id_, item in kept:
            item.poll_after = now + INTERVAL
            self._by_id[made.id or id_] = item
        work.items = [item for _, item in kept]

    def _note_state(self, role: str, work: Work, item: Item, made: Reply) -> None:
        # aiohttp 3 repeats a GET once if its connection was closed without an answer (observed 2026-12).
        item.poll_after = self._clock.now() + max(INTERVAL, made.wait) if made.pieces else 0.0
        has_result = work.model == "gpt-image-2" and role == "poll"
        item.over = made.carries and not has_result and (item.running <= 0 or made.failed > 0)
        item.running -= role == "poll" and made.carries and work.siege != "endless"
        if made.reading == "readable":
            item.unreadable = 0
        elif made.reading == "unreadable":
            item.since = item.since if item.unreadable else self._clock.now()
            item.unreadable += 1

    def _note_words(self, role: str, work: Work, made: Reply) -> None:
        work.last += [words for words in (made.shows if made.ends else "", made.in_final) if words]
        if role == "upload" and not (made.carries or made.ends):
            work.shown.append("Repeating the upload")
        if made.again and role in {"submit", "stream"}:
            work.shown.append("Waiting to be taken")
        is_bulk = work.model == "ganai-bulk" and work.units > 1  # an error of one item is not an error of the job
        if made.shows and not made.ends and not is_bulk:
            work.shown.append(made.shows)

    def is_well(self, account: int, provider: str) -> bool:
        """Return True if an account's requests succeed: the last one did, within the last minute."""
        now, times = self._clock.now(), self._outcomes.get((account, provider), {})
        return now - times.get(True, 0.0) < _MEMORY and now - times.get(False, 0.0) > _MEMORY + _IN_FLIGHT


def _is_unreadable(odd: Odd) -> bool:
    return odd.make(b'{"id": 1}').reading == "unreadable"


def _hinted(made: Reply, seconds: int) -> Reply:
    """Return the answer with a Retry-After."""
    first = made.pieces[0].replace(b"Connection: close", b"Retry-After: %d\r\nConnection: close" % seconds, 1)
    return replace(made, pieces=(first, *made.pieces[1:]), wait=seconds)


def _receipt(adapter: str, ids: list[str], body: bytes) -> Any:
    match adapter:
        case "ganai":
            names = [item["unique_id"] for item in orjson.loads(body)]
            return [
                {"unique_id": name, "inference_id": id_, "project_id": "p"}
                for name, id_ in zip(names, ids, strict=True)
            ]
        case "heygen":
            return {"code": 100, "data": {"video_id": ids[0]}}
    return {"id": int(ids[0])}


def _state(adapter: str, *, done: bool) -> Any:
    match adapter:
        case "gaga":
            return {"status": "Success", "resultVideoURL": URL} if done else {"status": "Running"}
        case "ganai":
            return {"gen_status": "SUCCEEDED", "video_url": URL} if done else {"gen_status": "PROCESSING"}
        case "heygen":
            return {"code": 100, "data": {"status": "completed", "video_url": URL} if done else {"status": "pending"}}
    return {"status": "completed" if done else "running"}
