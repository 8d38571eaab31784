"""AI-Now: suno, luma, pika and run.

One POST answers with a stream of `data:` frames without event names, from `Processing started` to `Completed` with a
`url`. There is no job id, so a broken stream cannot be resumed. Before the stream, errors are JSON with HTTP 401, 418
(no tokens) or 500.

Source: AI-Now's API documentation (wiki page of 2024-08-22), read 2026-11. Lines with another source say so.
Inferred, 2026-11: an error inside the stream is `{"status": "Error", "message": ...}`. The page shows this shape only
before the stream.
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
from proxy.providers.base import Inputs, Model, NewOutput, Provider, Update, bearer, urls_in
from proxy.providers.fields import COUNTS, DURATIONS, PRIORITIES, QUALITIES, Fields, Text, field_error
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
    """Settings with the prefix `AINOW_`."""

    model_config = SettingsConfigDict(env_prefix="AINOW_")

    base_url: str = "https://api.ai-now.space"
    deadline: float = Field(default=900, gt=0)


class PromptFields(Fields):
    """Fields of suno and luma: a prompt."""

    prompt: Text


class PikaFields(PromptFields):
    """Fields of pika: a prompt and one of seven styles."""

    style: str | None = Field(default=None, json_schema_extra={"enum": [*PIKA_STYLES]})

    @field_validator("style")
    @classmethod
    def _check_style(cls, style: str | None) -> str | None:
        return _check_value(style, PIKA_STYLES)


class RunFields(PromptFields):
    """Fields of run: a prompt and one of 25 styles."""

    style: str | None = Field(default=None, json_schema_extra={"enum": [*RUN_STYLES]})

    @field_validator("style")
    @classmethod
    def _check_style(cls, style: str | None) -> str | None:
        return _check_value(style, RUN_STYLES)


def _check_value(style: str | None, styles: Mapping[str, str]) -> str | None:
    if style is not None and style not in styles:
        names = ", ".join(f"{value} ({name})" for value, name in styles.items())
        raise field_error("", f"{style!r} is not a style of this model. Its styles: {names}")
    return style


_RESERVED_NAMES = frozenset({"model", "prompt", "style"})
_COMPLETED_WITHOUT_URL = "Completed, but without a URL yet"
"""Detail of a frame that says Completed without a URL. The next frame may have it."""
_NO_URL_MESSAGE = "AI-Now reports Completed without a URL that can be opened."
_COSTLY_NAMES = COUNTS | DURATIONS | QUALITIES | PRIORITIES | {"tier", "extend", "continue_clip_id"}
"""Names of options that may cost more. The page lists none.

Inferred, 2026-11: the names are those of the services that its models are called after. `extend` and
`continue_clip_id` lengthen an earlier song or video.
"""


def _model(name: str, kind: Kind, tokens: int, fields: type[Fields] = PromptFields, **more: Any) -> Model:
    return Model(
        name,
        kind,
        tokens,
        fields,
        _RESERVED_NAMES,
        costly=_COSTLY_NAMES,
        typical_seconds=(60, 180),
        streamed=True,
        **more,
    )


class AiNow(Provider):
    """Adapter for https://api.ai-now.space."""

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
        """Return the dialect. An empty account gets HTTP 418 with "Insufficient tokens"."""
        return Dialect(bearer(self.settings), no_credit=("insufficient tokens",))

    async def check_key(self) -> str:
        """Send a ping, the only free call. The page does not say whether it checks the key."""
        await self.upstream.get("/api/ping")
        return "it answers, but only a paid order shows whether its key is valid"

    async def prepare(self, order: Order, inputs: Inputs) -> Request:
        """Build the body `{model, prompt, style?}`."""
        del inputs
        return Request("/api/generate", json={"model": order.model, **order.fields, **order.extra})

    async def stream(self, request: Request) -> AsyncGenerator[Update]:
        """Send the order once. Every status except `Completed` and `Error` means that the work continues."""
        role, lacks_url = Role.AUDIO if request.json["model"] == "suno" else Role.VIDEO, False
        async with self.upstream.open_stream(request) as messages:
            if isinstance(messages, Answer):
                yield self._json_update(messages, role)
                return
            yield Update()  # The order is taken: a cancel need not wait for the first frame.
            words = ""
            async for message in messages:
                update = self._frame_update(message, role)
                words = update.detail if update and update.detail else words
                if update is not None:
                    lacks_url = update.detail == _COMPLETED_WITHOUT_URL
                    yield update
                if update is not None and update.status is not None:
                    return
        if lacks_url:
            raise UpstreamFailed(_NO_URL_MESSAGE)
        last = f" Its last status: {words}" if words else ""
        raise Interrupted(f"AI-Now's stream ended without a result. It cannot be resumed.{last}")

    def _json_update(self, answer: Answer, role: Role) -> Update:
        """Return the update of a JSON object that came instead of a stream. Only `Completed` is an answer."""
        frame = _parse_frame(answer.body)
        if _status_word(frame) != "completed":
            raise self.dialect.missing_ticket(answer, "is not a stream")
        update = self._completion(frame, role)
        if update.status is None:
            raise UpstreamFailed(_NO_URL_MESSAGE)
        return update

    def _frame_update(self, message: Message, role: Role) -> Update | None:
        """Return the update of a frame, or None. An error is in `status`, in other fields, or in the event's name."""
        frame = _parse_frame(message.data.encode())
        word = _status_word(frame)
        if word == "completed":
            return self._completion(frame, role)
        if word == "error" or plain(message.event) in _ERROR_EVENTS or (not word and is_error(frame)):
            return Update(status=Status.ERROR, error=self._failure(message))
        words = frame["status"] if word else message_of(frame)
        return Update(detail=self.dialect.safe_text(words)) if words else None

    def _failure(self, message: Message) -> JobError:
        return self.dialect.failure(content_of(message.data.encode()), "AI-Now gave no reason.")

    def _completion(self, frame: Mapping[str, Any], role: Role) -> Update:
        urls = urls_in(frame.get("url"), frame.get("urls"), frame.get("data"))
        urls = list(filter(None, map(self.upstream.url_or_none, urls)))
        if not urls:
            return Update(detail=_COMPLETED_WITHOUT_URL)
        outputs = [NewOutput(Output(role, by_url(url, role), url=url)) for url in urls]
        return Update(status=Status.COMPLETED, outputs=outputs)


_ERROR_EVENTS = frozenset({"error", "failed", "failure"})
"""Event names of an error frame. Inferred, 2026-11: the documented frames have no event name."""


def _status_word(frame: Mapping[str, Any]) -> str:
    """Return a frame's status in the form of `plain`, or "" if it has none."""
    word = frame.get("status")
    return plain(word) if isinstance(word, str) else ""


def _parse_frame(data: bytes) -> dict[str, Any]:
    # An unreadable frame counts as empty, because a later frame may report the end.
    frame = loads(data)
    return frame if isinstance(frame, dict) else {}
