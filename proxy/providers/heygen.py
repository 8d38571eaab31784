"""HeyGen v1: avatar clips; and the model of v3, whose calls are in heygen_v3.py.

An order of v1 is one or more clips, and the reply's `video_id` is polled. The envelope is `{code, message, data}`. A
call has succeeded if `code == 100`; the HTTP status does not matter. A failed video is HTTP 200 with `data.error`. URLs
expire after seven days, and each status call signs new ones.

Source: HeyGen's v1 reference page, read 2026-11. It calls the API deprecated. Lines with another source say so.
Source: HeyGen's newer pages, read 2026-11, for the states `pending` and `waiting`, the error codes and the expiry.
Source: third-party clients, read 2026-11, for the envelope and `voice_id`.
Inferred, 2026-11: 404, 405 or 410 at submit means that the API is gone.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from proxy.core.errors import FieldError, JobError, UpstreamRetired
from proxy.core.job import Kind, Order, Output, Role, Status, Ticket
from proxy.core.media_types import by_url, kind_of
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
    references,
)
from proxy.providers.heygen_v3 import HeyGenV3, HeyGenV3Fields, data_of
from proxy.store.types import Asset
from proxy.upstream.answers import Answer, LastAnswers, NotReady, UnreadableAnswer
from proxy.upstream.classify import Dialect, plain
from proxy.upstream.requests import Request

Style = Literal["normal", "circle"]

_SUCCESS_CODE = 100
"""`code` in the envelope of a successful call."""
_NO_CREDIT = ("40009", "insufficient_credit")
"""Error codes for an empty account, in v1 and in v3."""
_VIDEO_URL = re.compile(r"\.(mp4|m4v|mov|webm)([?#]|$)", re.IGNORECASE)
"""URL of a video. v3 does not accept a video as a background."""
_IN_PROGRESS_WORDS = frozenset({"pending", "waiting", "processing"})
V3_MODEL = heygen_v3.MODEL.name
"""Name of the model that orders of v1 should use instead."""


class HeyGenSettings(ProviderSettings):
    """Settings with the prefix `HEYGEN_`."""

    model_config = SettingsConfigDict(env_prefix="HEYGEN_")

    base_url: str = "https://api.heygen.com"
    poll_interval: float = Field(default=5, gt=0)
    deadline: float = Field(default=3600, gt=0)
    v1: Literal["keep", "translate"] = "keep"
    """With `translate`, orders of heygen-v1 are sent to the v3 API."""


class Offset(Fields):
    """Position of the avatar: 0 is the center, -0.5 the left or top edge of the screen."""

    x: float = 0
    y: float = 0


class _Speech(Fields):
    """A speaker (avatar or talking photo) and the speech (prompt or audio)."""

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
"""JSON Schema of the rules that `_check_clip` checks."""


class Clip(_Speech):
    """One clip of an order with `clips`."""

    model_config = ConfigDict(json_schema_extra=dict(_CLIP_RULES))

    @model_validator(mode="after")
    def _check_fields(self) -> "Clip":
        _check_clip(self)
        return self


def _check_clip(fields: _Speech) -> None:
    check_exactly_one(fields, "prompt", "audio")
    check_exactly_one(fields, "avatar_id", "talking_photo_id")
    check_dependency(fields, "avatar_style", "avatar_id")
    check_dependency(fields, "talking_photo_style", "talking_photo_id")
    check_dependency(fields, "voice_id", "prompt")


_CLIP_FIELDS = tuple(_Speech.model_fields)


class HeyGenFields(_Speech):
    """Fields of heygen-v1: the flat fields of one clip, or `clips`; and the fields of the whole video."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {**_CLIP_RULES, "properties": {"clips": False}},
                {"required": ["clips"], "properties": dict.fromkeys(_CLIP_FIELDS, False)},
            ],
            "if": {"required": ["captions"], "properties": {"captions": {"const": True}}},
            "then": {"properties": {"audio": False, "clips": {"items": {"required": ["prompt"]}}}},
        }
    )

    clips: Annotated[list[Clip], Field(min_length=1, max_length=MAX_PARTS)] | None = None
    background: VisualRef | None = Field(
        default=None,
        description="An image or mp4 (asset id or public URL), or a color such as #FAFAFA.",
        json_schema_extra=dict(COLOR_SCHEMA),
    )
    aspect_ratio: Literal["16:9", "9:16"] | None = None
    test: bool = False
    captions: bool = False

    @model_validator(mode="after")
    def _check_fields(self) -> "HeyGenFields":
        flat_names = [name for name in _CLIP_FIELDS if getattr(self, name) is not None]
        if self.clips is None:
            _check_clip(self)
        elif flat_names:
            raise field_error(
                flat_names[0], f"{', '.join(flat_names)} cannot be combined with clips: put them into the clips"
            )
        if self.captions and any(clip.prompt is None for clip in self.parts()):
            raise field_error(
                "captions", "captions requires prompt in each clip, because the provider captions only text"
            )
        return self

    _check_color = field_validator("background")(check_color)

    def parts(self) -> Sequence[Clip]:
        """Return the order's clips. An order with flat fields has one."""
        return self.clips or [Clip(**{name: getattr(self, name) for name in _CLIP_FIELDS})]


def _video_units(fields: Mapping[str, Any]) -> int:
    return 0 if fields.get("test") else 1


_COSTLY_NAMES = COUNTS | DURATIONS | QUALITIES | PRIORITIES | {"scenes", "engine", "video_inputs"}
"""Names of options that may cost more. HeyGen's later versions have the last three, for scenes and engines.

Source: HeyGen's v3 API reference, read 2026-11.
"""


class HeyGen(Provider):
    """Adapter for https://api.heygen.com: v1, and v3 through `HeyGenV3`."""

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
            note="The provider refuses avatars made after 2024-03-21. It has announced the end of v1: order heygen-v3.",
            costly=_COSTLY_NAMES,
            media="linked",
            units=_video_units,
            # Source: HeyGen's endpoint comparison, read 2026-11.
            retired_on="2026-10-31",
        ),
        heygen_v3.MODEL,
    )
    settings_type = HeyGenSettings

    @property
    def _translates_v1(self) -> bool:
        return isinstance(self.settings, HeyGenSettings) and self.settings.v1 == "translate"

    @cached_property
    def _v3(self) -> HeyGenV3:
        """The v3 API. A job continues on the API that gave its ticket."""
        # In v3, 404 means an unknown avatar or voice. It does not mean the end of the API.
        return HeyGenV3(self.upstream, replace(self.dialect, retired=(405, 410)))

    def declare_dialect(self) -> Dialect:
        """Return the dialect of both APIs.

        40009 and `insufficient_credit` mean an empty account; 400112, 401057 and `unauthorized` an invalid key.
        """
        return Dialect(
            {"X-Api-Key": self.settings.key},
            no_credit=_NO_CREDIT,
            refused_key=("400112", "401057", "unauthorized"),
            retired=(404, 405, 410),
            in_progress=(heygen_v3.REPEAT_IN_PROGRESS,),
        )

    def sent_model(self, order: Order) -> Model:
        """Return heygen-v3 for an order of heygen-v1 that is translated."""
        return heygen_v3.MODEL if self._translates_v1 else super().sent_model(order)

    def validate(self, order: Order, assets: Mapping[str, Asset]) -> Sequence[FieldError]:
        """Return errors for assets that HeyGen cannot fetch, and for fields that cannot be translated to v3."""
        if order.model == V3_MODEL:
            return self._fetch_errors(HeyGenV3Fields(**order.fields), assets, heygen_v3.UPLOAD_LIMIT)
        fields = HeyGenFields(**order.fields)
        if not self._translates_v1:
            return self._fetch_errors(fields, assets, 0)
        fetch_errors = self._fetch_errors(fields, assets, heygen_v3.UPLOAD_LIMIT)
        return [*_translation_errors(fields, order.extra, assets), *fetch_errors]

    def _fetch_errors(self, fields: Fields, assets: Mapping[str, Asset], upload_limit: int) -> list[FieldError]:
        """Return an error for each asset above the upload limit, if its Link has an address that HeyGen cannot open."""
        if not is_loopback(self.public_url) or is_loopback(self.settings.base_url):
            return []
        return [
            FieldError(
                reference.field,
                "HeyGen must fetch this asset, but POLLCAST_PUBLIC_URL is a loopback address: set it to an address "
                "that HeyGen can open, or give a public https URL.",
            )
            for reference in references(fields)
            if reference.ref in assets and assets[reference.ref].size > upload_limit
        ]

    async def check_key(self) -> str:
        """Read the operator's account, which is free.

        Source: HeyGen's v3 API reference, read 2026-11.
        """
        await self.upstream.check_key("/v3/users/me")
        return ""

    async def prepare(self, order: Order, inputs: Inputs) -> Request:
        """Build the request. Flat fields become one clip, and assets are passed as Links."""
        if order.model == V3_MODEL:
            return await self._v3.prepare(order, inputs)
        if self._translates_v1:
            return await self._v3.prepare(replace(order, fields=_to_v3_fields(HeyGenFields(**order.fields))), inputs)
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
            clips=[_build_clip(part, inputs) for part in fields.parts()],
        )
        return Request("/v1/video.generate", json={**body, **order.extra})

    async def submit(self, request: Request) -> Ticket:
        """Send the order once. The reply is `{code: 100, data: {video_id}}`; another code is a refusal.

        The page's table names the id `id` and shows no envelope, so both forms are accepted.
        """
        if request.path.startswith("/v3/"):
            return await self._v3.submit(request)
        try:
            answer = await self.upstream.submit(request)
        except UpstreamRetired as error:
            raise UpstreamRetired(f"{error.message} Order {V3_MODEL} instead.") from None
        try:
            body = answer.exact()
        except UnreadableAnswer:
            body = {}
        body = body if isinstance(body, dict) else {}
        if not isinstance(body.get("code"), int | str | None):
            raise self.dialect.missing_ticket(answer, "cannot be understood")
        if not _is_success(body):
            raise self.dialect.refusal_in_success(answer)
        video = id_in(body, "video_id")
        if not video:
            raise self.dialect.missing_ticket(answer, "names no video_id")
        return {"video_id": video}

    async def check(self, ticket: Ticket, last_answers: LastAnswers) -> Update:
        """Read the video's status. Every word except `completed` and `failed` means that the work continues."""
        if "video" in ticket:
            return await self._check_v3(ticket, last_answers)
        answer, data = await self._status(ticket, last_answers)
        word = data.get("status")
        if not isinstance(word, str) or not plain(word):
            return self.without_status(answer, word)
        detail = self.dialect.safe_text(word)
        match plain(word):
            case "completed":
                return Update(detail=detail, status=Status.COMPLETED, outputs=self._outputs(ticket, data))
            case "failed":
                return Update(detail=detail, status=Status.ERROR, error=self._failure(data.get("error")))
        return self.in_progress(word, _IN_PROGRESS_WORDS, answer)

    async def _check_v3(self, ticket: Ticket, last_answers: LastAnswers) -> Update:
        answer, word, ended = await self._v3.check(ticket, last_answers)
        if ended is not None:
            return ended
        return (
            self.without_status(answer) if word is None else self.in_progress(word, heygen_v3.IN_PROGRESS_WORDS, answer)
        )

    def batch_size(self, ticket: Ticket) -> int:
        """Return the size of a bulk status, which v3 has and v1 has not."""
        return heygen_v3.BATCH_SIZE if "video" in ticket else 1

    async def check_many(self, tickets: Sequence[Ticket]) -> Sequence[Answer | None]:
        """Read the bulk status of videos of v3."""
        return await self._v3.check_many(tickets)

    def read_part(self, ticket: Ticket, part: Answer, last_answers: LastAnswers) -> Update | None:
        """Return the update of a video that is still made; the single status tells how one has ended."""
        word = self._v3.read_part(ticket, part, last_answers)
        return self.in_progress(word, heygen_v3.IN_PROGRESS_WORDS, part) if word is not None else None

    async def cancel(self, ticket: Ticket) -> None:
        """Delete a video of v3. v1 documents no call for it."""
        if "video" in ticket:
            await self._v3.cancel(ticket)

    def _failure(self, error: object) -> JobError:
        kind = type(self.dialect.failure({"error": error}, ""))
        return kind(self.dialect.safe_text(_error_text(error) or "HeyGen gave no reason."))

    async def content(self, ticket: Ticket, output: Output, n: int) -> Source:
        """Return the URL that the status call signs now, because URLs expire after seven days."""
        if "video" in ticket:
            outputs = list(await self._v3.fresh_outputs(ticket))
        else:
            _, data = await self._status(ticket)
            outputs = self._outputs(ticket, data)
        return Source((outputs[n].output.url if n < len(outputs) else output.url) or "")

    async def _status(self, ticket: Ticket, last_answers: LastAnswers | None = None) -> tuple[Answer, dict[str, Any]]:
        answer = await self.upstream.get("/v1/video_status.get", {"video_id": ticket["video_id"]}, last_answers)
        body = self.dialect.json_object(answer)
        if not _is_success(body):
            raise self.dialect.unreadable(answer, f"has the code {self.dialect.safe_text(str(body['code']))[:50]}")
        return answer, data_of(body)

    def _outputs(self, ticket: Ticket, data: dict[str, Any]) -> list[NewOutput]:
        urls = [*urls_in(data.get("video_url"), data.get("video_urls")), *urls_in(data.get("video_url_caption"))]
        outputs = [self._output(ticket, self.upstream.absolute(url), data) for url in urls]
        if not outputs:
            raise NotReady("HeyGen reports completed, but names no video URL yet.")
        return outputs

    def _output(self, ticket: Ticket, url: str, data: dict[str, Any]) -> NewOutput:
        return NewOutput(
            Output(
                Role.VIDEO,
                by_url(url, Role.VIDEO),
                url=url,
                thumbnail_url=self.upstream.url_or_none(data.get("thumbnail_url")),
                ids={"id": ticket["video_id"]},
            )
        )


def _is_success(body: dict[str, Any]) -> bool:
    return str(body.get("code") or _SUCCESS_CODE) == str(_SUCCESS_CODE)


def _build_clip(part: Clip, inputs: Inputs) -> dict[str, Any]:
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


def _error_text(error: object) -> str | None:
    """Return the text of an error `{code, message, detail}`, or of an error that is a text."""
    if isinstance(error, dict):
        texts = [str(error[name]) for name in ("message", "detail", "code") if error.get(name)]
        return ": ".join(texts[:2]) or None
    return str(error) if error else None


def _to_v3_fields(fields: HeyGenFields) -> dict[str, Any]:
    """Return the fields of heygen-v3 for an order of heygen-v1 without `_translation_errors`.

    Source: HeyGen's endpoint comparison, read 2026-11.
    Inferred, 2026-11: a talking photo's id is the id of a look in v3.
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


def _translation_errors(
    fields: HeyGenFields, extra: Mapping[str, Any], assets: Mapping[str, Asset]
) -> Iterator[FieldError]:
    """Yield an error for each field of an order of heygen-v1 that has no counterpart in v3.

    Source: HeyGen's endpoint comparison, read 2026-11. `extra` has options of v1's body, of which v3 has none.
    """
    for name in _untranslatable_fields(fields, assets):
        yield FieldError(name, f"{_SENT_TO_V3} does not have this field (see the fields of {V3_MODEL})")
    for name in extra:
        rule = f"{_SENT_TO_V3} does not have the options of v1 (order {V3_MODEL} to send those of v3)"
        yield FieldError(f"extra.{name}", rule)


_SENT_TO_V3 = "this installation sends orders of heygen-v1 to HeyGen's v3 API, which"


def _untranslatable_fields(fields: HeyGenFields, assets: Mapping[str, Asset]) -> Iterator[str]:
    for index, part in enumerate(fields.parts()):
        prefix = "" if fields.clips is None else f"clips.{index}."
        yield from (f"{prefix}{name}" for name in ("scale", "offset") if getattr(part, name) is not None)
        styles = ("avatar_style", "talking_photo_style")
        yield from (f"{prefix}{name}" for name in styles if getattr(part, name) == "circle")
    if fields.test:
        yield "test"
    if fields.clips is not None:  # In a studio video, the scenes determine the format and the captions.
        yield from (name for name in ("aspect_ratio", "captions") if getattr(fields, name))
    if fields.background and _is_video(fields.background, assets):
        yield "background"


def _is_video(background: str, assets: Mapping[str, Asset]) -> bool:
    asset = assets.get(background)
    return _VIDEO_URL.search(background) is not None if asset is None else kind_of(asset.type) is Kind.VIDEO
