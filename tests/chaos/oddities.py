"""Part 3: an upstream that mixes odd answers at random, on all five adapters; no paid job may end early by them.

One socket speaks for all providers, in literal bytes. Time runs `FACTOR` times as fast as ours. A job is given fewer
odd answers than end one by time, so each has to end well, unless its last odd answer was the provider's own word.
"""

import asyncio
import re
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any, Self

import orjson

from tests.chaos import stores
from tests.chaos.exchanges import RunningClock
from tests.chaos.odd_answers import CHUNKS, COMPLETED, KINDS, ODDITIES, WORDS, Odd, Reply, reply
from tests.support.deployment import Deployment

ACCOUNTS, UNDER_WAY, GRANTED = 8, 48, 10_000_000
MOST_ODD = 16
"""Odd answers of one job: fewer than the 20 unreadable ones that may end it."""
SHARE = 0.85
"""Of the answers to a job that are odd, until it has had its number."""
DEADLINE = 7200.0
PATIENCE = 240.0
"""Seconds, of ours, in which everything must be over."""
SETTINGS = {"api_key": "sk-odd", "project_id": "p", "poll_interval": 1, "deadline": DEADLINE, "concurrency": 1000}
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
MODELS = ("gaga-1", "grok-imagine-video", "gpt-image-2", "ganai-bulk", "heygen-v1", "gpt-5.4-mini", "suno", "luma")
URL = "https://cdn.example.com/a.mp4"


@dataclass(slots=True)
class Work:
    """One order at the upstream, by the token in its prompt."""

    account: int
    left: int
    running: int
    ends: str | None = None
    log: list[str] = field(default_factory=list)


class Upstream:
    """All providers on one socket: the right answer, or an odd one."""

    def __init__(self, chance: Random, kinds: Collection[str]) -> None:
        self._chance = chance
        self._kinds = kinds
        self._odd = [odd for odd in ODDITIES if odd.kind in kinds]
        self._ids = count(1001)
        self.works: dict[str, Work] = {}
        self._by_id: dict[str, Work] = {}
        self.exchanges = 0
        self.counted: Counter[tuple[str, str]] = Counter()
        """Odd answers, by kind and adapter."""
        self.healthy: dict[int, bool] = {}
        """By account: whether its last request was answered without a failure."""
        self.nameless = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20)
        self.origin = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, EOFError, asyncio.LimitOverrunError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            body = await _body(reader, head)
            for piece in self._answer(head, body).pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
        writer.close()

    def _answer(self, head: str, body: bytes) -> Reply:
        self.exchanges += 1
        line = head.split(" HTTP/", 1)[0]
        if "N" in self._kinds:
            named = re.search(r"(?im)^user-agent: pollcast/", head)
            self.nameless += not named
            self.counted["N", "all"] += 1
        for pattern, adapter, role in ROUTES:
            if found := re.match(pattern, line):
                work = self._work(found[1] if found.re.groups else "", body)
                return self._chosen(adapter, role, work, body)
        return reply(b'{"data": []}' if line == "GET /v1/models" else b"{}")

    def _work(self, id_: str, body: bytes) -> Work | None:
        if id_:
            return self._by_id.get(id_)
        found = re.search(rb"token-\d+", body)
        return self.works.get(found[0].decode()) if found else None

    def _chosen(self, adapter: str, role: str, work: Work | None, body: bytes) -> Reply:
        uploads = Work(-1, int(self._chance.random() < 0.5), 0)  # an upload does not say for which order it is
        work = work or uploads
        state = "running" if work.running > 0 else "done"
        odd = (
            self._chance.choice(self._fitting(adapter, role, state))
            if self._strikes(adapter, role, state, work)
            else None
        )
        made = odd.make(self._right(adapter, role, work, body)) if odd else None
        if odd is None or made is None:
            work.running -= role == "poll"
            made = _framed(self._right(adapter, role, work, body), role)
        else:
            work.left -= 1
            work.ends = made.ends
            work.log.append(f"{odd.kind} {role} {odd.name}")
            self.counted[odd.kind, "gaia" if adapter == "chat" else adapter] += 1
        self.healthy[work.account] = bool(made.pieces) and not made.pieces[0].startswith(b"HTTP/1.1 5")
        return made

    def _fitting(self, adapter: str, role: str, state: str) -> list[Odd]:
        fitting = [odd for odd in self._odd if role in odd.roles and adapter in odd.adapters]
        fitting = [odd for odd in fitting if odd.wants in {"", state}]
        kinds = sorted({odd.kind for odd in fitting})
        kind = self._chance.choice(kinds) if kinds else ""
        if "J" in kinds and self._chance.random() < 0.5:  # which fits one answer of one adapter alone
            kind = "J"
        return [odd for odd in fitting if odd.kind == kind]

    def _strikes(self, adapter: str, role: str, state: str, work: Work) -> bool:
        any_fits = any(role in odd.roles and adapter in odd.adapters and odd.wants in {"", state} for odd in self._odd)
        return any_fits and work.left > 0 and self._chance.random() < SHARE

    def _right(self, adapter: str, role: str, work: Work, body: bytes) -> bytes:
        if role == "stream":
            frame = b'data: {"status":"Processing started"}\n\ndata: %b\n\n' % COMPLETED
            return CHUNKS if adapter == "chat" else frame
        if role in {"submit", "upload"}:
            self._by_id[id_ := str(next(self._ids))] = work
            return orjson.dumps(_receipt(adapter, id_, body))
        if role == "result":
            return orjson.dumps({"data": [{"url": f"https://cdn.example.com/{n}.png"} for n in range(3)]})
        return orjson.dumps(_state(adapter, done=work.running <= 0))


def _framed(body: bytes, role: str) -> Reply:
    return reply(body, content_type="text/event-stream" if role == "stream" else "application/json")


def _receipt(adapter: str, id_: str, body: bytes) -> Any:
    match adapter:
        case "ganai":
            items = orjson.loads(body)
            return [{"unique_id": item["unique_id"], "inference_id": id_, "project_id": "p"} for item in items]
        case "heygen":
            return {"code": 100, "data": {"video_id": id_}}
    return {"id": int(id_)}


def _state(adapter: str, *, done: bool) -> Any:
    match adapter:
        case "gaga":
            return {"status": "Success", "resultVideoURL": URL} if done else {"status": "Running"}
        case "ganai":
            return {"gen_status": "SUCCEEDED", "video_url": URL} if done else {"gen_status": "PROCESSING"}
        case "heygen":
            return {"code": 100, "data": {"status": "completed", "video_url": URL} if done else {"status": "pending"}}
    return {"status": "completed" if done else "running"}


async def _body(reader: asyncio.StreamReader, head: str) -> bytes:
    if length := re.search(r"(?im)^content-length: (\d+)", head):
        return await reader.readexactly(int(length[1]))
    body = b""
    while "chunked" in head.lower():
        size = int(await reader.readuntil(b"\r\n"), 16)
        body += (await reader.readexactly(size + 2))[:-2]
        if not size:
            break
    return body


@dataclass(slots=True)
class Finding:
    """What must not be: a job that ended early, or an order that was refused."""

    text: str
    log: list[str]


@dataclass(slots=True)
class Campaign:
    """The campaign."""

    number: int
    deployment: Deployment
    upstream: Upstream
    chance: Random
    keys: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    jobs: int = 0
    findings: list[Finding] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)

    @property
    def odd(self) -> int:
        """Odd answers so far."""
        return sum(number for (kind, _), number in self.upstream.counted.items() if kind != "N")

    async def run(self) -> None:
        """Order until there were enough odd answers, and see every job to its end."""
        work = [asyncio.create_task(self._work(n % ACCOUNTS)) for n in range(min(UNDER_WAY, max(self.number // 40, 6)))]
        _, late = await asyncio.wait(work, timeout=PATIENCE + self.number / 20)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        self.findings += [Finding("a job did not end", []) for _ in late]
        if self.upstream.nameless:
            self.findings.append(Finding(f"{self.upstream.nameless} requests without our User-Agent", []))
        for task in set(work) - set(late):
            task.result()

    def evidence(self) -> str:
        """The first findings, each with the odd answers of its job."""
        return "\n".join(f"{finding.text}\n    {'; '.join(finding.log)}" for finding in self.findings[:12])

    async def _work(self, account: int) -> None:
        while self.odd < self.number:
            await self._carry_out(account)

    async def _carry_out(self, account: int) -> None:
        self.jobs += 1
        token = f"token-{self.jobs}"
        left = self.chance.randint(MOST_ODD // 2, MOST_ODD)
        work = self.upstream.works[token] = Work(account, left, self.chance.randint(1, 4))
        headers = {"Authorization": f"Bearer {self.keys[account]}"}
        answer = await self.deployment.http.post("/api/jobs", json=self._order(token, account), headers=headers)
        if answer.status_code == 503:
            # Where all requests of an account fail, closing its provider for a moment is right.
            if self.upstream.healthy.get(account, True):
                self.findings.append(Finding(f"closed to a healthy account: {answer.text}", []))
            await self.deployment.clock.sleep(2)
            return
        job = answer.json()
        while job["status"] not in {"Completed", "Error", "Canceled"}:
            path = f"/api/jobs/{job['id']}?after={job['event']}&wait=15"
            job = (await self.deployment.http.get(path, headers=headers)).json()
        self._judge(job, work)

    def _judge(self, job: dict[str, Any], work: Work) -> None:
        end = job["status"] if job["status"] != "Error" else job["code"]
        self.ends[end] += 1
        if end != (work.ends or "Completed"):
            wanted = work.ends or "Completed"
            self.findings.append(Finding(f"{job['model']}: {end} instead of {wanted}: {job.get('message')}", work.log))
        elif work.ends and work.ends != "outcome_unknown" and WORDS not in job["message"]:
            self.findings.append(Finding(f"{job['model']}: the provider's words are lost: {job['message']}", work.log))

    def _order(self, token: str, account: int) -> dict[str, Any]:
        model = self.chance.choice(MODELS)
        match model:
            case "ganai-bulk":
                return {"model": model, "items": [{"unique_id": token, "name": token}]}
            case "heygen-v1":
                return {"model": model, "prompt": token, "avatar_id": "Anna"}
            case "gpt-image-2":
                return {"model": model, "prompt": token, "n": 3}
            case "gaga-1" if self.chance.random() < 0.7:
                return {"model": model, "prompt": token, "image": self.images[account]}
        return {"model": model, "prompt": token}


@asynccontextmanager
async def _opened(number: int, seed: int, store: str, kinds: Collection[str]) -> AsyncIterator[Campaign]:
    chance = Random(seed)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        upstream = await stack.enter_async_context(Upstream(chance, kinds))
        deployment = Deployment(folder, RunningClock(), provider={**SETTINGS, "base_url": upstream.origin})
        deployment.store_url = stack.enter_context(stores.opened(store, folder))
        await stack.enter_async_context(deployment)
        campaign = Campaign(number, deployment, upstream, chance)
        for n in range(ACCOUNTS):
            deployment.key = await deployment.new_key(f"account-{n}", GRANTED)
            deployment.http.headers["Authorization"] = f"Bearer {deployment.key}"
            campaign.keys.append(deployment.key)
            campaign.images.append(await deployment.asset("image"))
        yield campaign


async def run(
    number: int, seed: int, store: str = "sqlite", kinds: Collection[str] = tuple(KINDS)
) -> tuple[Campaign, str]:
    """Give so many odd answers of these kinds; gives the campaign and its summary."""
    began = monotonic()
    async with _opened(number, seed, store, kinds) as campaign:
        await campaign.run()
    counted, early = campaign.upstream.counted, len(campaign.findings)
    by_kind: dict[str, Counter[str]] = {}
    for (kind, adapter), times in sorted(counted.items()):
        by_kind.setdefault(kind, Counter())[adapter] = times
    lines = [
        f"  {kind} {sum(each.values()):,} ({', '.join(f'{name} {n:,}' for name, n in each.items())}): {KINDS[kind]}"
        for kind, each in by_kind.items()
    ]
    ends = ", ".join(f"{end} {n:,}" for end, n in campaign.ends.most_common())
    head = (
        f"oddities: {store}, seed {seed}, {campaign.upstream.exchanges:,} exchanges, {campaign.odd:,} odd answers, "
        f"{campaign.jobs:,} jobs ({ends}), jobs ended early: {early}, {monotonic() - began:.0f} s"
    )
    return campaign, "\n".join([head, *lines])
