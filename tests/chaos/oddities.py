"""Part 3: an upstream that mixes odd answers at random, on all five adapters. They must not end a paid job early.

Time runs `FACTOR` times as fast as real time, and the server's timeout of silence is short. Most jobs get too few odd
answers to end. Some are besieged: their polls are unreadable for less, or for more, than the 20 polls and 5 minutes
after which a job ends.
"""

import asyncio
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any

from proxy.upstream.times import UpstreamTimes
from tests.chaos import stores
from tests.chaos.exchanges import RunningClock
from tests.chaos.odd_answers import ADAPTERS, KINDS, SECRET, SILENCE, cells
from tests.chaos.odd_upstream import Upstream, Work
from tests.chaos.odd_verdict import Finding, end_of, faults, refund_due
from tests.core.test_tracks import CLUSTER, FTYP, INFO, box, element, moov, tracks, webm
from tests.support.deployment import Deployment, events_of

ACCOUNTS, UNDER_WAY, GRANTED = 8, 48, 10_000_000
MOST_ODD = 16
"""Maximum number of odd answers of one job. It is below the 20 unreadable ones that may end a job."""
LONG = 500
"""Number of odd answers from which a campaign has sieges and storms, and must reach every kind on every adapter."""
ROUND = 2000
"""Number of odd answers during which each siege happens once on each adapter."""
DEADLINE, HEYGEN_DEADLINE = 7200.0, 1800.0
PATIENCE = 240.0
"""Maximum real time, in seconds, until all jobs have ended."""
SETTINGS = {"api_key": SECRET, "project_id": "p", "poll_interval": 1, "deadline": DEADLINE, "concurrency": 1000}
TIMES = UpstreamTimes(read_silence=SILENCE, upload_silence=SILENCE, submit_silence=SILENCE, send_silence=SILENCE)
MODELS = {
    "gaga-1": (20, "gaga"),
    "avatar-h1": (20, "gaga"),
    "grok-imagine-video": (30, "gaia"),
    "gpt-image-2": (5, "gaia"),
    "gpt-5.4-mini": (1, "gaia"),
    "ganai-bulk": (10, "ganai"),
    "heygen-v1": (20, "heygen"),
    "suno": (10, "ainow"),
    "luma": (30, "ainow"),
}
"""Price of a unit and adapter, by model."""
SIEGES = (
    *((model, siege) for model in ("gaga-1", "grok-imagine-video", "ganai-bulk", "heygen-v1")
      for siege in ("hopeless", "nineteen", "brief")),
    ("heygen-v1", "endless"),
)  # fmt: skip


@dataclass(slots=True)
class Campaign:
    """The campaign of this part."""

    number: int
    deployment: Deployment
    upstream: Upstream
    chance: Random
    kinds: Collection[str]
    keys: list[str] = field(default_factory=list)
    sieges: list[tuple[str, str]] = field(default_factory=list)
    """Sieges that are still to come."""
    jobs: int = 0
    refused: int = 0
    """Number of orders that were refused because the breaker was open for their account."""
    balances: Counter[int] = field(default_factory=Counter)
    """Tokens that each account must have spent."""
    findings: list[Finding] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    besieged: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def odd(self) -> int:
        """Number of odd answers so far."""
        return sum(number for (kind, _), number in self.upstream.counted.items() if kind != "N")

    async def run(self) -> None:
        """Order until there were enough odd answers of each kind, and follow every job to its end."""
        self.sieges = [*SIEGES] * (-(-self.number // ROUND)) if self.number >= LONG and "B" in self.kinds else []
        work = [asyncio.create_task(self._work(n % ACCOUNTS)) for n in range(min(UNDER_WAY, max(self.number // 40, 6)))]
        _, late = await asyncio.wait(work, timeout=PATIENCE + self.number / 20)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        self.findings += [Finding("a job did not end") for _ in late]
        for task in set(work) - set(late):
            task.result()
        self.findings += [Finding(text) for text in self.upstream.faults]
        self.findings += [Finding(f"kind {kind} was never tried on {name}") for kind, name in self._missed()]
        await self._audit()

    def _missed(self) -> list[tuple[str, str]]:
        """Return the kinds and adapters without an odd answer, in a campaign that is long enough for all."""
        tried = {cell for cell, times in self.upstream.counted.items() if times}
        return sorted(cell for cell in cells() - tried if cell[0] in self.kinds) if self.number >= LONG else []

    async def _audit(self) -> None:
        """Compare each account's balance and ledger with the cost of its jobs."""
        for account, key in enumerate(self.keys):
            headers = {"Authorization": f"Bearer {key}"}
            balance = (await self.deployment.http.get("/api/account", headers=headers)).json()["tokens"]
            if balance != GRANTED - self.balances[account]:
                due = GRANTED - self.balances[account]
                self.findings.append(Finding(f"account {account} has {balance} tokens instead of {due}"))

    def evidence(self) -> str:
        """Return the first findings, each with the odd answers of its job."""
        return "\n".join(f"{finding.text}\n    {'; '.join(finding.log[-40:])}" for finding in self.findings[:12])

    async def _work(self, account: int) -> None:
        while self.odd < self.number or self._missed():
            await self._carry_out(account)

    async def _carry_out(self, account: int) -> None:
        self.jobs += 1
        token = f"token-{self.jobs}"
        model, siege = self.sieges.pop() if self.sieges else (self._model(), "")
        headers = {"Authorization": f"Bearer {self.keys[account]}"}
        work = self.upstream.works[token] = self._new_work(account, model, siege)
        order = await self._order(token, work, headers)
        began = self.deployment.clock.now()
        answer = await self.deployment.http.post("/api/jobs", json=order, headers=headers)
        if answer.status_code != 202:
            await self._turned_away(work, answer.status_code, answer.text)
            return
        path = f"/api/jobs/{answer.json()['id']}"
        events = events_of(await self.deployment.messages("GET", f"{path}/events", headers=headers))
        job = (await self.deployment.http.get(path, headers=headers)).json()
        self._judge(work, job, events, self.deployment.clock.now() - began)

    def _model(self) -> str:
        """Return a random model. Streamed ones are more frequent, because their jobs have only one exchange."""
        weights = [3 if provider == "ainow" or price == 1 else 1 for price, provider in MODELS.values()]
        return self.chance.choices([*MODELS], weights)[0]

    def _new_work(self, account: int, model: str, siege: str) -> Work:
        units = {"gpt-image-2": 3, "ganai-bulk": 1 if siege else self.chance.choice((1, 1, 2, 3))}.get(model, 1)
        # A siege is repeated before each readable answer. It must fit into the deadline on a busy machine.
        running = 10**9 if siege == "endless" else 0 if siege else self.chance.randint(1, 4)
        return Work(account, model, units, self.chance.randint(MOST_ODD // 2, MOST_ODD), running, siege)

    async def _turned_away(self, work: Work, status: int, text: str) -> None:
        """Check a refused order. It is correct if the account's requests to that provider fail."""
        self.refused += 1
        if status != 503 or self.upstream.is_well(work.account, MODELS[work.model][1]):
            self.findings.append(Finding(f"{work.model}: an order of account {work.account} was refused: {text}"))
        if work.siege:
            self.sieges.append((work.model, work.siege))
        await self.deployment.clock.sleep(2)

    def _judge(self, work: Work, job: dict[str, Any], events: Sequence[dict[str, Any]], seconds: float) -> None:
        self.ends[end_of(job)] += 1
        if work.siege:
            self.besieged[work.siege, end_of(job)] += 1
        price = MODELS[work.model][0] * work.units
        self.balances[work.account] += price - refund_due(work, job, price)
        deadline = HEYGEN_DEADLINE if work.model == "heygen-v1" else DEADLINE
        for text in faults(work, job, events, price=price, overdue=seconds >= deadline):
            self.findings.append(Finding(f"{work.model} {work.siege} {job['id']}: {text}", work.log))

    async def _order(self, token: str, work: Work, headers: dict[str, str]) -> dict[str, Any]:
        match work.model:
            case "ganai-bulk":
                names = [f"{token}-{n}" for n in range(work.units)]
                return {"model": work.model, "items": [{"unique_id": name, "name": name} for name in names]}
            case "heygen-v1":
                return {"model": work.model, "prompt": token, "avatar_id": "Anna"}
            case "gpt-image-2":
                return {"model": work.model, "prompt": token, "n": 3}
            case "avatar-h1":
                sound = await self._asset(self.chance.choice(_SOUNDS), token, headers)
                return {
                    "model": work.model,
                    "prompt": token,
                    "audio": sound,
                    "image": await self._image(token, headers),
                }
            case "gaga-1" if self.chance.random() < 0.7:
                return {"model": work.model, "prompt": token, "image": await self._image(token, headers)}
        return {"model": work.model, "prompt": token}

    async def _image(self, token: str, headers: dict[str, str]) -> str:
        """Upload an image that identifies its order, sometimes a large one."""
        padding = bytes(600_000 if self.number >= LONG and self.chance.random() < 0.05 else 0)
        return await self._asset(Deployment.media("image") + padding, token, headers)

    async def _asset(self, data: bytes, token: str, headers: dict[str, str]) -> str:
        free = box(b"free", token.encode()) if data.startswith(FTYP) else element("EC", token.encode())
        files = {"file": ("input", data + free, "application/octet-stream")}
        answer = await self.deployment.http.post("/api/assets", files=files, headers=headers)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])


_SOUNDS = (FTYP + moov(b"soun"), webm(INFO, tracks(2), CLUSTER))
"""Recordings of Android and Chrome: video containers with sound only."""


@asynccontextmanager
async def _opened(number: int, seed: int, store: str, kinds: Collection[str]) -> AsyncIterator[Campaign]:
    chance, clock = Random(seed), RunningClock()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        upstream = await stack.enter_async_context(Upstream(chance, kinds, clock, storms=number >= LONG))
        settings = {**SETTINGS, "base_url": upstream.origin}
        late = {"HeyGen": {"deadline": HEYGEN_DEADLINE}}
        deployment = Deployment(folder, clock, provider=settings, providers=late, upstream_times=TIMES)
        deployment.store_url = stack.enter_context(stores.opened(store, folder))
        await stack.enter_async_context(deployment)
        campaign = Campaign(number, deployment, upstream, chance, kinds)
        campaign.keys = [await deployment.new_key(f"account-{n}", GRANTED) for n in range(ACCOUNTS)]
        yield campaign


async def run(
    number: int, seed: int, store: str = "sqlite", kinds: Collection[str] = tuple(KINDS)
) -> tuple[Campaign, str]:
    """Send `number` odd answers of these kinds. Return the campaign and its summary."""
    began = monotonic()
    async with _opened(number, seed, store, kinds) as campaign:
        await campaign.run()
    ends = ", ".join(f"{end} {n:,}" for end, n in campaign.ends.most_common())
    sieges = ", ".join(f"{siege}: {end} {n}" for (siege, end), n in sorted(campaign.besieged.items()))
    head = (
        f"oddities: {store}, seed {seed}, {campaign.upstream.exchanges:,} exchanges, {campaign.odd:,} odd answers, "
        f"{campaign.jobs:,} jobs ({ends}), {campaign.refused} orders of failing accounts refused, "
        f"{len(campaign.findings)} findings, {monotonic() - began:.0f} s"
    )
    return campaign, "\n".join([head, f"  sieges: {sieges or 'none'}", *_table(campaign.upstream.counted)])


def _table(counted: Counter[tuple[str, str]]) -> list[str]:
    """Return a table with a row for each kind and a column for each adapter. A dash: the kind does not apply."""
    able = cells()
    rows = [f"  {'':52}" + "".join(f"{adapter:>8}" for adapter in ADAPTERS)]
    for kind, name in KINDS.items():
        numbers = [f"{counted[kind, each]:,}" if (kind, each) in able else "-" for each in ADAPTERS]
        rows.append(f"  {kind} {name:50}" + "".join(f"{number:>8}" for number in numbers))
    return rows
