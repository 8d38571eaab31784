"""Random histories of calls against the store and a model of it: tokens and events always agree."""

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proxy.core import errors
from proxy.core.job import Draft, Status
from proxy.store.contract import Store
from proxy.store.sqlite.store import SqliteStore
from proxy.store.types import Claim, ClaimLost, QueueRoom
from tests.support.store import LEASE, Caller, ManualClock, new_caller

T = TypeVar("T")

NAMES = st.sampled_from(["web", "app"])
NODES = st.sampled_from(["node-a", "node-b"])
ENDS = st.sampled_from([Status.COMPLETED, Status.ERROR, Status.CANCELED])
PICK = st.integers(0, 99)
LIMITED, MAX_UNFINISHED, MAX_BACKLOG = "app", 2, 3
"""The account with limits, its limit of unfinished jobs outside the backlog, and of jobs in the backlog."""


@dataclass
class Expected:
    """The model of a job."""

    account: str
    tokens: int
    events: int = 1
    over: bool = False
    refunded: int = 0
    cancel: bool = False
    turn: int = 0
    waiting: bool = True
    in_backlog: bool = False
    position: int = 0
    """The position in the backlog that its newest event says."""


class SqliteMachine(RuleBasedStateMachine):
    claim_renews = False
    """True if a claim that finds jobs extends the node's other leases."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.clock = ManualClock()
        self.runner = asyncio.Runner()
        self.jobs: dict[str, Expected] = {}
        self.replays: dict[tuple[str, str], str] = {}
        self.balances: dict[str, int] = {}
        self.claims: list[Claim] = []
        self.holders: dict[str, Claim] = {}
        self.lapses: dict[str, float] = {}
        self.turns = {"web": 0, "app": 0}
        self.served = 0

    def opened(self) -> Store:
        return SqliteStore(self.folder / "pollcast.db", self.clock, lease=LEASE, exclusive=True)

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(call)

    @initialize()
    def begin(self) -> None:
        self.store = self.run(self.opened().__aenter__())
        self.callers = {name: self.run(new_caller(self.store, name, 50)) for name in ("web", "app")}
        self.balances = dict.fromkeys(self.callers, 50)

    def teardown(self) -> None:
        self.run(self.store.__aexit__(None, None, None))
        self.runner.close()
        shutil.rmtree(self.folder)

    @rule()
    def restart(self) -> None:
        self.run(self.store.__aexit__(None, None, None))
        self.store = self.run(self.opened().__aenter__())
        self.callers = {name: Caller(self.store, caller.key) for name, caller in self.callers.items()}
        self.holders.clear()

    @rule(name=NAMES, tokens=st.integers(-60, 60))
    def grant(self, name: str, tokens: int) -> None:
        try:
            self.run(self.store.grant(name, tokens))
        except errors.InsufficientTokens:
            assert self.balances[name] + tokens < 0
        else:
            self.balances[name] += tokens

    @rule(name=NAMES, tokens=st.integers(0, 30), key=st.sampled_from([None, "1", "2"]), body=st.binary(max_size=1))
    def admit(self, name: str, tokens: int, key: str | None, body: bytes) -> None:
        limits = {"max_jobs": MAX_UNFINISHED, "max_backlog": MAX_BACKLOG} if name == LIMITED else {}
        order = self.callers[name].order(tokens, idempotency_key=key, fingerprint=body, **limits)
        earlier = self.replays.get((name, key or ""))
        try:
            admitted = self.run(self.store.admit(order))
        except errors.IdempotencyConflict:
            assert earlier
        except errors.RateLimited:
            assert not earlier
            assert len(self.backlog) == MAX_BACKLOG
        except errors.InsufficientTokens:
            assert not earlier
            assert self.balances[name] < tokens
        else:
            assert admitted.replayed == bool(earlier)
            assert earlier in {None, admitted.job.id}
            if not admitted.replayed:
                self.add_job(name, key, tokens, admitted.job.id)

    def add_job(self, name: str, key: str | None, tokens: int, job: str) -> None:
        joins_backlog = name == LIMITED and (len(self.backlog) > 0 or self.outside >= MAX_UNFINISHED)
        expected = self.jobs[job] = Expected(name, tokens, in_backlog=joins_backlog)
        if joins_backlog:
            expected.position, expected.events = len(self.backlog), 2
        else:
            expected.turn = self.next_turn(name)
        self.balances[name] -= tokens
        if key:
            self.replays[name, key] = job

    def next_turn(self, name: str) -> int:
        self.turns[name] = max(self.turns[name], self.served) + 1
        return self.turns[name]

    @property
    def backlog(self) -> list[Expected]:
        """Return the jobs in the backlog, in the order of their admission."""
        return [expected for expected in self.jobs.values() if expected.in_backlog and expected.waiting]

    @property
    def outside(self) -> int:
        unfinished = [expected for expected in self.jobs.values() if expected.account == LIMITED and not expected.over]
        return len(unfinished) - len(self.backlog)

    @rule()
    def release_backlog(self) -> None:
        released = self.backlog[: max(MAX_UNFINISHED - self.outside, 0)]
        assert self.run(self.store.release_backlog(MAX_UNFINISHED, 10)) == len(released)
        for expected in released:
            expected.in_backlog, expected.turn = False, self.next_turn(LIMITED)
        for position, expected in enumerate(self.backlog, 1):
            expected.events += expected.position != position
            expected.position = position

    @rule(node=NODES, limit=st.integers(1, 3), room=st.integers(0, 4))
    def claim(self, node: str, limit: int, room: int) -> None:
        now = self.clock.now()
        expected = self.expected_claims(node, limit, room)
        claims = self.run(self.store.claim(node, {"": QueueRoom(room, 1e9)}, limit))
        assert [claim.job.id for claim in claims] == expected
        for claim in claims:
            self.jobs[claim.job.id].waiting = False
            self.holders[claim.job.id] = claim
            self.lapses[claim.job.id] = now + LEASE
        if claims and self.claim_renews:
            self.prolong(node)
        self.looked()
        self.claims += claims

    def looked(self) -> None:
        """Update the model after a claim, which shows the leases renewed since the last one."""

    def expected_claims(self, node: str, limit: int, room: int) -> list[str]:
        free = sorted(job for job, expected in self.jobs.items() if not expected.over and self.free(job, node))
        at_once = [job for job in free if not self.jobs[job].waiting or self.jobs[job].cancel][:limit]
        queued = {job: expected for job, expected in self.jobs.items() if not (expected.in_backlog or expected.over)}
        taken = {job for job, expected in queued.items() if not expected.waiting or job in at_once}
        left = max(min(room - len(taken), limit - len(at_once)), 0)
        in_turn = sorted((self.jobs[job].turn, job) for job in free if job in queued.keys() - taken)
        self.served = max([self.served, *(turn for turn, _ in in_turn[:left])])
        return at_once + [job for _, job in in_turn[:left]]

    def free(self, job: str, node: str) -> bool:
        holder = self.holders.get(job)
        return not holder or (holder.node != node and self.lapses[job] <= self.clock.now())

    @rule(node=NODES)
    def renew(self, node: str) -> None:
        self.run(self.store.renew(node))
        self.prolong(node)

    def prolong(self, node: str) -> None:
        for job, claim in self.holders.items():
            if claim.node == node:
                self.lapses[job] = self.clock.now() + LEASE

    @rule(seconds=st.sampled_from([1, LEASE / 2, LEASE]))
    def wait(self, seconds: float) -> None:
        self.clock.time += seconds

    @precondition(lambda self: self.claims)
    @rule(pick=PICK)
    def release(self, pick: int) -> None:
        claim = self.claims[pick % len(self.claims)]
        self.run(self.store.release(claim))
        if self.holders.get(claim.job.id) is claim:
            del self.holders[claim.job.id]
            self.jobs[claim.job.id].waiting = True

    @precondition(lambda self: self.claims)
    @rule(pick=PICK, progress=st.floats(0, 100))
    def progress(self, pick: int, progress: float) -> None:
        self.append(self.claims[pick % len(self.claims)], Draft(Status.PROCESSING, {"progress": progress}))

    @precondition(lambda self: self.claims)
    @rule(pick=PICK, status=ENDS, part=st.integers(0, 4))
    def finish(self, pick: int, status: Status, part: int) -> None:
        claim = self.claims[pick % len(self.claims)]
        self.append(claim, Draft(status, refund=claim.job.tokens * part // 4))

    def append(self, claim: Claim, draft: Draft) -> None:
        expected = self.jobs[claim.job.id]
        try:
            job = self.run(self.store.append(claim, draft))
        except ClaimLost:
            assert expected.over or self.holders.get(claim.job.id) is not claim
            return
        assert self.holders[claim.job.id] is claim
        expected.events += 1
        expected.over = draft.status.final
        expected.refunded += draft.refund
        self.balances[expected.account] += draft.refund
        assert (job.event, job.refunded, job.status) == (expected.events, expected.refunded, draft.status)
        if expected.over:
            del self.holders[job.id]

    @precondition(lambda self: self.jobs)
    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        job = list(self.jobs)[pick % len(self.jobs)]
        expected = self.jobs[job]
        expected.cancel |= not expected.over
        found = self.run(self.store.request_cancel(self.callers[expected.account].account, job))
        assert found
        assert found.cancel_requested == expected.cancel

    @invariant()
    def balances_are_the_ledgers_sums(self) -> None:
        for name, balance in self.balances.items():
            caller = self.callers[name]
            assert self.run(caller.balance()) == sum(self.run(caller.ledger())) == balance >= 0

    @invariant()
    def events_have_no_gaps_and_at_most_one_end(self) -> None:
        for job, expected in self.jobs.items():
            events = self.run(self.store.read(job, 0))
            assert [event.n for event in events] == list(range(1, expected.events + 1))
            assert [event.final for event in events] == [False] * (expected.events - 1) + [expected.over]


TestSqliteMachine = SqliteMachine.TestCase
TestSqliteMachine.settings = settings(
    max_examples=25, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
