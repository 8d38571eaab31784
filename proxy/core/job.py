"""The words of the project: Order, Job, Event, Output, Status, and the table of legal state changes.

Plain frozen records without I/O. Every layer speaks in them; the store is the only one that makes an `Event` out of
a `Draft`, because numbers are born there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple

import orjson
from ulid import ULIDGenerator

from proxy.core.clock import rfc3339

Ticket = Mapping[str, Any]
"""The provider's handle for running work: a JSON object that is enough to go on polling after a restart."""


class Status(StrEnum):
    """The closed set of status words; no provider's word ever becomes one."""

    STARTED = "Processing started"
    PROCESSING = "Processing"
    COMPLETED = "Completed"
    ERROR = "Error"
    CANCELED = "Canceled"

    @property
    def final(self) -> bool:
        """Whether nothing may follow."""
        return not NEXT[self]


NEXT: Final[Mapping[Status | None, frozenset[Status]]] = {
    None: frozenset({Status.STARTED}),
    Status.STARTED: frozenset({Status.PROCESSING, Status.COMPLETED, Status.ERROR, Status.CANCELED}),
    Status.PROCESSING: frozenset({Status.PROCESSING, Status.COMPLETED, Status.ERROR, Status.CANCELED}),
    Status.COMPLETED: frozenset(),
    Status.ERROR: frozenset(),
    Status.CANCELED: frozenset(),
}
"""From a job's status to those that may come next; `None` is before the first event."""


class Kind(StrEnum):
    """What a model makes."""

    VIDEO = "video"
    IMAGE = "image"
    AUDIO = "audio"
    TEXT = "text"


class Role(StrEnum):
    """What an output is for."""

    VIDEO = "video"
    IMAGE = "image"
    AUDIO = "audio"
    TEXT = "text"
    PAGE = "page"
    THUMBNAIL = "thumbnail"


def new_id(prefix: str) -> str:
    """Make an id such as `job_01JD...`: sorted by time, and within one process by order of making."""
    return f"{prefix}_{_ulids.generate()}"


_ulids = ULIDGenerator()


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked: a model and its validated fields, `metadata` to echo, `extra` to pass on."""

    model: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The order as its client would write it: flat fields, `metadata` and `extra` where they hold something."""
        order: dict[str, Any] = {"model": self.model, **self.fields}
        if self.metadata:
            order["metadata"] = dict(self.metadata)
        if self.extra:
            order["extra"] = dict(self.extra)
        return order


@dataclass(frozen=True, slots=True)
class Output:
    """One thing the provider made, or failed to make.

    `n` is its place among the job's outputs. `url` is an address that anyone can open, or None while the bytes are ours
    to serve: `blob` names them in our own storage, `relayed` says they are fetched from the provider with its key.
    `ids` are the provider's own, as text.
    A failed item has `status` Error and a `message`.
    """

    role: Role
    type: str
    n: int = 0
    url: str | None = None
    blob: str | None = None
    relayed: bool = False
    unique_id: str | None = None
    status: Status | None = None
    message: str | None = None
    thumbnail_url: str | None = None
    ids: Mapping[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether this item came to nothing."""
        return self.status is Status.ERROR

    def as_json(self, url: str | None) -> dict[str, Any]:
        """The output as clients see it, at `url`; absent fields are left out."""
        shown = {
            "url": url,
            "role": self.role,
            "type": self.type,
            "unique_id": self.unique_id,
            "status": self.status,
            "message": self.message,
            "thumbnail_url": self.thumbnail_url,
            **self.ids,
        }
        return {name: value for name, value in shown.items() if value is not None}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Output":
        """Read the JSON that orjson writes of an output; one in which what is empty was left out will do."""
        status = Status(record["status"]) if record.get("status") else None
        return cls(**{**record, "role": Role(record["role"]), "status": status})


@dataclass(frozen=True, slots=True)
class Draft:
    """An event that has not been recorded yet: everything but its number and time.

    `fields` are the event's own JSON fields, as the client sees them (`detail`, `progress`, `outputs`, `url`,
    `message`, `code`, `refunded`, `delta`, `offset`, `text`, `finish_reason`, `metadata`). `outputs` are the records
    behind the outputs that this event adds (on a final event: replaces all). `refund` is in tokens.
    """

    status: Status
    fields: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[Output, ...] = ()
    refund: int = 0


class Event(NamedTuple):
    """A draft once recorded: numbered, timed, never changed; `data` is its JSON, encoded once.

    `position` is its place in the account's feed; a `delta` is a piece of streamed text. A tuple, because there are
    many: it is made in half the time of a frozen dataclass.
    """

    job: str
    n: int
    data: bytes
    final: bool
    position: int
    delta: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """An order's life as the store knows it now; times are seconds since the epoch, tokens are whole numbers."""

    id: str
    account: str
    key: str
    order: Order
    tokens: int
    created_at: float
    updated_at: float
    status: Status = Status.STARTED
    event: int = 1
    detail: str | None = None
    progress: float | None = None
    message: str | None = None
    code: str | None = None
    finish_reason: str | None = None
    refunded: int = 0
    outputs: tuple[Output, ...] = ()
    ticket: Ticket | None = None
    intended_at: float | None = None
    cancel_requested: bool = False

    @property
    def model(self) -> str:
        """The name of the ordered model."""
        return self.order.model

    def after(self, draft: Draft, at: float) -> "Job":
        """The job once `draft` has been recorded as its next event; ValueError when the table forbids it."""
        if draft.status not in NEXT[self.status]:
            raise ValueError(f"{self.id} is {self.status!r}: {draft.status!r} cannot follow.")
        fields = draft.fields
        return Job(  # written out: `replace` takes twice as long, and a tenth of the time that recording an event does
            self.id,
            self.account,
            self.key,
            self.order,
            self.tokens,
            self.created_at,
            updated_at=at,
            status=draft.status,
            event=self.event + 1,
            detail=fields.get("detail", self.detail),
            progress=fields.get("progress", self.progress),
            message=fields.get("message"),
            code=fields.get("code"),
            finish_reason=fields.get("finish_reason"),
            refunded=self.refunded + draft.refund,
            outputs=draft.outputs if draft.status.final else self.outputs + draft.outputs,
            ticket=self.ticket,
            intended_at=self.intended_at,
            cancel_requested=self.cancel_requested,
        )


def position_event(place: int) -> Draft:
    """The event that tells a job in its account's line where it stands; the first place is 1."""
    return Draft(Status.PROCESSING, {"detail": f"Waiting: number {place} in line"})


UNDER_WAY: Final = "Under way"
"""The detail of a job whose waiting is over; it stays true until the provider has a word of its own."""


def encode(job: Job, draft: Draft, n: int, at: float) -> bytes:
    """Write the JSON of `draft` as event `n` of `job`: `status` first, then `job`, `model`, `n`, `at`, then its fields.

    The line separators that JSON allows but `str.splitlines` breaks at (U+0085, U+2028, U+2029) are escaped: clients
    that read lines with it, as many simple ones do, would cut the frame there.
    """
    head = {"status": draft.status, "job": job.id, "model": job.model, "n": n, "at": rfc3339(at)}
    data = orjson.dumps(head | dict(draft.fields))
    for raw, escaped in _SEPARATORS:
        if raw in data:
            data = data.replace(raw, escaped)
    return data


_SEPARATORS: Final = tuple((chr(point).encode(), b"\\u%04x" % point) for point in (0x85, 0x2028, 0x2029))
