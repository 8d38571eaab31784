"""HeyGen v1: avatar clips. Written from the provider's v1 reference page.

An order is one or more clips; the reply's `video_id` is polled. The envelope is `{code, message, data}`: success of a
call is `code == 100`, whatever the HTTP status, and a failed video is HTTP 200 with `data.error`. Video URLs expire,
but every status call signs fresh ones. The API is deprecated: 404, 405 or 410 at submit means that it is gone.
Seen, not on the page: the reply's envelope, `voice_id`, the states `pending` and `waiting`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from proxy.core.errors import FieldError, JobError, UpstreamRetired
from proxy.core.job import Kind, Order, Output, Role, Status, Ticket
from proxy.core.media_types import by_url
from proxy.core.settings import ProviderSettings, is_loopback
from proxy.providers import heygen_v3
from proxy.providers.base import Inputs, Model, NewOutput, Provider, Source, Update, id_in, urls_in, without_none
from proxy.providers.fields import (
    COLOR_SCHEMA,
    COUNTS,
    DURATIONS,
    MAX_PARTS,
    PRIORITIES,
    QUALITIES,
    AudioRef,
    Fields,
    Text,
    VisualRef,
    check_color,
    check_dependency,
    check_exactly_one,
    field_error,
    is_asset,
    references,
)
from proxy.providers.heygen_v3 import HeyGenV3, data_of
from proxy.upstream.answers import Answer, LastAnswers, NotReady, UnreadableAnswer
from proxy.upstream.classify import Dialect, plain
from proxy.upstream.requests import Request

Style = Literal["normal", "circle"]

_OK = 100
_NO_CREDIT = ("40009", "insufficient_credit")
_VIDEO_URL = re.compile(r"\.(mp4|m4v|mov|webm)([?#]|$)", re.IGNORECASE)
_GOING_ON = frozenset({"pending", "waiting", "processing"})
V3 = heygen_v3.MODEL.name


class HeyGenSettings(ProviderSettings):
    """`HEYGEN_*`."""

    model_config = SettingsConfigDict(env_prefix="HEYGEN_")

    base_url: str = "https://api.heygen.com"
    poll_interval: float = Field(default=5, gt=0)
    deadline: float = Field(default=3600, gt=0)
    v1: Literal["keep", "translate"] = "keep"
    """With `translate`, an order of heygen-v1 is sent to the v3 API."""


class Offset(Fields):
    """Where the avatar stands: 0 is the centre, -0.5 the left or top edge of the screen."""

    x: float = 0
    y: float = 0


class _Speech(Fields):
    """Who speaks (avatar or talking photo), and what (prompt or audio)."""

    prompt: Text | None = None
    audio: AudioRef | None = None
    avatar_id: Text | None = None
    talking_photo_id: Text | None = None
    avatar_style: Style | None = None
    talking_photo_style: Style | None = None
    voice_id: Text | None = None
    scale: Annotated[float, Field(gt=0)] | None = None
    offset: Offset | None = None


_CLIP_RULES: Mapping[str, Any] = {
    "allOf": [
        {"oneOf": [{"required": ["prompt"]}, {"required": ["audio"]}]},
        {"oneOf": [{"required": ["avatar_id"]}, {"required": ["talking_photo_id"]}]},
    ],
    "dependentRequired": {
        "avatar_style": ["avatar_id"],
        "talking_photo_style": ["talking_photo_id"],
        "voice_id": ["prompt"],
    },
}
"""What `_check_clip` holds, in JSON Schema."""


class Clip(_Speech):
    """One clip of several."""

    model_config = ConfigDict(json_schema_extra=dict(_CLIP_RULES))

    @model_validator(mode="after")
    def _one_of_each(self) -> "Clip":
        _check_clip(self)
        return self


def _check_clip(fields: _Speech) -> None:
    check_exactly_one(fields, "prompt", "audio")
    check_exactly_one(fields, "avatar_id", "talking_photo_id")
    check_dependency(fields, "avatar_style", "avatar_id")
    check_dependency(fields, "talking_photo_style", "talking_photo_id")
    check_dependency(fields, "voice_id", "prompt")


_FLAT = tuple(_Speech.model_fields)


class HeyGenFields(_Speech):
    """heygen-v1: the flat fields of one clip, or `clips`; and what holds for the whole video."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {**_CLIP_RULES, "properties": {"clips": False}},
                {"required": ["clips"], "properties": dict.fromkeys(_FLAT, False)},
            ],
            "if": {"required": ["captions"], "properties": {"captions": {"const": True}}},
            "then": {"properties": {"audio": False, "clips": {"items": {"required": ["prompt"]}}}},
        }
    )

    clips: Annotated[list[Clip], Field(min_length=1, max_length=MAX_PARTS)] | None = None
    background: VisualRef | None = Field(
        default=None,
        description="An image or mp4 (asset id or public URL), or a colour such as #FAFAFA.",
        json_schema_extra=dict(COLOR_SCHEMA),
    )
    aspect_ratio: Literal["16:9", "9:16"] | None = None
    test: bool = False
    captions: bool = False

    @model_validator(mode="after")
    def _one_form(self) -> "HeyGenFields":
        given = [name for name in _FLAT if getattr(self, name) is not None]
        if self.clips is None:
            _check_clip(self)
        elif given:
            raise field_error(given[0], f"clips goes without {', '.join(given)}: put them into the clips")
        if self.captions and any(clip.prompt is None for clip in self.parts()):
            raise field_error("captions", "captions goes with prompt only: the provider captions no audio")
        return self

    _color = field_validator("background")(check_color)

    def parts(self) -> Sequence[Clip]:
        """The order as clips, whichever form it was written in."""
        return self.clips or [Clip(**{name: getattr(self, name) for name in _FLAT})]


def _units(fields: Mapping[str, Any]) -> int:
    return 0 if fields.get("test") else 1


_COSTLY = COUNTS | DURATIONS | QUALITIES | PRIORITIES | {"scenes", "engine", "video_inputs"}
"""The last three are HeyGen's own words for more scenes and a dearer engine, in the versions after v1."""


class HeyGen(Provider):
    """The adapter for https://api.heygen.com, v1."""

    name = "HeyGen"
    position = 50
    models = (
        Model(
            "heygen-v1",
            Kind.VIDEO,
            20,
            HeyGenFields,
            frozenset({"background", "ratio", "test", "version", "caption_open", "clips"}),
            typical_seconds=(300, 900),
            note="Avatars made after 2024-03-21 are refused by the provider, which has announced the end of v1.",
            costly=_COSTLY,
            media="linked",
            units=_units,
            retired_on="2026-10-31",
        ),
        heygen_v3.MODEL,
    )
    settings_type = HeyGenSettings

    @property
    def _translates(self) -> bool:
        return isinstance(self.settings, HeyGenSettings) and self.settings.v1 == "translate"

    @cached_property
    def _v3(self) -> HeyGenV3:
        """The v3 API, for its own model. A job continues on the API that gave its ticket."""
        # In v3, 404 means an unknown avatar or voice, and not the end of the API.
        return HeyGenV3(self.upstream, self.public_url, replace(self.dialect, retired=()))

    def declare_dialect(self) -> Dialect:
        """The codes are those that clients have seen: 40009 credits, 400112 and 401057 a bad key."""
        return Dialect(
            {"X-Api-Key": self.settings.key},
            no_credit=_NO_CREDIT,
            refused_key=("400112", "401057", "unauthorized"),
            retired=(404, 405, 410),
            in_progress=(heygen_v3.REPEAT_IN_PROGRESS,),
        )

    def validate(self, order: Order) -> Sequence[FieldError]:
        """HeyGen v1 fetches media itself: an asset's Link must be one that it can open. v3 lacks some fields of v1."""
        if order.model != V3 and self._translates:
            return _without_counterpart(HeyGenFields(**order.fields), order.extra)
        if order.model == V3 or not is_loopback(self.public_url) or is_loopback(self.settings.base_url):
            return ()
        return [
            FieldError(
                reference.field,
                "HeyGen would have to fetch this asset, but POLLCAST_PUBLIC_URL is a loopback address: set it to one "
                "that HeyGen can open, or give a public https URL.",
            )
            for reference in references(HeyGenFields(**order.fields))
            if is_asset(reference.ref)
        ]

    async def check_key(self) -> str:
        """Read the operator's own account."""
        await self.upstream.check_key("/v3/users/me")
        return ""

    async def prepare(self, order: Order, inputs: Inputs) -> Request:
        """Flat fields become the one clip; assets travel as Links."""
        if order.model == V3:
            return await self._v3.prepare(order, inputs)
        if self._translates:
            return await self._v3.prepare(replace(order, fields=_as_v3(HeyGenFields(**order.fields))), inputs)
        fields = HeyGenFields(**order.fields)
        background = fields.background
        if background and not background.startswith("#"):
            background = inputs.url(background)
        body = without_none(
            background=background,
            ratio=fields.aspect_ratio,
            test=fields.test,
            version="v1alpha",
            caption_open=fields.captions,
            clips=[_clip(part, inputs) for part in fields.parts()],
        )
        return Request("/v1/video.generate", json={**body, **order.extra})

    async def submit(self, request: Request) -> Ticket:
        """The reply is `{code: 100, data: {video_id}}`; any other code is a refusal, whatever the HTTP status.

        The page's own table calls the id `id`, and has no envelope.
        """
        if request.path.startswith("/v3/"):
            return await self._v3.submit(request)
        try:
            answer = await self.upstream.submit(request)
        except UpstreamRetired as error:
            raise UpstreamRetired(f"{error.message} Order {V3} instead.") from None
        try:
            body = answer.exact()
        except UnreadableAnswer:
            body = {}
        body = body if isinstance(body, dict) else {}
        if not isinstance(body.get("code"), int | str | None):
            raise self.dialect.missing_ticket(answer, "cannot be understood")
        if not _is_ok(body):
            raise self.dialect.refusal_in_success(answer)
        video = id_in(body, "video_id")
        if not video:
            raise self.dialect.missing_ticket(answer, "names no video_id")
        return {"video_id": video}

    async def check(self, ticket: Ticket, last_answers: LastAnswers) -> Update:
        """`completed` and `failed` end; every other word goes on."""
        if "video" in ticket:
            return await self._check_v3(ticket, last_answers)
        answer, data = await self._status(ticket, last_answers)
        word = data.get("status")
        if not isinstance(word, str) or not plain(word):
            return self.without_status(answer, word)
        shown = self.dialect.safe_text(word)
        match plain(word):
            case "completed":
                return Update(detail=shown, status=Status.COMPLETED, outputs=self._videos(ticket, data))
            case "failed":
                return Update(detail=shown, status=Status.ERROR, error=self._failure(data.get("error")))
        return self.in_progress(word, _GOING_ON, answer)

    async def _check_v3(self, ticket: Ticket, last_answers: LastAnswers) -> Update:
        answer, word, ended = await self._v3.check(ticket, last_answers)
        if ended is not None:
            return ended
        return (
            self.without_status(answer) if word is None else self.in_progress(word, heygen_v3.IN_PROGRESS_WORDS, answer)
        )

    async def cancel(self, ticket: Ticket) -> None:
        """Delete the video. v1 has no such call."""
        if "video" in ticket:
            await self._v3.cancel(ticket)

    def _failure(self, error: object) -> JobError:
        kind = type(self.dialect.failure({"error": error}, ""))
        return kind(self.dialect.safe_text(_reason(error) or "HeyGen gave no reason."))

    async def content(self, ticket: Ticket, output: Output, n: int) -> Source:
        """URLs expire after days; the status call signs fresh ones."""
        if "video" in ticket:
            fresh = list(await self._v3.fresh_outputs(ticket))
        else:
            _, data = await self._status(ticket)
            fresh = self._videos(ticket, data)
        return Source((fresh[n].output.url if n < len(fresh) else output.url) or "")

    async def _status(self, ticket: Ticket, last_answers: LastAnswers | None = None) -> tuple[Answer, dict[str, Any]]:
        answer = await self.upstream.get("/v1/video_status.get", {"video_id": ticket["video_id"]}, last_answers)
        body = self.dialect.json_object(answer)
        if not _is_ok(body):
            raise self.dialect.unreadable(answer, f"has the code {self.dialect.safe_text(str(body['code']))[:50]}")
        return answer, data_of(body)

    def _videos(self, ticket: Ticket, data: dict[str, Any]) -> list[NewOutput]:
        urls = [*urls_in(data.get("video_url"), data.get("video_urls")), *urls_in(data.get("video_url_caption"))]
        made = [self._video(ticket, self.upstream.absolute(url), data) for url in urls]
        if not made:
            raise NotReady("HeyGen says completed, but gives no video's URL yet.")
        return made

    def _video(self, ticket: Ticket, url: str, data: dict[str, Any]) -> NewOutput:
        return NewOutput(
            Output(
                Role.VIDEO,
                by_url(url, Role.VIDEO),
                url=url,
                thumbnail_url=self.upstream.url_or_none(data.get("thumbnail_url")),
                ids={"id": ticket["video_id"]},
            )
        )


def _is_ok(body: dict[str, Any]) -> bool:
    return str(body.get("code") or _OK) == str(_OK)


def _clip(part: Clip, inputs: Inputs) -> dict[str, Any]:
    return without_none(
        avatar_id=part.avatar_id,
        avatar_style=part.avatar_style,
        talking_photo_id=part.talking_photo_id,
        talking_photo_style=part.talking_photo_style,
        input_text=part.prompt,
        input_audio=inputs.url(part.audio) if part.audio else None,
        voice_id=part.voice_id,
        scale=part.scale,
        offset=part.offset.model_dump() if part.offset else None,
    )


def _reason(error: object) -> str | None:
    """`{code, message, detail}`, or a text."""
    if isinstance(error, dict):
        texts = [str(error[name]) for name in ("message", "detail", "code") if error.get(name)]
        return ": ".join(texts[:2]) or None
    return str(error) if error else None


def _as_v3(fields: HeyGenFields) -> dict[str, Any]:
    """Return the fields of heygen-v3 for an order of heygen-v1 that uses nothing that v3 lacks.

    A talking photo's id is a look's id in v3 (inferred from the provider's endpoint comparison, 2026-11).
    """
    parts = [
        without_none(
            prompt=part.prompt,
            audio=part.audio,
            avatar_id=part.avatar_id or part.talking_photo_id,
            voice_id=part.voice_id,
            background=fields.background,
        )
        for part in fields.parts()
    ]
    if fields.clips is not None:
        return {"scenes": parts}
    return without_none(**parts[0], aspect_ratio=fields.aspect_ratio, captions=fields.captions or None)


def _without_counterpart(fields: HeyGenFields, extra: Mapping[str, Any]) -> list[FieldError]:
    """Return an error for each field of an order of heygen-v1 that v3 lacks."""
    names = []
    for index, part in enumerate(fields.parts()):
        prefix = "" if fields.clips is None else f"clips.{index}."
        names += [f"{prefix}{name}" for name in ("scale", "offset") if getattr(part, name) is not None]
        styles = ("avatar_style", "talking_photo_style")
        names += [f"{prefix}{name}" for name in styles if getattr(part, name) == "circle"]
    if fields.test:
        names.append("test")
    if fields.clips is not None:  # a studio video has its format and captions from its scenes
        names += [name for name in ("aspect_ratio", "captions") if getattr(fields, name)]
    if fields.background and _VIDEO_URL.search(fields.background):
        names.append("background")
    names += [f"extra.{name}" for name in extra]
    return [FieldError(name, f"HeyGen's v3 API has no such field; {V3} lists what it has") for name in names]
