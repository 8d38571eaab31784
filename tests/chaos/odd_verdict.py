"""Judge of the odd answers: compares a job's record with the upstream's answers to it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from tests.chaos.odd_answers import SECRET
from tests.chaos.odd_upstream import UNREADABLE_POLLS, UNREADABLE_SECONDS, Work

Event = dict[str, Any]
FINAL = frozenset({"Completed", "Error", "Canceled"})
BY_RULE = frozenset({"upstream_protocol", "upstream_failed"})
"""Error codes of a job without readable answers. The last answer decides between them."""
_PATIENCE = 60.0
"""Maximum time, in seconds, from the limit of five minutes to the job's end: one interval, and a reserve."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A violation, and the odd answers of its job."""

    text: str
    log: Sequence[str] = ()


def end_of(job: Event) -> str:
    """Return the end of a job: `Completed`, `Canceled`, or an error's code."""
    return str(job.get("code") or job["status"])


def refund_due(work: Work, job: Event, price: int) -> int:
    """Return the tokens that the job must refund."""
    return price * work.failed // work.units if job["status"] == "Completed" else price


def faults(work: Work, job: Event, events: Sequence[Event], *, price: int, overdue: bool) -> Iterator[str]:
    """Return the violations of an ended job. `overdue` is true if its deadline has passed."""
    yield from work.faults
    yield from _end_faults(work, job, overdue=overdue)
    yield from _event_faults(job, events)
    yield from _word_faults(work, events)
    yield from _money_faults(work, job, events[-1], price)


def _end_faults(work: Work, job: Event, *, overdue: bool) -> Iterator[str]:
    end = end_of(job)
    justified = {
        "Completed": work.is_done,
        "deadline_exceeded": overdue,
        work.ends: True,
    }.get(end, False)
    if not (justified or (end in BY_RULE and work.given_up)):
        wanted = work.ends or ("Completed" if work.is_done else "to go on")
        yield f"{end} instead of {wanted}: {job.get('message')}"
    for item in work.items:
        if item.unreadable > UNREADABLE_POLLS and item.polled - item.since > UNREADABLE_SECONDS + _PATIENCE:
            yield f"still polled after {item.unreadable} unreadable answers in {item.polled - item.since:.0f} s"
    if work.siege in {"nineteen", "brief"} and end != "Completed":
        yield f"{end} after too few unreadable answers, or too short a time"
    if end == "Completed" and work.model == "gpt-5.4-mini" and job.get("finish_reason") != work.finish_reason:
        yield f"finish_reason {job.get('finish_reason')} instead of {work.finish_reason}"


def _event_faults(job: Event, events: Sequence[Event]) -> Iterator[str]:
    numbers = [event["n"] for event in events]
    finals = [event["n"] for event in events if event["status"] in FINAL]
    if numbers != list(range(1, len(events) + 1)) or finals != numbers[-1:]:
        yield f"events {numbers} with final events {finals}"
    if events[-1]["status"] != job["status"]:
        yield f"the last event says {events[-1]['status']}, the job {job['status']}"


def _word_faults(work: Work, events: Sequence[Event]) -> Iterator[str]:
    details = "\n".join(f"{event.get('detail')}\n{event.get('message')}" for event in events)
    yield from (f"never shown: {words}" for words in work.shown if words not in details)
    final = orjson.dumps(events[-1]).decode()
    yield from (f"not in the final event: {words}" for words in work.last if words not in final)
    if SECRET in orjson.dumps(events).decode():
        yield "the provider's key is shown"


def _money_faults(work: Work, job: Event, final: Event, price: int) -> Iterator[str]:
    due = refund_due(work, job, price)
    told = (job["tokens"], job["refunded"], final.get("refunded", 0))
    if told != (price, due, due):
        yield f"{price} tokens, {due} to be refunded; the job and its event say {told}"
    failed = sum(output["status"] == "Error" for output in final.get("outputs", ()) if "status" in output)
    if job["status"] == "Completed" and failed != work.failed:
        yield f"{failed} failed outputs instead of {work.failed}"
