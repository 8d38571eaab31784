"""AI-Now: suno, luma, pika, run. Written from the provider's API documentation.

One POST answers with a stream of bare `data:` frames, from `Processing started` to `Completed` with a url. There is no
job id and no way back into a stream that broke. Before the stream, errors are JSON with 401, 418 (no tokens) or 500.
Assumed (the page does not show it): an error inside the stream is `{"status":"Error","message":...}`.
"""

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from proxy.core.errors import Interrupted, JobError, UpstreamFailed
from proxy.core.job import Kind, Order, Output, Role, Status
from proxy.core.media_types import by_url
from proxy.core.settings import ProviderSettings
from proxy.core.sse import Message
from proxy.providers.base import (
    COUNTS,
    DURATIONS,
    PRIORITIES,
    QUALITIES,
    Fields,
    Inputs,
    Model,
    NewOutput,
    Provider,
    Text,
    Update,
    bearer,
    field_error,
    urls_in,
)
from proxy.upstream.answers import Answer, loads
from proxy.upstream.classify import Dialect, content_of, is_error, message_of, plain
from proxy.upstream.requests import Request

PIKA_STYLES: Mapping[str, str] = {
    "1": "Anime",
    "2": "Moody",
    "3": "3D",
    "4": "Watercolor",
    "5": "Natural",
    "6": "Claymation",
    "7": "Black & White",
}

RUN_STYLES: Mapping[str, str] = {
    "abandoned": "Abandoned",
    "abstract_sculpture": "Abstract Sculpture",
    "anime": "Anime",
    "cartoon": "Cartoon",
    "cine_lens": "Cine Lens",
    "claymation": "Claymation",
    "concept_art": "Concept Art",
    "digital_art": "Digital Art",
    "forestpunk": "Forestpunk",
    "frost": "Frost",
    "graphic_novel": "Graphic Novel",
    "graphite": "Graphite",
    "isometric_3d": "Isometric 3D",
    "low_poly_3d": "Low Poly 3D",
    "marker_drawing": "Marker Drawing",
    "moody_film": "Moody Film",
    "pixel_art": "Pixel Art",
    "retro": "Retro",
    "sci_fi_art": "Sci-fi Art",
    "stickers": "Stickers",
    "storyboard": "Storyboard",
    "thriller": "Thriller",
    "3d_cartoon": "3D Cartoon",
    "3d_render": "3D Render",
    "80s_vaporwave": "80s Vaporwave",
}


class AiNowSettings(ProviderSettings):
    """`AINOW_*`."""

    model_config = SettingsConfigDict(env_prefix="AINOW_")

    base_url: str = "https://api.ai-now.space"
    deadline: float = Field(default=900, gt=0)


class PromptFields(Fields):
    """suno and luma: a prompt."""

    prompt: Text


class PikaFields(PromptFields):
    """pika: a prompt and one of seven styles."""

    style: str | None = Field(default=None, json_schema_extra={"enum": [*PIKA_STYLES]})

    @field_validator("style")
    @classmethod
    def _known(cls, style: str | None) -> str | None:
        return _style(style, PIKA_STYLES)


class RunFields(PromptFields):
    """run: a prompt and one of 25 styles."""

    style: str | None = Field(default=None, json_schema_extra={"enum": [*RUN_STYLES]})

    @field_validator("style")
    @classmethod
    def _known(cls, style: str | None) -> str | None:
        return _style(style, RUN_STYLES)


def _style(style: str | None, known: Mapping[str, str]) -> str | None:
    if style is not None and style not in known:
        names = ", ".join(f"{value} ({name})" for value, name in known.items())
        raise field_error("", f"{style!r} is no style of this model; there are {names}")
    return style


_SENDS = frozenset({"model", "prompt", "style"})
_LATE = "Completed, but without a url yet"
"""What is shown of a frame that says Completed and lacks its result; the next one may bring it."""
_NO_URL = "AI-Now says Completed without a url that can be opened."
_COSTLY = COUNTS | DURATIONS | QUALITIES | PRIORITIES | {"tier", "extend", "continue_clip_id"}
"""The page names no such field; these are those of the services behind the names of its models. The last two make a
longer song or video out of another."""


def _model(name: str, kind: Kind, tokens: int, fields: type[Fields] = PromptFields, **more: Any) -> Model:
    return Model(name, kind, tokens, fields, _SENDS, costly=_COSTLY, typical_seconds=(60, 180), streamed=True, **more)


class AiNow(Provider):
    """The adapter for https://api.ai-now.space."""

    name = "AI-Now"
    position = 30
    models = (
        _model("suno", Kind.AUDIO, 10),
        _model("luma", Kind.VIDEO, 30, note="May fail at peak hours."),
        _model("pika", Kind.VIDEO, 10, PikaFields, styles=PIKA_STYLES),
        _model("run", Kind.VIDEO, 30, RunFields, styles=RUN_STYLES),
    )
    settings_type = AiNowSettings

    def declare_dialect(self) -> Dialect:
        """418 is this provider's status for an empty account, with the words "Insufficient tokens"."""
        return Dialect(bearer(self.settings), no_credit=("insufficient tokens",))

    async def check_key(self) -> str:
        """The page has one free call, and does not say whether it looks at the key."""
        await self.upstream.get("/api/ping")
        return "it answers; whether it takes the key shows only in a paid order"

    async def prepare(self, order: Order, inputs: Inputs) -> Request:
        """`{model, prompt, style?}`."""
        del inputs
        return Request("/api/generate", json={"model": order.model, **order.fields, **order.extra})

    async def stream(self, request: Request) -> AsyncGenerator[Update]:
        """Every word but `Completed` and `Error` means still working."""
        role, late = Role.AUDIO if request.json["model"] == "suno" else Role.VIDEO, False
        async with self.upstream.open_stream(request) as messages:
            if isinstance(messages, Answer):
                yield self._whole(messages, role)
                return
            yield Update()  # nothing is new, but the order is taken: a cancel need not wait for the first word
            words = ""
            async for message in messages:
                update = self._update(message, role)
                words = update.detail if update and update.detail else words
                if update is not None:
                    late = update.detail == _LATE
                    yield update
                if update is not None and update.status is not None:
                    return
        if late:
            raise UpstreamFailed(_NO_URL)
        last = f" Its last words: {words}" if words else ""
        raise Interrupted(f"AI-Now's stream ended without a result; it cannot be resumed.{last}")

    def _whole(self, answer: Answer, role: Role) -> Update:
        """One JSON object in place of a stream: only how the work ended is an answer to the order."""
        frame = _parsed(answer.body)
        if _word(frame) != "completed":
            raise self.dialect.missing_ticket(answer, "is not a stream")
        update = self._completed(frame, role)
        if update.status is None:
            raise UpstreamFailed(_NO_URL)
        return update

    def _update(self, message: Message, role: Role) -> Update | None:
        """The update of a frame, which may report an error in `status`, in other fields, or in its event's name."""
        frame = _parsed(message.data.encode())
        word = _word(frame)
        if word == "completed":
            return self._completed(frame, role)
        if word == "error" or plain(message.event) in _ERROR_EVENTS or (not word and is_error(frame)):
            return Update(status=Status.ERROR, error=self._failed(message))
        words = frame["status"] if word else message_of(frame)
        return Update(detail=self.dialect.safe_text(words)) if words else None

    def _failed(self, message: Message) -> JobError:
        return self.dialect.failure(content_of(message.data.encode()), "AI-Now gave no reason.")

    def _completed(self, frame: Mapping[str, Any], role: Role) -> Update:
        urls = urls_in(frame.get("url"), frame.get("urls"), frame.get("data"))
        places = list(filter(None, map(self.upstream.url_or_none, urls)))
        if not places:
            return Update(detail=_LATE)
        made = [NewOutput(Output(role, by_url(place, role), url=place)) for place in places]
        return Update(status=Status.COMPLETED, outputs=made)


_ERROR_EVENTS = frozenset({"error", "failed", "failure"})


def _word(frame: Mapping[str, Any]) -> str:
    """A frame's status, to be compared; empty where it has none."""
    word = frame.get("status")
    return plain(word) if isinstance(word, str) else ""


def _parsed(data: bytes) -> dict[str, Any]:
    # A frame that cannot be read says nothing; the stream may go on to say how the work ended.
    frame = loads(data)
    return frame if isinstance(frame, dict) else {}
