"""Requests as a circuit breaker sees them: for a job of an account, and with an outcome."""

from collections.abc import Generator
from contextlib import contextmanager

from proxy.upstream.breaker import Breaker, Subject, subjects


@contextmanager
def sending_for(job: str, account: str = "a") -> Generator[None]:
    """Requests in here are the job's."""
    with sending_for_all(Subject(account, job)):
        yield


@contextmanager
def sending_for_all(*senders: Subject) -> Generator[None]:
    """Requests in here are for all these jobs at once."""
    before = subjects.set(senders)
    try:
        yield
    finally:
        subjects.reset(before)


def failed(breaker: Breaker, *jobs: str, account: str = "a") -> None:
    for job in jobs:
        with sending_for(job, account):
            breaker.record_failure()


def succeeded(breaker: Breaker, job: str, account: str = "a") -> None:
    with sending_for(job, account):
        breaker.record_success()
