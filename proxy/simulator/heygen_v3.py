"""HeyGen v3 (`/v3/videos`, `/v3/assets`, `/v3/users/me`): idempotent submits, single and bulk status, deletion.

Source: HeyGen's v3 API reference, read 2026-11, for the paths, the bodies of `avatar` and `image`, the status object,
`not_found`, the shape of an error, and the idempotency key with its 24 hours and its 409.
Source: public client code, read 2026-12, for the shapes of `background`, `caption` and `engine`, of the bulk answer and
of the upload's answer.
Source: HeyGen's page of error codes, read 2026-12, for `unauthorized`, `insufficient_credit`, `forbidden`, `not_found`,
`download_failed`, `param` and the form of `doc_url`.
Inferred, 2026-12: the fields of a scene, the other codes, and that a refusal is not kept under its key.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from aiohttp import web
from pydantic import Field, ValidationError, model_validator

from .files import Files, Inline, Sample
from .messages import Answer, Operation, ReceivedRequest, Refusal, Role
from .provider import Strict
from .state import Job, Outcome, State, Timeline

TIMELINE = Timeline(((0.1, "waiting"), (0.3, "pending"), (1.0, "processing")))
KEY_PATTERN = re.compile(r"[A-Za-z0-9_:.\-]{1,255}")
"""Form of an idempotency key."""
KEY_LIFETIME = 24 * 3600.0
"""Simulated seconds for which a repeat with the same key gets the first answer."""
MAX_UPLOAD_SIZE = 32 << 20
"""Maximum size of an upload, in bytes."""
MAX_IDS = 100
"""Maximum number of videos in one bulk status call."""
LINK_LIFETIME = 7 * 24 * 3600.0
"""Simulated seconds for which a URL works by default."""
CODES = {
    400: "invalid_parameter",
    401: "unauthorized",
    402: "insufficient_credit",
    429: "rate_limit_exceeded",
    500: "internal_error",
}
"""Codes of HTTP statuses. Those of the others are HTTP's phrase, such as `not_found`."""


class AssetInput(Strict):
    """A file, by its URL or id, or a color."""

    type: Literal["url", "asset_id", "image", "color"]
    url: str | None = None
    asset_id: str | None = None
    value: str | None = None

    @model_validator(mode="after")
    def _check_place(self) -> Self:
        if sum(place is not None for place in (self.url, self.asset_id, self.value)) != 1:
            raise ValueError("exactly one of url, asset_id and value is needed")
        return self


class Caption(Strict):
    """Captions: a file, and a captioned video if there is a style."""

    file_format: Literal["srt"]
    style: str | None = None


class Engine(Strict):
    """The rendering engine."""

    type: Literal["avatar_iii", "avatar_iv", "avatar_v"]


class Speech(Strict):
    """The fields that videos and scenes share."""

    avatar_id: Annotated[str, Field(min_length=1)] | None = None
    image: AssetInput | None = None
    script: Annotated[str, Field(min_length=1)] | None = None
    audio_url: str | None = None
    audio_asset_id: str | None = None
    voice_id: str | None = None
    background: AssetInput | None = None

    def urls(self) -> Iterator[str]:
        """Yield the URLs of its files."""
        places = (self.audio_url, *(place.url for place in (self.image, self.background) if place))
        yield from (url for url in places if url is not None)

    @model_validator(mode="after")
    def _check_fields(self) -> Self:
        if sum(value is not None for value in (self.script, self.audio_url, self.audio_asset_id)) != 1:
            raise ValueError("exactly one of script, audio_url and audio_asset_id is needed")
        if (self.avatar_id is None) == (self.image is None):
            raise ValueError("exactly one of avatar_id and image is needed")
        return self


class Scene(Speech):
    """A scene of a studio video."""

    type: Literal["avatar_video", "image"]


class Video(Speech):
    """A video of one avatar or image."""

    type: Literal["avatar", "image"]
    title: str | None = None
    resolution: Literal["720p", "1080p", "4k"] = "1080p"
    aspect_ratio: Literal["16:9", "9:16", "4:5", "5:4", "1:1", "auto"] = "16:9"
    caption: Caption | None = None
    engine: Engine | None = None
    output_format: Literal["mp4", "webm"] = "mp4"
    callback_url: str | None = None
    callback_id: str | None = None

    @property
    def parts(self) -> tuple[Speech, ...]:
        """The video as its only scene."""
        return (self,)

    @property
    def prompt(self) -> str:
        """The script."""
        return self.script or ""


class Studio(Strict):
    """A studio video."""

    type: Literal["studio"]
    scenes: Annotated[list[Scene], Field(min_length=1, max_length=50)]
    caption: None = None

    @property
    def parts(self) -> tuple[Speech, ...]:
        """The scenes."""
        return tuple(self.scenes)

    @property
    def prompt(self) -> str:
        """The scripts of all scenes."""
        return "\n".join(scene.script for scene in self.scenes if scene.script)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering(Job):
    """A v3 video, with a flag for captions."""

    captions: bool


@dataclass(slots=True)
class FirstAnswer:
    """The first answer under an idempotency key. `body` is None until the answer is complete."""

    time: float
    body: bytes | None = None


@dataclass(slots=True, eq=False)
class V3:
    """The v3 routes and the format of their errors. `HeyGen` adds them to its own."""

    state: State
    files: Files
    provider: str
    random_id: Callable[[], str]
    seconds: float = 9
    """Usual duration of a video, in simulated seconds."""
    link_lifetime: float = LINK_LIFETIME
    """Simulated seconds for which a URL works."""
    max_upload_size: int = MAX_UPLOAD_SIZE
    """Maximum size of an upload, in bytes."""
    submit_seconds: float = 0
    """Duration of a submit, in simulated seconds. A repeat during this time gets 409."""
    conflicts: int = 0
    """Number of further repeats that get 409, even after the first submit has ended."""
    bulk_finds_videos: bool = True
    """False if the bulk status answers `not_found` for every video."""
    blocked_words: set[str] = field(default_factory=lambda: {"blockedword"})
    """Words in lower case that a script must not contain."""
    purchases: Counter[str] = field(default_factory=Counter)
    """Number of videos made, by idempotency key."""
    deleted: set[str] = field(default_factory=set)
    """Ids of deleted videos. They stay in the state, because they were bought."""
    _first_answers: dict[str, FirstAnswer] = field(default_factory=dict)
    _assets: set[str] = field(default_factory=set)

    def operations(self) -> tuple[Operation, ...]:
        """Return the routes. The bulk status comes first, because the single one's pattern matches it too."""
        return (
            Operation("heygen3.submit", "POST", "/v3/videos", self.submit, Role.SUBMIT, self),
            Operation("heygen3.statuses", "GET", "/v3/videos/statuses", self.statuses, errors=self),
            Operation("heygen3.check", "GET", "/v3/videos/{job}", self.check, Role.CHECK, self),
            Operation("heygen3.delete", "DELETE", "/v3/videos/{job}", self.delete, errors=self),
            Operation("heygen3.upload", "POST", "/v3/assets", self.upload, errors=self),
            Operation("heygen3.me", "GET", "/v3/users/me", self.me, errors=self),
        )

    def error(self, status: int, message: str = "") -> web.Response:
        """Return an error with the code of its status."""
        phrase = HTTPStatus(status).phrase
        code = CODES.get(status) or re.sub(r"\W+", "_", phrase.replace("'", "")).lower()
        return failure(status, code, message or phrase)

    def reject(self) -> web.Response:
        """Return the parameter error that the prompt word `[reject]` causes."""
        return failure(400, "invalid_parameter", "script is invalid", "script")

    def no_credit(self) -> web.Response:
        """Return the error for missing credit."""
        return failure(402, "insufficient_credit", "Your account has 0 credits, but this video requires 1 credit")

    async def submit(self, received: ReceivedRequest) -> Answer:
        """Start a video, once for each key."""
        key = received.headers.get("Idempotency-Key")
        if key is None:
            return self._start(received, "")
        if not KEY_PATTERN.fullmatch(key):
            raise refusal(400, "invalid_parameter", "Idempotency-Key is invalid")
        first = self._first_answers.get(key)
        if first is not None and self.state.time() - first.time < KEY_LIFETIME:
            self.conflicts -= 1
            if first.body is None or self.conflicts >= 0:
                raise refusal(409, "request_in_progress", "A request with this Idempotency-Key is in progress")
            return web.json_response(body=first.body)
        first = self._first_answers[key] = FirstAnswer(self.state.time())
        try:
            if self.submit_seconds:
                await asyncio.shield(self._pause())
            answer = self._start(received, key)
        except BaseException:
            self._first_answers.pop(key, None)
            raise
        first.body = bytes(answer.body) if isinstance(answer.body, bytes) else b""
        return answer

    async def _pause(self) -> None:
        await self.state.pause(self.submit_seconds)

    def _start(self, received: ReceivedRequest, key: str) -> web.Response:
        order = parse(received.body)
        if any(word in order.prompt.lower() for word in self.blocked_words):
            raise refusal(400, "content_moderated", "The script was refused by moderation")
        self._open_files(order)
        job = Rendering(
            provider=self.provider,
            id=self.random_id(),
            model="v3",
            prompt=order.prompt,
            created_at=self.state.time(),
            seconds=self.state.pick_duration(self.seconds, order.prompt, self.state.random(f"v3/{key}")),
            captions=order.caption is not None,
        )
        self.state.add(job)
        self.purchases[key] += 1
        subtitles = Inline(f"1\n00:00:00,000 --> 00:00:02,000\n{order.prompt}\n".encode(), "application/x-subrip")
        for name, content in {**_SAMPLES, "captions.srt": subtitles}.items():
            self.files.publish(f"heygen3/{job.id}/{name}", content, signed=True)
        return web.json_response({"data": {"video_id": job.id, "status": "waiting", "output_format": "mp4"}})

    def _open_files(self, order: Video | Studio) -> None:
        """Refuse an order whose files are unknown, or cannot be opened: those of the domain `.invalid` (RFC 2606)."""
        for part in order.parts:
            named = (part.audio_asset_id, *(place.asset_id for place in (part.image, part.background) if place))
            for asset in named:
                if asset is not None and asset not in self._assets:
                    raise refusal(404, "not_found", f"Asset {asset} not found")
            for url in part.urls():
                if (urlsplit(url).hostname or "invalid").endswith("invalid"):
                    raise refusal(400, "download_failed", f"{url} cannot be downloaded")

    async def check(self, received: ReceivedRequest) -> Answer:
        """Return the state of a video."""
        return web.json_response({"data": self._document(self._find(received.params["job"]))})

    async def statuses(self, received: ReceivedRequest) -> Answer:
        """Return the states of up to a hundred videos."""
        ids = [text for text in received.query.get("video_ids", "").split(",") if text]
        if not 0 < len(ids) <= MAX_IDS:
            raise refusal(400, "invalid_parameter", "video_ids must name 1 to 100 videos", "video_ids")
        return web.json_response({"data": [self._summary(video) for video in ids]})

    def _summary(self, video: str) -> dict[str, object]:
        job = self.state.jobs.get((self.provider, video))
        if not isinstance(job, Rendering) or job.id in self.deleted or not self.bulk_finds_videos:
            return {"video_id": video, "status": "not_found"}
        word = self._word(job)
        return {"video_id": video, "status": "queued" if word in {"waiting", "pending"} else word}

    async def delete(self, received: ReceivedRequest) -> Answer:
        """Delete a video."""
        job = self._find(received.params["job"])
        self.deleted.add(job.id)
        return web.json_response({"data": {"id": job.id, "deleted": True}})

    def _find(self, video: str) -> Rendering:
        job = self.state.jobs.get((self.provider, video))
        if not isinstance(job, Rendering) or job.id in self.deleted:
            raise refusal(404, "not_found", "Video not found")
        return job

    async def upload(self, received: ReceivedRequest) -> Answer:
        """Store an uploaded file and return its id."""
        part = received.part("file")
        if part is None or not part.body:
            raise refusal(400, "invalid_parameter", "file is required", "file")
        if len(part.body) > self.max_upload_size:
            raise refusal(413, "file_too_large", "The file is larger than 32 MB", "file")
        asset = self.random_id()
        self._assets.add(asset)
        return web.json_response(
            {"data": {"asset_id": asset, "mime_type": part.content_type, "size_bytes": len(part.body)}}
        )

    async def me(self, received: ReceivedRequest) -> Answer:
        """Return the user of the key."""
        del received
        return web.json_response({"data": {"username": "demo", "email": "demo@example.com"}})

    def _word(self, job: Rendering) -> str:
        end_word = "completed" if job.outcome is Outcome.SUCCEEDED else "failed"
        return TIMELINE.word(job, self.state.share(job)) or end_word

    def _document(self, job: Rendering) -> dict[str, object]:
        done = self.state.is_done(job)
        failed = self.state.share(job) >= 1 and not done

        def link(name: str, *, wanted: bool = True) -> str | None:
            return self.files.link(f"heygen3/{job.id}/{name}", self.link_lifetime) if done and wanted else None

        return {
            "id": job.id,
            "status": self._word(job),
            "video_url": link("video.mp4"),
            "captioned_video_url": link("captioned.mp4", wanted=job.captions),
            "subtitle_url": link("captions.srt", wanted=job.captions),
            "gif_url": link("preview.gif"),
            "thumbnail_url": link("thumbnail.jpg"),
            "duration": 2.0 if done else None,
            "failure_code": "rendering_failed" if failed else None,
            "failure_message": "The avatar could not be rendered" if failed else None,
        }


_SAMPLES: dict[str, Sample | Inline] = {
    "video.mp4": Sample.VIDEO,
    "captioned.mp4": Sample.VIDEO,
    "preview.gif": Sample.PREVIEW,
    "thumbnail.jpg": Sample.THUMBNAIL,
}


def parse(body: object) -> Video | Studio:
    """Return the body, validated as a video or a studio video. Raises Refusal."""
    kind = Studio if isinstance(body, dict) and body.get("type") == "studio" else Video
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        param = ".".join(map(str, first["loc"]))
        raise refusal(400, "invalid_parameter", f"{param}: {first['msg']}".removeprefix(": "), param) from None


def failure(status: int, code: str, message: str, param: str = "") -> web.Response:
    """Return an error in the format of v3. `param` is the field at fault."""
    anchor = code.replace("_", "-")
    error = {"code": code, "message": message, **({"param": param} if param else {})}
    error["doc_url"] = f"https://developers.heygen.com/docs/error-codes#{anchor}"
    return web.json_response({"error": error}, status=status)


def refusal(status: int, code: str, message: str, param: str = "") -> Refusal:
    """Return an exception with an error in the format of v3, to be raised."""
    return Refusal(failure(status, code, message, param))
