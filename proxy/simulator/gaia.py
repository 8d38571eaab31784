"""Gaia Video Factory (`/v1/videos`, `/v1/images`, `/v1/chat`, `/v1/models`): an OpenAI-like gateway.

Source: Gaia's developer page, read 2026-11, for the paths, both spellings of a submit, the multipart fields, the
prefixes of job ids, and the key on every call.
Source: third-party clients, read 2026-11, for the options and for the fields that a docstring names.
Inferred, 2026-11: the job object, which is OpenAI's; the image result; the body of every error.
"""

import base64
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Annotated, ClassVar, Literal

import orjson
from aiohttp import web
from pydantic import Field, ValidationError

from .files import Sample
from .messages import Answer, Frames, Operation, ReceivedRequest, Role
from .prompt_faults import PromptFault
from .provider import Provider, Strict
from .state import Job, Outcome, Timeline

VIDEO_MODEL = "grok-imagine-video"
IMAGE_MODELS = ("gpt-image-2", "image2")
TEXT_MODEL = "gpt-5.4-mini"
QUEUED_UNTIL = 0.2
TIMELINE = Timeline(((QUEUED_UNTIL, "queued"), (1.0, "in_progress")))
END_WORDS = {Outcome.SUCCEEDED: "completed", Outcome.FAILED: "failed", Outcome.CANCELED: "cancelled"}
ANSWER = (
    "You asked: {prompt} \N{EM DASH} so here is a short answer, word by word. A poll asks the same question again "
    "and again; a stream says it once, when it is true. 答案会一个字一个字地到来 \N{BLACK RIGHT-POINTING TRIANGLE} "
    "and every piece is kept, so that a late reader starts at the beginning."
)

Text = Annotated[str, Field(min_length=1)]
Size = Annotated[str, Field(pattern=r"^\d+x\d+$|^auto$")]


class Video(Strict):
    """Text parts of a video's form. `seconds` must be a string, as it always is in a form."""

    model: Literal["grok-imagine-video"]
    prompt: Text
    seconds: Annotated[str, Field(pattern=r"^\d+$")] = "6"
    size: Annotated[str, Field(pattern=r"^\d+x\d+$")] = "1280x720"
    resolution_name: Annotated[str, Field(pattern=r"^\d+p$")] = "720p"
    preset: Text = "normal"


class Image(Strict):
    """An image order. The page documents model, prompt and size; third-party clients send the others."""

    model: Literal["gpt-image-2", "image2"]
    prompt: Text
    size: Size = "1024x1024"
    n: Annotated[int, Field(ge=1, le=10)] = 1
    quality: Text | None = None
    image: Text | None = None
    images: list[Text] | None = None


class Message(Strict):
    """A chat message."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[dict[str, object]]


class StreamOptions(Strict):
    """OpenAI's stream options."""

    include_usage: bool = False


class Chat(Strict):
    """A chat order in OpenAI's format."""

    model: Literal["gpt-5.4-mini"]
    messages: Annotated[list[Message], Field(min_length=1)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None

    @property
    def prompt(self) -> str:
        """The last message of the user."""
        content = next((each.content for each in reversed(self.messages) if each.role == "user"), "")
        return content if isinstance(content, str) else " ".join(str(piece.get("text", "")) for piece in content)

    @property
    def limit(self) -> int | None:
        """Maximum number of words. The simulator counts a word as a token."""
        return self.max_completion_tokens or self.max_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation(Job):
    """A Gaia job and its number of results."""

    number: int = 1


@dataclass(slots=True, kw_only=True)
class Gaia(Provider):
    """Simulated Gaia Video Factory API."""

    seconds: dict[str, float] = field(
        default_factory=lambda: {VIDEO_MODEL: 9, "gpt-image-2": 6, "image2": 6, TEXT_MODEL: 6}
    )
    """Usual duration of a job, in simulated seconds, by model."""
    listed_models: list[str] = field(default_factory=lambda: [TEXT_MODEL, *IMAGE_MODELS, VIDEO_MODEL])
    """Models that `/v1/models` lists."""
    spelling: dict[str, str] = field(default_factory=dict)
    """Replacements for status words."""
    id_field: Literal["id", "job_id", "jobId", "task_id"] = "id"
    """Field with the job's id."""
    progress_form: Literal["number", "percent", "none"] = "number"
    """Form of the progress: 45, "45%" or none."""
    has_envelope: bool = False
    """If True, job objects are inside `{code, message, data}`."""
    result_url: bool = False
    """If True, finished jobs have a `result_url`, relative to the origin."""
    image_form: Literal["b64_json", "url"] = "b64_json"
    """Form of image results."""
    content_redirects: bool = False
    """If True, a video's content is a redirect to a signed URL."""
    needs_reference: bool = False
    """If True, a video without a reference image is refused."""
    job_lifetime: float = 3600
    """Simulated seconds after which a job is unknown."""
    gone_status: int = 404
    """HTTP status for an unknown job."""
    credits_status: int = 402
    """HTTP status of the error for an empty balance."""
    random: Random = field(init=False)

    name: ClassVar[str] = "gaia"
    key: ClassVar[str] = "sk-ga_sim"
    invalid_status: ClassVar[int] = 400
    messages: ClassVar[Mapping[int, str]] = {
        401: "Incorrect API key provided",
        402: "Insufficient account balance",
        403: "Insufficient account balance",
        404: "Job not found",
        429: "Rate limit reached",
        500: "The server had an error while processing your request",
        502: "Upstream request failed",
    }

    def __post_init__(self) -> None:
        self.random = self.state.random(self.name)

    def operations(self) -> tuple[Operation, ...]:
        """Return the documented routes. Videos and images each have a submit and a check."""
        video, image = "/v1/videos", "/v1/images/generations"
        return (
            Operation("gaia.models", "GET", "/v1/models", self.models),
            Operation("gaia.chat", "POST", "/v1/chat/completions", self.chat, Role.STREAM),
            Operation("gaia.submit", "POST", video, self.submit_video_by_query, Role.SUBMIT),
            Operation("gaia.submit", "POST", f"{video}/async", self.submit_video, Role.SUBMIT),
            Operation("gaia.check", "GET", f"{video}/async/{{job}}", self.check, Role.CHECK),
            Operation("gaia.content", "GET", f"{video}/async/{{job}}/content", self.content),
            Operation("gaia.submit", "POST", image, self.submit_image_by_query, Role.SUBMIT),
            Operation("gaia.submit", "POST", f"{image}/async", self.submit_image, Role.SUBMIT),
            Operation("gaia.check", "GET", f"{image}/async/{{job}}", self.check, Role.CHECK),
            Operation("gaia.result", "GET", f"{image}/async/{{job}}/result", self.result),
        )

    def error(self, status: int, message: str = "") -> web.Response:
        """Return OpenAI's error object. Inferred, 2026-11."""
        kinds = {401: "authentication_error", 402: "insufficient_quota", 403: "insufficient_quota"}
        codes: Mapping[int, str] = {
            401: "invalid_api_key",
            402: "insufficient_user_quota",
            403: "insufficient_user_quota",
            404: "not_found",
            429: "rate_limit_exceeded",
        }
        inner = {
            "message": self.message(status, message),
            "type": kinds.get(status, "server_error" if status >= 500 else "invalid_request_error"),
            "param": None,
            "code": codes.get(status),
        }
        return web.json_response({"error": inner}, status=status)

    def invalid(self, error: ValidationError) -> web.Response:
        """Return OpenAI's validation error, which names the first invalid parameter."""
        first = error.errors(include_url=False, include_context=False)[0]
        param = ".".join(map(str, first["loc"]))
        inner = {
            "message": f"Invalid value for '{param}': {first['msg']}",
            "type": "invalid_request_error",
            "param": param or None,
            "code": "invalid_value",
        }
        return web.json_response({"error": inner}, status=400)

    def no_credit(self) -> web.Response:
        """Return the error for an empty balance. Third-party clients expect 402 or 403."""
        return self.error(self.credits_status, "Insufficient account balance")

    async def models(self, _received: ReceivedRequest) -> Answer:
        """List the models in OpenAI's format."""
        data = [
            {"id": name, "object": "model", "created": 1760000000, "owned_by": "gaia"} for name in self.listed_models
        ]
        return web.json_response({"object": "list", "data": data})

    async def submit_video_by_query(self, received: ReceivedRequest) -> Answer:
        """Submit with the other documented path. It requires `async=true`: no other form is documented."""
        self._need_async(received)
        return await self.submit_video(received)

    async def submit_image_by_query(self, received: ReceivedRequest) -> Answer:
        """Submit with the other documented path. It requires `async=true`: no other form is documented."""
        self._need_async(received)
        return await self.submit_image(received)

    async def submit_video(self, received: ReceivedRequest) -> Answer:
        """Start a video."""
        if not received.parts:
            raise self.refuse(400, "multipart/form-data is required")
        files = [part for part in received.parts if part.filename is not None]
        unexpected = [part.name for part in files if part.name != "input_reference[]"]
        if unexpected:
            raise self.refuse(400, f"Unexpected file: {unexpected[0]}")
        if any(not part.content_type.startswith("image/") or not part.body for part in files):
            raise self.refuse(400, "input_reference[] must be an image")
        order = self.parse(Video, received.form())
        if self.needs_reference and not files:
            raise self.refuse(400, "At least one reference image is required")
        return self._start_response(self._add("vidjob", order.model, order.prompt))

    async def submit_image(self, received: ReceivedRequest) -> Answer:
        """Start an image."""
        order = self.parse(Image, received.body)
        return self._start_response(self._add("imgjob", order.model, order.prompt, order.n))

    async def check(self, received: ReceivedRequest) -> Answer:
        """Return the state of a video or an image."""
        return web.json_response(self._wrap(self._document(self._job(received))))

    async def content(self, received: ReceivedRequest) -> Answer:
        """Return the bytes of a finished video. The call needs the key, and may redirect (`curl -L` in the example)."""
        job = self._require_finished(received)
        if not self.content_redirects:
            return Sample.VIDEO.file
        self.files.publish(f"gaia/{job.id}/result.mp4", Sample.VIDEO, signed=True)
        return web.Response(status=302, headers={"Location": self.files.link(f"gaia/{job.id}/result.mp4", 600)})

    async def result(self, received: ReceivedRequest) -> Answer:
        """Return a finished image in OpenAI's format, inline or as a URL. Inferred, 2026-11."""
        job = self._require_finished(received)
        form = self.image_form
        if job.fault_words & {PromptFault.URL, PromptFault.BASE64}:
            form = "url" if PromptFault.URL in job.fault_words else "b64_json"
        data = [{form: self._image(job, at, form)} for at in range(job.number)]
        return web.json_response({"created": self._created_at(job), "data": data})

    async def chat(self, received: ReceivedRequest) -> Answer:
        """Return a text, as a stream of chunks or as one response at the end."""
        order = self.parse(Chat, received.body)
        job = self._add("chatcmpl", order.model, order.prompt)
        if order.stream:
            return Frames(self._chunks(job, order))
        words, finish_reason = self._answer(job, order)
        await self.state.pause(job.seconds)
        if job.outcome is not Outcome.SUCCEEDED:
            return self.error(500, "The model failed to answer")
        message = {"role": "assistant", "content": "".join(words)}
        choice = {"index": 0, "message": message, "finish_reason": finish_reason}
        head = self._head(job, "chat.completion")
        return web.json_response({**head, "choices": [choice], "usage": self._usage(words)})

    def _need_async(self, received: ReceivedRequest) -> None:
        if received.query.get("async") != "true":
            raise self.refuse(400, "Use async=true")

    def _add(self, prefix: str, model: str, prompt: str, number: int = 1) -> Generation:
        job = Generation(
            provider=self.name,
            id=f"{prefix}_{self.random.getrandbits(96):024x}",
            model=model,
            prompt=prompt,
            created_at=self.state.time(),
            seconds=self.state.pick_duration(self.seconds[model], prompt, self.random),
            number=number,
        )
        self.state.add(job)
        return job

    def _start_response(self, job: Generation) -> web.Response:
        return web.json_response(self._wrap(self._document(job)))

    def _document(self, job: Generation) -> dict[str, object]:
        share = self.state.share(job)
        is_over = share >= 1
        status = TIMELINE.word(job, share) or END_WORDS[job.outcome]
        document: dict[str, object] = {
            self.id_field: job.id,
            "object": "video" if job.model == VIDEO_MODEL else "image.generation",
            "model": job.model,
            "status": self.spelling.get(status, status),
            **self._progress(share),
            "created_at": self._created_at(job),
            "completed_at": self._created_at(job) + int(job.seconds) if is_over else None,
            "error": None,
        }
        if is_over and job.outcome is Outcome.FAILED:
            document["error"] = {"code": "generation_failed", "message": "The upstream model failed to generate"}
        if self.result_url and self.state.is_done(job):
            document["result_url"] = self._path(job)
        return document

    def _progress(self, share: float) -> dict[str, object]:
        progress = min(100, max(0, int((share - QUEUED_UNTIL) / (1 - QUEUED_UNTIL) * 100)))
        forms: Mapping[str, dict[str, object]] = {
            "number": {"progress": progress},
            "percent": {"progress": f"{progress}%"},
            "none": {},
        }
        return forms[self.progress_form]

    def _path(self, job: Generation) -> str:
        if job.model == VIDEO_MODEL:
            return f"/v1/videos/async/{job.id}/content"
        return f"/v1/images/generations/async/{job.id}/result"

    def _wrap(self, document: dict[str, object]) -> dict[str, object]:
        return {"code": "success", "message": "", "data": document} if self.has_envelope else document

    def _job(self, received: ReceivedRequest) -> Generation:
        job = self.job_of(received)
        kind = "vidjob_" if received.path.startswith("/v1/videos") else "imgjob_"
        if not isinstance(job, Generation) or not job.id.startswith(kind):
            raise self.refuse(self.gone_status, "Job not found")
        if self.state.time() - job.created_at > self.job_lifetime:
            raise self.refuse(self.gone_status, "Job expired")
        return job

    def _require_finished(self, received: ReceivedRequest) -> Generation:
        job = self._job(received)
        if not self.state.is_done(job):
            raise self.refuse(409, f"Job is not completed: {job.id}")
        return job

    def _image(self, job: Generation, at: int, form: str) -> str:
        if form == "url":
            return self.files.publish(f"gaia/{job.id}/{at}.png", Sample.IMAGE)
        return base64.b64encode(Sample.IMAGE.bytes).decode()

    def _created_at(self, job: Job) -> int:
        return int(self.state.wall_time() - self.state.time() + job.created_at)

    def _head(self, job: Job, kind: str) -> dict[str, object]:
        return {"id": job.id, "object": kind, "created": self._created_at(job), "model": job.model}

    def _answer(self, job: Job, order: Chat) -> tuple[list[str], str]:
        words = [f"{word} " for word in ANSWER.format(prompt=job.prompt).split()]
        limit = order.limit or len(words)
        return words[:limit], "length" if limit < len(words) else "stop"

    def _usage(self, words: list[str]) -> dict[str, int]:
        return {"prompt_tokens": 8, "completion_tokens": len(words), "total_tokens": 8 + len(words)}

    async def _chunks(self, job: Job, order: Chat) -> AsyncGenerator[bytes]:
        words, finish = self._answer(job, order)
        yield self._chunk(job, {"role": "assistant", "content": ""})
        for at, word in enumerate(words):
            await self.state.pause(job.seconds / len(words))
            if at == len(words) // 2:
                async for frame in self._fault_frames(job):
                    yield frame
                if job.outcome is not Outcome.SUCCEEDED:
                    return
            yield self._chunk(job, {"content": word})
        yield self._chunk(job, {}, finish)
        if order.stream_options and order.stream_options.include_usage:
            yield event({**self._head(job, "chat.completion.chunk"), "choices": [], "usage": self._usage(words)})
        yield b"data: [DONE]\n\n"

    async def _fault_frames(self, job: Job) -> AsyncGenerator[bytes]:
        """Return the frames that a word in the prompt inserts in the middle of an answer."""
        if PromptFault.UNKNOWN in job.fault_words:
            yield event({**self._head(job, "chat.completion.reticulating"), "choices": []})
        while PromptFault.STUCK in job.fault_words:
            await self.state.pause(1)
        if job.outcome is not Outcome.SUCCEEDED:
            inner = {"message": "The model failed to answer", "type": "server_error", "param": None, "code": None}
            yield event({"error": inner})

    def _chunk(self, job: Job, delta: dict[str, str], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return event({**self._head(job, "chat.completion.chunk"), "choices": [choice]})


def event(document: dict[str, object]) -> bytes:
    """Return a server-sent event in OpenAI's format."""
    return b"data: " + orjson.dumps(document) + b"\n\n"
