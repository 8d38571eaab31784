"""Records that all layers share: Order, Job, Event, Output and Status, and the table of legal status changes.

They are frozen and do no I/O. Only the store makes an `Event` out of a `Draft`, because it assigns the numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple

import orjson
from ulid import ULIDGenerator

from proxy.core.clock import rfc3339

Ticket = Mapping[str, Any]
"""The provider's handle for a running job: a JSON object that suffices to resume polling after a restart."""


class Status(StrEnum):
    """The status of a job and of an event. The set is closed: adapters map each provider's words to these."""

    STARTED = "Processing started"
    PROCESSING = "Processing"
    COMPLETED = "Completed"
    ERROR = "Error"
    CANCELED = "Canceled"

    @property
    def final(self) -> bool:
        """True if no event may follow this status."""
        return not NEXT[self]


NEXT: Final[Mapping[Status | None, frozenset[Status]]] = {
    None: frozenset({Status.STARTED}),
    Status.STARTED: frozenset({Status.PROCESSING, Status.COMPLETED, Status.ERROR, Status.CANCELED}),
    Status.PROCESSING: frozenset({Status.PROCESSING, Status.COMPLETED, Status.ERROR, Status.CANCELED}),
    Status.COMPLETED: frozenset(),
    Status.ERROR: frozenset(),
    Status.CANCELED: frozenset(),
}
"""The statuses that may follow each status. `None` is the state before the first event."""


class Kind(StrEnum):
    """The kind of media that a model makes."""

    VIDEO = "video"
    IMAGE = "image"
    AUDIO = "audio"
    TEXT = "text"


class Role(StrEnum):
    """The purpose of an output."""

    VIDEO = "video"
    IMAGE = "image"
    AUDIO = "audio"
    TEXT = "text"
    PAGE = "page"
    THUMBNAIL = "thumbnail"


def new_id(prefix: str) -> str:
    """Return a new id such as `job_01JD...`. Ids sort by time, and within one process by order of creation."""
    return f"{prefix}_{_ulids.generate()}"


_ulids = ULIDGenerator()


@dataclass(frozen=True, slots=True)
class Order:
    """A client's order: a model, its validated fields, `metadata` to echo and `extra` to pass to the provider."""

    model: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the order in the form of a request: flat fields, and `metadata` and `extra` if they are not empty."""
        order: dict[str, Any] = {"model": self.model, **self.fields}
        if self.metadata:
            order["metadata"] = dict(self.metadata)
        if self.extra:
            order["extra"] = dict(self.extra)
        return order


@dataclass(frozen=True, slots=True)
class Output:
    """One file or text that the provider made, or failed to make.

    `n` is its index among the job's outputs. `url` is a public address, or None if Pollcast serves the bytes: `blob`
    names them in the blob storage, and `relayed` means that they are fetched from the provider with its key.
    `ids` are the provider's ids, as text. A failed item has `status` Error and a `message`.
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
        """True if the provider failed to make this item."""
        return self.status is Status.ERROR

    def as_json(self, url: str | None) -> dict[str, Any]:
        """Return the output as clients see it, with its `url`. Absent fields are left out."""
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
        """Read an output from its stored JSON, in which empty fields may be missing."""
        status = Status(record["status"]) if record.get("status") else None
        return cls(**{**record, "role": Role(record["role"]), "status": status})


@dataclass(frozen=True, slots=True)
class Draft:
    """An event before it is recorded: everything except its number and time.

    `fields` are the event's own JSON fields, as the client sees them (`detail`, `progress`, `outputs`, `url`,
    `message`, `code`, `refunded`, `delta`, `offset`, `text`, `finish_reason`, `metadata`). `outputs` are the
    outputs that this event adds; those of a final event replace all earlier ones. `refund` is in tokens.
    """

    status: Status
    fields: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[Output, ...] = ()
    refund: int = 0


class Event(NamedTuple):
    """A recorded event. It has a number and a time and never changes; `data` is its JSON, encoded once.

    `position` is its position in the account's feed. A `delta` is a piece of streamed text. This is a tuple because
    events are many, and a tuple is created in half the time of a frozen dataclass.
    """

    job: str
    n: int
    data: bytes
    final: bool
    position: int
    delta: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """The current state of an order, as the store has it. Times are seconds since the epoch; tokens are integers."""

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
        """The id of the ordered model."""
        return self.order.model

    def after(self, draft: Draft, at: float) -> "Job":
        """Return the job with `draft` recorded as its next event. Raises ValueError if `NEXT` forbids it."""
        if draft.status not in NEXT[self.status]:
            raise ValueError(f"{self.id} is {self.status!r}: {draft.status!r} cannot follow.")
        fields = draft.fields
        return Job(  # `replace` takes twice as long: a tenth of the time to record an event
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
    """Return the event that reports a job's position in its account's backlog; the first position is 1."""
    return Draft(Status.PROCESSING, {"detail": f"Waiting: number {place} in line"})


UNDER_WAY: Final = "Under way"
"""The detail of a job that has left its backlog. It stays true until the provider reports a detail."""


def encode(job: Job, draft: Draft, n: int, at: float) -> bytes:
    """Return the JSON of `draft` as event `n` of `job`: `status`, `job`, `model`, `n`, `at`, then its own fields.

    U+0085, U+2028 and U+2029 are escaped. JSON allows them, but `str.splitlines` breaks lines there, and simple
    clients that use it would cut the frame.
    """
    head = {"status": draft.status, "job": job.id, "model": job.model, "n": n, "at": rfc3339(at)}
    data = orjson.dumps(head | dict(draft.fields))
    for raw, escaped in _SEPARATORS:
        if raw in data:
            data = data.replace(raw, escaped)
    return data


_SEPARATORS: Final = tuple((chr(point).encode(), b"\\u%04x" % point) for point in (0x85, 0x2028, 0x2029))
