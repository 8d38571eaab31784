"""Gaia Video Factory: async video, async image, streamed text.

Video is submitted as multipart, image as JSON. Each returns a job id that is polled. The result is read with the same
key, so clients get a Link. Text is OpenAI's chat completions.

Source: Gaia's developer page, read 2026-11, for the paths, the request fields and the models. Lines with another source
say so.
Inferred, 2026-11: the job object, which the page does not show. It is assumed to be OpenAI's video object.
Source: clients of such gateways, read 2026-11, for the variants that are accepted: `id`, `job_id`, `jobId` or
`task_id`; states in any case; progress as `"45%"`, `"45/100"` or `0.45`; everything inside `{code, message, data}`;
results as `url` (also relative to the origin), as `b64_json`, or as the bytes themselves.
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
    Inputs,
    Model,
    NewOutput,
    Provider,
    Source,
    Update,
    bearer,
    id_in,
    urls_in,
    without_none,
)
from proxy.providers.fields import (
    COUNTS,
    DURATIONS,
    PRIORITIES,
    QUALITIES,
    Fields,
    ImageRef,
    Text,
    check_exactly_one,
    error_message,
    name_set,
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
    error_message("must be width and height such as 1280x720, or auto, as text"),
]

_VIDEOS = "/v1/videos/async"
_IMAGES = "/v1/images/generations/async"
_CHAT = "/v1/chat/completions"

_END_TIMEOUT = 10.0
"""Maximum silence, in seconds, after a stream has named the reason of its end. Only `[DONE]` may follow."""
# Source of the status words: clients of such gateways, read 2026-11.
_IN_PROGRESS_WORDS = frozenset({"queued", "pending", "running", "processing", "inprogress"})
_SUCCESS_WORDS = frozenset({"completed", "succeeded", "success", "done"})
_FAILURE_WORDS = frozenset({"failed", "failure", "error", "expired"})
_CANCELED_WORDS = frozenset({"cancelled", "canceled"})


class GaiaSettings(ProviderSettings):
    """Settings with the prefix `GAIA_`."""

    model_config = SettingsConfigDict(env_prefix="GAIA_")

    base_url: str = "https://api.gaiavideofactory.com"
    deadline: float = Field(default=1800, gt=0)


class VideoFields(Fields):
    """Fields of grok-imagine-video: a prompt, and optionally reference images."""

    prompt: Text
    images: Annotated[list[ImageRef], Field(max_length=16)] | None = None
    duration: Annotated[int, Field(ge=1, le=60)] = Field(default=6, description="Seconds.")
    size: Size = "1280x720"
    resolution: Text = "720p"
    preset: Text = "normal"


class ImageFields(Fields):
    """Fields of gpt-image-2, also called image2: a prompt, and optionally reference images."""

    prompt: Text
    size: Size = "1024x1024"
    n: Annotated[int, Field(ge=1, le=10)] = 1
    quality: Text | None = None
    images: Annotated[list[ImageRef], Field(max_length=16)] | None = None


class ChatMessage(Fields):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text


class TextFields(Fields):
    """Fields of gpt-5.4-mini: a prompt or a conversation."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["prompt"]}, {"required": ["messages"]}]})

    prompt: Text | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _check_form(self) -> "TextFields":
        check_exactly_one(self, "prompt", "messages")
        return self


def _image_units(fields: Mapping[str, Any]) -> int:
    return int(fields["n"])


_COSTLY_NAMES = COUNTS | DURATIONS | QUALITIES | PRIORITIES | {"tier"}
"""Names of options that may cost more. The page lists none, so these are the names in other APIs."""
_COSTLY_IMAGE_NAMES = _COSTLY_NAMES | {"partial_images", "input_fidelity"}
"""These, and OpenAI's names for options that it bills in addition to the image.

Source: OpenAI's Images API reference, read 2026-11.
"""
_COSTLY_TEXT_NAMES = name_set(
    """n best_of num_completions candidate_count num_samples batch_size max_completion_tokens max_output_tokens
    max_new_tokens max_tokens_to_sample min_tokens length duration service_tier processing_tier tier priority
    reasoning reasoning_effort reasoning_tokens thinking thinking_budget verbosity prediction modalities audio
    tools web_search_options plugins search_context_size models route provider"""
)
"""Names, at OpenAI and its gateways, of options for more tokens or more expensive ones.

Source: OpenAI's Chat Completions reference, read 2026-11.
"""


def _image_model(name: str) -> Model:
    return Model(
        name,
        Kind.IMAGE,
        5,
        ImageFields,
        frozenset({"model", "prompt", "size", "n", "quality", "image", "images"}),
        typical_seconds=(20, 120),
        costly=_COSTLY_IMAGE_NAMES,
        media="inline",
        units=_image_units,
    )


class Gaia(Provider):
    """Adapter for https://api.gaiavideofactory.com."""

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
            note="At some gateways, Grok models require at least one reference image.",
            extra="scalars",
            costly=_COSTLY_NAMES,
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
            costly=_COSTLY_TEXT_NAMES,
            streamed=True,
        ),
    )
    settings_type = GaiaSettings

    def declare_dialect(self) -> Dialect:
        """Return the dialect. Inferred, 2026-11: codes for an empty account are those of OpenAI-compatible gateways."""
        return Dialect(bearer(self.settings), no_credit=("insufficient_user_quota", "insufficient_quota"))

    async def list_models(self) -> frozenset[str] | None:
        """Return the models of `GET /v1/models`, a list in OpenAI's format. Another format returns None."""
        listed = (await self.upstream.get("/v1/models")).object().get("data")
        if not isinstance(listed, list) or not listed:
            return None
        return frozenset(str(model.get("id")) for model in listed if isinstance(model, dict))

    async def check_key(self) -> str:
        """Read the list of models. The remark names the models of this adapter that it lacks."""
        listed = await self.list_models()
        missing = [model.name for model in self.models if listed is not None and model.name not in listed]
        return f"it does not list {', '.join(missing)}" if missing else ""

    # --- the order ---

    async def prepare(self, order: Order, inputs: Inputs) -> Request:
        """Build the request: multipart for video, JSON for image and text."""
        if order.model == "grok-imagine-video":
            return await self._video_request(order, VideoFields(**order.fields), inputs)
        if order.model == "gpt-5.4-mini":
            return self._chat_request(order, TextFields(**order.fields))
        return await self._image_request(order, ImageFields(**order.fields), inputs)

    async def _video_request(self, order: Order, fields: VideoFields, inputs: Inputs) -> Request:
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

    async def _image_request(self, order: Order, fields: ImageFields, inputs: Inputs) -> Request:
        # One reference is sent in `image`, several in `images`, as data URLs.
        # Source: clients of such gateways, read 2026-11.
        references = [file.data_url() for file in await inputs.files(fields.images or ())]
        body = without_none(
            model=order.model,
            prompt=fields.prompt,
            size=fields.size,
            n=fields.n if fields.n > 1 else None,  # The page's example has no `n`.
            quality=fields.quality,
            image=references[0] if len(references) == 1 else None,
            images=references if len(references) > 1 else None,
        )
        return Request(_IMAGES, json={**body, **order.extra})

    def _chat_request(self, order: Order, fields: TextFields) -> Request:
        messages = fields.messages or [ChatMessage(role="user", content=fields.prompt or "")]
        body = without_none(
            model=order.model,
            messages=[message.model_dump() for message in messages],
            temperature=fields.temperature,
            max_tokens=fields.max_tokens,
            stream=True,
        )
        return Request(_CHAT, json={**body, **order.extra})

    async def submit(self, request: Request) -> Ticket:
        """Send the order once. The reply is the job, of which only the id is used."""
        answer = await self.upstream.submit(request)
        try:
            job = id_in(answer.exact())
        except UnreadableAnswer:
            job = ""
        if not job:
            raise self.dialect.missing_ticket(answer, "names no job")
        n = request.json.get("n", 1) if request.json else 1
        return {"id": job, "path": request.path} | ({"n": n} if n > 1 else {})

    # --- the polls ---

    async def check(self, ticket: Ticket, last_answers: LastAnswers) -> Update:
        """Read the job's status. Only known final words end it, and a success waits for its result."""
        answer = await self.upstream.get(_job_path(ticket), last_answers=last_answers)
        whole = self.dialect.json_object(answer)
        body = _unwrap(whole)
        word = body.get("status") or body.get("state")
        if not isinstance(word, str) or not plain(word):
            return self.without_status(answer, word)
        match plain(word):
            case status if status in _SUCCESS_WORDS:
                return await self._completion(ticket, body, self.dialect.safe_text(word))
            case status if status in _FAILURE_WORDS:
                reason = body if message_of(body) else whole
                return Update(status=Status.ERROR, error=self.dialect.failure(reason, "Gaia gave no reason."))
            case status if status in _CANCELED_WORDS:
                shown = self.dialect.safe_text(word)
                return Update(detail=shown, status=Status.CANCELED, message="Gaia canceled the job.")
        return self.in_progress(word, _IN_PROGRESS_WORDS, answer, _percentage(body.get("progress")))

    async def _completion(self, ticket: Ticket, body: dict[str, Any], word: str) -> Update:
        if ticket["path"] == _VIDEOS:
            urls = [self.upstream.absolute(url) for url in _result_urls(body)]
            video = NewOutput(Output(Role.VIDEO, "video/mp4", relayed=True, ids={"id": ticket["id"]}))
            ticket = {**ticket, "urls": urls} if urls else ticket
            return Update(detail=word, status=Status.COMPLETED, outputs=[video] * max(len(urls), 1), ticket=ticket)
        try:
            answer = await self.upstream.get(f"{_job_path(ticket)}/result")
        except BreakerOpen:
            raise
        except (UnknownToProvider, Transient) as error:
            raise NotReady(f"Gaia reports {word}, but has no result yet: {error.message}", error.wait) from None
        return self._images_update(ticket, answer, word)

    def _images_update(self, ticket: Ticket, answer: Answer, word: str) -> Update:
        """Return the update of a result, with an output for each ordered image. A missing one is a failed output."""
        if sniff(answer.body[:SNIFFED]):
            return self._fill_up(ticket, [_image_from_bytes(answer.body)], [], word, "")
        try:
            body = answer.json()
        except UnreadableAnswer:
            raise self.dialect.unreadable(answer, "is neither an image nor JSON") from None
        results = _unwrap_list(body)
        message = self.dialect.message_in(answer) if is_error(body) else None
        has_error = isinstance(body, dict) and is_reported(_unwrap(body).get("error"))
        outputs, urls = [], []
        for result in results[:_MAX_IMAGES]:
            output, url = self._image_output(result)
            outputs.append(output)
            urls.append(url)
        if not (any(outputs) or has_error):
            message = f"Gaia reports {word}, but its result holds no image yet. {self.dialect.message_in(answer) or ''}"
            raise NotReady(message.rstrip(), answer.wait)
        return self._fill_up(ticket, outputs, urls, word, message or "")

    def _fill_up(
        self, ticket: Ticket, images: Sequence[NewOutput | None], urls: Sequence[str | None], word: str, message: str
    ) -> Update:
        """Return the update of a result. Failed outputs stand for missing images, up to the ordered number."""
        missing = _failure(message or "The provider left this image out.")
        outputs = [image or missing for image in images] + [missing] * (ticket.get("n", 1) - len(images))
        if all(image.output.failed for image in outputs):
            reason = next((image.output.message for image in images if image), None) or message
            error = self.dialect.failure({"error": reason}, "Gaia gave no reason.")
            return Update(detail=word, status=Status.ERROR, error=error)
        return Update(detail=word, status=Status.COMPLETED, outputs=outputs, ticket={**ticket, "urls": [*urls]})

    def _image_output(self, result: object) -> tuple[NewOutput | None, str | None]:
        """Return the output of one entry of a result, or None for an empty entry; and its URL, or None."""
        body = result if isinstance(result, dict) else {"url": result}
        inline, url = next(filter(None, map(body.get, _INLINE_NAMES)), None), body.get("url")
        if isinstance(inline, str) and inline.strip():
            return self._inline_output(inline), None
        if isinstance(url, str) and (url.startswith("data:") or _is_image(_decode_base64(url))):
            return self._inline_output(url), None
        if not isinstance(url, str) or not url.strip():
            return self._refusal(body), None
        try:
            absolute = self.upstream.absolute(url.strip())
        except UnreadableAnswer as error:
            return _failure(error.message), None
        media_type = by_url(absolute, Role.IMAGE)
        if self.upstream.is_own(absolute):
            # A URL on the provider's origin may need the key, as the result itself does.
            return NewOutput(Output(Role.IMAGE, media_type, relayed=True)), absolute
        return NewOutput(Output(Role.IMAGE, media_type, url=absolute)), absolute

    def _inline_output(self, text: str) -> NewOutput:
        data = _decode_base64(text)
        if _is_image(data):
            return _image_from_bytes(data)
        try:
            message = data.decode() or text[:_MAX_TEXT_LENGTH]
        except UnicodeDecodeError:
            message = ""
        return _failure(f"Gaia's result holds no image here: {self.dialect.safe_text(message)}".rstrip(": "))

    def _refusal(self, body: Mapping[str, Any]) -> NewOutput | None:
        """Return a failed output with the provider's reason for refusing an image. Return None if it gives none."""
        reason = message_of(body)
        finish_reason = body.get("finish_reason")
        if not reason and isinstance(finish_reason, str):
            reason = f"The provider made no image ({finish_reason})."
        return _failure(self.dialect.safe_text(reason)) if reason else None

    async def content(self, ticket: Ticket, output: Output, n: int) -> Source:
        """Return the URL in the result, or `/content` for a video. The key is sent only to Gaia's origin."""
        urls = ticket.get("urls") or []
        if ticket["path"] == _IMAGES:
            urls = await self._fresh_urls(ticket) or urls
        url = urls[n] if n < len(urls) else None
        if url:
            return Source(url, needs_key=output.relayed or self.upstream.is_own(url))
        if output.url:
            return Source(output.url)
        return Source(self.upstream.url(f"{_job_path(ticket)}/content"), needs_key=True)

    async def _fresh_urls(self, ticket: Ticket) -> list[str | None]:
        """Return the URLs that the result of an image job names now, or none if the provider has deleted the job."""
        try:
            update = self._images_update(ticket, await self.upstream.get(f"{_job_path(ticket)}/result"), "")
        except (UnknownToProvider, UnreadableAnswer):
            return []
        urls: list[str | None] = (update.ticket or {}).get("urls", [])
        return urls

    # --- text ---

    async def stream(self, request: Request) -> AsyncGenerator[Update]:
        """Send the order once, and yield the text of `chat.completion.chunk` objects until `[DONE]`.

        A gateway that does not stream sends one whole completion.
        """
        text: list[str] = []
        reason: str | None = None
        # A character may arrive as two surrogates in two deltas, as JavaScript splits it. The decoder joins them.
        decode = codecs.getincrementaldecoder("utf-16-le")("replace").decode
        async with self.upstream.open_stream(request) as messages:
            if isinstance(messages, Answer):
                yield self._whole_text(messages)
                return
            yield Update()  # The order is taken: a cancel need not wait for the first word.
            finished = False
            while message := await _next_message(messages, finished=finished):
                if message.data.strip() == "[DONE]":
                    finished = True
                    break
                body = _parse_object(message.data)
                if not finished:
                    self._check_frame(message, body)
                delta, chunk_reason, is_end = _chunk_text(body or {}, begun=bool(text))
                finished, reason = finished or is_end, reason or chunk_reason
                if joined := decode(_to_utf16(delta)):
                    text.append(joined)
                    yield Update(delta=joined)
        if not finished:
            raise Interrupted("Gaia's stream ended in the middle of the text. It cannot be resumed.")
        if half := decode(b"", final=True):
            text.append(half)
            yield Update(delta=half)
        yield _text_update("".join(text), reason)

    def _check_frame(self, message: Message, body: Mapping[str, Any] | None) -> None:
        """Raise the error that a frame reports in its event's name or fields, or Interrupted if it is unreadable."""
        if plain(message.event) == "error" or (body and not body.get("choices") and is_error(body)):
            raise self.dialect.failure(content_of(message.data.encode()), "Gaia gave no reason.")
        if body and is_reported(body.get("error")):
            raise self.dialect.failure(body, "Gaia gave no reason.")
        if body is None and message.data.lstrip().startswith("{"):  # a broken piece of the text
            raise Interrupted("Gaia's stream has a piece that cannot be read. It cannot be requested again.")

    def _whole_text(self, answer: Answer) -> Update:
        body = _parse_object(answer.body.decode(errors="replace")) or {}
        choice = _first_choice(body)
        message = choice.get("message")
        if is_reported(body.get("error")) or not isinstance(message, dict):
            raise self.dialect.missing_ticket(answer, "holds no text")
        text = _message_text(message)
        if not text and not _finish_reason(choice):
            raise self.dialect.missing_ticket(answer, "holds no text")
        return _text_update(_to_utf16(text).decode("utf-16-le", "replace"), _finish_reason(choice))


def _chunk_text(body: Mapping[str, Any], *, begun: bool) -> tuple[str, str | None, bool]:
    """Return a chunk's text or refusal, the reason if the text ends there, and whether it ends."""
    choice = _first_choice(body)
    reason = _finish_reason(choice)
    # A gateway that does not stream sends the whole text as one message.
    is_whole = not begun and "delta" not in choice and "message" in choice
    return _message_text(choice.get("message" if is_whole else "delta")), reason, is_whole or reason is not None


def _message_text(message: object) -> str:
    """Return the text of a message, or its refusal."""
    if not isinstance(message, dict):
        return ""
    return _content_text(message) or _content_text({"content": message.get("refusal")})


def _content_text(message: Mapping[str, Any]) -> str:
    """Return the content of a message: a text, or the joined texts of a list of parts."""
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"text": content}]
    texts = (part.get("text") for part in parts if isinstance(part, dict))
    return "".join(text for text in texts if isinstance(text, str))


def _finish_reason(choice: Mapping[str, Any]) -> str | None:
    reason = choice.get("finish_reason")
    return reason if isinstance(reason, str) and reason.strip() else None


async def _next_message(messages: AsyncIterator[Message], *, finished: bool) -> Message | None:
    """Return the next message, or None at the end. After the text has `finished`, a break or a silence is the end."""
    try:
        async with asyncio.timeout(_END_TIMEOUT if finished else None):
            return await anext(messages, None)
    except (TimeoutError, Interrupted):
        if finished:
            return None
        raise


def _job_path(ticket: Ticket) -> str:
    return f"{ticket['path']}/{quote(ticket['id'], safe='')}"


def _text_update(text: str, reason: str | None) -> Update:
    """Return the final update of a text. An empty text is a failure."""
    if not text:
        suffix = f" ({reason[:_MAX_TEXT_LENGTH]})" if reason else ""
        return Update(status=Status.ERROR, error=UpstreamFailed(f"Gaia's model wrote nothing{suffix}."))
    output = NewOutput(Output(Role.TEXT, TEXT), text.encode())
    return Update(status=Status.COMPLETED, outputs=[output], finish_reason=_FINISH_REASONS.get(plain(reason or "")))


_FINISH_REASONS: Mapping[str, str] = {
    **dict.fromkeys(("stop", "endturn", "stopsequence", "eos"), "stop"),
    **dict.fromkeys(("length", "maxtokens", "maxoutputtokens"), "length"),
    **dict.fromkeys(("contentfilter", "safety", "refusal"), "content_filter"),
}
"""OpenAI's finish reason for each reason that gateways pass on from other vendors. Unknown reasons are left out.

Inferred, 2026-11: the reasons of other vendors.
"""


def _first_choice(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the choice with index 0. Further choices, which `extra` may request, are other texts."""
    choices = body.get("choices")
    choices = choices if isinstance(choices, list) else []
    return next((choice for choice in choices if isinstance(choice, dict) and not choice.get("index")), {})


def _parse_object(data: str) -> dict[str, Any] | None:
    """Return a JSON object, an empty one for another value or no text, or None for invalid JSON."""
    try:
        body = json.loads(data.strip() or "{}")  # orjson refuses a lone surrogate.
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else {}


def _to_utf16(text: str) -> bytes:
    return text.encode("utf-16-le", "surrogatepass")


def _form_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _image_from_bytes(data: bytes) -> NewOutput:
    return NewOutput(Output(Role.IMAGE, sniff(data[:SNIFFED]) or UNKNOWN), data)


def _failure(message: str) -> NewOutput:
    return NewOutput(Output(Role.IMAGE, "image/png", status=Status.ERROR, message=message))


def _is_image(data: bytes) -> bool:
    """Return whether bytes can be an image, of a known type or of one that is served as unknown bytes (AVIF, TIFF)."""
    known = sniff(data[:SNIFFED])
    if known is None:
        return data.startswith(_OTHER_IMAGE_SIGNATURES) or data[4:8] == b"ftyp"
    return known.startswith("image/")


_OTHER_IMAGE_SIGNATURES = (b"BM", b"II*\0", b"MM\0*", b"\0\0\1\0", b"\xff\x0a", b"\0\0\0\x0cJXL ")
"""First bytes of the formats BMP, TIFF, ICO and JPEG XL."""


def _decode_base64(text: str) -> bytes:
    """Decode base64 in either alphabet, also in lines, without padding or in a data URL. Return b"" if invalid."""
    head, comma, encoded = text.partition(",") if "," in text[:_MAX_TEXT_LENGTH] else ("", "", text)
    if head.lstrip().lower().startswith("data:"):
        if not head.rstrip().lower().endswith("base64"):
            return unquote_to_bytes(encoded)
        encoded = unquote(encoded) if "%" in encoded else encoded
    elif comma and not head.rstrip().lower().endswith("base64"):
        return b""
    joined = "".join(encoded.split()).rstrip("=").translate(_TO_STANDARD_ALPHABET)
    try:
        return base64.b64decode(joined + "=" * (-len(joined) % 4), validate=True)
    except ValueError:
        return b""


_TO_STANDARD_ALPHABET = str.maketrans("-_", "+/")
"""Translation from the URL-safe alphabet (RFC 4648, section 5) to the standard one."""
_MAX_TEXT_LENGTH = 500
"""Maximum number of characters of a provider's text that a message quotes, or that are searched for a data URL."""
_MAX_IMAGES = 100
"""Maximum number of entries of a result that become outputs. An order has at most ten images."""
_INLINE_NAMES = ("b64_json", "b64", "base64", "image_base64")
"""Names of inline bytes. Inferred, 2026-11: OpenAI uses the first, gateways the others."""


def _unwrap(body: dict[str, Any]) -> dict[str, Any]:
    """Return the object inside a gateway's envelope `{code, message, data}`, or the body itself."""
    inner = body.get("data")
    return inner if isinstance(inner, dict) else body


def _unwrap_list(body: object) -> list[Any]:
    """Return OpenAI's `data` list, at any level of a gateway's envelopes."""
    while isinstance(body, dict):
        body = body.get("data") or body.get("images") or body.get("result")
    return body if isinstance(body, list) else []


def _result_urls(body: Mapping[str, Any]) -> list[str]:
    """Return the result URLs that the job names, which may be relative to the origin.

    Source of `result_url`: clients of such gateways, read 2026-11. Inferred, 2026-11: the other names.
    """
    return urls_in(*(body.get(name) for name in ("result_url", "content_url", "result_urls", "urls")))


def _percentage(value: object) -> float | None:
    """Return a percentage from 45, 45.5, "45%", "45/100" or the fraction 0.45. Return None for another value."""
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
