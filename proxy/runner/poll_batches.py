"""Batches of polls: the polls of one provider that are due together become one request.

A provider offers this with `batch_size` and `check_many`. Each job's poll waits for its own part of the shared answer,
and reads it as the job's own. If the part does not suffice, the job is polled alone (`Provider.check`): the part is
missing, it says that the work has ended, or no other poll was due. So a batch saves requests, and ends no job.

A refused batch is split in half until the ticket that caused the refusal is alone. After several failed batches in a
row the provider gets none for a while, because its single status may still work.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from proxy.core.clock import Clock
from proxy.core.job import Ticket
from proxy.providers.base import Provider, Update
from proxy.runner.services import RunnerTimes
from proxy.upstream import breaker
from proxy.upstream.answers import (
    Answer,
    BreakerOpen,
    CredentialRefused,
    LastAnswers,
    RateLimited,
    ReadFailed,
    UnreadableAnswer,
)

log = logging.getLogger(__name__)

_MAX_FAILED_BATCHES: Final = 3
"""Failed batches in a row after which a provider gets no batches for `RunnerTimes.batch_pause`."""


@dataclass(eq=False, slots=True)
class BatchedPoll:
    """One job's membership in the batches of its provider, for as long as this node polls the job."""

    provider: Provider
    batches: "PollBatches"
    is_alone: bool = False
    """True after a batch was refused because of this job's ticket. It is then polled alone."""

    @property
    def name(self) -> str:
        """The provider's name."""
        return self.provider.name

    async def check(self, ticket: Ticket, last_answers: LastAnswers) -> Update:
        """Read the state of the work, in a batch if possible. Raises as `Provider.check`."""
        try:
            part = None if self.is_alone else await self.batches.read_part(self, ticket)
        except ReadFailed as error:
            self.provider.upstream.trace_failed_batch(error)
            raise
        update = self.provider.read_part(ticket, part, last_answers) if part is not None else None
        return update if update is not None else await self.provider.check(ticket, last_answers)


class _Place(NamedTuple):
    """A poll that waits for its part of a batch. `part` becomes None if the job has to be polled alone."""

    member: BatchedPoll
    ticket: Ticket
    subjects: tuple[breaker.Subject, ...]
    part: asyncio.Future[Answer | None]


@dataclass(slots=True)
class _Record:
    """Failures of a provider's batches, and the pause after them."""

    failures: int = 0
    """Failed batches since the last one that succeeded."""
    paused_until: float = 0.0
    """Monotonic time until which the provider gets no batches."""


class PollBatches:
    """Collects the polls that are due within a short time, by provider, and sends each batch as one request."""

    def __init__(self, clock: Clock, times: RunnerTimes) -> None:
        self._clock = clock
        self._times = times
        self._waiting: defaultdict[Provider, list[_Place]] = defaultdict(list)
        self._records: defaultdict[Provider, _Record] = defaultdict(_Record)
        self._has_waiting = asyncio.Event()

    async def run(self) -> None:
        """Send batches until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._has_waiting.wait()
                await self._clock.sleep(self._times.batch_window)
                self._has_waiting.clear()
                waiting, self._waiting = self._waiting, defaultdict(list)
                for provider, places in waiting.items():
                    size = min(provider.batch_size(place.ticket) for place in places)
                    for first in range(0, len(places), size):
                        group.create_task(self._send(provider, places[first : first + size]))

    async def read_part(self, member: BatchedPoll, ticket: Ticket) -> Answer | None:
        """Return the ticket's part of a batch, or None if the job has to be polled alone. Raises ReadFailed."""
        provider = member.provider
        if provider.batch_size(ticket) == 1 or not self._may_batch(provider):
            return None
        part = asyncio.get_running_loop().create_future()
        place = _Place(member, ticket, breaker.subjects.get(), part)
        self._waiting[provider].append(place)
        self._has_waiting.set()
        try:
            return await place.part
        except BreakerOpen:
            return None  # it opened meanwhile, perhaps not for this job's account

    def _may_batch(self, provider: Provider) -> bool:
        """Return whether the provider gets batches now. An open circuit breaker judges each job by its account."""
        return not provider.upstream.breaker.is_open and self._clock.monotonic() >= self._records[provider].paused_until

    async def _send(self, provider: Provider, places: Sequence[_Place]) -> None:
        """Send one batch and give each place its part, or its error. It never raises."""
        try:
            await self._read(provider, places)
        except ReadFailed as error:
            for place in places:
                if not place.part.done():
                    place.part.set_exception(type(error)(error.message, error.wait))
        except Exception:
            log.exception("Internal error while reading a batch of polls of %s", provider.name)
        finally:
            _leave_alone(places)

    async def _read(self, provider: Provider, places: Sequence[_Place]) -> None:
        places = [place for place in places if not place.part.done()]  # the others were canceled
        if len(places) <= 1:
            return
        breaker.subjects.set(tuple(subject for place in places for subject in place.subjects))
        try:
            parts = await provider.check_many([place.ticket for place in places])
        except ReadFailed as error:
            if error.is_refusal:
                await self._split(provider, places)
                return
            self._count_failure(provider, error)
            if isinstance(error, UnreadableAnswer):
                return  # the single status may be readable
            raise
        self._records[provider].failures = 0
        for place, part in zip(places, parts, strict=True):
            if not place.part.done():
                place.part.set_result(part)

    async def _split(self, provider: Provider, places: Sequence[_Place]) -> None:
        """Send the halves of a refused batch, one after the other. A half of one ticket is polled alone from now on."""
        middle = len(places) // 2
        for half in (places[:middle], places[middle:]):
            if len(half) == 1:
                half[0].member.is_alone = True
                _leave_alone(half)
            else:
                await self._send(provider, half)

    def _count_failure(self, provider: Provider, error: ReadFailed) -> None:
        if isinstance(error, BreakerOpen | RateLimited | CredentialRefused):
            return  # polls one by one would be refused too, and a rate limit asks for fewer requests
        record = self._records[provider]
        record.failures += 1
        if record.failures >= _MAX_FAILED_BATCHES:
            record.failures, record.paused_until = 0, self._clock.monotonic() + self._times.batch_pause


def _leave_alone(places: Sequence[_Place]) -> None:
    for place in places:
        if not place.part.done():
            place.part.set_result(None)
