"""Gaga: gaga-1 and the avatar models.

Assets are uploaded first. A generation is submitted with their ids and polled until `Success`, `Fail` or `Canceled`.
There is no upload by URL. Ids are 64-bit integers, so our JSON has them as strings.

Source: Gaga's Get Started page, read 2026-11. Lines with another source say so. The page's sample loop polls a
`Canceled` generation for ever.
Inferred, 2026-11: the shape of an error body, which the page does not show. `message_of` reads it, for example
FastAPI's `detail`.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import quote

from pydantic import ConfigDict, Field, model_validator
from pydantic.config import JsonDict
from pydantic_settings import SettingsConfigDict

from proxy.core.job import Kind, Order, Output, Role, Status, Ticket
from proxy.core.media_types import by_url
from proxy.core.settings import ProviderSettings
from proxy.providers.base import (
    Inputs,
    Model,
    NewOutput,
    Provider,
    Source,
    Update,
    as_id,
    bearer,
    id_in,
    urls_in,
    without_none,
)
from proxy.providers.fields import (
    COUNTS,
    DURATIONS,
    MAX_PARTS,
    PRIORITIES,
    QUALITIES,
    AspectRatio,
    AudioRef,
    Fields,
    ImageRef,
    Seed,
    Text,
    field_error,
)
from proxy.upstream.answers import Answer, LastAnswers, NotReady, UnknownToProvider, UnreadableAnswer
from proxy.upstream.classify import Dialect, plain
from proxy.upstream.requests import File, Request

Duration = Annotated[float, Field(gt=0, le=600)]


class GagaSettings(ProviderSettings):
    """Settings with the prefix `GAGA_`."""

    model_config = SettingsConfigDict(env_prefix="GAGA_")

    base_url: str = "https://api.gaga.art"
    deadline: float = Field(default=1800, gt=0)


class SpokenChunk(Fields):
    """A part of a gaga-1 video: its dialogue, and optionally its audio."""

    prompt: Text
    audio: AudioRef | None = None
    duration: Duration = 10


class AvatarChunk(Fields):
    """A part of an avatar video: its audio, and optionally a prompt for emotion and action."""

    audio: AudioRef
    prompt: Text | None = None
    duration: Duration = 5


class _CommonFields(Fields):
    resolution: Text = "720p"
    aspect_ratio: AspectRatio = "16:9"
    seed: Seed | None = None
    enhance_prompt: bool = True


def _form_schema(*flat: str) -> ConfigDict:
    """Return the JSON Schema of the rule of `_check_chunks_or_flat`. The first of the `flat` fields is required."""
    without_chunks: JsonDict = {"required": [flat[0]], "properties": {"chunks": False}}
    with_chunks: JsonDict = {"required": ["chunks"], "properties": dict.fromkeys(flat, False)}
    return ConfigDict(json_schema_extra={"oneOf": [without_chunks, with_chunks]})


class GagaFields(_CommonFields):
    """Fields of gaga-1. Dialogue is required; image and audio are optional."""

    model_config = _form_schema("prompt", "audio", "duration")

    prompt: Text | None = None
    chunks: Annotated[list[SpokenChunk], Field(min_length=1, max_length=MAX_PARTS)] | None = None
    image: ImageRef | None = None
    audio: AudioRef | None = None
    duration: Duration | None = Field(default=None, description="Seconds; 10 when absent.")

    @model_validator(mode="after")
    def _check_form(self) -> "GagaFields":
        _check_chunks_or_flat(self, required="prompt", flat=("prompt", "audio", "duration"))
        return self

    def parts(self) -> Sequence[SpokenChunk | AvatarChunk]:
        """Return the order's chunks. An order with flat fields has one."""
        return self.chunks or [SpokenChunk(prompt=self.prompt or "", audio=self.audio, duration=self.duration or 10)]


class AvatarFields(_CommonFields):
    """Fields of avatar-h1 and avatar-h1-pro. Image and audio are required; a prompt is optional."""

    model_config = _form_schema("audio", "prompt", "duration")

    image: ImageRef
    audio: AudioRef | None = None
    chunks: Annotated[list[AvatarChunk], Field(min_length=1, max_length=MAX_PARTS)] | None = None
    prompt: Text | None = None
    duration: Duration | None = Field(default=None, description="Seconds; 5 when absent.")

    @model_validator(mode="after")
    def _check_form(self) -> "AvatarFields":
        _check_chunks_or_flat(self, required="audio", flat=("audio", "prompt", "duration"))
        return self

    def parts(self) -> Sequence[SpokenChunk | AvatarChunk]:
        """Return the order's chunks. An order with flat fields has one."""
        return self.chunks or [AvatarChunk(audio=self.audio or "", prompt=self.prompt, duration=self.duration or 5)]


def _check_chunks_or_flat(fields: Any, required: str, flat: Sequence[str]) -> None:
    given = [name for name in flat if getattr(fields, name) is not None]
    if fields.chunks is not None and given:
        raise field_error(given[0], f"{', '.join(given)} cannot be combined with chunks: put them into the chunks")
    if fields.chunks is None and required not in given:
        raise field_error(required, f"{required} or chunks is required")


_INTEGER = re.compile("0|[1-9][0-9]{0,38}")
_IN_PROGRESS_WORDS = frozenset({"preprocessing", "pending", "running"})
_RESERVED_NAMES = frozenset(
    {"model", "resolution", "aspectRatio", "source", "chunks", "seed", "enablePromptEnhancement"}
)
_COSTLY_NAMES = COUNTS | DURATIONS | QUALITIES | PRIORITIES
"""Names of options that may cost more. The page lists none, so these are the names in other APIs."""


def _model(name: str, tokens: int, fields: type[Fields]) -> Model:
    return Model(name, Kind.VIDEO, tokens, fields, _RESERVED_NAMES, costly=_COSTLY_NAMES, typical_seconds=(60, 300))


class Gaga(Provider):
    """Adapter for https://api.gaga.art."""

    name = "Gaga"
    position = 10
    models = (
        _model("gaga-1", 20, GagaFields),
        _model("avatar-h1", 20, AvatarFields),
        _model("avatar-h1-pro", 30, AvatarFields),
    )
    settings_type = GagaSettings

    def declare_dialect(self) -> Dialect:
        """Return the dialect. The page shows messages for an empty account and a bad file, but no HTTP status."""
        return Dialect(
            bearer(self.settings),
            no_credit=("insufficient credits", "account balance is zero"),
            bad_file=("file upload failed", "invalid file format"),
        )

    async def check_key(self) -> str:
        """Read asset 1, which belongs to another account. A valid key gets "not found"."""
        await self.upstream.check_key("/v1/assets/1")
        return ""

    async def prepare(self, order: Order, inputs: Inputs) -> Request:
        """Upload the media, then build the body in the form of the page's example for the model."""
        if order.model == "gaga-1":
            body = await self._build_gaga_body(GagaFields(**order.fields), inputs)
        else:
            body = await self._build_avatar_body(AvatarFields(**order.fields), inputs)
        return Request("/v1/generations", json={"model": order.model, **body, **order.extra})

    async def _build_gaga_body(self, fields: GagaFields, inputs: Inputs) -> dict[str, Any]:
        # In the page's gaga-1 example, the source's id is a string and the enhancement is at the top level.
        image = await inputs.upload(fields.image, self._upload) if fields.image else None
        return _request_body(
            fields,
            source={"type": "image", "content": str(image)} if image is not None else None,
            chunks=[await self._build_chunk(part, inputs) for part in fields.parts()],
            enablePromptEnhancement=fields.enhance_prompt,
        )

    async def _build_avatar_body(self, fields: AvatarFields, inputs: Inputs) -> dict[str, Any]:
        # In the page's avatar example, the source's id is an integer and the enhancement is in each chunk.
        image = await inputs.upload(fields.image, self._upload)
        chunks = [await self._build_chunk(part, inputs) for part in fields.parts()]
        return _request_body(
            fields,
            source={"type": "image", "content": image},
            chunks=[{**chunk, "enablePromptEnhancement": fields.enhance_prompt} for chunk in chunks],
        )

    async def _build_chunk(self, part: SpokenChunk | AvatarChunk, inputs: Inputs) -> dict[str, Any]:
        conditions = []
        if part.audio:
            audio = await inputs.upload(part.audio, self._upload)
            conditions.append({"type": "audio", "content": str(audio)})
        if part.prompt:
            conditions.append({"type": "text", "content": part.prompt})
        return {"duration": _to_integer(part.duration), "conditions": conditions}

    async def _upload(self, file: File) -> int | str:
        answer = await self.upstream.upload("/v1/assets", "file", file)
        asset = id_in(answer.exact())
        if not asset and self.dialect.message_in(answer):
            raise self.dialect.refusal_in_success(answer)
        if not asset:
            raise UnreadableAnswer("Gaga's answer to the upload names no id.")
        return int(asset) if _INTEGER.fullmatch(asset) else asset

    async def submit(self, request: Request) -> Ticket:
        """Send the generation once, and return its id. The reply is `{"id": 123456789}`."""
        answer = await self.upstream.submit(request)
        try:
            generation = id_in(answer.exact())
        except UnreadableAnswer:
            generation = ""
        if not generation:
            raise self.dialect.missing_ticket(answer, "names no id")
        return {"id": generation}

    async def check(self, ticket: Ticket, last_answers: LastAnswers) -> Update:
        """Read the generation's status. Every word except the three final ones means that the work continues."""
        answer = await self._status(ticket, last_answers)
        body = self.dialect.json_object(answer)
        word = body.get("status")
        if not isinstance(word, str) or not plain(word):
            return self.without_status(answer, word)
        match plain(word):
            case "success":
                return Update(
                    detail=self.dialect.safe_text(word), status=Status.COMPLETED, outputs=self._outputs(answer)
                )
            case "fail" | "failed" | "error":  # Source of the last two: third-party clients, read 2026-11.
                return Update(status=Status.ERROR, error=self.dialect.failure(body, "Gaga gave no reason."))
            case "canceled" | "cancelled":
                message = "Gaga canceled the generation."
                return Update(detail=self.dialect.safe_text(word), status=Status.CANCELED, message=message)
        return self.in_progress(word, _IN_PROGRESS_WORDS, answer)

    async def content(self, ticket: Ticket, output: Output, n: int) -> Source:
        """Return the URL that the status call names now. If it names none, return the recorded URL."""
        try:
            fresh = _video_urls((await self._status(ticket)).object())
            return Source(self.upstream.absolute(fresh[n]) if n < len(fresh) else output.url or "")
        except (UnknownToProvider, UnreadableAnswer):
            return Source(output.url or "")

    async def _status(self, ticket: Ticket, last_answers: LastAnswers | None = None) -> Answer:
        return await self.upstream.get(f"/v1/generations/{quote(ticket['id'], safe='')}", last_answers=last_answers)

    def _outputs(self, answer: Answer) -> list[NewOutput]:
        body = answer.exact()
        video = as_id(body.get("resultVideoId"))
        ids = {"id": video} if video else {}
        urls = [self.upstream.absolute(url) for url in _video_urls(body)]
        return [NewOutput(Output(Role.VIDEO, by_url(url, Role.VIDEO), url=url, ids=ids)) for url in urls]


def _to_integer(seconds: float) -> float:
    """Return 10 for 10.0, because the page's examples have integers."""
    return int(seconds) if seconds == int(seconds) else seconds


def _request_body(fields: _CommonFields, **rest: Any) -> dict[str, Any]:
    return without_none(resolution=fields.resolution, aspectRatio=fields.aspect_ratio, seed=fields.seed, **rest)


def _video_urls(body: dict[str, Any]) -> list[str]:
    """Return the URLs of a successful generation. Raises NotReady if there is none."""
    inner = body.get("result")
    values = [body.get("resultVideoURL"), inner.get("videoURL") if isinstance(inner, dict) else None]
    # Source of `result.videoURL`, `url` and `video_url`: third-party clients, read 2026-11.
    # Inferred, 2026-11: the plural names.
    values += [body.get(name) for name in ("url", "video_url", "urls", "resultVideoURLs")]
    urls = urls_in(*values)
    if not urls:
        raise NotReady("Gaga reports Success, but names no video URL yet.")
    return urls
