"""The tables of a provider file. They say what a provider's page says, without conditions, loops or expressions.

`provider_file` reads them, `provider_rules` checks what no single key shows, and `providers/declared.py` is the adapter
that sends and reads by them. A docstring below a key describes it.
"""

import datetime as dt
import re
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from proxy.core import templates
from proxy.core.job import Kind
from proxy.core.json_path import JsonPath
from proxy.core.settings import Duration

_MODEL_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_FIELD_NAME: Final = r"^[a-z][a-z0-9_]{0,40}$"
SECRET_HEADER: Final = re.compile(r"authorization|cookie|(^|[-_])(key|token|secret|password|auth)$", re.IGNORECASE)
_OWN_HEADERS: Final = frozenset(
    {"host", "content-length", "content-type", "transfer-encoding", "connection", "accept-encoding"}
)

State = Literal["queued", "running", "done", "failed", "canceled", "blocked", "expired", "gone"]
"""What a provider's word means. `blocked`: refused for its content. `gone`: the provider no longer knows the job."""
Meaning = Literal[
    "busy",
    "blocked",
    "gone",
    "upstream_rejected",
    "upstream_failed",
    "upstream_credits",
    "upstream_auth",
    "upstream_retired",
]
"""What an error means: our code, or `busy` (later it may succeed), `blocked` (content), `gone` (the job is unknown)."""
Scalar = str | int | float | bool
Code = str | int


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


Paths = Annotated[list[JsonPath], BeforeValidator(_listed, json_schema_input_type=JsonPath | list[JsonPath])]
"""Paths into an answer, in order of preference. One path may stand alone, without a list."""


def _template(text: str) -> str:
    if not re.fullmatch(r"[\x20-\x7e]*", text):
        raise ValueError("must be printable ASCII")
    return templates.check_text(text)


def _request_path(text: str) -> str:
    if templates.lone(text):
        return text
    if not text.startswith("/") or text.startswith("//") or re.search(r"[\s#\\]|/\.\.?(/|$)", text):
        raise ValueError(f"must be a path that begins with one slash, such as /v1/videos/{{id}}, not {text!r}")
    return _template(text)


def _check_template(value: Any) -> Any:
    if isinstance(value, str):
        return templates.check_text(value)
    inner: Any
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_template(inner)
    return value


def _headers(headers: dict[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if not re.fullmatch(r"[A-Za-z0-9-]+", name) or name.lower() in _OWN_HEADERS:
            raise ValueError(f"{name!r} is not a header that a file may set")
        if SECRET_HEADER.search(name) or "{key}" in value:
            raise ValueError(f"{name} is for a secret, and secrets stand in [auth] only")
        if re.search(r"[{}]|[^\x20-\x7e]", value):
            raise ValueError(f"{name} must be printable ASCII without placeholders")
    return headers


RequestPath = Annotated[str, AfterValidator(_request_path)]
"""A path at the provider with placeholders, or one placeholder alone whose value is a URL from an answer."""
RequestPaths = Annotated[
    list[RequestPath],
    BeforeValidator(_listed, json_schema_input_type=RequestPath | list[RequestPath]),
    Field(min_length=1),
]
"""Such paths, in order of preference: the first one whose placeholders all have values counts."""
OptionalPaths = Annotated[
    list[RequestPath], BeforeValidator(_listed, json_schema_input_type=RequestPath | list[RequestPath])
]
Headers = Annotated[dict[str, str], AfterValidator(_headers)]
Template = Annotated[Any, AfterValidator(_check_template)]
Keep = dict[Annotated[str, Field(pattern=_FIELD_NAME)], Paths]
"""Values of an answer that later requests use as placeholders."""


class Table(BaseModel):
    """A table of a provider file. Unknown keys are refused, and no type is guessed from another."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Jwt(Table):
    """A key `ACCESS:SECRET` is sent as a signed token (HS256) whose issuer is ACCESS."""

    lifetime: int = Field(default=1800, ge=60, le=86400)
    """Seconds from now to `exp`."""
    backdate: int = Field(default=5, ge=0, le=300)
    """Seconds from `nbf` to now, for clocks that are behind."""


class Auth(Table):
    """Where the operator's key is sent: a header, or a parameter of the query."""

    header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")] | None = None
    query: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")] | None = None
    value: Annotated[str, AfterValidator(_template)] = "{key}"
    """The header's value, such as `Bearer {key}`."""
    jwt: Jwt | None = None
    check: RequestPath | None = None
    """A free path that only a valid key may read. "Not found" proves the key too."""


class Limits(Table):
    """Defaults of the provider's settings, which have the same names."""

    poll_interval: Duration = Field(default=5, gt=0)
    deadline: Duration = Field(default=1800, gt=0)
    concurrency: int = Field(default=64, gt=0)
    rate: float = Field(default=20, gt=0)


FieldType = Literal["text", "integer", "number", "boolean", "media"]
SendForm = Literal["url", "data", "base64", "part", "upload"]
"""Forms of a media input: a URL, a data URI, bare base64, a part of a multipart request, or the value of an upload."""


class FieldTable(Table):
    """One field of an order."""

    type: FieldType
    note: str = ""
    required: bool = False
    default: Scalar | None = None
    choices: list[Scalar] | dict[str, Scalar] | None = None
    """The permitted values: a list, or a table from each value to the provider's own."""
    min: float | None = None
    max: float | None = None
    max_length: int | None = Field(default=None, gt=0)
    pattern: str | None = None
    many: bool = False
    """True for a list of such values."""
    max_items: int = Field(default=16, gt=0, le=200)
    name: str | None = None
    """The field's name in `{fields}`, if the provider calls it otherwise."""
    as_text: bool = False
    """True if a number is sent as text."""
    kinds: list[Literal["image", "video", "audio"]] = Field(default=["image"], min_length=1)
    """The kinds of media that the field takes."""
    send: SendForm = "url"
    pass_urls: bool = False
    """True if the client's URLs are sent as they are, and only assets in the form `send`."""
    shape: Template = None
    """What is sent for each value: a template with `{value}`, and `{type}` for a medium's type."""


class Price(Table):
    """Tokens of an order: a number, a number per unit of a field, or a table over the values of one or two fields."""

    tokens: int | None = Field(default=None, ge=0)
    per: str | None = None
    by: list[str] = Field(default_factory=list, max_length=2)
    table: dict[str, Any] = Field(default_factory=dict)


def _price(value: Any) -> Any:
    if not isinstance(value, dict | int) or isinstance(value, bool):
        raise ValueError("must be a whole number of tokens, or a table with tokens and per, or with by and table")  # noqa: TRY004 -- pydantic reports a ValueError
    return value if isinstance(value, dict) else {"tokens": value}


class Submit(Table):
    """The paid request, and what its answer gives."""

    path: RequestPath
    headers: Headers = Field(default_factory=dict)
    encoding: Literal["json", "multipart"] = "json"
    body: Template = "{fields}"
    id: Paths
    """The provider's id of the job, or whatever the placeholder `{id}` is to be."""
    keep: Keep = Field(default_factory=dict)
    idempotency: "Idempotency | None" = None
    extra: list[str] = Field(default_factory=list)
    """The names that an order's `extra` may have."""
    extra_in: str | None = None
    """The table of the body that gets them, such as `input`."""


class Idempotency(Table):
    """Where our key of the order is sent: a header or a field of the body. `repeats`: a repeat buys once, for 24 h."""

    header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")] | None = None
    field: str | None = None
    repeats: bool = False
    in_progress: list[str] = Field(default_factory=list)
    """Codes of a 409 that says that the first request with the key is still being worked on."""


class Poll(Table):
    """The question how the job stands."""

    path: RequestPaths
    status: Paths = Field(default_factory=list)
    """The status word; a boolean counts as the word `true` or `false`."""
    words: dict[str, State] = Field(default_factory=dict)
    """What each word means, in the order in which a job has them."""
    present: State | None = None
    """What any value at `status` means, in place of words: for a field that only appears in that state."""
    absent: State | None = None
    """What an answer without a status word means."""
    http: dict[str, State] = Field(default_factory=dict)
    """What an HTTP status means, if the answer has no word."""
    failed: Paths = Field(default_factory=list)
    """Paths of an error. The job has failed if one of them is there."""
    blocked: dict[JsonPath, Scalar] = Field(default_factory=dict)
    """Paths, each with the value that means that the result was blocked."""
    detail: Paths = Field(default_factory=list)
    progress: Paths = Field(default_factory=list)
    progress_scale: float = Field(default=1, gt=0)
    """The progress of finished work: 1 or 100."""
    keep: Keep = Field(default_factory=dict)


class Result(Table):
    """Where the outputs are: in the answer to the last poll, or behind `path`."""

    path: OptionalPaths = Field(default_factory=list)
    """A further request for the result, once the job is done."""
    http_failure: list[int] = Field(default_factory=list)
    """Statuses with which `path` says that the job has failed."""
    decode: JsonPath | None = None
    """A text with JSON inside, in which the outputs are."""
    output: Paths = Field(default_factory=list)
    """URLs (or data URIs) of outputs of the model's own kind."""
    video: Paths = Field(default_factory=list)
    image: Paths = Field(default_factory=list)
    audio: Paths = Field(default_factory=list)
    text: Paths = Field(default_factory=list)
    """A text itself, not its URL."""
    base64: Paths = Field(default_factory=list)
    """Bytes of outputs of the model's own kind, as base64."""
    thumbnail: Paths = Field(default_factory=list)
    ids: Keep = Field(default_factory=dict)
    """The provider's ids, which outputs show."""
    keyed: bool = False
    """True if URLs on the provider's hosts open only with the key."""
    renewable: bool = False
    """True if another poll gives fresh URLs."""
    lifetime: Duration | None = None
    """Time for which the URLs are valid."""
    blocked: Paths = Field(default_factory=list)
    """Paths of which one is set (not null, false, 0 or empty) if there is no output because it was blocked."""
    blocked_message: Paths = Field(default_factory=list)


class Cancel(Table):
    """The request that stops a job."""

    method: Literal["DELETE", "POST", "PUT"] = "DELETE"
    path: RequestPaths
    states: list[State] = Field(default=["queued", "running"])
    """The states in which the provider accepts it."""


class Upload(Table):
    """The free request that uploads one file (multipart)."""

    path: RequestPath
    part: str = "file"
    form: dict[str, str] = Field(default_factory=dict)
    """Further parts; they may have `{name}` and `{type}`."""
    id: Paths
    value: str = "{id}"
    """What the order names, such as `mm_file://{id}`."""
    limit: int | None = Field(default=None, gt=0)
    """Largest file, in bytes."""


class Lookup(Table):
    """The request that finds a job by our key, after a lost answer. `{job}` is the key."""

    path: RequestPath
    id: Paths
    keep: Keep = Field(default_factory=dict)


class Callback(Table):
    """What the provider offers for callbacks. Pollcast polls, so it is a note for the reader of the file."""

    field: str
    signature: Literal["none", "hmac-sha256", "ed25519", "standard-webhooks"] = "none"
    challenge: bool = False
    """True if the provider first sends a challenge that has to be echoed."""
    note: str = ""


Paid = Literal["no", "yes", "unknown"]


class ErrorRule(Table):
    """What an HTTP status, a code or both mean, and whether the order was bought all the same."""

    http: Annotated[list[int], BeforeValidator(_listed, json_schema_input_type=int | list[int])] = Field(
        default_factory=list
    )
    code: Annotated[list[Code], BeforeValidator(_listed, json_schema_input_type=Code | list[Code])] = Field(
        default_factory=list
    )
    means: Meaning
    paid: Paid = "unknown"
    ends: bool = False
    """True if it also ends a job when it answers a poll. Otherwise polling goes on."""


class Errors(Table):
    """Where an error answer has its code and message, and what the codes mean."""

    code: Paths = Field(default_factory=list)
    message: Paths = Field(default_factory=list)
    success: list[str | int] = Field(default_factory=list)
    """Values of the code that are no error. Any other value at the first path of `code` is one, also with HTTP 200."""
    rules: list[ErrorRule] = Field(default_factory=list)
    """The first rule that matches counts."""


class ModelTable(Table):
    """One model. Its fields are those of `use`, from the table `[fields]`, and its own."""

    name: Annotated[str, Field(pattern=_MODEL_NAME)]
    id: Annotated[str, AfterValidator(_template)] = ""
    """The provider's name of it, for `{model}`; by default `name`."""
    path: str = ""
    """A text for `{path}`, for providers with a path per model."""
    kind: Kind = Field(strict=False)
    price: Annotated[Price, BeforeValidator(_price, json_schema_input_type=int | Price)]
    typical_seconds: list[int] = Field(min_length=2, max_length=2)
    note: str = ""
    docs: str = ""
    use: list[str] = Field(default_factory=list)
    fields: dict[Annotated[str, Field(pattern=_FIELD_NAME)], FieldTable] = Field(default_factory=dict)
    body: dict[str, Template] = Field(default_factory=dict)
    """Changes of `submit.body` for this model, key by key."""
    output: Paths = Field(default_factory=list)
    """In place of `result.output`."""
    extra: list[str] | None = None
    retired_on: dt.date | None = None


class Expect(Table):
    """What Pollcast makes of an example, written by hand."""

    path: str | None = None
    body: str | None = None
    """The request's JSON."""
    form: dict[str, str] | None = None
    id: str | None = None
    keep: dict[str, str] | None = None
    state: State | None = None
    unknown: str | None = None
    detail: str | None = None
    progress: float | None = None
    outputs: list[str] | None = None
    """The URLs of all outputs."""
    error: str | None = None
    """The error code in the job's last event."""
    message: str | None = None
    resend: bool | None = None
    """True if the order may be sent again, because nothing was bought."""
    paid: Paid | None = None
    continues: bool | None = None
    """True if the job goes on after this answer to a poll."""


class Example(Table):
    """A literal answer of the provider, or a request as its page shows it."""

    step: Literal["request", "upload", "submit", "poll", "result", "cancel", "lookup"]
    source: str
    """The page, or where else it was seen."""
    date: dt.date
    note: str = ""
    model: str | None = None
    """A model's `name`; by default the first."""
    order: dict[str, Any] = Field(default_factory=dict)
    """For `request`: the fields of the order."""
    http: int = Field(default=200, ge=100, le=599)
    headers: dict[str, str] = Field(default_factory=dict)
    answer: str = ""
    """The answer's body, to the letter."""
    expect: Expect


def _public_origin(url: str) -> str:
    parts = urlsplit(url)
    host = parts.hostname or ""
    bare = parts.scheme == "https" and "@" not in parts.netloc and not (parts.query or parts.fragment)
    if (
        not bare
        or not re.fullmatch(r"([a-z0-9-]+\.)+[a-z][a-z0-9-]*", host)
        or host.endswith((".local", ".internal", ".localhost"))
    ):
        raise ValueError(
            f"must be a public https origin with a host's name, such as https://api.example.com, not {url!r}"
        )
    return url.rstrip("/")


Origin = Annotated[str, AfterValidator(_public_origin)]


class ProviderFile(Table):
    """One provider."""

    extends: str | None = None
    """The name of a file that comes with Pollcast, and whose tables this one has too."""
    name: str
    title: str
    """The name that people read."""
    base_url: Origin
    hosts: list[Origin] = Field(default_factory=list)
    """Further origins that answers may name for polls, cancels and keyed results. They get the key."""
    docs: str = ""
    checked: dt.date
    """The date of the newest evidence."""
    note: str = ""
    headers: Headers = Field(default_factory=dict)
    """Sent with each request."""
    auth: Auth
    limits: Limits = Field(default_factory=Limits)
    fields: dict[Annotated[str, Field(pattern=_FIELD_NAME)], FieldTable] = Field(default_factory=dict)
    """Fields that several models use."""
    submit: Submit
    poll: Poll
    result: Result
    cancel: Cancel | None = None
    upload: Upload | None = None
    lookup: Lookup | None = None
    callback: Callback | None = None
    errors: Errors = Field(default_factory=Errors)
    model: list[ModelTable] = Field(min_length=1)
    example: list[Example] = Field(default_factory=list)
