"""Gaia Video Factory: async video, async image, streamed text. Written from the provider's developer page.

Video is submitted as multipart, image as JSON; each answers with a job id that is polled, and its result is read with
the same key, so that clients get a Link. Text is OpenAI's chat completions.
The page shows no job object; assumed is OpenAI's video object, and tolerated are the spellings seen at such gateways:
`id|job_id|jobId|task_id`, states in any case, progress as `"45%"`, `"45/100"` or `0.45`, everything inside
`{code, message, data}`, results as `url` (also relative to the origin), as `b64_json`, or as the bytes themselves.
"""

import asyncio
import base64
import codecs
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Annotated, Any, Literal
from urllib.parse import quote, unquote, unquote_to_bytes

from pydantic import ConfigDict, Field, model_validator
from pydantic_settings import SettingsConfigDict

from proxy.core.errors import Interrupted, UpstreamFailed
from proxy.core.job import Kind, Order, Output, Role, Status, Ticket
from proxy.core.media_types import SNIFFED, TEXT, UNKNOWN, by_url, sniff
from proxy.core.settings import ProviderSettings
from proxy.core.sse import Message
from proxy.providers.base import (
    COUNTS,
    DURATIONS,
    PRIORITIES,
    QUALITIES,
    Fields,
    ImageRef,
    Inputs,
    Model,
    NewOutput,
    Provider,
    Source,
    Text,
    Update,
    bearer,
    check_exactly_one,
    id_in,
    urls_in,
    with_message,
    without_none,
    words,
)
from proxy.upstream.answers import (
    Answer,
    BreakerOpen,
    LastAnswers,
    NotReady,
    Transient,
    UnknownToProvider,
    UnreadableAnswer,
)
from proxy.upstream.classify import Dialect, content_of, is_error, is_reported, message_of, plain
from proxy.upstream.requests import File, Request

Size = Annotated[
    str,
    Field(pattern=r"^(auto|\d{2,5}x\d{2,5})$"),
    with_message("must be width and height such as 1280x720, or auto, as text"),
]

_VIDEOS = "/v1/videos/async"
_IMAGES = "/v1/images/generations/async"
_CHAT = "/v1/chat/completions"

_PATIENCE = 10.0
"""Seconds that a stream may be silent once it has said why its text ends: all that may follow is `[DONE]`."""
_GOING_ON = frozenset({"queued", "pending", "running", "processing", "inprogress"})
_ENDED_WELL = frozenset({"completed", "succeeded", "success", "done"})
_ENDED_BADLY = frozenset({"failed", "failure", "error", "expired"})
_CANCELED = frozenset({"cancelled", "canceled"})


class GaiaSettings(ProviderSettings):
    """`GAIA_*`."""

    model_config = SettingsConfigDict(env_prefix="GAIA_")

    base_url: str = "https://api.gaiavideofactory.com"
    deadline: float = Field(default=1800, gt=0)


class VideoFields(Fields):
    """grok-imagine-video: a prompt, and reference images."""

    prompt: Text
    images: Annotated[list[ImageRef], Field(max_length=16)] | None = None
    duration: Annotated[int, Field(ge=1, le=60)] = Field(default=6, description="Seconds.")
    size: Size = "1280x720"
    resolution: Text = "720p"
    preset: Text = "normal"


class ImageFields(Fields):
    """gpt-image-2 (also called image2): a prompt, and reference images."""

    prompt: Text
    size: Size = "1024x1024"
    n: Annotated[int, Field(ge=1, le=10)] = 1
    quality: Text | None = None
    images: Annotated[list[ImageRef], Field(max_length=16)] | None = None


class ChatMessage(Fields):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text


class TextFields(Fields):
    """gpt-5.4-mini: a prompt, or a conversation."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["prompt"]}, {"required": ["messages"]}]})

    prompt: Text | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> "TextFields":
        check_exactly_one(self, "prompt", "messages")
        return self


def _images(fields: Mapping[str, Any]) -> int:
    return int(fields["n"])


_COSTLY = COUNTS | DURATIONS | QUALITIES | PRIORITIES | {"tier"}
"""The page names no option that costs more; these are what other APIs of videos and images call them."""
_COSTLY_IMAGES = _COSTLY | {"partial_images", "input_fidelity"}
"""Beside these, OpenAI's names for what it bills in addition to the image (Images API reference, 2026-11)."""
_COSTLY_TEXTS = words(
    """n best_of num_completions candidate_count num_samples batch_size max_completion_tokens max_output_tokens
    max_new_tokens max_tokens_to_sample min_tokens length duration service_tier processing_tier tier priority
    reasoning reasoning_effort reasoning_tokens thinking thinking_budget verbosity prediction modalities audio
    tools web_search_options plugins search_context_size models route provider"""
)
"""OpenAI's names, and its gateways', for more or dearer tokens (Chat Completions reference, 2026-11)."""


def _image_model(name: str) -> Model:
    return Model(
        name,
        Kind.IMAGE,
        5,
        ImageFields,
        frozenset({"model", "prompt", "size", "n", "quality", "image", "images"}),
        typical_seconds=(20, 120),
        costly=_COSTLY_IMAGES,
        media="inline",
        units=_images,
    )


class Gaia(Provider):
    """The adapter for https://api.gaiavideofactory.com."""

    name = "Gaia"
    position = 20
    models = (
        Model(
            "grok-imagine-video",
            Kind.VIDEO,
            30,
            VideoFields,
            frozenset({"model", "prompt", "seconds", "size", "resolution_name", "preset", "input_reference[]"}),
            typical_seconds=(60, 300),
            note="Grok models want at least one reference image at some gateways.",
            extra="scalars",
            costly=_COSTLY,
            media="inline",
        ),
        _image_model("gpt-image-2"),
        _image_model("image2"),
        Model(
            "gpt-5.4-mini",
            Kind.TEXT,
            1,
            TextFields,
            frozenset({"model", "messages", "temperature", "max_tokens", "stream"}),
            typical_seconds=(2, 30),
            costly=_COSTLY_TEXTS,
            streamed=True,
        ),
    )
    settings_type = GaiaSettings

    def declare_dialect(self) -> Dialect:
        """The codes for an empty account are those of OpenAI-compatible gateways."""
        return Dialect(bearer(self.settings), no_credit=("insufficient_user_quota", "insufficient_quota"))

    async def listed_models(self) -> frozenset[str] | None:
        """`GET /v1/models`, in OpenAI's list shape; a list of any other shape says nothing."""
        listed = (await self.upstream.get("/v1/models")).object().get("data")
        if not isinstance(listed, list) or not listed:
            return None
        return frozenset(str(model.get("id")) for model in listed if isinstance(model, dict))

    async def check_key(self) -> str:
        """The list of models; it may lack some of ours."""
        listed = await self.listed_models()
        missing = [model.name for model in self.models if listed is not None and model.name not in listed]
        return f"it does not list {', '.join(missing)}" if missing else ""

    # --- the order ---

    async def prepare(self, order: Order, inputs: Inputs) -> Request:
        """Multipart for video, JSON for image and text."""
        if order.model == "grok-imagine-video":
            return await self._video(order, VideoFields(**order.fields), inputs)
        if order.model == "gpt-5.4-mini":
            return self._text(order, TextFields(**order.fields))
        return await self._image(order, ImageFields(**order.fields), inputs)

    async def _video(self, order: Order, fields: VideoFields, inputs: Inputs) -> Request:
        form: list[tuple[str, str | File]] = [
            ("model", order.model),
            ("prompt", fields.prompt),
            ("seconds", str(fields.duration)),
            ("size", fields.size),
            ("resolution_name", fields.resolution),
            ("preset", fields.preset),
        ]
        form += [(name, _form_text(value)) for name, value in order.extra.items()]
        form += [("input_reference[]", file) for file in await inputs.files(fields.images or ())]
        return Request(_VIDEOS, form=tuple(form))

    async def _image(self, order: Order, fields: ImageFields, inputs: Inputs) -> Request:
        # One reference goes into `image`, several into `images`, as data URLs (seen, not documented).
        references = [file.data_url() for file in await inputs.files(fields.images or ())]
        body = without_none(
            model=order.model,
            prompt=fields.prompt,
            size=fields.size,
            n=fields.n if fields.n > 1 else None,  # the page's example has no n
            quality=fields.quality,
            image=references[0] if len(references) == 1 else None,
            images=references if len(references) > 1 else None,
        )
        return Request(_IMAGES, json={**body, **order.extra})

    def _text(self, order: Order, fields: TextFields) -> Request:
        turns = fields.messages or [ChatMessage(role="user", content=fields.prompt or "")]
        body = without_none(
            model=order.model,
            messages=[turn.model_dump() for turn in turns],
            temperature=fields.temperature,
            max_tokens=fields.max_tokens,
            stream=True,
        )
        return Request(_CHAT, json={**body, **order.extra})

    async def submit(self, request: Request) -> Ticket:
        """The reply is the job; its id and nothing else of it matters."""
        answer = await self.upstream.submit(request)
        try:
            found = id_in(answer.exact())
        except UnreadableAnswer:
            found = ""
        if not found:
            raise self.dialect.missing_ticket(answer, "names no job")
        ordered = request.json.get("n", 1) if request.json else 1
        return {"id": found, "path": request.path} | ({"n": ordered} if ordered > 1 else {})

    # --- the polls ---

    async def check(self, ticket: Ticket, seen: LastAnswers) -> Update:
        """Only words that are known to end do; a result that is not there yet is waited for."""
        answer = await self.upstream.get(_place(ticket), seen=seen)
        whole = self.dialect.json_object(answer)
        body = _unwrapped(whole)
        word = body.get("status") or body.get("state")
        if not isinstance(word, str) or not plain(word):
            return self.without_status(answer, word)
        match plain(word):
            case ended if ended in _ENDED_WELL:
                return await self._completed(ticket, body, self.dialect.safe_text(word))
            case ended if ended in _ENDED_BADLY:
                words = body if message_of(body) else whole
                return Update(status=Status.ERROR, error=self.dialect.failure(words, "Gaia gave no reason."))
            case ended if ended in _CANCELED:
                shown = self.dialect.safe_text(word)
                return Update(detail=shown, status=Status.CANCELED, message="Gaia canceled the job.")
        return self.in_progress(word, _GOING_ON, answer, _progress(body.get("progress")))

    async def _completed(self, ticket: Ticket, body: dict[str, Any], word: str) -> Update:
        if ticket["path"] == _VIDEOS:
            urls = [self.upstream.absolute(place) for place in _result_urls(body)]
            video = NewOutput(Output(Role.VIDEO, "video/mp4", relayed=True, ids={"id": ticket["id"]}))
            kept = {**ticket, "urls": urls} if urls else ticket
            return Update(detail=word, status=Status.COMPLETED, outputs=[video] * max(len(urls), 1), ticket=kept)
        try:
            answer = await self.upstream.get(f"{_place(ticket)}/result")
        except BreakerOpen:
            raise
        except (UnknownToProvider, Transient) as error:
            raise NotReady(f"Gaia says {word}, but gives no result yet: {error.message}", error.wait) from None
        return self._images(ticket, answer, word)

    def _images(self, ticket: Ticket, answer: Answer, word: str) -> Update:
        """The update of a result: an output for each image that was ordered, failed where it did not come."""
        if sniff(answer.body[:SNIFFED]):
            return self._made(ticket, [_inline(answer.body)], [], word, "")
        try:
            body = answer.json()
        except UnreadableAnswer:
            raise self.dialect.unreadable(answer, "is neither an image nor JSON") from None
        results = _unwrapped_list(body)
        words = self.dialect.message_in(answer) if is_error(body) else None
        refused = isinstance(body, dict) and is_reported(_unwrapped(body).get("error"))
        made, urls = [], []
        for result in results[:_MOST_IMAGES]:
            output, url = self._image_result(result)
            made.append(output)
            urls.append(url)
        if not (any(made) or refused):
            words = self.dialect.message_in(answer)
            raise NotReady(f"Gaia says {word}, but its result holds no image yet. {words or ''}".rstrip(), answer.wait)
        return self._made(ticket, made, urls, word, words or "")

    def _made(
        self, ticket: Ticket, images: Sequence[NewOutput | None], urls: Sequence[str | None], word: str, words: str
    ) -> Update:
        """Fill up what is missing, up to the number that was ordered, with failed outputs."""
        missing = _failed(words or "The provider left this image out.")
        made = [image or missing for image in images] + [missing] * (ticket.get("n", 1) - len(images))
        if all(image.output.failed for image in made):
            reason = next((image.output.message for image in images if image), None) or words
            error = self.dialect.failure({"error": reason}, "Gaia gave no reason.")
            return Update(detail=word, status=Status.ERROR, error=error)
        return Update(detail=word, status=Status.COMPLETED, outputs=made, ticket={**ticket, "urls": [*urls]})

    def _image_result(self, result: object) -> tuple[NewOutput | None, str | None]:
        """One entry's output and its URL, if it has one; no output where the entry says nothing at all."""
        body = result if isinstance(result, dict) else {"url": result}
        inline, url = next(filter(None, map(body.get, _INLINE_NAMES)), None), body.get("url")
        if isinstance(inline, str) and inline.strip():
            return self._inline_result(inline), None
        if isinstance(url, str) and (url.startswith("data:") or _is_image(_decoded(url))):
            return self._inline_result(url), None
        if not isinstance(url, str) or not url.strip():
            return self._left_out(body), None
        try:
            absolute = self.upstream.absolute(url.strip())
        except UnreadableAnswer as error:
            return _failed(error.message), None
        media_type = by_url(absolute, Role.IMAGE)
        if self.upstream.is_own(absolute):
            # On the provider's own origin it may well demand the key, as the result itself does.
            return NewOutput(Output(Role.IMAGE, media_type, relayed=True)), absolute
        return NewOutput(Output(Role.IMAGE, media_type, url=absolute)), absolute

    def _inline_result(self, text: str) -> NewOutput:
        data = _decoded(text)
        if _is_image(data):
            return _inline(data)
        try:
            words = data.decode() or text[:_MOST_TEXT]
        except UnicodeDecodeError:
            words = ""
        return _failed(f"Gaia's result holds no image here: {self.dialect.safe_text(words)}".rstrip(": "))

    def _left_out(self, body: Mapping[str, Any]) -> NewOutput | None:
        """A failed output with the provider's words for an image that it refused; None where it has none."""
        reason = message_of(body)
        finish = body.get("finish_reason")
        if not reason and isinstance(finish, str):
            reason = f"The provider made no image ({finish})."
        return _failed(self.dialect.safe_text(reason)) if reason else None

    async def content(self, ticket: Ticket, output: Output, n: int) -> Source:
        """`/content` for video; where the result names a URL, that one. The key goes to Gaia's origin alone."""
        urls = ticket.get("urls") or []
        if ticket["path"] == _IMAGES:
            urls = await self._named_anew(ticket) or urls
        url = urls[n] if n < len(urls) else None
        if url:
            return Source(url, keyed=output.relayed or self.upstream.is_own(url))
        if output.url:
            return Source(output.url)
        return Source(self.upstream.url(f"{_place(ticket)}/content"), keyed=True)

    async def _named_anew(self, ticket: Ticket) -> list[str | None]:
        """The images' URLs as the result names them now; nothing once the provider has forgotten the job."""
        try:
            update = self._images(ticket, await self.upstream.get(f"{_place(ticket)}/result"), "")
        except (UnknownToProvider, UnreadableAnswer):
            return []
        urls: list[str | None] = (update.ticket or {}).get("urls", [])
        return urls

    # --- text ---

    async def stream(self, request: Request) -> AsyncGenerator[Update]:
        """`chat.completion.chunk` objects until `[DONE]`; a whole completion where the gateway does not stream."""
        text: list[str] = []
        reason: str | None = None
        # A character may stand in two deltas, as the halves that JavaScript writes: it waits for its other half.
        decode = codecs.getincrementaldecoder("utf-16-le")("replace").decode
        async with self.upstream.open_stream(request) as messages:
            if isinstance(messages, Answer):
                yield self._whole(messages)
                return
            yield Update()  # nothing is new, but the order is taken: a cancel need not wait for the first word
            finished = False
            while message := await _next(messages, finished=finished):
                if message.data.strip() == "[DONE]":
                    finished = True
                    break
                body = _parsed(message.data)
                if not finished:
                    self._check_frame(message, body)
                delta, ended, is_end = _delta(body or {}, begun=bool(text))
                finished, reason = finished or is_end, reason or ended
                if joined := decode(_utf16(delta)):
                    text.append(joined)
                    yield Update(delta=joined)
        if not finished:
            raise Interrupted("Gaia's stream ended in the middle of the text; it cannot be resumed.")
        if half := decode(b"", final=True):
            text.append(half)
            yield Update(delta=half)
        yield _written("".join(text), reason)

    def _check_frame(self, message: Message, body: Mapping[str, Any] | None) -> None:
        """Raises the error that a frame reports, by its event's name or in its fields."""
        if plain(message.event) == "error" or (body and not body.get("choices") and is_error(body)):
            raise self.dialect.failure(content_of(message.data.encode()), "Gaia gave no reason.")
        if body and is_reported(body.get("error")):
            raise self.dialect.failure(body, "Gaia gave no reason.")
        if body is None and message.data.lstrip().startswith("{"):  # a part of the text
            raise Interrupted("Gaia's stream has a piece that cannot be read; it cannot be asked for again.")

    def _whole(self, answer: Answer) -> Update:
        body = _parsed(answer.body.decode(errors="replace")) or {}
        choice = _first_choice(body)
        message = choice.get("message")
        if is_reported(body.get("error")) or not isinstance(message, dict):
            raise self.dialect.missing_ticket(answer, "holds no text")
        text = _written_in(message)
        if not text and not _reason(choice):
            raise self.dialect.missing_ticket(answer, "holds no text")
        return _written(_utf16(text).decode("utf-16-le", "replace"), _reason(choice))


def _delta(body: Mapping[str, Any], *, begun: bool) -> tuple[str, str | None, bool]:
    """A chunk's text (a refusal is one, too), why the text ends there, and whether it does."""
    choice = _first_choice(body)
    reason = _reason(choice)
    # A gateway that does not stream sends the whole text as one message.
    is_whole = not begun and "delta" not in choice and "message" in choice
    return _written_in(choice.get("message" if is_whole else "delta")), reason, is_whole or reason is not None


def _written_in(message: object) -> str:
    """The text of a message, or its refusal."""
    if not isinstance(message, dict):
        return ""
    return _text_of(message) or _text_of({"content": message.get("refusal")})


def _text_of(message: Mapping[str, Any]) -> str:
    """The content of a message: a text, or a list of parts with a `text` each."""
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"text": content}]
    texts = (part.get("text") for part in parts if isinstance(part, dict))
    return "".join(text for text in texts if isinstance(text, str))


def _reason(choice: Mapping[str, Any]) -> str | None:
    reason = choice.get("finish_reason")
    return reason if isinstance(reason, str) and reason.strip() else None


async def _next(messages: AsyncIterator[Message], *, finished: bool) -> Message | None:
    """The next message; None at the end. Behind a text's own end, a break or a silence is one too."""
    try:
        async with asyncio.timeout(_PATIENCE if finished else None):
            return await anext(messages, None)
    except (TimeoutError, Interrupted):
        if finished:
            return None
        raise


def _place(ticket: Ticket) -> str:
    return f"{ticket['path']}/{quote(ticket['id'], safe='')}"


def _written(text: str, reason: str | None) -> Update:
    """The end of a text; a text without a character is a failure."""
    if not text:
        ended = f" ({reason[:_MOST_TEXT]})" if reason else ""
        return Update(status=Status.ERROR, error=UpstreamFailed(f"Gaia's model wrote nothing{ended}."))
    made = NewOutput(Output(Role.TEXT, TEXT), text.encode())
    return Update(status=Status.COMPLETED, outputs=[made], finish_reason=_FINISH_REASONS.get(plain(reason or "")))


_FINISH_REASONS: Mapping[str, str] = {
    **dict.fromkeys(("stop", "endturn", "stopsequence", "eos"), "stop"),
    **dict.fromkeys(("length", "maxtokens", "maxoutputtokens"), "length"),
    **dict.fromkeys(("contentfilter", "safety", "refusal"), "content_filter"),
}
"""From a provider's reason to OpenAI's; gateways pass on those of other vendors. Any other is left out."""


def _first_choice(body: Mapping[str, Any]) -> dict[str, Any]:
    """The choice of index 0; what `extra` may have asked for besides is another text."""
    choices = body.get("choices")
    listed = choices if isinstance(choices, list) else []
    return next((choice for choice in listed if isinstance(choice, dict) and not choice.get("index")), {})


def _parsed(data: str) -> dict[str, Any] | None:
    """A JSON object, empty where it is another value or nothing; None for what is no JSON."""
    try:
        body = json.loads(data.strip() or "{}")  # orjson refuses half a character
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else {}


def _utf16(text: str) -> bytes:
    return text.encode("utf-16-le", "surrogatepass")


def _form_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _inline(data: bytes) -> NewOutput:
    return NewOutput(Output(Role.IMAGE, sniff(data[:SNIFFED]) or UNKNOWN), data)


def _failed(message: str) -> NewOutput:
    return NewOutput(Output(Role.IMAGE, "image/png", status=Status.ERROR, message=message))


def _is_image(data: bytes) -> bool:
    """Whether bytes can be an image: of a known type, or of one that is served as unknown bytes (AVIF, TIFF)."""
    known = sniff(data[:SNIFFED])
    if known is None:
        return data.startswith(_OTHER_IMAGES) or data[4:8] == b"ftyp"
    return known.startswith("image/")


_OTHER_IMAGES = (b"BM", b"II*\0", b"MM\0*", b"\0\0\1\0", b"\xff\x0a", b"\0\0\0\x0cJXL ")
"""First bytes of BMP, TIFF, ICO and JPEG XL."""


def _decoded(text: str) -> bytes:
    """The bytes of base64 in either alphabet, as lines, without padding, or in a data URL; empty for what is none."""
    head, comma, bare = text.partition(",") if "," in text[:_MOST_TEXT] else ("", "", text)
    if head.lstrip().lower().startswith("data:"):
        if not head.rstrip().lower().endswith("base64"):
            return unquote_to_bytes(bare)
        bare = unquote(bare) if "%" in bare else bare
    elif comma and not head.rstrip().lower().endswith("base64"):
        return b""
    joined = "".join(bare.split()).rstrip("=").translate(_STANDARD)
    try:
        return base64.b64decode(joined + "=" * (-len(joined) % 4), validate=True)
    except ValueError:
        return b""


_STANDARD = str.maketrans("-_", "+/")
"""From the URL-safe alphabet (RFC 4648, section 5) to the usual one."""
_MOST_TEXT = 500
_MOST_IMAGES = 100
"""Entries of one result that become outputs; ten are ordered at most."""
_INLINE_NAMES = ("b64_json", "b64", "base64", "image_base64")
"""Names of inline bytes; gateways use the last three."""


def _unwrapped(body: dict[str, Any]) -> dict[str, Any]:
    """The object inside `{code, message, data}`, where a gateway wraps."""
    inner = body.get("data")
    return inner if isinstance(inner, dict) else body


def _unwrapped_list(body: object) -> list[Any]:
    """OpenAI's `data` list, wherever a wrapping gateway has put it."""
    while isinstance(body, dict):
        body = body.get("data") or body.get("images") or body.get("result")
    return body if isinstance(body, list) else []


def _result_urls(body: Mapping[str, Any]) -> list[str]:
    """The results' own URLs, where the job names them (seen; relative to the origin)."""
    return urls_in(*(body.get(name) for name in ("result_url", "content_url", "result_urls", "urls")))


def _progress(value: object) -> float | None:
    """A percentage, from 45, 45.5, "45%", "45/100" or the share 0.45; None for anything else."""
    if isinstance(value, str):
        number, _, whole = value.strip().removesuffix("%").partition("/")
        try:
            value = float(number) * (100 / float(whole or 100))
        except (ValueError, ZeroDivisionError):
            return None
    elif isinstance(value, float) and 0 < value < 1:
        value = round(value * 100, 2)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        return None
    return value
