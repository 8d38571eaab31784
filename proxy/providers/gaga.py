"""Gaga: gaga-1 and the avatar models. Written from the provider's "Get Started" page.

Assets are uploaded first (there is no upload by URL); a generation is submitted with their ids and polled until
`Success`, `Fail` or `Canceled` (the page's own sample loop never ends on the last). Ids are 64-bit integers: strings in
our JSON. The page shows no error body; the shapes read are those of `message_of` (assumed: FastAPI's `detail`).
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
    COUNTS,
    DURATIONS,
    MOST_PARTS,
    PRIORITIES,
    QUALITIES,
    AspectRatio,
    AudioRef,
    Fields,
    ImageRef,
    Inputs,
    Model,
    NewOutput,
    Provider,
    Seed,
    Source,
    Text,
    Update,
    as_id,
    bearer,
    field_error,
    id_in,
    urls_in,
    without_none,
)
from proxy.upstream.answers import Answer, LastAnswers, NotReady, UnknownToProvider, UnreadableAnswer
from proxy.upstream.classify import Dialect, plain
from proxy.upstream.requests import File, Request

Duration = Annotated[float, Field(gt=0, le=600)]


class GagaSettings(ProviderSettings):
    """`GAGA_*`."""

    model_config = SettingsConfigDict(env_prefix="GAGA_")

    base_url: str = "https://api.gaga.art"
    deadline: float = Field(default=1800, gt=0)


class SpokenChunk(Fields):
    """A stretch of a gaga-1 video: its dialogue, and what is heard."""

    prompt: Text
    audio: AudioRef | None = None
    duration: Duration = 10


class AvatarChunk(Fields):
    """A stretch of an avatar video: its audio, and words for emotion and action."""

    audio: AudioRef
    prompt: Text | None = None
    duration: Duration = 5


class _GagaFields(Fields):
    resolution: Text = "720p"
    aspect_ratio: AspectRatio = "16:9"
    seed: Seed | None = None
    enhance_prompt: bool = True


def _flat_or_chunks_schema(*flat: str) -> ConfigDict:
    """What `_flat_or_chunks` holds, in JSON Schema; the first of the `flat` fields is required."""
    flatly: JsonDict = {"required": [flat[0]], "properties": {"chunks": False}}
    chunked: JsonDict = {"required": ["chunks"], "properties": dict.fromkeys(flat, False)}
    return ConfigDict(json_schema_extra={"oneOf": [flatly, chunked]})


class GagaFields(_GagaFields):
    """gaga-1: dialogue is required, image and audio are optional."""

    model_config = _flat_or_chunks_schema("prompt", "audio", "duration")

    prompt: Text | None = None
    chunks: Annotated[list[SpokenChunk], Field(min_length=1, max_length=MOST_PARTS)] | None = None
    image: ImageRef | None = None
    audio: AudioRef | None = None
    duration: Duration | None = Field(default=None, description="Seconds; 10 when absent.")

    @model_validator(mode="after")
    def _one_form(self) -> "GagaFields":
        _flat_or_chunks(self, required="prompt", flat=("prompt", "audio", "duration"))
        return self

    def parts(self) -> Sequence[SpokenChunk | AvatarChunk]:
        """The order as chunks, whichever form it was written in."""
        return self.chunks or [SpokenChunk(prompt=self.prompt or "", audio=self.audio, duration=self.duration or 10)]


class AvatarFields(_GagaFields):
    """avatar-h1 and avatar-h1-pro: image and audio are required, a prompt is optional."""

    model_config = _flat_or_chunks_schema("audio", "prompt", "duration")

    image: ImageRef
    audio: AudioRef | None = None
    chunks: Annotated[list[AvatarChunk], Field(min_length=1, max_length=MOST_PARTS)] | None = None
    prompt: Text | None = None
    duration: Duration | None = Field(default=None, description="Seconds; 5 when absent.")

    @model_validator(mode="after")
    def _one_form(self) -> "AvatarFields":
        _flat_or_chunks(self, required="audio", flat=("audio", "prompt", "duration"))
        return self

    def parts(self) -> Sequence[SpokenChunk | AvatarChunk]:
        """The order as chunks, whichever form it was written in."""
        return self.chunks or [AvatarChunk(audio=self.audio or "", prompt=self.prompt, duration=self.duration or 5)]


def _flat_or_chunks(fields: Any, required: str, flat: Sequence[str]) -> None:
    given = [name for name in flat if getattr(fields, name) is not None]
    if fields.chunks is not None and given:
        raise field_error(given[0], f"chunks goes without {', '.join(given)}: put them into the chunks")
    if fields.chunks is None and required not in given:
        raise field_error(required, f"{required} is required (or chunks)")


_INTEGER = re.compile("0|[1-9][0-9]{0,38}")
_GOING_ON = frozenset({"preprocessing", "pending", "running"})
_SENDS = frozenset({"model", "resolution", "aspectRatio", "source", "chunks", "seed", "enablePromptEnhancement"})
_COSTLY = COUNTS | DURATIONS | QUALITIES | PRIORITIES
"""The page names no option that costs more; these are what other APIs call them."""


def _model(name: str, tokens: int, fields: type[Fields]) -> Model:
    return Model(name, Kind.VIDEO, tokens, fields, _SENDS, costly=_COSTLY, typical_seconds=(60, 300))


class Gaga(Provider):
    """The adapter for https://api.gaga.art."""

    name = "Gaga"
    position = 10
    models = (
        _model("gaga-1", 20, GagaFields),
        _model("avatar-h1", 20, AvatarFields),
        _model("avatar-h1-pro", 30, AvatarFields),
    )
    settings_type = GagaSettings

    def declare_dialect(self) -> Dialect:
        """The page names the errors for an empty account, but not their HTTP status. It names those of a bad file."""
        return Dialect(
            bearer(self.settings),
            no_credit=("insufficient credits", "account balance is zero"),
            bad_file=("file upload failed", "invalid file format"),
        )

    async def check_key(self) -> str:
        """An asset that is hardly ours: a working key is told that it is not there."""
        await self.upstream.check_key("/v1/assets/1")
        return ""

    async def prepare(self, order: Order, inputs: Inputs) -> Request:
        """Upload what is named, then build the body as the page's example for that model has it."""
        if order.model == "gaga-1":
            body = await self._spoken(GagaFields(**order.fields), inputs)
        else:
            body = await self._avatar(AvatarFields(**order.fields), inputs)
        return Request("/v1/generations", json={"model": order.model, **body, **order.extra})

    async def _spoken(self, fields: GagaFields, inputs: Inputs) -> dict[str, Any]:
        # In the gaga-1 example the source's id is a string, and the enhancement stands at the top level.
        image = await inputs.uploaded(fields.image, self._upload) if fields.image else None
        return _body(
            fields,
            source={"type": "image", "content": str(image)} if image is not None else None,
            chunks=[await self._chunk(part, inputs) for part in fields.parts()],
            enablePromptEnhancement=fields.enhance_prompt,
        )

    async def _avatar(self, fields: AvatarFields, inputs: Inputs) -> dict[str, Any]:
        # In the avatar example the source's id is an integer, and the enhancement stands inside the chunk.
        image = await inputs.uploaded(fields.image, self._upload)
        chunks = [await self._chunk(part, inputs) for part in fields.parts()]
        return _body(
            fields,
            source={"type": "image", "content": image},
            chunks=[{**chunk, "enablePromptEnhancement": fields.enhance_prompt} for chunk in chunks],
        )

    async def _chunk(self, part: SpokenChunk | AvatarChunk, inputs: Inputs) -> dict[str, Any]:
        conditions = []
        if part.audio:
            audio = await inputs.uploaded(part.audio, self._upload)
            conditions.append({"type": "audio", "content": str(audio)})
        if part.prompt:
            conditions.append({"type": "text", "content": part.prompt})
        return {"duration": _whole(part.duration), "conditions": conditions}

    async def _upload(self, file: File) -> int | str:
        answer = await self.upstream.upload("/v1/assets", "file", file)
        found = id_in(answer.exact())
        if not found and self.dialect.message_in(answer):
            raise self.dialect.refusal_in_success(answer)
        if not found:
            raise UnreadableAnswer("Gaga's answer to the upload names no id.")
        return int(found) if _INTEGER.fullmatch(found) else found

    async def submit(self, request: Request) -> Ticket:
        """The reply is `{"id": 123456789}`."""
        answer = await self.upstream.submit(request)
        try:
            found = id_in(answer.exact())
        except UnreadableAnswer:
            found = ""
        if not found:
            raise self.dialect.missing_ticket(answer, "names no id")
        return {"id": found}

    async def check(self, ticket: Ticket, seen: LastAnswers) -> Update:
        """`PreProcessing`, `Pending`, `Running` go on, as does every word that is not known to end."""
        answer = await self._status(ticket, seen)
        body = self.dialect.json_object(answer)
        word = body.get("status")
        if not isinstance(word, str) or not plain(word):
            return self.without_status(answer, word)
        match plain(word):
            case "success":
                return Update(
                    detail=self.dialect.safe_text(word), status=Status.COMPLETED, outputs=self._videos(answer)
                )
            case "fail" | "failed" | "error":  # the last two were seen, not documented
                return Update(status=Status.ERROR, error=self.dialect.failure(body, "Gaga gave no reason."))
            case "canceled" | "cancelled":
                message = "Gaga canceled the generation."
                return Update(detail=self.dialect.safe_text(word), status=Status.CANCELED, message=message)
        return self.in_progress(word, _GOING_ON, answer)

    async def content(self, ticket: Ticket, output: Output, n: int) -> Source:
        """The status call names the URL anew; where it no longer does, the URL as it was."""
        try:
            fresh = _places((await self._status(ticket)).object())
            return Source(self.upstream.absolute(fresh[n]) if n < len(fresh) else output.url or "")
        except (UnknownToProvider, UnreadableAnswer):
            return Source(output.url or "")

    async def _status(self, ticket: Ticket, seen: LastAnswers | None = None) -> Answer:
        return await self.upstream.get(f"/v1/generations/{quote(ticket['id'], safe='')}", seen=seen)

    def _videos(self, answer: Answer) -> list[NewOutput]:
        body = answer.exact()
        found = as_id(body.get("resultVideoId"))
        ids = {"id": found} if found else {}
        urls = [self.upstream.absolute(place) for place in _places(body)]
        return [NewOutput(Output(Role.VIDEO, by_url(url, Role.VIDEO), url=url, ids=ids)) for url in urls]


def _whole(seconds: float) -> float:
    """10.0 as 10: the page's examples have integers."""
    return int(seconds) if seconds == int(seconds) else seconds


def _body(fields: _GagaFields, **rest: Any) -> dict[str, Any]:
    return without_none(resolution=fields.resolution, aspectRatio=fields.aspect_ratio, seed=fields.seed, **rest)


def _places(body: dict[str, Any]) -> list[str]:
    inner = body.get("result")
    places = (body.get("resultVideoURL"), inner.get("videoURL") if isinstance(inner, dict) else None)
    # The others were seen, not documented.
    found = urls_in(*places, body.get("url"), body.get("video_url"), body.get("urls"), body.get("resultVideoURLs"))
    if not found:
        raise NotReady("Gaga says Success, but gives no video's URL yet.")
    return found
