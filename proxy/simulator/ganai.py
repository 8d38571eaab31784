"""Gan.ai Studio (`/create_video/bulk`, `.../video_status`): a list of orders in, a list of future URLs out.

Source: Gan.ai's `create_video/bulk` and inference pages, read 2026-11, for both paths, the reply's fields, the status
words, and the text "None" for no error.
Inferred, 2026-11: the body of HTTP errors, which is FastAPI's; the order of the status words; the rules for a project's
tags.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Annotated, ClassVar, Literal

from aiohttp import web
from pydantic import ConfigDict, Field, RootModel, ValidationError

from .files import Inline, Sample
from .messages import Answer, Operation, ReceivedRequest, Refusal, Role
from .provider import Provider, Strict, details
from .state import Job, Outcome, Timeline

SHORT_TIMELINE = Timeline(((0.1, "PENDING"), (0.4, "PROCESSING"), (0.7, "LIPSYNC_PENDING"), (1.0, "FFMPEG_PENDING")))
LONG_TIMELINE = Timeline(
    (
        (0.1, "PENDING"),
        (0.25, "PROCESSING"),
        (0.4, "WEBSITE_SCROLLING_PENDING"),
        (0.6, "LIPSYNC_PENDING"),
        (0.75, "NEXRENDER_PENDING"),
        (0.9, "FFMPEG_PENDING"),
        (0.95, "INFERENCE_POST_PROCESSING"),
        (1.0, "WEBHOOK_TRIGGERED"),
    )
)
PAGE = "<!DOCTYPE html><html><body><video controls src='{url}'></video></body></html>"


class Item(Strict):
    """One video: its `unique_id`, and the tags of the project, whose names are free."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, str | int | float | bool]

    unique_id: Annotated[str, Field(min_length=1)]


class Items(RootModel[Annotated[list[Item], Field(min_length=1)]]):
    """Body of an order: a list, even for a single video."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inference(Job):
    """One item of an order, with its own duration."""

    project: str
    unique_id: str
    timeline: Timeline


@dataclass(slots=True, kw_only=True)
class GanAI(Provider):
    """Simulated Gan.ai API. Some options refer to items by their `unique_id`."""

    seconds: tuple[float, float] = (5.0, 10.0)
    """Shortest and longest usual duration of an item, in simulated seconds."""
    projects: set[str] = field(default_factory=set)
    """Known projects. If empty, every project is known."""
    tags: set[str] = field(default_factory=set)
    """Tags that every item must have."""
    omitted_items: set[str] = field(default_factory=set)
    """Items that the reply to a submit omits."""
    without_inference: set[str] = field(default_factory=set)
    """Items without an `inference_id` in the reply."""
    reversed_reply: bool = False
    """If True, the reply has the items in reverse order."""
    end_words: dict[str, str] = field(default_factory=dict)
    """Final status words of items. By default the prompt decides."""
    spelling: dict[str, str] = field(default_factory=dict)
    """Replacements for status words."""
    no_error: str | None = "None"
    """Value of `error` if there is none."""
    error_form: Literal["object", "text"] = "object"
    """Form of `error` if there is one."""
    link_lifetime: float | None = None
    """Simulated seconds for which a `video_url` works. None: for ever, without a signature."""
    random: Random = field(init=False)

    name: ClassVar[str] = "ganai"
    key: ClassVar[str] = "sim-ganai"
    messages: ClassVar[Mapping[int, str]] = {
        401: "Could not validate credentials",
        402: "Insufficient credits",
        404: "Not Found",
        500: "Internal Server Error",
    }

    def __post_init__(self) -> None:
        self.random = self.state.random(self.name)

    def operations(self) -> tuple[Operation, ...]:
        """Return the documented routes."""
        status = "/projects/{project}/inference/{job}/video_status"
        return (
            Operation("ganai.submit", "POST", "/create_video/bulk", self.submit, Role.SUBMIT),
            Operation("ganai.check", "GET", status, self.check, Role.CHECK),
        )

    def error(self, status: int, message: str = "") -> web.Response:
        """Return an error in FastAPI's format. Inferred, 2026-11."""
        return web.json_response({"detail": self.message(status, message)}, status=status)

    def invalid(self, error: ValidationError) -> web.Response:
        """Return FastAPI's 422. Inferred, 2026-11."""
        return web.json_response({"detail": details(error)}, status=422)

    def reject(self) -> web.Response:
        """Return FastAPI's 422 for the first item."""
        return self._invalid("Value error, tag is not valid", "value_error", "body", 0).response

    async def submit(self, received: ReceivedRequest) -> Answer:
        """Start a video for every item, and return all URLs. No URL works before its video is finished."""
        project = received.query.get("project_id")
        if not project:
            raise self._invalid("Field required", "missing", "query", "project_id")
        if self.projects and project not in self.projects:
            raise self.refuse(404, "Project not found")
        items = self.parse(Items, received.body).root
        self._check_tags(items)
        replies = [self._reply(self._add(project, item)) for item in items if item.unique_id not in self.omitted_items]
        return web.json_response(replies[::-1] if self.reversed_reply else replies)

    async def check(self, received: ReceivedRequest) -> Answer:
        """Return the state of one item. `error` is the documented text "None" if there is no error."""
        job = self.job_of(received)
        if not isinstance(job, Inference) or job.project != received.params["project"]:
            raise self.refuse(404, "Inference not found")
        status = self._status(job)
        urls = self._urls(job)
        document: dict[str, object] = {
            "gen_status": self.spelling.get(status, status),
            **{name: urls[name] for name in ("video_url", "permalink", "thumbnail_url", "smart_url")},
            "error": self._error() if self._has_failed(job) else self.no_error,
        }
        return web.json_response(document)

    def _status(self, job: Inference) -> str:
        word = job.timeline.word(job, self.state.share(job))
        if word is not None:
            return word
        if job.unique_id in self.end_words:
            return self.end_words[job.unique_id]
        return "SUCCEEDED" if job.outcome is Outcome.SUCCEEDED else "FAILED"

    def _has_video(self, job: Inference) -> bool:
        return self.state.is_done(job) and self._status(job) == "SUCCEEDED"

    def _has_failed(self, job: Inference) -> bool:
        return self.state.share(job) >= 1 and not self._has_video(job)

    def _error(self) -> object:
        text = "Lip sync failed: no voice was found"
        return {"status_code": 500, "message": text} if self.error_form == "object" else text

    def _add(self, project: str, item: Item) -> Inference:
        prompt = "\n".join(value for value in item.__pydantic_extra__.values() if isinstance(value, str))
        job = Inference(
            provider=self.name,
            id=f"{self.random.getrandbits(96):024x}",
            model="bulk",
            prompt=prompt,
            created_at=self.state.time(),
            seconds=self.state.pick_duration(self.random.uniform(*self.seconds), prompt, self.random),
            project=project,
            unique_id=item.unique_id,
            timeline=self.random.choice((SHORT_TIMELINE, LONG_TIMELINE)),
        )
        self.state.add(job)
        self._publish(job)
        return job

    def _publish(self, job: Inference) -> None:
        def ready() -> bool:
            return self._has_video(job)

        base = f"ganai/{job.id}"
        page = PAGE.format(url=self.files.url(f"{base}/permalink.mp4")).encode()
        self.files.publish(f"{base}/video.mp4", Sample.VIDEO, ready=ready, signed=self.link_lifetime is not None)
        self.files.publish(f"{base}/audio.mp3", Sample.AUDIO, ready=ready)
        self.files.publish(f"{base}/thumbnail.jpg", Sample.THUMBNAIL, ready=ready)
        self.files.publish(f"{base}/permalink.mp4", Sample.VIDEO, ready=ready)
        self.files.publish(f"{base}/page.html", Inline(page, "text/html"), ready=ready)

    def _urls(self, job: Inference) -> dict[str, str]:
        base = f"ganai/{job.id}"
        signed = self.files.link(f"{base}/video.mp4", self.link_lifetime) if self.link_lifetime is not None else None
        return {
            "video_url": signed or self.files.url(f"{base}/video.mp4"),
            "audio_url": self.files.url(f"{base}/audio.mp3"),
            "smart_url": self.files.url(f"{base}/page.html"),
            "permalink": self.files.url(f"{base}/permalink.mp4"),
            "thumbnail_url": self.files.url(f"{base}/thumbnail.jpg"),
        }

    def _reply(self, job: Inference) -> dict[str, object]:
        inference = None if job.unique_id in self.without_inference else job.id
        ids = {"inference_id": inference, "project_id": job.project, "unique_id": job.unique_id}
        return {**self._urls(job), **ids}

    def _check_tags(self, items: list[Item]) -> None:
        for at, item in enumerate(items):
            for tag in sorted(self.tags - set(item.__pydantic_extra__)):
                raise self._invalid("Field required", "missing", "body", at, tag)

    def _invalid(self, message: str, kind: str, *loc: str | int) -> Refusal:
        return Refusal(web.json_response({"detail": [{"loc": loc, "msg": message, "type": kind}]}, status=422))
