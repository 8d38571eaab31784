"""The contract between the core and an adapter: Provider, Model, Update, Inputs and Source.

An adapter translates between one provider's API and Pollcast's terms. It does not sleep, retry, log or touch tokens.
Fields that the provider cannot carry are refused by name.

An order takes three steps, which the runner calls. `prepare` is unpaid and repeatable. `submit` (or `stream`) is paid
and called once: the runner records an intent before it and the ticket after it. `check` is free.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, ClassVar, Final, Literal, Protocol

from yarl import URL

from proxy.core.clock import Clock
from proxy.core.errors import FieldError, JobError
from proxy.core.job import Kind, Order, Output, Status, Ticket
from proxy.core.settings import ProviderSettings, proxy_secrets
from proxy.core.text import replace_surrogates
from proxy.providers.fields import Fields
from proxy.store.types import Asset
from proxy.upstream.answers import Answer, LastAnswers
from proxy.upstream.classify import Dialect, is_error, plain
from proxy.upstream.client import DEFAULT_OPTIONS, Upstream, UpstreamOptions
from proxy.upstream.requests import File, Request


def _one_unit(_: Mapping[str, Any]) -> int:
    return 1


ExtraRule = Literal["any", "scalars", "refused"]
"""Values that `extra` may hold for a model: any JSON, only scalars, or nothing."""
MediaTransfer = Literal["inline", "uploaded", "linked"]
"""Ways in which media reach a provider: inside the request, by an upload before it, or by a URL that it opens."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model that clients can order, by its name."""

    name: str
    """Name in orders, unique among all providers."""
    kind: Kind
    """Kind of the result."""
    tokens: int
    """Default price of one unit. The operator's settings can override it."""
    fields: type[Fields]
    """Class that validates the fields of an order."""
    reserved: frozenset[str]
    """Names in the provider's request body that Pollcast sends itself. `extra` must not contain them."""
    typical_seconds: tuple[int, int]
    """Usual shortest and longest duration of a job, in seconds."""
    note: str = ""
    """Remark for the catalogue."""
    styles: Mapping[str, str] = field(default_factory=dict)
    """Display names of the values of `style`."""
    extra: ExtraRule = "any"
    allowed_extra: frozenset[str] | None = None
    """The only names that `extra` may contain; None if it may contain any other."""
    costly: frozenset[str] = frozenset()
    """Names that raise the provider's cost at an unchanged price. `extra` must not contain them."""
    media: MediaTransfer = "uploaded"
    units: Callable[[Mapping[str, Any]], int] = _one_unit
    """Function that returns the number of units of an order, from its fields."""
    streamed: bool = False
    """True if the provider answers with a stream of updates (`stream`), False if with a ticket (`submit`)."""
    one_result: bool = False
    """True if an order of several units has one result, which is not refunded in part."""
    repeatable: bool = False
    """True if the provider promises that a repeat with the same `Request.key` buys once, for 24 hours.

    After a lost or unreadable answer, the same request is sent again. Its body must be JSON without files.
    """
    can_lookup: bool = False
    """True if `Provider.lookup` finds a job by `Request.key`. It is called after a lost or unreadable answer."""
    retired_on: str | None = None
    """Date from which the provider may refuse the model for good, such as 2026-10-31."""


@dataclass(frozen=True, slots=True)
class NewOutput:
    """An output, as an adapter reports it.

    The outputs of a final update are numbered by their order. Earlier ones have their final number in `output.n`.
    """

    output: Output
    data: bytes | None = field(default=None, repr=False)
    """Bytes of a result that came inside the answer."""


@dataclass(frozen=True, slots=True)
class Update:
    """A job's progress, as an adapter reports it: the whole state if polled, the next piece if streamed."""

    detail: str | None = None
    """The provider's status, in its own words."""
    progress: float | None = None
    """Progress in percent."""
    outputs: Sequence[NewOutput] = ()
    """Outputs that are finished now and were not in the given ticket. A Completed update has all outputs of the job."""
    status: Status | None = None
    """Final status, or None while the work continues."""
    error: JobError | None = None
    """Reason of the status Error."""
    message: str | None = None
    """Message for the client with a final status that is not Error."""
    wait: float | None = None
    """Seconds until the next poll, as the provider requests."""
    ticket: Ticket | None = None
    """New ticket that replaces the job's. Work that finishes in parts keeps its state there."""
    delta: str = ""
    """Next piece of a streamed text."""
    finish_reason: str | None = None
    """Reason why a text ended, in OpenAI's words."""
    unknown_words: Sequence[str] = ()
    """Status words that the provider's documents do not name. They are shown and counted, and mean "still working"."""


@dataclass(frozen=True, slots=True)
class Source:
    """The current location of an output's bytes."""

    url: str
    needs_key: bool = False
    """True if only the provider's key opens the URL."""


class Inputs(Protocol):
    """A client's media, in the form that a provider takes. A dry run passes placeholders."""

    async def files(self, refs: Sequence[str]) -> Sequence[File]:
        """Return the bytes of media references. Each is read once. Raises a JobError if they cannot be read."""

    async def upload(self, ref: str, send: Callable[[File], Any]) -> Any:
        """Pass the bytes of `ref` to the coroutine `send`, and return its result: the provider's id of the upload.

        Each reference is uploaded once for a job.
        """

    def url(self, ref: str) -> str:
        """Return a URL that the provider can open: a signed Link to an asset, or the URL unchanged."""


class Provider(ABC):
    """An adapter for one provider: its models, and the steps of an order.

    One instance serves all jobs of a process, so it keeps no state of a single job. That is in the ticket.
    """

    name: ClassVar[str]
    """The provider's name, as users read it."""
    models: ClassVar[tuple[Model, ...]]
    settings_type: ClassVar[type[ProviderSettings]]
    """Class of the provider's settings, with their prefix and defaults."""
    position: ClassVar[int] = 100
    """Place in the catalogue. Providers with the same position are sorted by name."""

    def __init__(
        self,
        settings: ProviderSettings,
        clock: Clock,
        public_url: str,
        options: UpstreamOptions = DEFAULT_OPTIONS,
        *,
        others: Sequence[URL] = (),
        public: bool = False,
    ) -> None:
        self.settings = settings
        self.public_url = public_url
        self.dialect = replace(self.declare_dialect(), proxy_secrets=tuple(proxy_secrets(settings.proxy)))
        proxy = URL(settings.proxy.get_secret_value()) if settings.proxy is not None else None
        self.upstream = Upstream(
            settings.base_url,
            self.dialect,
            clock,
            rate=settings.rate,
            proxy=proxy,
            times=options.times,
            observe=options.observe,
            reserve=options.reserve,
            others=others,
            public=public,
        )

    @abstractmethod
    def declare_dialect(self) -> Dialect:
        """Return the provider's credential and its phrases for errors. The core builds the HTTP client with them."""

    @property
    def is_configured(self) -> bool:
        """True if the operator has set an API key."""
        return bool(self.settings.key)

    def sent_model(self, order: Order) -> Model:
        """Return the model as which an order is sent: another than the ordered one if the adapter translates it."""
        return next(model for model in self.models if model.name == order.model)

    def validate(self, order: Order, assets: Mapping[str, Asset]) -> Sequence[FieldError]:
        """Return the errors of a valid order that this installation's settings cannot serve.

        `assets` are those that the order names, by their ids. Unknown ones are left out.
        """
        del order, assets
        return ()

    async def list_models(self) -> frozenset[str] | None:
        """Return the models that the provider lists now. None: it has no list, and all are available.

        Raises ReadFailed.
        """
        return None

    async def check_key(self) -> str:
        """Prove the key with the cheapest free call, and return a remark or "". Raises ReadFailed.

        `pollcast check` calls it and prints the remark.
        """
        return "its key cannot be proven without paying"

    @abstractmethod
    async def prepare(self, order: Order, inputs: Inputs) -> Request:
        """Turn an order into the request to send. Uploads and fetches happen here; they are unpaid and repeatable.

        Raises ReadFailed if the step may be repeated, otherwise a JobError.
        """

    async def submit(self, request: Request) -> Ticket:
        """Send a paid request once, and return the ticket. Raises NotTaken if it may be sent again, else a JobError."""
        raise NotImplementedError(f"{self.name} streams; see `stream`.")

    async def lookup(self, request: Request) -> Ticket | None:
        """Return the ticket of the order that was sent with `request.key`, or None if the provider has none.

        Called for models with `can_lookup`. It is free. Raises ReadFailed if no answer could be read.
        """
        raise NotImplementedError(f"{self.name} cannot look up {request.key}.")

    def stream(self, request: Request) -> AsyncGenerator[Update]:
        """Send a paid request once, and yield updates as they arrive.

        Raises the errors of `submit` before the first update, and Interrupted if the stream breaks.
        """
        raise NotImplementedError(f"{self.name} is polled; see `submit` and `check`.")

    async def check(self, ticket: Ticket, last_answers: LastAnswers) -> Update:
        """Read the state of the work. Raises ReadFailed if no answer could be read.

        Pass `last_answers` to each read. An answer equal to the last one then raises Unchanged before it is parsed.
        """
        raise NotImplementedError(f"{self.name} streams; see `stream`.")

    def batch_size(self, ticket: Ticket) -> int:
        """Return how many tickets `check_many` reads at most with this one, or 1 if it cannot read this ticket."""
        del ticket
        return 1

    async def check_many(self, tickets: Sequence[Ticket]) -> Sequence[Answer | None]:
        """Read the states of several orders with one request. Return each ticket's own part of the answer.

        A ticket without a part has None. Raises UnknownToProvider if the request is refused because of a ticket, and
        other ReadFailed as `check` does.
        """
        raise NotImplementedError(f"{self.name} reads {len(tickets)} states one by one.")

    def read_part(self, ticket: Ticket, part: Answer, last_answers: LastAnswers) -> Update | None:
        """Return the update in a ticket's part of an answer to `check_many`, or None if only `check` can tell.

        Raises Unchanged for the same part as before, and ReadFailed as `check` does.
        """
        raise NotImplementedError(f"{self.name} has no part for {len(ticket)} names.")

    async def cancel(self, ticket: Ticket) -> None:
        """Ask the provider to stop the work. The default sends nothing, as most APIs document no cancel call."""
        del ticket

    def in_progress(
        self, word: str, known_words: Collection[str], answer: Answer, progress: float | None = None
    ) -> Update:
        """Return the update of work that continues with the status `word`.

        `known_words` holds the documented words in the form of `plain`. Another word is reported in `unknown_words`.
        """
        detail = self.dialect.safe_text(word)
        if not detail:
            return self.without_status(answer)
        unknown = () if plain(word) in known_words else (detail,)
        return Update(detail=detail, progress=progress, wait=answer.wait, unknown_words=unknown)

    def without_status(self, answer: Answer, status: object = None) -> Update:
        """Return the update of an answer without a status word: the work continues, and the answer's message is shown.

        Raises ReadFailed if the answer reports an error, or if `status` is neither a text nor None.
        """
        if is_error(answer.object()):
            raise self.dialect.unreadable(answer, "reports an error")
        if not isinstance(status, str | None):
            raise self.dialect.unreadable(answer, "has a status that is not a text")
        self.dialect.check_access(answer)
        return Update(detail=self.dialect.message_in(answer), wait=answer.wait)

    def partial_result(self, ticket: Ticket, reason: str) -> Update | None:
        """Return the final update of unfinished work that has some finished outputs, or None if it has none.

        Called when a job ends early, for example at its deadline. `reason` becomes the message of missing outputs.
        """
        del ticket, reason
        return None

    async def content(self, ticket: Ticket, output: Output, n: int) -> Source:
        """Return the current location of output `n`. An adapter requests it again if its URL expires.

        Raises ReadFailed.
        """
        del ticket, n
        return Source(output.url or "")


def bearer(settings: ProviderSettings) -> dict[str, str]:
    """Return the header with the key, as most providers expect it."""
    return {"Authorization": f"Bearer {settings.key}"}


def as_id(value: object) -> str:
    """Return a provider's id as text, or "" if the value is not an id.

    A number keeps all its digits if it was read with `Answer.exact`.
    """
    if isinstance(value, str):
        text = replace_surrogates(value).strip()
        return "" if text in {".", ".."} else text  # these cannot be escaped in a path
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return ""  # in Python, bool is a subclass of int
    number = Decimal(value)
    short = number.is_finite() and number.adjusted() < _MAX_ID_DIGITS
    return str(int(number)) if short and number == number.to_integral_value() else ""


_MAX_ID_DIGITS: Final = 40
"""Maximum number of digits of a numeric id. A 128-bit integer has at most 39."""
_ID_NAMES: Final = (
    *("id", "job_id", "jobId", "task_id", "taskId", "generation_id", "generationId", "video_id", "videoId"),
    *("inference_id", "inferenceId", "uuid", "_id"),
)
_REQUEST_ID_NAMES: Final = ("request_id", "requestId")
"""Names of an id that some providers use for the work, and others only for the HTTP request."""
_WRAPPERS: Final = ("data", "result", "job", "task", "generation", "output")
"""Names of objects inside an answer that may hold the id."""


def id_in(body: object, *preferred: str) -> str:
    """Return the id of the work in the answer to a submit, or "" if there is none. `preferred` names are tried first.

    A `request_id` counts only if there is no other id and the answer reports no error.
    """
    objects = list(_nested_objects(body))
    fallback = () if is_error(body) else _REQUEST_ID_NAMES
    values = (each.get(name) for names in ((*preferred, *_ID_NAMES), fallback) for each in objects for name in names)
    return next(filter(None, map(as_id, values)), "")


def _nested_objects(body: object, depth: int = 3) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of an answer, the innermost first."""
    if isinstance(body, list) and len(body) == 1:
        body = body[0]
    if depth and isinstance(body, dict):
        for name in _WRAPPERS:
            yield from _nested_objects(body.get(name), depth - 1)
        yield body


def urls_in(*values: object) -> list[str]:
    """Return the URLs in the first value that has some: a text, an object with a `url`, or a list of these."""
    return next((urls for value in values if (urls := list(_urls(value)))), [])


def _urls(value: object) -> Iterator[str]:
    if isinstance(value, str) and value.strip():
        yield value.strip()
    elif isinstance(value, dict):
        yield from _urls(value.get("url"))
    elif isinstance(value, list):
        for inner in value[:_MAX_URLS]:
            yield from _urls(inner) if isinstance(inner, str | dict) else ()


_MAX_URLS: Final = 100
"""Maximum number of URLs of one result that become outputs. Further ones are ignored."""


def without_none(**fields: Any) -> dict[str, Any]:
    """Return the fields that are not None, for a request body."""
    return {name: value for name, value in fields.items() if value is not None}
