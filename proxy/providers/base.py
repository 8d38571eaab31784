"""The contract between the core and an adapter: Provider, Model, Fields, Update.

An adapter translates between one provider's words and ours. It never sleeps, retries, logs or touches tokens; a field
that the provider cannot carry is refused by name. Money sits between its steps: `prepare` is unpaid and repeatable,
`submit` (or `stream`) is paid and called once, `check` is free.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cache
from typing import Annotated, Any, ClassVar, Final, Literal, Protocol

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError
from yarl import URL

from proxy.core.clock import Clock
from proxy.core.errors import FieldError, JobError
from proxy.core.job import Kind, Order, Output, Status, Ticket
from proxy.core.settings import ProviderSettings, proxy_secrets
from proxy.core.text import replace_surrogates
from proxy.upstream.answers import Answer, LastAnswers
from proxy.upstream.classify import Dialect, is_error, plain
from proxy.upstream.client import Upstream
from proxy.upstream.requests import File, Request
from proxy.upstream.times import DEFAULT_TIMES, UpstreamTimes

# --- what a client may order ---


@dataclass(frozen=True, slots=True)
class Media:
    """Marks a field that takes an asset's id or an https URL, and the kinds of media it may be."""

    kinds: frozenset[Kind]
    color: bool = False
    """Whether a color such as #FAFAFA may stand in its place."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The kinds in the catalogue's schema, so that a form knows where a file may be dropped."""
        return handler(schema) | {"x-media": sorted(self.kinds)}


ImageRef = Annotated[str, StringConstraints(min_length=1, max_length=2048), Media(frozenset({Kind.IMAGE}))]
AudioRef = Annotated[str, StringConstraints(min_length=1, max_length=2048), Media(frozenset({Kind.AUDIO}))]
VisualRef = Annotated[
    str, StringConstraints(min_length=1, max_length=2048), Media(frozenset({Kind.IMAGE, Kind.VIDEO}), color=True)
]
"""A background: an image, a video, or a color."""
Text = Annotated[str, StringConstraints(min_length=1, pattern=r"\S")]
"""Text that is not blank."""
MOST_PARTS: Final = 50
"""Chunks or clips in one order: each may name files to be looked at, fetched and uploaded."""
_COLOR: Final = "#[0-9A-Fa-f]{6}"
Seed = Annotated[int, Field(ge=0, lt=1 << 63)]


def field_error(field_name: str, message: str) -> PydanticCustomError:
    """The error of a rule over several fields, laid at the door of one of them; to be raised in a validator."""
    return PydanticCustomError("order", "{message}", {"field": field_name, "message": message})


def check_exactly_one(fields: BaseModel, one: str, other: str) -> None:
    """Raise the error of `one` unless exactly one of two fields is given."""
    if (getattr(fields, one) is None) == (getattr(fields, other) is None):
        raise field_error(one, f"exactly one of {one} and {other} is required")


def check_goes_with(fields: BaseModel, name: str, needed: str) -> None:
    """Raise the error of `name` if it is given without the field `needed`."""
    if getattr(fields, name) is not None and getattr(fields, needed) is None:
        raise field_error(name, f"{name} goes with {needed} only")


COLOR_SCHEMA: Final[Mapping[str, Any]] = {"pattern": f"^([^#]|{_COLOR}$)"}
"""The rule of `check_color` in JSON Schema."""


def check_color(background: str | None) -> str | None:
    """Return a background. Raise an error if it begins like a color and is none."""
    if background and background.startswith("#") and not re.fullmatch(_COLOR, background):
        raise field_error("", "a colour is written with six hexadecimal digits, such as #FAFAFA")
    return background


def with_message(words: str) -> WrapValidator:
    """Has a field that is not as it must be refused in these words: a pattern, as it is, tells its client little."""

    def check(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
        try:
            return read(value)
        except ValidationError:
            raise field_error("", words) from None

    return WrapValidator(check)


AspectRatio = Annotated[
    str, StringConstraints(pattern=r"^\d{1,2}:\d{1,2}$"), with_message("must be two numbers such as 16:9, as text")
]


class Fields(BaseModel):
    """A model's own fields; unknown ones are refused by name, and no type is guessed from another."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _null_means_absent(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Reference:
    """One media reference in an order: where it stands (`chunks.0.audio`), what it may be, and the id or URL."""

    field: str
    kinds: frozenset[Kind]
    ref: str


def references(fields: BaseModel, prefix: str = "") -> Iterator[Reference]:
    """Every asset id and URL that an order names, found by the `Media` marks of its fields."""
    for name, media in _media(type(fields)):
        for place, item in _items(prefix + name, getattr(fields, name)):
            if isinstance(item, BaseModel):
                yield from references(item, f"{place}.")
            elif media and isinstance(item, str) and not (media.color and item.startswith("#")):
                yield Reference(place, media.kinds, item)


@cache
def _media(model: type[BaseModel]) -> Sequence[tuple[str, Media | None]]:
    """A model's fields, each with its mark if it has one: found out once, for it takes as long as to read an order."""
    marks = {name: (*info.metadata, *_inner_marks(info.annotation)) for name, info in model.model_fields.items()}
    return [(name, next((mark for mark in own if isinstance(mark, Media)), None)) for name, own in marks.items()]


def _items(name: str, value: object) -> list[tuple[str, object]]:
    if isinstance(value, list):
        return [(f"{name}.{index}", item) for index, item in enumerate(value)]
    return [(name, value)]


def _inner_marks(annotation: Any) -> Iterator[object]:
    yield from getattr(annotation, "__metadata__", ())
    for inner in getattr(annotation, "__args__", ()):
        yield from _inner_marks(inner)


def is_asset(ref: str) -> bool:
    """Whether a media reference is an asset's id; otherwise it is a URL."""
    return ref.startswith("asset_")


def words(text: str) -> frozenset[str]:
    """The words of a text, as names."""
    return frozenset(text.split())


COUNTS: Final = words(
    """n best_of num number count quantity amount repeat copies samples sample_count num_samples num_results
    num_outputs num_images images_count image_count number_of_images max_images num_videos video_count
    number_of_videos num_candidates candidate_count generate_count batch batch_size batch_count variations
    num_variations"""
)
"""Names of public generation APIs for how many results a request makes (fal, Replicate, Ark, Veo; 2026-11)."""
DURATIONS: Final = words(
    """seconds duration duration_seconds duration_ms length video_length video_duration audio_length audio_duration
    max_duration total_duration num_frames frame_count frames fps frame_rate frames_per_second"""
)
"""Names of public generation APIs for how long a result is, and of how many frames."""
QUALITIES: Final = words(
    """quality resolution resolution_name video_resolution video_quality image_size size dimension dimensions width
    height megapixels mode hd pro upscale upscale_factor super_resolution steps num_steps num_inference_steps
    inference_steps"""
)
"""Names of public generation APIs for how large or elaborate a result is."""
PRIORITIES: Final = words("""service_tier processing_tier priority queue_priority speed_mode fast_mode turbo""")
"""Names of public generation APIs for a place ahead of others, at a higher price."""


def _one(_: Mapping[str, Any]) -> int:
    return 1


Extra = Literal["any", "scalars", "refused"]
Passage = Literal["inline", "uploaded", "linked"]
"""How a model's media reach its provider: inside the request, uploaded before it, or by a URL that it opens itself."""
PART_NAME: Final = r"^[!#-\[\]-~]+$"
"""A name that a part of a multipart form can have and keep: others are written in ways that few servers read."""


@dataclass(frozen=True, slots=True)
class Model:
    """What a client asks for by name."""

    name: str
    kind: Kind
    tokens: int
    """The price of one unit; settings may say otherwise."""
    fields: type[Fields]
    reserved: frozenset[str]
    """The names in the provider's request body that Pollcast itself sends: `extra` may not name them."""
    typical_seconds: tuple[int, int]
    note: str = ""
    styles: Mapping[str, str] = field(default_factory=dict)
    """From a style's value to its name."""
    extra: Extra = "any"
    costly: frozenset[str] = frozenset()
    """The names by which `extra` would raise the provider's cost at an unchanged price: it may not have them."""
    media: Passage = "uploaded"
    units: Callable[[Mapping[str, Any]], int] = _one
    """How many units an order of these fields is."""
    streamed: bool = False
    """Whether the provider answers with a stream of updates (`stream`), or with a ticket (`submit`)."""
    one_result: bool = False
    """True if an order of several units still makes one result, which is not refunded in part."""
    repeatable: bool = False
    """True if the provider promises that a repeat with the same `Request.key` buys once, for 24 hours.

    Then a lost or unreadable answer is followed by the same request. Its body has to be JSON without files."""
    can_lookup: bool = False
    """True if the provider finds a job by `Request.key` (`Provider.lookup`), after a lost or unreadable answer."""
    retired_on: str | None = None
    """The date from which the provider may refuse the model for good, such as 2026-10-31."""


# --- what an adapter learns ---


@dataclass(frozen=True, slots=True)
class NewOutput:
    """An output as the adapter learns of it; inline results bring their bytes in `data`.

    Outputs of a final update are numbered as they stand; those of an earlier one bring their final `n`.
    """

    output: Output
    data: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Update:
    """What an adapter has just learnt: the whole state where polled, the next piece where streamed.

    `outputs` are those finished since the last update (of the ticket given); on a final update that is Completed, all.
    `status` is None while the work goes on; on Error, `error` says why. `wait` is the provider's hint for the next poll
    in seconds. `ticket` replaces the ticket, for providers whose work is over bit by bit. `delta` is streamed text.
    `unknown` are words for a state that the provider's page does not name: shown, counted, and bounded by the deadline.
    """

    detail: str | None = None
    progress: float | None = None
    outputs: Sequence[NewOutput] = ()
    status: Status | None = None
    error: JobError | None = None
    message: str | None = None
    wait: float | None = None
    ticket: Ticket | None = None
    delta: str = ""
    finish_reason: str | None = None
    unknown: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """Where an output's bytes are now; `keyed` when only the provider's key opens them."""

    url: str
    keyed: bool = False


class Inputs(Protocol):
    """What a client brought, in the form a provider wants; a dry run gives placeholders instead."""

    async def files(self, refs: Sequence[str]) -> Sequence[File]:
        """The bytes behind asset ids and URLs, each read once. Raises a JobError when they cannot be had."""

    async def uploaded(self, ref: str, upload: Callable[[File], Any]) -> Any:
        """The provider's own id for the bytes behind `ref`: `upload` is awaited with them."""

    def url(self, ref: str) -> str:
        """A URL from which the provider can read them: a Link for an asset, a URL as it is."""


class Provider(ABC):
    """One provider: its models, and the steps from an order to its end."""

    name: ClassVar[str]
    models: ClassVar[tuple[Model, ...]]
    settings_type: ClassVar[type[ProviderSettings]]
    position: ClassVar[int] = 100
    """Place in the catalogue. Providers with the same position are sorted by name."""

    def __init__(
        self, settings: ProviderSettings, clock: Clock, public_url: str, times: UpstreamTimes = DEFAULT_TIMES
    ) -> None:
        self.settings = settings
        self.public_url = public_url
        self.dialect = replace(self.declare_dialect(), proxy_secrets=tuple(proxy_secrets(settings.proxy)))
        proxy = URL(settings.proxy.get_secret_value()) if settings.proxy is not None else None
        self.upstream = Upstream(settings.base_url, self.dialect, clock, rate=settings.rate, proxy=proxy, times=times)

    @abstractmethod
    def declare_dialect(self) -> Dialect:
        """Return the provider's credential and its phrases for errors. The core builds the client with it."""

    @property
    def configured(self) -> bool:
        """Whether the operator has given a key for it."""
        return bool(self.settings.key)

    def validate(self, order: Order) -> Sequence[FieldError]:
        """What this installation's settings make impossible about an otherwise valid order."""
        del order
        return ()

    async def listed_models(self) -> frozenset[str] | None:
        """The models that the provider lists now, where it tells; None: all. Raises ReadFailed."""
        return None

    async def check_key(self) -> str:
        """Have the key proven by the cheapest free call; returns what is to be said of that. Raises ReadFailed."""
        return "its key cannot be proven without paying"

    @abstractmethod
    async def prepare(self, order: Order, inputs: Inputs) -> Request:
        """Turn an order into the request to be sent: uploads and fetches, unpaid and repeatable.

        Raises ReadFailed where it may be repeated, and a JobError where it is hopeless.
        """

    async def submit(self, request: Request) -> Ticket:
        """Send a paid request, once. Raises NotTaken when it may be sent again, else a JobError."""
        raise NotImplementedError(f"{self.name} streams; see `stream`.")

    async def lookup(self, key: str) -> Ticket | None:
        """Find the job of the order that was sent with `key`, for a model with `can_lookup`; None if there is none.

        It buys nothing. Raises ReadFailed when no answer could be read.
        """
        raise NotImplementedError(f"{self.name} cannot look up {key}.")

    def stream(self, request: Request) -> AsyncGenerator[Update]:
        """Send a paid request, once, and yield updates as they come. Raises as `submit`, and Interrupted."""
        raise NotImplementedError(f"{self.name} is polled; see `submit` and `check`.")

    async def check(self, ticket: Ticket, seen: LastAnswers) -> Update:
        """Ask how the work stands. Raises ReadFailed when no answer could be read.

        `seen` goes with each read: what has answered the same before raises Unchanged, and need not be parsed.
        """
        raise NotImplementedError(f"{self.name} streams; see `stream`.")

    async def cancel(self, ticket: Ticket) -> None:
        """Ask the provider to stop. No provider so far documents such a call, so the default does nothing."""
        del ticket

    def in_progress(self, word: str, known: Collection[str], answer: Answer, progress: float | None = None) -> Update:
        """The update of a state that goes on: the provider's `word`, and whether its page names it (`plain`)."""
        shown = self.dialect.safe_text(word)
        if not shown:
            return self.without_status(answer)
        unknown = () if plain(word) in known else (shown,)
        return Update(detail=shown, progress=progress, wait=answer.wait, unknown=unknown)

    def without_status(self, answer: Answer, status: object = None) -> Update:
        """The update of an answer without a status: the work goes on, and the answer's words are shown.

        Raises ReadFailed where the answer reports an error, or where its `status` is no text.
        """
        if is_error(answer.object()):
            raise self.dialect.unreadable(answer, "reports an error")
        if not isinstance(status, str | None):
            raise self.dialect.unreadable(answer, "has a status that is no text")
        self.dialect.check_access(answer)
        return Update(detail=self.dialect.message_in(answer), wait=answer.wait)

    def partial_result(self, ticket: Ticket, reason: str) -> Update | None:
        """What is left, for `reason`, of work that is over bit by bit; None: nothing, the job has failed."""
        del ticket, reason
        return None

    async def content(self, ticket: Ticket, output: Output, n: int) -> Source:
        """Where the bytes of output `n` are now, asked anew where its URL expires. Raises ReadFailed."""
        del ticket, n
        return Source(output.url or "")


def bearer(settings: ProviderSettings) -> dict[str, str]:
    """The credential of most providers."""
    return {"Authorization": f"Bearer {settings.key}"}


def as_id(value: object) -> str:
    """A provider's id as text, with all its digits where it was read by `Answer.exact`; empty for what is none."""
    if isinstance(value, str):
        text = replace_surrogates(value).strip()
        return "" if text in {".", ".."} else text  # in a path, neither can be escaped
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return ""  # to Python, True is a number
    number = Decimal(value)
    short = number.is_finite() and number.adjusted() < _ID_DIGITS
    return str(int(number)) if short and number == number.to_integral_value() else ""


_ID_DIGITS: Final = 40
"""Digits from which on a number is no id: 128 bits have 39."""
_ID_NAMES: Final = (
    *("id", "job_id", "jobId", "task_id", "taskId", "generation_id", "generationId", "video_id", "videoId"),
    *("inference_id", "inferenceId", "uuid", "_id"),
)
_REQUEST_ID_NAMES: Final = ("request_id", "requestId")
"""Names of an id that is the work's at some providers, and merely the call's at others."""
_WRAPPERS: Final = ("data", "result", "job", "task", "generation", "output")


def id_in(body: object, *first: str) -> str:
    """The id of the work that a receipt names, of the names `first` at first; empty where it names none.

    A request's own id counts only if there is no other, and if the receipt reports no error.
    """
    levels = list(_levels(body))
    weak = () if is_error(body) else _REQUEST_ID_NAMES
    named = (level.get(name) for names in ((*first, *_ID_NAMES), weak) for level in levels for name in names)
    return next(filter(None, map(as_id, named)), "")


def _levels(body: object, depth: int = 3) -> Iterator[Mapping[str, Any]]:
    """The objects of a receipt, the innermost first."""
    if isinstance(body, list) and len(body) == 1:
        body = body[0]
    if depth and isinstance(body, dict):
        for name in _WRAPPERS:
            yield from _levels(body.get(name), depth - 1)
        yield body


def urls_in(*values: object) -> list[str]:
    """The URLs of the first value that holds some: a text, an object with a `url`, or a list of these."""
    return next((urls for value in values if (urls := list(_urls(value)))), [])


def _urls(value: object) -> Iterator[str]:
    if isinstance(value, str) and value.strip():
        yield value.strip()
    elif isinstance(value, dict):
        yield from _urls(value.get("url"))
    elif isinstance(value, list):
        for inner in value[:_MOST_URLS]:
            yield from _urls(inner) if isinstance(inner, str | dict) else ()


_MOST_URLS: Final = 100
"""URLs of one result that become outputs."""


def without_none(**fields: Any) -> dict[str, Any]:
    """A request body without the fields that are absent."""
    return {name: value for name, value in fields.items() if value is not None}
