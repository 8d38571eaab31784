"""Models of the JSON that the server sends. `/openapi.json` describes responses and events by them.

The endpoints build plain dicts instead of these models, for speed: every model would validate its fields again. Tests
compare real responses with these models and allow no other field. A field with a default is omitted where it does not
apply. It is null only if its type allows null.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel, WithJsonSchema

from proxy.core.errors import JobError, PollcastError
from proxy.core.job import Kind, Role, Status
from proxy.store.types import Cause


def codes(kind: type[PollcastError]) -> list[str]:
    """Return the codes of an error class and its subclasses."""
    own = [kind.code] if "code" in vars(kind) else []
    return own + [code for sub in kind.__subclasses__() for code in codes(sub)]


JobCode = Annotated[str, Field(json_schema_extra={"enum": codes(JobError)})]
FinishReason = Literal["stop", "length", "content_filter"]
Progress = Annotated[float, Field(ge=0, le=100)]
Tokens = Annotated[int, Field(ge=0)]
OrNull = WithJsonSchema({"type": ["string", "null"]})
Next = Annotated[str | None, OrNull, Field(description="The `before` of the next page; null on the last page.")]


class Shape(BaseModel):
    """A response, or a part of one."""

    model_config = ConfigDict(use_attribute_docstrings=True, defer_build=True)


# --- errors ---


class Fault(Shape):
    """An invalid field."""

    field: str
    """Path of the field, such as `clips.0.avatar_id`."""
    message: str
    """The reason, and the values that are allowed."""


class Error(Shape):
    """The body of every error response."""

    status: Literal["Error"]
    message: str
    """A message for people."""
    code: str
    """An error code for programs."""
    errors: list[Fault] | None = None
    """The invalid fields, with code `invalid_request`. Empty if the error is not about a field."""


# --- jobs and their events ---


class Output(Shape):
    """A result of a job, or a failed item of a bulk order. Further fields are the provider's ids and URLs."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, str]

    role: Role
    type: str
    """Media type."""
    url: str | None = None
    """URL of the content. It needs no key. A failed item has none."""
    unique_id: str | None = None
    """The `unique_id` of the item in a bulk order."""
    status: Literal["Completed", "Error"] | None = None
    """Status of the item in a bulk order. `Error` also marks an image that was not generated."""
    message: str | None = None
    """The reason why this item failed."""
    thumbnail_url: str | None = None


class _Event(Shape):
    status: Status
    job: str
    model: str
    n: Annotated[int, Field(ge=1)]
    """Number of the event in its job: 1, 2, 3, without gaps."""
    at: datetime
    """Time of the event, in UTC."""


class _Final(_Event):
    refunded: Tokens | None = None
    """Refunded tokens."""
    metadata: dict[str, str] | None = None
    """The `metadata` of the order."""


class Started(_Event):
    """The job was created. Always the first event."""

    status: Literal[Status.STARTED]


class Processing(_Event):
    """The provider accepted the order, changed its status, or reported progress."""

    status: Literal[Status.PROCESSING]
    detail: str | None = None
    """The provider's status text. Before the order is sent, the reason why it waits."""
    progress: Progress | None = None
    """Progress in percent, if the provider reports it. It never decreases."""
    outputs: list[Output] | None = None
    """Outputs finished since the previous event."""
    delta: str | None = None
    """The next part of a streamed text."""
    offset: Annotated[int, Field(ge=0)] | None = None
    """Position of `delta` in the text, in characters."""


class Completed(_Final):
    """Final: the job completed, and all outputs are available."""

    status: Literal[Status.COMPLETED]
    url: str
    """URL of the first successful output."""
    outputs: list[Output]
    text: str | None = None
    """The whole text of a text model."""
    finish_reason: FinishReason | None = None
    """The reason why a text ends, if the provider reports one: complete, too long, or filtered."""


class Failed(_Final):
    """Final: the job failed. Its tokens are refunded."""

    status: Literal[Status.ERROR]
    message: str
    """A message for people, in the provider's words if it gave a reason."""
    code: JobCode
    """An error code for programs."""


class Canceled(_Final):
    """Final: the job was canceled by the client or the provider."""

    status: Literal[Status.CANCELED]
    message: str


class Event(RootModel[Annotated[Started | Processing | Completed | Failed | Canceled, Field(discriminator="status")]]):
    """An event of a job. Exactly one event of a job is final, and it is the last one."""


class JobLinks(Shape):
    """URLs of the job. `events` and `content` are Links: they need no key, and they expire."""

    self: str
    events: str
    content: str


class Eta(Shape):
    """Estimated remaining seconds, from completed jobs of the same model. It covers nine of ten of them."""

    low: Annotated[int, Field(ge=0)]
    high: Annotated[int, Field(ge=0)]


class Job(Shape):
    """A job, with its current status."""

    id: str
    model: str
    status: Status
    event: Annotated[int, Field(ge=1)]
    """Number of the newest event."""
    detail: str | None = None
    """The provider's newest status text. Before the order is sent, the reason why it waits."""
    progress: Progress | None = None
    eta: Eta | None = None
    """Only for an unfinished job, once enough jobs of its model have completed."""
    polled_at: datetime | None = None
    """Time of the newest status request to the provider. Only while unfinished, and only from the node that polls."""
    url: str | None = None
    """URL of the first successful output."""
    outputs: list[Output] | None = None
    message: str | None = None
    """The reason why the job failed or was canceled."""
    code: JobCode | None = None
    """The error code of a failed job."""
    finish_reason: FinishReason | None = None
    """The reason why a text ends, if the provider reports one."""
    tokens: Tokens
    """Charged tokens."""
    refunded: Tokens
    metadata: dict[str, str]
    created_at: datetime
    updated_at: datetime
    order: dict[str, Any]
    """The order, with default values filled in."""
    links: JobLinks


class JobList(Shape):
    """A page of jobs, newest first."""

    jobs: list[Job]
    next: Next


class FormPart(Shape):
    """A part of a multipart body. Files are shown as placeholders."""

    name: str
    value: str


class ProviderRequest(Shape):
    """A request to a provider, without its credential. Uploads are shown as placeholders."""

    method: Literal["POST"]
    url: str
    query: dict[str, str]
    headers: dict[str, str]
    # The attribute cannot be called `json`, because every pydantic model has a method of that name.
    body: Annotated[dict[str, Any] | list[Any] | None, Field(alias="json")] = None
    """The body, if it is JSON."""
    form: list[FormPart] | None = None
    """The body, if it is multipart."""


class DryRun(Shape):
    """The result of a dry run: the provider's request and the price. Nothing was created or charged."""

    provider: str
    request: ProviderRequest
    tokens: Tokens
    """Price of the order."""


class Link(Shape):
    """A signed URL that needs no key and expires."""

    url: str
    expires_at: datetime


# --- assets, account, catalogue ---


class Asset(Shape):
    """An uploaded file. Use its `id` in the media fields of an order."""

    id: str
    type: str
    size: Annotated[int, Field(ge=0)]
    """Size in bytes."""
    url: str
    """A Link to the content."""
    created_at: datetime


class Account(Shape):
    """Your account and its balance of tokens."""

    name: str
    tokens: Tokens


class Entry(Shape):
    """A charge, refund or grant of tokens."""

    id: str
    tokens: int
    """Amount. A charge is negative."""
    cause: Cause
    job: Annotated[str | None, OrNull]
    at: datetime


class Ledger(Shape):
    """A page of ledger entries, newest first. The sum of all entries is the balance."""

    entries: list[Entry]
    next: Next


class Style(Shape):
    """A value of a model's `style`, and its display name."""

    value: str
    name: str


class ModelEntry(Shape):
    """A model. Its `id` is the `model` of an order."""

    id: str
    provider: str
    kind: Kind
    tokens: Tokens
    """Price of one output."""
    available: bool
    """True if the model can be ordered now."""
    note: str
    retired_on: str | None = None
    """Date from which the provider may refuse the model for good."""
    typical_seconds: Annotated[list[int], Field(min_length=2, max_length=2)]
    """Typical duration in seconds, as [minimum, maximum]."""
    fields: dict[str, Any]
    """JSON Schema of the model's own fields."""
    styles: list[Style]


class Catalogue(Shape):
    """The available models."""

    models: list[ModelEntry]


class Mark(Shape):
    """A timed mark of `/api/ping`."""

    mark: Annotated[int, Field(ge=1)]
    of: Annotated[int, Field(ge=1)]
    at: datetime
    heartbeat: float
    """Interval of the heartbeats in streams, in seconds."""


class Health(Shape):
    """The server is healthy."""

    status: Literal["ok"]
