"""The JSON that leaves this server, as models: what `/openapi.json` says of answers and events is made from them.

Answers are written as plain dicts where they arise. The tests hold real ones against these shapes, with no field more.
A field with a default is left out where it does not apply; it is never null, save where the type says so.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel, WithJsonSchema

from proxy.core.errors import JobError, PollcastError
from proxy.core.job import Kind, Role, Status
from proxy.store.types import Cause


def codes(kind: type[PollcastError]) -> list[str]:
    """The codes of an error and of all its kinds."""
    own = [kind.code] if "code" in vars(kind) else []
    return own + [code for sub in kind.__subclasses__() for code in codes(sub)]


JobCode = Annotated[str, Field(json_schema_extra={"enum": codes(JobError)})]
FinishReason = Literal["stop", "length", "content_filter"]
Progress = Annotated[float, Field(ge=0, le=100)]
Tokens = Annotated[int, Field(ge=0)]
OrNull = WithJsonSchema({"type": ["string", "null"]})
Next = Annotated[str | None, OrNull, Field(description="The `before` of the next page; null at the end.")]


class Shape(BaseModel):
    """An answer, or a part of one."""

    model_config = ConfigDict(use_attribute_docstrings=True, defer_build=True)


# --- errors ---


class Fault(Shape):
    """One field that is at fault."""

    field: str
    """Its place: `clips.0.avatar_id`."""
    message: str
    """What would be right."""


class Error(Shape):
    """Every answer that is not a success, for every path and method."""

    status: Literal["Error"]
    message: str
    """For a person."""
    code: str
    """For a program."""
    errors: list[Fault] | None = None
    """With `invalid_request`; empty when no field is at fault."""


# --- jobs and their events ---


class Output(Shape):
    """One thing the provider made, or failed to make. Further fields are the provider's own ids and URLs, as text."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, str]

    role: Role
    type: str
    """The media type."""
    url: str | None = None
    """Can be opened by whoever has it; a failed item has none."""
    unique_id: str | None = None
    """The item's own, of a bulk order."""
    status: Literal["Completed", "Error"] | None = None
    """The item's own, of a bulk order; `Error` for an image that was not made."""
    message: str | None = None
    """Why this item failed."""
    thumbnail_url: str | None = None


class _Event(Shape):
    status: Status
    job: str
    model: str
    n: Annotated[int, Field(ge=1)]
    """1, 2, 3 ... without gaps in a job."""
    at: datetime
    """UTC."""


class _Final(_Event):
    refunded: Tokens | None = None
    """Tokens that were given back."""
    metadata: dict[str, str] | None = None
    """The order's own."""


class Started(_Event):
    """The job is recorded; always the first event."""

    status: Literal[Status.STARTED]


class Processing(_Event):
    """The provider took it, changed state, or reported progress."""

    status: Literal[Status.PROCESSING]
    detail: str | None = None
    """The provider's own word; before it has the order, what the order waits for."""
    progress: Progress | None = None
    """Per cent; only when the provider gives one; never goes back."""
    outputs: list[Output] | None = None
    """Those finished since the last event."""
    delta: str | None = None
    """The next piece of streamed text."""
    offset: Annotated[int, Field(ge=0)] | None = None
    """Where `delta` begins, in characters."""


class Completed(_Final):
    """Final: all that there will be is there."""

    status: Literal[Status.COMPLETED]
    url: str
    """The first succeeded output's."""
    outputs: list[Output]
    text: str | None = None
    """What a text model wrote."""
    finish_reason: FinishReason | None = None
    """Why a text ends there, where the provider says so: at its end, at the limit of its length, or filtered."""


class Failed(_Final):
    """Final: the job failed; its tokens are given back."""

    status: Literal[Status.ERROR]
    message: str
    """For a person; the provider's own words where it has any."""
    code: JobCode
    """For a program."""


class Canceled(_Final):
    """Final: by the client, or by the provider's word."""

    status: Literal[Status.CANCELED]
    message: str


class Event(RootModel[Annotated[Started | Processing | Completed | Failed | Canceled, Field(discriminator="status")]]):
    """What a stream tells. Exactly one final event, always the last."""


class JobLinks(Shape):
    """Where the job's own things are; `events` and `content` are Links: they need no key, and expire."""

    self: str
    events: str
    content: str


class Eta(Shape):
    """Seconds to the end, as the model's jobs that were completed here tell: nine of ten lie between."""

    low: Annotated[int, Field(ge=0)]
    high: Annotated[int, Field(ge=0)]


class Job(Shape):
    """An order's life, as it is now."""

    id: str
    model: str
    status: Status
    event: Annotated[int, Field(ge=1)]
    """The newest event's number."""
    detail: str | None = None
    """The provider's newest word; before it has the order, what the order waits for."""
    progress: Progress | None = None
    eta: Eta | None = None
    """While it is unfinished, once enough jobs of the model have been completed here."""
    polled_at: datetime | None = None
    """When the provider was last asked; while it is unfinished, from the node that asks."""
    url: str | None = None
    """The first succeeded output's."""
    outputs: list[Output] | None = None
    message: str | None = None
    """Why it failed or was canceled."""
    code: JobCode | None = None
    """Why it failed, for a program."""
    finish_reason: FinishReason | None = None
    """Why a text ends there, where the provider says so."""
    tokens: Tokens
    """What it was charged."""
    refunded: Tokens
    metadata: dict[str, str]
    created_at: datetime
    updated_at: datetime
    order: dict[str, Any]
    """What was asked, with the defaults that were filled in."""
    links: JobLinks


class JobList(Shape):
    """Jobs, newest first."""

    jobs: list[Job]
    next: Next


class FormPart(Shape):
    """A part of a multipart body; a file is a placeholder in words."""

    name: str
    value: str


class ProviderRequest(Shape):
    """A request to a provider, without its credential; uploads are placeholders."""

    method: Literal["POST"]
    url: str
    query: dict[str, str]
    headers: dict[str, str]
    # Not called `json`, which is a method of every model.
    body: Annotated[dict[str, Any] | list[Any] | None, Field(alias="json")] = None
    """Its body, where it is JSON."""
    form: list[FormPart] | None = None
    """Its body, where it is multipart."""


class DryRun(Shape):
    """What an order would do; nothing was made, nothing was charged."""

    provider: str
    request: ProviderRequest
    tokens: Tokens
    """The price."""


class Link(Shape):
    """A signed, expiring URL that works without a key."""

    url: str
    expires_at: datetime


# --- assets, account, catalogue ---


class Asset(Shape):
    """Bytes that a client brought in; `id` is what an order's media fields take."""

    id: str
    type: str
    size: Annotated[int, Field(ge=0)]
    """Bytes."""
    url: str
    """A Link to its bytes."""
    created_at: datetime


class Account(Shape):
    """Who calls, and the tokens it holds."""

    name: str
    tokens: Tokens


class Entry(Shape):
    """One movement of tokens."""

    id: str
    tokens: int
    """Signed: what was taken is negative."""
    cause: Cause
    job: Annotated[str | None, OrNull]
    at: datetime


class Ledger(Shape):
    """What moved the tokens, newest first; the sum of all is the balance."""

    entries: list[Entry]
    next: Next


class Style(Shape):
    """A value of a model's `style`, and its name."""

    value: str
    name: str


class ModelEntry(Shape):
    """A model that can be ordered by its `id`."""

    id: str
    provider: str
    kind: Kind
    tokens: Tokens
    """The price of one."""
    available: bool
    """Whether it can be ordered here and now."""
    note: str
    typical_seconds: Annotated[list[int], Field(min_length=2, max_length=2)]
    """From, to."""
    fields: dict[str, Any]
    """The model's own fields, as JSON Schema."""
    styles: list[Style]


class Catalogue(Shape):
    """All models."""

    models: list[ModelEntry]


class Mark(Shape):
    """One of the timed marks that `/api/ping` sends."""

    mark: Annotated[int, Field(ge=1)]
    of: Annotated[int, Field(ge=1)]
    at: datetime
    heartbeat: float
    """Seconds of silence after which a stream says something."""


class Health(Shape):
    """All is well."""

    status: Literal["ok"]
