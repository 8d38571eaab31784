"""HeyGen v3 (`/v3/videos`, `/v3/assets`, `/v3/users/me`): idempotent submits, single and bulk status, deletion.

Doc: paths, the body of `avatar` and `image`, the status object, `not_found`, the error's shape, and the idempotency key
with its 24 hours and its 409. Seen in client code: the shapes of `background`, `caption`, `engine`, of the bulk answer
and of the upload's. Guess: the fields of a scene, and that a refusal is not kept under its key.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Literal, Self

from aiohttp import web
from pydantic import Field, model_validator

from .files import Files, Sample
from .messages import Answer, Operation, Received, Refused, Role
from .provider import Strict
from .state import Job, Outcome, State, Timeline

STATES = Timeline(((0.1, "waiting"), (0.3, "pending"), (1.0, "processing")))
KEY = re.compile(r"[A-Za-z0-9_:.\-]{1,255}")
KEY_SECONDS = 24 * 3600.0
LARGEST_UPLOAD = 32 << 20
MOST_IDS = 100
LINK_SECONDS = 7 * 24 * 3600.0


class AssetInput(Strict):
    """A file by its URL or by its id."""

    type: Literal["url", "asset_id", "image", "color"]
    url: str | None = None
    asset_id: str | None = None
    value: str | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if sum(place is not None for place in (self.url, self.asset_id, self.value)) != 1:
            raise ValueError("exactly one of url, asset_id and value is needed")
        return self


class Caption(Strict):
    """Captions: a file, and with a style a captioned video."""

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

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
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
    def prompt(self) -> str:
        """The script."""
        return self.script or ""


class Studio(Strict):
    """A studio video."""

    type: Literal["studio"]
    scenes: Annotated[list[Scene], Field(min_length=1, max_length=50)]
    caption: None = None

    @property
    def prompt(self) -> str:
        """The scripts of all scenes."""
        return "\n".join(scene.script for scene in self.scenes if scene.script)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering(Job):
    """A v3 video, and whether it has captions."""

    captions: bool


@dataclass(slots=True)
class Kept:
    """The first answer under an idempotency key; None while it is being made."""

    at: float
    body: bytes | None = None


@dataclass(slots=True)
class V3:
    """The v3 routes. `error` and `parse` are the provider's."""

    state: State
    files: Files
    provider: str
    random_id: Callable[[], str]
    seconds: float = 9
    links_last: float = LINK_SECONDS
    submit_seconds: float = 0
    """Time that a submit takes, during which a repeat is answered by 409."""
    refuse_in_progress: int = 0
    """Number of further repeats that are answered by 409."""
    moderated: set[str] = field(default_factory=lambda: {"blockedword"})
    bought: Counter[str] = field(default_factory=Counter)
    """Videos made, by idempotency key."""
    deleted: set[str] = field(default_factory=set)
    """Ids of deleted videos. They stay in the state, because they were bought."""
    _kept: dict[str, Kept] = field(default_factory=dict)
    _assets: set[str] = field(default_factory=set)

    def operations(self) -> tuple[Operation, ...]:
        """The routes. The bulk status comes before the single one, whose pattern it fits."""
        return (
            Operation("heygen3.submit", "POST", "/v3/videos", self.submit, Role.SUBMIT),
            Operation("heygen3.statuses", "GET", "/v3/videos/statuses", self.statuses),
            Operation("heygen3.check", "GET", "/v3/videos/{job}", self.check, Role.CHECK),
            Operation("heygen3.delete", "DELETE", "/v3/videos/{job}", self.delete),
            Operation("heygen3.upload", "POST", "/v3/assets", self.upload),
            Operation("heygen3.me", "GET", "/v3/users/me", self.me),
        )

    async def submit(self, received: Received) -> Answer:
        """Begin a video, once for each key."""
        key = received.headers.get("Idempotency-Key")
        if key is None:
            return self._begin(received, "")
        if not KEY.fullmatch(key):
            raise refused(400, "invalid_parameter", "Idempotency-Key is invalid")
        kept = self._kept.get(key)
        if kept is not None and self.state.time() - kept.at < KEY_SECONDS:
            self.refuse_in_progress -= 1
            if kept.body is None or self.refuse_in_progress >= 0:
                raise refused(409, "request_in_progress", "A request with this Idempotency-Key is in progress")
            return web.json_response(body=kept.body)
        kept = self._kept[key] = Kept(self.state.time())
        try:
            if self.submit_seconds:
                await asyncio.shield(self._pause())
            answer = self._begin(received, key)
        except BaseException:
            self._kept.pop(key, None)
            raise
        kept.body = bytes(answer.body) if isinstance(answer.body, bytes) else b""
        return answer

    async def _pause(self) -> None:
        await self.state.pause(self.submit_seconds)

    def _begin(self, received: Received, key: str) -> web.Response:
        order = parse(received.body)
        if any(word in order.prompt.lower() for word in self.moderated):
            raise refused(400, "content_moderated", "The script was refused by moderation")
        self._require_assets(order)
        job = Rendering(
            provider=self.provider,
            id=self.random_id(),
            model="v3",
            prompt=order.prompt,
            made_at=self.state.time(),
            seconds=self.state.take(self.seconds, order.prompt, self.state.random(f"v3/{key}")),
            captions=order.caption is not None,
        )
        self.state.add(job)
        self.bought[key] += 1
        for name, sample in _FILES:
            self.files.publish(f"heygen3/{job.id}/{name}", sample, signed=True)
        return web.json_response({"data": {"video_id": job.id, "status": "waiting", "output_format": "mp4"}})

    def _require_assets(self, order: Video | Studio) -> None:
        for part in order.scenes if isinstance(order, Studio) else (order,):
            named = (part.audio_asset_id, *(place.asset_id for place in (part.image, part.background) if place))
            for asset in named:
                if asset is not None and asset not in self._assets:
                    raise refused(404, "not_found", f"Asset {asset} not found")

    async def check(self, received: Received) -> Answer:
        """Tell how a video stands."""
        return web.json_response({"data": self._document(self._find(received.params["job"]))})

    async def statuses(self, received: Received) -> Answer:
        """Tell how up to a hundred videos stand."""
        ids = [text for text in received.query.get("video_ids", "").split(",") if text]
        if not 0 < len(ids) <= MOST_IDS:
            raise refused(400, "invalid_parameter", "video_ids must name 1 to 100 videos")
        return web.json_response({"data": [self._brief(video) for video in ids]})

    def _brief(self, video: str) -> dict[str, object]:
        job = self.state.jobs.get((self.provider, video))
        if not isinstance(job, Rendering) or job.id in self.deleted:
            return {"video_id": video, "status": "not_found"}
        word = self._word(job)
        return {"video_id": video, "status": "queued" if word in {"waiting", "pending"} else word}

    async def delete(self, received: Received) -> Answer:
        """Delete a video."""
        job = self._find(received.params["job"])
        self.deleted.add(job.id)
        return web.json_response({"data": {"id": job.id, "deleted": True}})

    def _find(self, video: str) -> Rendering:
        job = self.state.jobs.get((self.provider, video))
        if not isinstance(job, Rendering) or job.id in self.deleted:
            raise refused(404, "not_found", "Video not found")
        return job

    async def upload(self, received: Received) -> Answer:
        """Take a file."""
        part = received.part("file")
        if part is None or not part.body:
            raise refused(400, "invalid_parameter", "file is required")
        if len(part.body) > LARGEST_UPLOAD:
            raise refused(413, "file_too_large", "The file is larger than 32 MB")
        asset = self.random_id()
        self._assets.add(asset)
        return web.json_response(
            {"data": {"asset_id": asset, "mime_type": part.content_type, "size_bytes": len(part.body)}}
        )

    async def me(self, received: Received) -> Answer:
        """Name the key's user."""
        del received
        return web.json_response({"data": {"username": "demo", "email": "demo@example.com"}})

    def _word(self, job: Rendering) -> str:
        ends = "completed" if job.outcome is Outcome.SUCCEEDED else "failed"
        return STATES.word(job, self.state.share(job)) or ends

    def _document(self, job: Rendering) -> dict[str, object]:
        done, over = self.state.done(job), self.state.share(job) >= 1
        failed = over and not done

        def link(name: str, *, wanted: bool = True) -> str | None:
            return self.files.link(f"heygen3/{job.id}/{name}", self.links_last) if done and wanted else None

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


_FILES = (
    ("video.mp4", Sample.VIDEO),
    ("captioned.mp4", Sample.VIDEO),
    ("captions.srt", Sample.VIDEO),
    ("preview.gif", Sample.PREVIEW),
    ("thumbnail.jpg", Sample.THUMBNAIL),
)


def parse(body: object) -> Video | Studio:
    """The body as its schema, or a refusal."""
    kind = Studio if isinstance(body, dict) and body.get("type") == "studio" else Video
    try:
        return kind.model_validate(body)
    except ValueError as error:
        first = str(error).splitlines()
        raise refused(400, "invalid_parameter", " ".join(line.strip() for line in first[1:3])) from None


def failure(status: int, code: str, message: str) -> web.Response:
    """An error in the shape of v3."""
    return web.json_response(
        {"error": {"code": code, "message": message, "doc_url": "https://developers.heygen.com/errors"}}, status=status
    )


def refused(status: int, code: str, message: str) -> Refused:
    """An error in the shape of v3, to raise."""
    return Refused(failure(status, code, message))
