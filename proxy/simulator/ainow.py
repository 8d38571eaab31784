"""AI-Now (`/api/ping`, `/api/generate`): one POST that streams its progress.

Source: AI-Now's API documentation (wiki page of 2024-08-22), read 2026-11, for the frames, models, prices, styles, the
error body, and the statuses 401, 418 and 500.
Inferred, 2026-11: the error frame inside a stream, and the status of a parameter error.
"""

import json
import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Annotated, ClassVar, Literal

from aiohttp import web
from pydantic import Field

from .files import Sample
from .messages import Answer, Frames, Operation, ReceivedRequest, Role
from .prompt_faults import UNDOCUMENTED, PromptFault
from .provider import Provider, Strict
from .state import Job, Outcome

PRICES = {"suno": 10, "luma": 30, "pika": 10, "run": 30}
"""Price of a job, in AI-Now's tokens, by model."""
RUN_STYLES = frozenset(
    [
        "abandoned",
        "abstract_sculpture",
        "anime",
        "cartoon",
        "cine_lens",
        "claymation",
        "concept_art",
        "digital_art",
        "forestpunk",
        "frost",
        "graphic_novel",
        "graphite",
        "isometric_3d",
        "low_poly_3d",
        "marker_drawing",
        "moody_film",
        "pixel_art",
        "retro",
        "sci_fi_art",
        "stickers",
        "storyboard",
        "thriller",
        "3d_cartoon",
        "3d_render",
        "80s_vaporwave",
    ]
)
STYLES: Mapping[str, frozenset[str]] = {"pika": frozenset("1234567"), "run": RUN_STYLES}
"""Styles of each model that has some."""
FIRST_STATUSES = ("Processing started", "Processing", "Cookie generated")
"""Statuses of the first frames. `Processing` follows until the end."""


class Order(Strict):
    """Body of an order."""

    model: Literal["suno", "luma", "pika", "run"]
    prompt: Annotated[str, Field(min_length=1)]
    style: str | None = None


@dataclass(slots=True, kw_only=True)
class AINow(Provider):
    """Simulated AI-Now API."""

    seconds: dict[str, float] = field(default_factory=lambda: {"suno": 7, "luma": 9, "pika": 6, "run": 8})
    """Usual duration of a job, in simulated seconds, by model."""
    tokens: int = 1_000_000
    """Remaining balance of the account."""
    frame_interval: float = 1.0
    """Simulated seconds between two frames."""
    peak_hours: bool = False
    """If True, luma fails, as the page warns."""
    line_end: Literal["\n", "\r\n", "\r"] = "\n"
    """Line ending of the frames."""
    random: Random = field(init=False)

    name: ClassVar[str] = "ainow"
    key: ClassVar[str] = "sim-ainow"
    invalid_status: ClassVar[int] = 400
    messages: ClassVar[Mapping[int, str]] = {
        401: "Unauthorized: missing or invalid API key",
        402: "Insufficient tokens",
        418: "Insufficient tokens",
        500: "Internal Server Error",
    }

    def __post_init__(self) -> None:
        self.random = self.state.random(self.name)

    def operations(self) -> tuple[Operation, ...]:
        """Return the routes of the wiki page."""
        return (
            Operation("ainow.ping", "GET", "/api/ping", self.ping),
            Operation("ainow.generate", "POST", "/api/generate", self.generate, Role.STREAM),
        )

    def error(self, status: int, message: str = "") -> web.Response:
        """Return an error with the documented body."""
        return web.json_response({"status": "Error", "message": self.message(status, message)}, status=status)

    def no_credit(self) -> web.Response:
        """Return the error for missing tokens, with the documented status 418."""
        return self.error(418)

    async def ping(self, _received: ReceivedRequest) -> Answer:
        """Return `pong`, as documented."""
        return web.Response(text="pong")

    async def generate(self, received: ReceivedRequest) -> Answer:
        """Charge the tokens and stream the progress."""
        order = self.parse(Order, received.body)
        if order.style is not None and order.style not in STYLES.get(order.model, frozenset()):
            raise self.refuse(self.invalid_status, f"Invalid style for {order.model}: {order.style}")
        if self.tokens < PRICES[order.model]:
            raise self.refuse(418)
        self.tokens -= PRICES[order.model]
        job = Job(
            provider=self.name,
            id=f"{slug(order.prompt)}_{self.random.randrange(10000, 100000)}",
            model=order.model,
            prompt=order.prompt,
            created_at=self.state.time(),
            seconds=self.state.pick_duration(self.seconds[order.model], order.prompt, self.random),
        )
        self.state.add(job)
        return Frames(self._frames(job))

    async def _frames(self, job: Job) -> AsyncGenerator[bytes]:
        number = max(len(FIRST_STATUSES) + 1, round(job.seconds / self.frame_interval))
        gap = job.seconds / number
        at = 0
        while at < number or PromptFault.STUCK in job.fault_words:
            yield self._frame(status=self._word(job, at))
            await self.state.pause(gap)
            at += 1
        yield self._last_frame(job)

    def _word(self, job: Job, at: int) -> str:
        if at < len(FIRST_STATUSES):
            return FIRST_STATUSES[at]
        return UNDOCUMENTED if PromptFault.UNKNOWN in job.fault_words and at == len(FIRST_STATUSES) else "Processing"

    def _last_frame(self, job: Job) -> bytes:
        if job.outcome is not Outcome.SUCCEEDED:
            return self._frame(status="Error", message="Generation failed: the prompt was not accepted by the model")
        if self.peak_hours and job.model == "luma":
            return self._frame(status="Error", message="Luma is overloaded, try again later")
        sample, extension = (Sample.AUDIO, "mp3") if job.model == "suno" else (Sample.VIDEO, "mp4")
        return self._frame(status="Completed", url=self.files.publish(f"ainow/{job.id}.{extension}", sample))

    def _frame(self, **document: str) -> bytes:
        return f"data: {json.dumps(document)}{self.line_end * 2}".encode()


def slug(prompt: str) -> str:
    """Return a file name built from the prompt's words, as in the documented examples."""
    return "_".join(re.findall(r"[a-z0-9]+", prompt.lower())[:4]) or "result"
