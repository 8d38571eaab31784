"""Gaga (`/v1/assets`, `/v1/generations`): upload, submit, and one status call.

Source: Gaga's Get Started page, read 2026-11, for the paths, fields, examples, status words and the FAQ's messages.
Inferred, 2026-11: the HTTP status and body of every error except the statuses 401 and 422, and the field with a
failure's reason. Options select the alternatives.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Annotated, ClassVar, Literal

from aiohttp import web
from pydantic import ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from .files import Inline, Sample
from .messages import Answer, Operation, Part, ReceivedRequest, Refusal, Role
from .provider import Provider, Strict, details
from .state import Job, Outcome, Timeline

AVATARS = frozenset({"avatar-h1", "avatar-h1-pro"})
TIMELINE = Timeline(((0.12, "PreProcessing"), (0.3, "Pending"), (1.0, "Running")))
END_WORDS = {Outcome.SUCCEEDED: "Success", Outcome.FAILED: "Fail", Outcome.CANCELED: "Canceled"}

FIRST_ID = 747324435023237  # An id of the page's example. It exceeds 32 bits.
FIRST_WIDE_ID = 2**53 + 1  # Parsers that read JSON numbers as doubles round an odd number of this size.


class Camel(Strict):
    """Base class of schemas with the provider's spelling of field names."""

    model_config = ConfigDict(alias_generator=to_camel)


class Source(Camel):
    """The image of the actor. Its id is a string in one example of the page and a number in the other."""

    type: Literal["image"]
    content: int | Annotated[str, Field(pattern=r"^\d+$")]


class Condition(Camel):
    """Speech, as text or audio. In the examples both values are strings, also the id of the audio."""

    type: Literal["text", "audio"]
    content: Annotated[str, Field(min_length=1)]


class Chunk(Camel):
    """A chunk of the video."""

    duration: Annotated[float, Field(gt=0)]
    conditions: Annotated[list[Condition], Field(min_length=1)]
    enable_prompt_enhancement: bool = False


class Generation(Camel):
    """Body of a submit. `enablePromptEnhancement` is here in one example and in the chunk in the other."""

    model: Literal["gaga-1", "avatar-h1", "avatar-h1-pro"]
    chunks: Annotated[list[Chunk], Field(min_length=1)]
    source: Source | None = None
    resolution: Annotated[str, Field(pattern=r"^\d+p$")] = "720p"
    aspect_ratio: Annotated[str, Field(pattern=r"^\d+:\d+$")] = "16:9"
    seed: int | None = None
    enable_prompt_enhancement: bool = False

    @property
    def prompt(self) -> str:
        """All spoken text."""
        conditions = (each for chunk in self.chunks for each in chunk.conditions if each.type == "text")
        return "\n".join(each.content for each in conditions)


@dataclass(frozen=True, slots=True)
class Asset:
    """An uploaded file."""

    id: int
    content_type: str
    url: str


@dataclass(slots=True, kw_only=True)
class Gaga(Provider):
    """Simulated Gaga API."""

    seconds: dict[str, float] = field(default_factory=lambda: {"gaga-1": 8, "avatar-h1": 7, "avatar-h1-pro": 10})
    """Usual duration of a job, in simulated seconds, by model."""
    wide_ids: bool = False
    """If True, ids exceed 2^53."""
    spelling: dict[str, str] = field(default_factory=dict)
    """Replacements for status words."""
    url_field: Literal["resultVideoURL", "result.videoURL", "url", "video_url"] = "resultVideoURL"
    """Field with the result's URL."""
    reason_field: Literal["message", "error", "detail", "msg", "failReason", "reason"] = "message"
    """Field with the reason of a failure."""
    credits_status: int = 402
    """HTTP status of the error for missing credit."""
    assets: dict[int, Asset] = field(default_factory=dict)
    """Uploaded files, by id."""
    random: Random = field(init=False)

    name: ClassVar[str] = "gaga"
    key: ClassVar[str] = "sim-gaga"
    messages: ClassVar[Mapping[int, str]] = {
        401: "Invalid API Key",
        402: "Insufficient credits",
        404: "Not Found",
        422: "Invalid parameter",
    }

    def __post_init__(self) -> None:
        self.random = self.state.random(self.name)

    def operations(self) -> tuple[Operation, ...]:
        """Return the routes of the quick start."""
        return (
            Operation("gaga.upload", "POST", "/v1/assets", self.upload),
            Operation("gaga.asset", "GET", "/v1/assets/{asset}", self.asset),
            Operation("gaga.submit", "POST", "/v1/generations", self.submit, Role.SUBMIT),
            Operation("gaga.check", "GET", "/v1/generations/{job}", self.check, Role.CHECK),
        )

    def error(self, status: int, message: str = "") -> web.Response:
        """Return an error in FastAPI's format. Inferred, 2026-11, because the FAQ mentions FastAPI's 422."""
        return web.json_response({"detail": self.message(status, message)}, status=status)

    def invalid(self, error: ValidationError) -> web.Response:
        """Return FastAPI's 422."""
        return web.json_response({"detail": details(error)}, status=422)

    def reject(self) -> web.Response:
        """Return FastAPI's 422 for the prompt."""
        return self._invalid("Invalid parameter", "chunks", 0, "conditions").response

    def no_credit(self) -> web.Response:
        """Return the error for missing credit. The message is documented. Inferred, 2026-11: the status."""
        return self.error(self.credits_status, "Insufficient credits")

    async def upload(self, received: ReceivedRequest) -> Answer:
        """Store an uploaded file and return its id."""
        part = received.part("file")
        if part is None or part.filename is None:
            missing = {"loc": ["body", "file"], "msg": "Field required", "type": "missing"}
            return web.json_response({"detail": [missing]}, status=422)
        content_type = format_of(part)
        if content_type is None:
            raise self.refuse(400, "Invalid file format" if part.body else "File upload failed")
        number = self._new_id()
        extension = content_type.partition("/")[2]
        url = self.files.publish(f"gaga/assets/{number}.{extension}", Inline(part.body, content_type))
        self.assets[number] = Asset(number, content_type, url)
        return web.json_response({"id": number})

    async def asset(self, received: ReceivedRequest) -> Answer:
        """Return an asset's URL."""
        asset = self.assets.get(self._number(received.params["asset"], "asset_id"))
        if asset is None:
            raise self.refuse(404, "Asset not found")
        return web.json_response({"id": asset.id, "url": asset.url})

    async def submit(self, received: ReceivedRequest) -> Answer:
        """Start a generation."""
        order = self.parse(Generation, received.body)
        self._check_assets(order)
        number = self._new_id()
        seconds = self.state.pick_duration(self.seconds[order.model], order.prompt, self.random)
        job = Job(
            provider=self.name,
            id=str(number),
            model=order.model,
            prompt=order.prompt,
            created_at=self.state.time(),
            seconds=seconds,
        )
        self.state.add(job)
        self.files.publish(f"gaga/{number}/result.mp4", Sample.VIDEO, ready=lambda: self.state.is_done(job))
        return web.json_response({"id": number})

    async def check(self, received: ReceivedRequest) -> Answer:
        """Return the state of a generation."""
        number = self._number(received.params["job"], "generation_id")
        job = self.job_of(received)
        if job is None:
            raise self.refuse(404, "Generation not found")
        share = self.state.share(job)
        status = TIMELINE.word(job, share) or END_WORDS[job.outcome]
        url = self.files.url(f"gaga/{number}/result.mp4") if self.state.is_done(job) else None
        created = datetime.fromtimestamp(self.state.wall_time() - self.state.time() + job.created_at, UTC)
        document: dict[str, object] = {
            "id": number,
            "status": self.spelling.get(status, status),
            **self._result(url),
            "resultVideoId": number + 2 if url else None,
            "createTime": f"{created:%Y-%m-%dT%H:%M:%SZ}",
        }
        if share >= 1 and job.outcome is Outcome.FAILED:
            document[self.reason_field] = "Generation failed: no face was found in the image"
        return web.json_response(document)

    def _result(self, url: str | None) -> dict[str, object]:
        if self.url_field == "result.videoURL":
            return {"result": {"videoURL": url}}
        return {self.url_field: url}

    def _check_assets(self, order: Generation) -> None:
        if order.source is not None:
            self._check_asset(order.source.content, "image", "source", "content")
        elif order.model in AVATARS:
            raise self._invalid(f"source is required for {order.model}", "source")
        for at, chunk in enumerate(order.chunks):
            needed = "audio" if order.model in AVATARS else "text"
            if all(each.type != needed for each in chunk.conditions):
                raise self._invalid(f"{needed} is required for {order.model}", "chunks", at, "conditions")
            for number, each in enumerate(chunk.conditions):
                if each.type == "audio":
                    self._check_asset(each.content, "audio", "chunks", at, "conditions", number, "content")

    def _check_asset(self, content: int | str, kind: str, *loc: str | int) -> None:
        asset = self.assets.get(int(content)) if str(content).isascii() and str(content).isdecimal() else None
        if asset is None:
            raise self._invalid(f"Invalid asset id: {content}", *loc)
        if not asset.content_type.startswith(f"{kind}/"):
            raise self._invalid(f"Asset {content} is not {kind}", *loc)

    def _invalid(self, message: str, *loc: str | int) -> Refusal:
        detail = [{"loc": ["body", *loc], "msg": message, "type": "value_error"}]
        return Refusal(web.json_response({"detail": detail}, status=422))

    def _number(self, text: str, name: str) -> int:
        if text.isascii() and text.isdecimal():
            return int(text)
        detail = {"loc": ["path", name], "msg": "Input should be a valid integer", "type": "int_parsing"}
        raise Refusal(web.json_response({"detail": [detail]}, status=422))

    def _new_id(self) -> int:
        first = FIRST_WIDE_ID if self.wide_ids else FIRST_ID
        return first + 4 * self.random.randrange(10**9)


def format_of(part: Part) -> str | None:
    """Return the content type of a file by its first bytes, or None for a type that is not documented."""
    begin, box = part.body[:4], part.body[4:12]
    known = {b"\x89PNG": "image/png", b"GIF8": "image/gif", b"OggS": "audio/ogg"}
    if begin in known:
        return known[begin]
    if begin == b"RIFF":
        return {b"WEBP": "image/webp", b"WAVE": "audio/wav"}.get(box[4:])
    if begin.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if begin.startswith(b"ID3") or (begin[:1] == b"\xff" and begin[1:2] >= b"\xe0"):
        return "audio/mpeg"
    return "video/mp4" if box.startswith(b"ftyp") else None
