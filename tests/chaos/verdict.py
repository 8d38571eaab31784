"""The invariants of all campaigns, and the evidence of their violations."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import orjson

from tests.chaos.ear import Ear
from tests.chaos.orders import FINAL, Order

Event = dict[str, Any]
_SHOWN = 2
"""Maximum number of findings of each kind whose evidence is printed."""


class Broken(StrEnum):
    """The invariants, by the names of their violations."""

    DOUBLE = "double submits"
    UNFINISHED = "unfinished"
    GAP = "gaps"
    LEDGER = "unbalanced ledgers"
    REFUND = "wrong refunds"
    UNTRUE = "untrue ends"
    LOST = "jobs lost or made twice"
    ANSWER = "unexpected answers"


@dataclass(frozen=True, slots=True)
class Finding:
    """A violation, its order, and the order's events at that time."""

    broken: Broken
    text: str
    order: Order | None = None
    events: Sequence[Event] = ()


class Account(Protocol):
    """Calls of an account's client that the inspection needs after the campaign."""

    orders: list[Order]

    async def balance(self) -> int: ...
    async def listed(self, path: str, name: str) -> list[dict[str, Any]]: ...
    async def events(self, job: str) -> list[Event]: ...


class Truth(Protocol):
    """Function that returns a false statement of a job's final event, or None."""

    def __call__(self, order: Order, events: Sequence[Event], *, bought: bool) -> str | None: ...


@dataclass(slots=True)
class Verdict:
    """The findings of a campaign."""

    ear: Ear
    findings: list[Finding] = field(default_factory=list)
    jobs: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    """Number of jobs by their end."""

    def note(self, broken: Broken, text: str, order: Order | None = None, events: Sequence[Event] = ()) -> None:
        """Add a finding."""
        self.findings.append(Finding(broken, text, order, events))

    def count(self, broken: Broken) -> int:
        """Return the number of violations of an invariant."""
        return sum(finding.broken is broken for finding in self.findings)

    @property
    def summary(self) -> str:
        """Return the part of a summary line that all campaigns share."""
        usual = (Broken.DOUBLE, Broken.UNFINISHED, Broken.GAP)
        rare = [broken for broken in Broken if broken not in usual and self.count(broken)]
        counts = [f"{self.count(broken)} {broken}" for broken in (*usual, *rare)]
        balanced = [] if Broken.LEDGER in rare else ["ledgers balanced"]
        return ", ".join([f"{self.jobs:,} jobs ({self.ends['Completed']:,} completed)", *counts, *balanced])

    def evidence(self) -> str:
        """Return the first findings of each kind, each with its job's events and the upstream's log."""
        kinds = ([finding for finding in self.findings if finding.broken is broken] for broken in Broken)
        return "\n\n".join(self._shown(finding) for found in kinds for finding in found[:_SHOWN])

    def _shown(self, finding: Finding) -> str:
        order = finding.order
        if order is None:
            return f"{finding.broken}: {finding.text}"
        events = [orjson.dumps(event).decode() for event in finding.events or order.seen]
        heard = [str(line) for line in self.ear.lines(order.token)]
        head = f"{finding.broken}: {order.job} ({order.token}, {order.model}, {order.word}): {finding.text}"
        return "\n  ".join([head, *events, "upstream:", *heard])

    # --- the invariants ---

    async def inspect(self, account: Account, truth: Truth) -> None:
        """Compare an account's jobs, events and ledger with its orders and with the upstream's log."""
        bought = self.ear.bought()
        jobs = {job["id"]: job for job in await account.listed("/api/jobs", "jobs")}
        entries = await account.listed("/api/account/ledger", "entries")
        self.jobs += len(jobs)
        self._check_list(account.orders, jobs)
        self._check_ledger(await account.balance(), entries)
        for order in account.orders:
            if order.job is None or order.job not in jobs:
                continue
            events = await account.events(order.job)
            money = [entry for entry in entries if entry["job"] == order.job]
            self._check_events(order, jobs[order.job], events)
            self._check_money(order, jobs[order.job], events, money, bought=bool(bought[order.token]))
            self._check_submits(order, events, bought[order.token], truth)

    def _check_list(self, orders: Iterable[Order], jobs: dict[str, dict[str, Any]]) -> None:
        expected = {order.job for order in orders}
        for job in jobs.keys() - expected:
            self.note(Broken.LOST, f"{job} was made, but no client learned of it: {jobs[job]['order']}")
        for order in orders:
            if order.job is not None and order.job not in jobs:
                self.note(Broken.LOST, "was taken, and is not listed", order)
            if order.job is None and not order.refused:
                self.note(Broken.UNFINISHED, "was never taken", order)

    def _check_ledger(self, balance: int, entries: Sequence[dict[str, Any]]) -> None:
        total = sum(entry["tokens"] for entry in entries)
        if total != balance or balance < 0:
            self.note(Broken.LEDGER, f"the balance is {balance}, the ledger's sum {total}")

    def _check_events(self, order: Order, job: dict[str, Any], events: Sequence[Event]) -> None:
        finals = [event["n"] for event in events if event["status"] in FINAL]
        if finals != [len(events)] or job["status"] != events[-1]["status"]:
            self.note(Broken.UNFINISHED, f"{job['status']}, with final events {finals} of {len(events)}", order, events)
            return
        self.ends[end_of(events[-1])] += 1
        if [event["n"] for event in events] != list(range(1, len(events) + 1)):
            self.note(Broken.GAP, "the events are not numbered 1, 2, 3 ...", order, events)
        if order.seen != events[: len(order.seen)] or (order.watched and not order.over):
            self.note(Broken.GAP, "its reader saw other events than are kept", order, events)

    def _check_money(
        self,
        order: Order,
        job: dict[str, Any],
        events: Sequence[Event],
        entries: Sequence[dict[str, Any]],
        *,
        bought: bool,
    ) -> None:
        moved = Counter(entry["cause"] for entry in entries)
        if moved["charge"] != 1 or moved["refund"] > 1 or moved["grant"]:
            self.note(Broken.LEDGER, f"tokens were moved by {dict(moved)}", order, events)
        if -sum(entry["tokens"] for entry in entries if entry["cause"] == "charge") != job["tokens"]:
            self.note(Broken.LEDGER, f"the charge is not {job['tokens']}", order, events)
        final = events[-1]
        if final["status"] not in FINAL:
            return
        due = refund_due(order, job["tokens"], final, bought=bought)
        given = sum(entry["tokens"] for entry in entries if entry["cause"] == "refund")
        if not due == given == final.get("refunded", 0) == job["refunded"]:
            said = f"the event says {final.get('refunded')}, the job {job['refunded']}"
            self.note(Broken.REFUND, f"{due} are due, {given} were given, {said}", order, events)

    def _check_submits(self, order: Order, events: Sequence[Event], bought: int, truth: Truth) -> None:
        if bought > 1:
            self.note(Broken.DOUBLE, f"was taken {bought} times by the provider", order, events)
        for line in self.ear.sent_again(order.token):
            self.note(Broken.DOUBLE, f"was sent again after {line}", order, events)
        final = events[-1]
        if final["status"] == "Completed" and not bought:
            self.note(Broken.UNTRUE, "is Completed, and was never taken by the provider", order, events)
        untrue = truth(order, events, bought=bool(bought)) if final["status"] in FINAL else None
        if untrue:
            self.note(Broken.UNTRUE, untrue, order, events)


def refund_due(order: Order, tokens: int, final: Event, *, bought: bool) -> int:
    """Return the tokens that the final event must refund. A client's cancel refunds nothing if the job was bought."""
    if final["status"] == "Canceled" and order.cancels:
        return 0 if bought else tokens
    if final["status"] != "Completed":
        return tokens
    outputs = final["outputs"]
    failed = sum(output.get("status") == "Error" for output in outputs)
    return tokens * failed // len(outputs) if outputs else 0


def end_of(final: Event) -> str:
    """Return the end of a job: `Completed`, `Canceled`, or an error's code."""
    return str(final.get("code", final["status"]))
