"""HeyGen v1 (`/v1/video.generate`, `/v1/video_status.get`): clips in, a video out.

Source: HeyGen's v1 reference page and newer pages, read 2026-11, for the request's table, the status object, the error
codes and `X-Api-Key`.
Source: third-party clients, read 2026-11, for `voice_id` and the envelope `{code, message, data}`, whose code 100 is
success.
Inferred, 2026-11: the HTTP status of each code.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Annotated, ClassVar, Literal, Self
from urllib.parse import urlsplit

from aiohttp import web
from pydantic import AfterValidator, Field, ValidationError, model_validator

from .files import Sample
from .heygen_v3 import V3
from .messages import Answer, Operation, ReceivedRequest, Refusal, Role
from .provider import Provider, Strict
from .state import Job, Outcome, Timeline

TIMELINE = Timeline(((0.1, "pending"), (0.25, "waiting"), (1.0, "processing")))
LINK_LIFETIME = 7 * 24 * 3600.0
"""Simulated seconds for which a URL works by default."""
SUCCESS_CODE = 100
"""`code` of a successful call."""
MAX_TEXT_LENGTH = 5000
"""Maximum length of `input_text`, in characters."""


def public_url(value: str) -> str:
    """Check that a value is an HTTP URL."""
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be an http or https URL")
    return value


def color_or_url(value: str) -> str:
    """Check that a value is a color such as `#FAFAFA` or an HTTP URL."""
    return value if re.fullmatch(r"#[0-9a-fA-F]{6}", value) else public_url(value)


class Offset(Strict):
    """Position of the avatar. 0 is the center."""

    x: float = 0
    y: float = 0


class Clip(Strict):
    """A clip of the video: an avatar or a talking photo, with text or audio."""

    avatar_id: Annotated[str, Field(min_length=1)] | None = None
    avatar_style: Literal["normal", "circle"] | None = None
    talking_photo_id: Annotated[str, Field(min_length=1)] | None = None
    talking_photo_style: Literal["normal", "circle"] | None = None
    input_text: str | None = None
    input_audio: Annotated[str, AfterValidator(public_url)] | None = None
    voice_id: Annotated[str, Field(min_length=1)] | None = None
    scale: Annotated[float, Field(gt=0)] = 1
    offset: Offset | None = None

    @model_validator(mode="after")
    def _check_fields(self) -> Self:
        if (self.avatar_id is None) == (self.talking_photo_id is None):
            raise ValueError("exactly one of avatar_id and talking_photo_id is needed")
        if (self.input_text is None) == (self.input_audio is None):
            raise ValueError("exactly one of input_text and input_audio is needed")
        return self


class Video(Strict):
    """Body of a submit."""

    version: Literal["v1alpha"]
    clips: Annotated[list[Clip], Field(min_length=1)]
    background: Annotated[str, AfterValidator(color_or_url)] | None = None
    ratio: Literal["16:9", "9:16"] = "16:9"
    test: bool = False
    caption_open: bool = False

    @model_validator(mode="after")
    def _check_captions(self) -> Self:
        if self.caption_open and any(clip.input_text is None for clip in self.clips):
            raise ValueError("caption_open needs input_text")
        return self

    @property
    def prompt(self) -> str:
        """All spoken text."""
        return "\n".join(clip.input_text for clip in self.clips if clip.input_text is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering(Job):
    """A video, with a flag for captions."""

    captions: bool


@dataclass(slots=True, kw_only=True)
class HeyGen(Provider):
    """Simulated HeyGen API."""

    seconds: float = 9
    """Usual duration of a video, in simulated seconds."""
    spelling: dict[str, str] = field(default_factory=dict)
    """Replacements for status words."""
    link_lifetime: float = LINK_LIFETIME
    """Simulated seconds for which a URL works."""
    has_envelope: bool = True
    """If True, status objects are inside `{code, message, data}`."""
    id_field: Literal["id", "video_id"] = "id"
    """Field of the status object with the video's id."""
    error_form: Literal["object", "text"] = "object"
    """Form of a failed video's `error`."""
    bad_key_code: int = 400112
    """Error code for an invalid key."""
    credits_status: int = 400
    """HTTP status of the error for missing credit."""
    blocked_words: set[str] = field(default_factory=lambda: {"blockedword"})
    """Words in lower case that a text must not contain."""
    random: Random = field(init=False)
    v3: V3 = field(init=False)
    """The v3 API, with its own options."""

    name: ClassVar[str] = "heygen"
    key: ClassVar[str] = "sim-heygen"
    invalid_status: ClassVar[int] = 400
    messages: ClassVar[Mapping[int, str]] = {
        400: "Invalid parameters",
        401: "Unauthorized",
        402: "Insufficient credit",
        404: "Video not found",
        429: "Too many requests",
        500: "Internal error",
    }

    def __post_init__(self) -> None:
        self.random = self.state.random(self.name)
        self.v3 = V3(self.state, self.files, self.name, lambda: f"{self.random.getrandbits(128):032x}")

    def operations(self) -> tuple[Operation, ...]:
        """Return the routes of the reference."""
        return (
            Operation("heygen.submit", "POST", "/v1/video.generate", self.submit, Role.SUBMIT),
            Operation("heygen.check", "GET", "/v1/video_status.get", self.check, Role.CHECK),
            *self.v3.operations(),
        )

    def credential(self, received: ReceivedRequest) -> str | None:
        """Return the key of the `X-Api-Key` header, as documented."""
        return received.headers.get("X-Api-Key")

    def job_of(self, received: ReceivedRequest) -> Job | None:
        """Return the job of a request. v1 has its id in the query, v3 in the path."""
        return self.state.jobs.get((self.name, received.params.get("job") or received.query.get("video_id", "")))

    def error(self, status: int, message: str = "") -> web.Response:
        """Return an error with the code for a status."""
        codes = {400: 40001, 401: self.bad_key_code, 402: 40009, 404: 40040, 422: 400175, 429: 40029}
        return self._error_with_code(status, codes.get(status, status * 100), self.message(status, message))

    def invalid(self, error: ValidationError) -> web.Response:
        """Return a validation error: code 40001 for an invalid value, 400175 for fields that exclude each other."""
        first = error.errors(include_url=False, include_context=False)[0]
        code = 400175 if first["type"] == "value_error" else 40001
        where = ".".join(map(str, first["loc"]))
        return self._error_with_code(400, code, f"{where} is invalid: {first['msg']}" if where else first["msg"])

    def no_credit(self) -> web.Response:
        """Return the error for missing credit, with code 40009."""
        return self._error_with_code(self.credits_status, 40009, "Insufficient credit")

    async def submit(self, received: ReceivedRequest) -> Answer:
        """Start a video."""
        order = self.parse(Video, received.body)
        self._check_texts(order)
        job = Rendering(
            provider=self.name,
            id=f"{self.random.getrandbits(128):032x}",
            model="v1alpha",
            prompt=order.prompt,
            created_at=self.state.time(),
            seconds=self.state.pick_duration(self.seconds, order.prompt, self.random),
            captions=order.caption_open,
        )
        self.state.add(job)
        base = f"heygen/{job.id}"
        self.files.publish(f"{base}/video.mp4", Sample.VIDEO, signed=True)
        self.files.publish(f"{base}/captions.mp4", Sample.VIDEO, signed=True)
        self.files.publish(f"{base}/preview.gif", Sample.PREVIEW, signed=True)
        self.files.publish(f"{base}/thumbnail.jpg", Sample.THUMBNAIL, signed=True)
        return web.json_response({"code": SUCCESS_CODE, "message": "Success", "data": {"video_id": job.id}})

    async def check(self, received: ReceivedRequest) -> Answer:
        """Return the state of a video. A failed video is also HTTP 200, and every call signs new URLs."""
        if not received.query.get("video_id"):
            raise self.refuse(400, "video_id is required")
        job = self.job_of(received)
        if not isinstance(job, Rendering):
            raise self.refuse(404)
        document = self._document(job)
        if not self.has_envelope:
            return web.json_response(document)
        return web.json_response({"code": SUCCESS_CODE, "message": "Success", "data": document})

    def _document(self, job: Rendering) -> dict[str, object]:
        share = self.state.share(job)
        # HeyGen documents no status for canceled videos.
        end_word = "completed" if job.outcome is Outcome.SUCCEEDED else "failed"
        status = TIMELINE.word(job, share) or end_word
        done = self.state.is_done(job)
        return {
            self.id_field: job.id,
            "status": self.spelling.get(status, status),
            "video_url": self._link(job, "video.mp4") if done else None,
            "video_url_caption": self._link(job, "captions.mp4") if done and job.captions else None,
            "gif_url": self._link(job, "preview.gif") if done else None,
            "thumbnail_url": self._link(job, "thumbnail.jpg") if done else None,
            "duration": 2.0 if done else None,
            "error": self._failure() if share >= 1 and not done else None,
        }

    def _link(self, job: Rendering, name: str) -> str:
        return self.files.link(f"heygen/{job.id}/{name}", self.link_lifetime)

    def _failure(self) -> object:
        detail = "The avatar could not be rendered"
        if self.error_form == "text":
            return detail
        return {"code": 40119, "message": "Video generation failed", "detail": detail}

    def _check_texts(self, order: Video) -> None:
        texts = [clip.input_text for clip in order.clips if clip.input_text is not None]
        if any(not text.strip() or len(text) > MAX_TEXT_LENGTH for text in texts):
            raise Refusal(self._error_with_code(400, 40039, "input_text is empty or too long"))
        if any(word in text.lower() for text in texts for word in self.blocked_words):
            raise Refusal(self._error_with_code(400, 400105, "input_text contains blocked words"))

    def _error_with_code(self, status: int, code: int, message: str) -> web.Response:
        return web.json_response({"code": code, "message": message}, status=status)
