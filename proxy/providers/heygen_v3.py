"""HeyGen v3: videos of speaking avatars and images. `HeyGen` (heygen.py) offers it as the model `heygen-v3`.

An order is one video, or a studio video of several scenes. A reply is `{data: {...}}`, an error
`{error: {code, message}}`. A submit carries an `Idempotency-Key`. For 24 hours a repeat gets the first answer, or 409
`request_in_progress` while HeyGen still works on the first request. Video URLs expire, and each status call signs new
ones.

Source: HeyGen's v3 API reference and endpoint comparison, read 2026-11. Lines with another source say so.
Source: public client code, read 2026-12, for the shape of `background`, `caption`, `engine` and the upload's
`asset_id`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote

from pydantic import ConfigDict, Field, field_validator, model_validator

from proxy.core.errors import JobError
from proxy.core.job import Kind, Order, Output, Role, Status, Ticket
from proxy.core.media_types import by_url
from proxy.providers.base import Inputs, Model, NewOutput, Update, as_id, id_in, without_none
from proxy.providers.fields import (
    COLOR_SCHEMA,
    COUNTS,
    DURATIONS,
    MAX_PARTS,
    PRIORITIES,
    QUALITIES,
    AudioRef,
    Fields,
    ImageRef,
    Media,
    Text,
    check_color,
    check_dependency,
    check_exactly_one,
    field_error,
    is_asset,
    name_set,
)
from proxy.upstream.answers import Answer, LastAnswers, NotReady, UnreadableAnswer
from proxy.upstream.classify import Dialect, plain
from proxy.upstream.client import Upstream
from proxy.upstream.requests import File, Request, dump_json

REPEAT_IN_PROGRESS: Final = "request_in_progress"
"""Error code of the answer to a repeat while the first request with its key has no answer yet."""
UPLOAD_LIMIT: Final = 32 << 20
"""Maximum size of an upload, in bytes. HeyGen fetches a larger file by its URL."""
BATCH_SIZE: Final = 100
"""Maximum number of videos in one bulk status. Source: HeyGen's v3 API reference, read 2026-11."""
_STATUSES: Final = "/v3/videos/statuses"
_SINGLE_WORDS: Final = {"queued": "pending"}
"""Words of the bulk status that the single one spells otherwise. A client sees one word for one state."""
IN_PROGRESS_WORDS: Final = frozenset({"pending", "processing", "waiting", "queued"})
"""Status words of work that continues: a submit says `waiting`, the bulk status `queued`, the single one `pending`."""

Background = Annotated[str, Field(min_length=1, max_length=2048), Media(frozenset({Kind.IMAGE}), color=True)]
"""Reference to a background: an image or a color."""


class _Speech(Fields):
    """A speaker (avatar or image) and the speech (prompt or audio)."""

    prompt: Text | None = Field(default=None, description="The text to speak. Give either this or audio.")
    audio: AudioRef | None = None
    avatar_id: Text | None = Field(default=None, description="An avatar of HeyGen. Give either this or image.")
    image: ImageRef | None = None
    voice_id: Text | None = Field(
        default=None, description="A voice of HeyGen that speaks the prompt. Default: the avatar's own."
    )
    background: Background | None = Field(
        default=None,
        description="An image (asset id or public URL), or a color such as #FAFAFA.",
        json_schema_extra=dict(COLOR_SCHEMA),
    )

    _check_color = field_validator("background")(check_color)


_SPEECH_RULES: Final[Mapping[str, Any]] = {
    "allOf": [
        {"oneOf": [{"required": ["prompt"]}, {"required": ["audio"]}]},
        {"oneOf": [{"required": ["avatar_id"]}, {"required": ["image"]}]},
    ],
    "dependentRequired": {"voice_id": ["prompt"]},
}
"""JSON Schema of the rules that `_check_speech` checks."""


def _check_speech(fields: _Speech) -> None:
    check_exactly_one(fields, "prompt", "audio")
    check_exactly_one(fields, "avatar_id", "image")
    check_dependency(fields, "voice_id", "prompt")


class Scene(_Speech):
    """One scene of a studio video."""

    model_config = ConfigDict(json_schema_extra=dict(_SPEECH_RULES))

    @model_validator(mode="after")
    def _check_fields(self) -> "Scene":
        _check_speech(self)
        return self


_VIDEO_FIELDS: Final = (
    *_Speech.model_fields,
    *("title", "resolution", "aspect_ratio", "captions", "engine", "output_format"),
)


class HeyGenV3Fields(_Speech):
    """Fields of heygen-v3: the flat fields of one video, or `scenes`."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {**_SPEECH_RULES, "properties": {"scenes": False}},
                {"required": ["scenes"], "properties": dict.fromkeys(_VIDEO_FIELDS, False)},
            ]
        }
    )

    title: Text | None = None
    resolution: Literal["720p", "1080p", "4k"] | None = None
    aspect_ratio: Literal["16:9", "9:16", "4:5", "5:4", "1:1", "auto"] | None = None
    captions: bool | None = Field(
        default=None, description="Also make a video that shows captions, and a file of subtitles."
    )
    engine: Literal["avatar_iii", "avatar_iv", "avatar_v"] | None = None
    output_format: Literal["mp4", "webm"] | None = None
    scenes: Annotated[list[Scene], Field(min_length=1, max_length=MAX_PARTS)] | None = None

    @model_validator(mode="after")
    def _check_fields(self) -> "HeyGenV3Fields":
        given = [name for name in _VIDEO_FIELDS if getattr(self, name) is not None]
        if self.scenes is None:
            _check_speech(self)
        elif given:
            raise field_error(given[0], f"{', '.join(given)} cannot be combined with scenes")
        return self


def _scene_units(fields: Mapping[str, Any]) -> int:
    return len(fields.get("scenes") or [None])


MODEL: Final = Model(
    "heygen-v3",
    Kind.VIDEO,
    20,
    HeyGenV3Fields,
    name_set(
        """type avatar_id image script voice_id audio_url audio_asset_id title resolution aspect_ratio background
        caption engine output_format scenes"""
    ),
    typical_seconds=(120, 900),
    note="With scenes, the price is for each scene.",
    costly=COUNTS | DURATIONS | QUALITIES | PRIORITIES | {"video_inputs", "motion_engine"},
    units=_scene_units,
    one_result=True,
    repeatable=True,
)


@dataclass(frozen=True, slots=True)
class HeyGenV3:
    """The steps of an order at HeyGen's v3 API. Its client `upstream` is the one of v1."""

    upstream: Upstream
    dialect: Dialect

    async def prepare(self, order: Order, inputs: Inputs) -> Request:
        """Upload assets, then build the request. Public URLs are sent unchanged."""
        fields = HeyGenV3Fields(**order.fields)
        body = await self._build_body(fields, inputs)
        return Request("/v3/videos", json={**body, **order.extra}, model=MODEL.name)

    async def _build_body(self, fields: HeyGenV3Fields, inputs: Inputs) -> dict[str, Any]:
        """Return the body of a submit."""
        if fields.scenes is not None:
            scenes = [await self._build_speech(scene, inputs, "avatar_video") for scene in fields.scenes]
            return {"type": "studio", "scenes": scenes}
        return {
            **await self._build_speech(fields, inputs, "avatar"),
            **without_none(
                title=fields.title,
                resolution=fields.resolution,
                aspect_ratio=fields.aspect_ratio,
                # With a style, HeyGen also makes a second video that shows the captions.
                # Source: public client code, read 2026-12.
                caption={"file_format": "srt", "style": "default"} if fields.captions else None,
                engine={"type": fields.engine} if fields.engine else None,
                output_format=fields.output_format,
            ),
        }

    async def _build_speech(self, part: _Speech, inputs: Inputs, avatar_type: str) -> dict[str, Any]:
        """Return the fields of a video or scene. Inferred, 2026-12: a scene has the same fields as a video."""
        audio = await self._locate(part.audio, inputs) if part.audio else {}
        image = await self._locate(part.image, inputs) if part.image else None
        return without_none(
            type="image" if part.image else avatar_type,
            avatar_id=part.avatar_id,
            image={"type": next(iter(image)), **image} if image else None,
            script=part.prompt,
            audio_url=audio.get("url"),
            audio_asset_id=audio.get("asset_id"),
            voice_id=part.voice_id,
            background=await self._build_background(part.background, inputs),
        )

    async def _build_background(self, background: str | None, inputs: Inputs) -> dict[str, Any] | None:
        if background is None or background.startswith("#"):
            return {"type": "color", "value": background} if background else None
        return {"type": "image", **await self._locate(background, inputs)}

    async def _locate(self, ref: str, inputs: Inputs) -> dict[str, str]:
        """Return where HeyGen finds a file: `{"asset_id": ...}` after an upload, or `{"url": ...}`.

        Assets are uploaded. Public URLs, and assets above the upload limit, are passed by URL.
        """
        if not is_asset(ref):
            return {"url": ref}
        asset_id = await inputs.upload(ref, self._upload)
        return {"url": inputs.url(ref)} if asset_id is None else {"asset_id": asset_id}

    async def _upload(self, file: File) -> str | None:
        """Upload a file and return its id at HeyGen. Return None if the file is too large."""
        if len(file.data) > UPLOAD_LIMIT:
            return None
        answer = await self.upstream.upload("/v3/assets", "file", file)
        asset_id = id_in(answer.exact(), "asset_id")
        if not asset_id and self.dialect.message_in(answer):
            raise self.dialect.refusal_in_success(answer)
        if not asset_id:
            raise UnreadableAnswer("HeyGen's answer to the upload names no id.")
        return asset_id

    async def submit(self, request: Request) -> Ticket:
        """Send an order with its idempotency key. The reply is `{data: {video_id, status, output_format}}`."""
        keyed = replace(request, headers={"Idempotency-Key": request.key})
        answer = await self.upstream.submit(keyed, self.dialect)
        try:
            video = id_in(answer.exact(), "video_id")
        except UnreadableAnswer:
            video = ""
        if not video:
            raise self.dialect.missing_ticket(answer, "names no video_id")
        return {"video": video}

    async def check(self, ticket: Ticket, last_answers: LastAnswers) -> tuple[Answer, str | None, Update | None]:
        """Return the answer, its status word, and an update if the video has ended. Raises as `Provider.check`."""
        answer, data = await self._status(ticket, last_answers)
        word = data.get("status")
        if not isinstance(word, str) or not plain(word):
            return answer, None, None
        shown = self.dialect.safe_text(word)
        match plain(word):
            case "completed":
                return answer, word, Update(detail=shown, status=Status.COMPLETED, outputs=self.outputs(ticket, data))
            case "failed":
                return answer, word, Update(detail=shown, status=Status.ERROR, error=self._failure(data))
        return answer, word, None

    async def check_many(self, tickets: Sequence[Ticket]) -> Sequence[Answer | None]:
        """Return each video's part of the bulk status.

        Source: HeyGen's v3 API reference, read 2026-11, for the call. Public client code, read 2026-12, for the list.
        """
        answer = await self.upstream.get(_STATUSES, {"video_ids": ",".join(ticket["video"] for ticket in tickets)})
        items = self.dialect.json_object(answer).get("data")
        if not isinstance(items, list):
            raise self.dialect.unreadable(answer, "has no list of videos")
        parts = {
            as_id(item.get("video_id") or item.get("id")): replace(answer, body=dump_json(item))
            for item in items
            if isinstance(item, dict)
        }
        return [parts.get(ticket["video"]) for ticket in tickets]

    def read_part(self, ticket: Ticket, part: Answer, last_answers: LastAnswers) -> str | None:
        """Return the word of work that continues, as the single status spells it. None if only that can tell more.

        An item of the bulk status has no URLs and no failure. Inferred, 2026-12: an unknown video has the status
        `not_found`, which the single status has to confirm.
        """
        self.upstream.accept_part(_STATUSES, {"video_ids": ticket["video"]}, part, last_answers)
        word = part.object().get("status")
        if isinstance(word, str) and plain(word) in IN_PROGRESS_WORDS:
            return _SINGLE_WORDS.get(plain(word), word)
        last_answers.forget(_STATUSES)
        return None

    async def fresh_outputs(self, ticket: Ticket) -> Sequence[NewOutput]:
        """Return the outputs of a completed video, with new URLs. Raises ReadFailed."""
        _, data = await self._status(ticket)
        return self.outputs(ticket, data)

    async def cancel(self, ticket: Ticket) -> None:
        """Delete the video. Raises ReadFailed."""
        await self.upstream.delete(_path(ticket))

    async def _status(self, ticket: Ticket, last_answers: LastAnswers | None = None) -> tuple[Answer, dict[str, Any]]:
        answer = await self.upstream.get(_path(ticket), last_answers=last_answers)
        return answer, data_of(self.dialect.json_object(answer))

    def _failure(self, data: Mapping[str, Any]) -> JobError:
        code, message = data.get("failure_code"), data.get("failure_message")
        kind = type(self.dialect.failure({"error": {"code": code, "message": message}}, ""))
        parts = [str(word) for word in (message, f"({code})" if code and message else code) if word]
        return kind(self.dialect.safe_text(" ".join(parts) or "HeyGen gave no reason."))

    def outputs(self, ticket: Ticket, data: Mapping[str, Any]) -> list[NewOutput]:
        """Return the outputs of a completed video: the video first, then its captions, preview and thumbnail."""
        thumbnail = self.upstream.url_or_none(data.get("thumbnail_url"))
        ids = {"id": ticket["video"]}
        outputs = []
        for name, role in _OUTPUTS:
            url = self.upstream.url_or_none(data.get(name))
            if url is not None:
                shown = thumbnail if role is Role.VIDEO else None
                outputs.append(NewOutput(Output(role, _media_type(url, role), url=url, thumbnail_url=shown, ids=ids)))
        if not any(output.output.role is Role.VIDEO for output in outputs):
            raise NotReady("HeyGen reports completed, but names no video URL yet.")
        return outputs


_OUTPUTS: Final = (
    ("video_url", Role.VIDEO),
    ("captioned_video_url", Role.VIDEO),
    ("gif_url", Role.IMAGE),
    ("subtitle_url", Role.TEXT),
    ("thumbnail_url", Role.THUMBNAIL),
)
"""Fields with the URLs of a completed video, in the order of its outputs."""


def data_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the object in an answer's envelope `data`.

    An answer without an envelope is returned whole.

    Source: HeyGen's v1 reference page, read 2026-11, for the form without an envelope.
    """
    data = body.get("data", body)
    return data if isinstance(data, dict) else {}


def _media_type(url: str, role: Role) -> str:
    return "application/x-subrip" if role is Role.TEXT else by_url(url, role)


def _path(ticket: Ticket) -> str:
    return f"/v3/videos/{quote(ticket['video'], safe='')}"
