"""Gan.ai Studio: bulk personalised video. Written from the provider's `create_video/bulk` and inference pages.

One POST of an array makes one video an item. Its reply already holds every URL, but nothing exists behind them yet:
only `gen_status`, asked for one inference at a time, says when an item is over. One job is one order; its items finish,
and fail, one by one.
Assumed (the page does not say): what an item's error looks like beyond an object, null or the text "None"; that an item
which the reply leaves out was not taken.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any
from urllib.parse import quote
from uuid import UUID

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from proxy.core.errors import FieldError, UpstreamFailed
from proxy.core.job import Kind, Order, Output, Role, Status, Ticket
from proxy.core.media_types import by_url
from proxy.core.settings import ProviderSettings
from proxy.providers.base import Inputs, Model, NewOutput, Provider, Source, Update, as_id, bearer, id_in
from proxy.providers.fields import Fields, Text, field_error
from proxy.upstream.answers import (
    Answer,
    LastAnswers,
    NotReady,
    ReadFailed,
    Unchanged,
    UnknownToProvider,
    UnreadableAnswer,
)
from proxy.upstream.classify import Dialect, message_of, plain
from proxy.upstream.requests import Request

_GOING_ON = frozenset(
    map(
        plain,
        (
            "PENDING",
            "PROCESSING",
            "LIPSYNC_PENDING",
            "WEBSITE_SCROLLING_PENDING",
            "NEXRENDER_PENDING",
            "FFMPEG_PENDING",
            "INFERENCE_POST_PROCESSING",
            "WEBHOOK_TRIGGERED",
            "UNKNOWN",
        ),
    )
)
_KNOWN = _GOING_ON | {"succeeded"}
"""Words of items that are not over: a success may still wait for its URL."""
_BAD_ENDS = frozenset(map(plain, ("FAILED", "BLOCKED", "DELETED", "REGENERATE_REQUIRED")))
"""FAILED is the page's word; that the other three end badly is our reading of theirs."""
_URLS = ("video_url", "audio_url", "thumbnail_url", "smart_url", "permalink")
_IDS = ("inference_id", "project_id")
_AT_ONCE = 16
"""Status calls under way at once for one job."""


class GanAiSettings(ProviderSettings):
    """`GANAI_*`."""

    model_config = SettingsConfigDict(env_prefix="GANAI_")

    base_url: str = "https://api.gan.ai"
    poll_interval: float = Field(default=5, gt=0)
    deadline: float = Field(default=7200, gt=0)
    project_id: str = ""
    """Project of orders that name none."""


class GanAiFields(Fields):
    """ganai-bulk: the items (the project's tags, each with its own `unique_id`), and the project."""

    items: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=200)] = Field(
        description="Objects of the project's tags (texts, numbers, booleans), each with its own unique_id.",
        json_schema_extra={
            "items": {
                "type": "object",
                "required": ["unique_id"],
                "properties": {"unique_id": {"type": "string", "pattern": "\\S"}},
                "additionalProperties": {"type": ["string", "number", "boolean"]},
            }
        },
    )
    project_id: Text | None = Field(default=None, json_schema_extra={"not": {"enum": [".", ".."]}})

    @field_validator("project_id")
    @classmethod
    def _no_other_path(cls, project_id: str | None) -> str | None:
        if project_id in {".", ".."}:  # in a path, neither can be escaped
            raise field_error("", "is no project")
        return project_id

    @field_validator("items")
    @classmethod
    def _each_its_own(cls, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        seen: set[str] = set()
        for index, item in enumerate(items):
            unique_id = item.get("unique_id")
            if not isinstance(unique_id, str) or not unique_id.strip():
                raise field_error(f"{index}.unique_id", "every item needs a unique_id (text)")
            if unique_id in seen:
                raise field_error(f"{index}.unique_id", f"{unique_id!r} names two items; each needs its own")
            seen.add(unique_id)
            nested = [tag for tag, value in item.items() if not isinstance(value, str | int | float)]
            if nested:
                raise field_error(f"{index}.{nested[0]}", "a tag is a text, a number or a boolean")
        return items


def _units(fields: Mapping[str, Any]) -> int:
    return len(fields["items"])


class GanAi(Provider):
    """The adapter for https://api.gan.ai."""

    name = "Gan.ai"
    position = 40
    models = (
        Model(
            "ganai-bulk",
            Kind.VIDEO,
            10,
            GanAiFields,
            frozenset(),
            typical_seconds=(120, 1200),
            note="The price is for each item; items that fail are refunded at the end.",
            extra="refused",
            units=_units,
        ),
    )
    settings_type = GanAiSettings
    settings: GanAiSettings

    def declare_dialect(self) -> Dialect:
        """The page names no codes for an empty account."""
        return Dialect(bearer(self.settings))

    def validate(self, order: Order) -> Sequence[FieldError]:
        """The project is the order's, or the installation's."""
        if order.fields.get("project_id") or self.settings.project_id:
            return ()
        return [FieldError("project_id", "project_id is required: this installation has none (GANAI_PROJECT_ID)")]

    async def check_key(self) -> str:
        """The status of an inference that does not exist; of the project it says nothing."""
        project = quote(self.settings.project_id or "none", safe="")
        await self.upstream.check_key(f"/projects/{project}/inference/{UUID(int=0)}/video_status")
        return "" if self.settings.project_id else "GANAI_PROJECT_ID is not set: orders must name their project"

    async def prepare(self, order: Order, inputs: Inputs) -> Request:
        """The array as it is; the project in the query."""
        del inputs
        project = order.fields.get("project_id") or self.settings.project_id
        return Request("/create_video/bulk", json=list(order.fields["items"]), query={"project_id": project})

    async def submit(self, request: Request) -> Ticket:
        """The reply is an array, told apart by `unique_id`; its URLs are kept, not believed."""
        answer = await self.upstream.submit(request)
        try:
            reply = _listed(answer.exact())
        except UnreadableAnswer:
            reply = None
        if reply is None:
            raise self.dialect.missing_ticket(answer, "is not the list of its inferences")
        known = _by_unique_id(reply, [entry["unique_id"] for entry in request.json])
        project = request.query["project_id"]
        items = [self._item(entry["unique_id"], known.get(entry["unique_id"]), project) for entry in request.json]
        return {"items": items}

    def _item(self, unique_id: str, entry: Mapping[str, Any] | None, project: str) -> dict[str, Any]:
        if entry is None:
            return {"unique_id": unique_id, "message": "Gan.ai's reply left this item out."}
        item = {name: url for name in _URLS if (url := self.upstream.url_or_none(entry.get(name)))}
        named = {"inference_id": _inference(entry), "project_id": as_id(entry.get("project_id"))}
        item |= {name: found for name, found in named.items() if found}
        if "inference_id" not in item:
            words = message_of({**entry, "unique_id": None})
            item["message"] = self.dialect.safe_text(words or "Gan.ai's reply gave this item no inference_id.")
        return {"unique_id": unique_id, "project_id": project} | item

    async def check(self, ticket: Ticket, last_answers: LastAnswers) -> Update:
        """One status call for each item that is not over; a call that fails leaves its item as it was."""
        items = [dict(item) for item in ticket["items"]]
        open_items = [item for item in items if not item.get("over")]
        outcomes = await self._ask_all(open_items, last_answers)
        # The longest of the hints, because all items are polled together.
        wait = max((outcome.wait for outcome in outcomes if outcome and outcome.wait), default=None)
        silent = [outcome for outcome in outcomes if isinstance(outcome, ReadFailed | Unchanged)]
        outcomes.clear()  # an exception and a frame that hold each other wait for the garbage collector
        if silent and len(silent) == len(open_items):
            # That one of them answered as before matters more than that another could not be read.
            silent.sort(key=lambda nothing: isinstance(nothing, Unchanged))
            silent[-1].wait = wait
            raise silent.pop()
        return replace(_update(items, open_items), wait=wait)

    async def _ask_all(
        self, items: list[dict[str, Any]], last_answers: LastAnswers
    ) -> list[ReadFailed | Unchanged | Answer | None]:
        gate = asyncio.Semaphore(_AT_ONCE)
        if len(items) == 1:  # a task of its own would be a tenth of a poll's cost
            return [await self._ask(items[0], gate, last_answers)]
        return await asyncio.gather(*(self._ask(item, gate, last_answers) for item in items))

    async def _ask(
        self, item: dict[str, Any], gate: asyncio.Semaphore, last_answers: LastAnswers
    ) -> ReadFailed | Unchanged | Answer | None:
        """Note in `item` what the provider says of it. Returns the answer, or the reason why it was no news."""
        if not item.get("inference_id"):
            item |= {"over": "failed", "message": item.get("message") or "Gan.ai's reply left this item out."}
            return None
        project, inference = (quote(item[name], safe="") for name in ("project_id", "inference_id"))
        path = f"/projects/{project}/inference/{inference}/video_status"
        try:
            async with gate:
                answer = await self.upstream.get(path, last_answers=last_answers)
            self._learn(item, answer)
        except (ReadFailed, Unchanged) as nothing:
            last_answers.forget(path)
            return nothing
        return answer

    def _learn(self, item: dict[str, Any], answer: Answer) -> None:
        body = self.dialect.json_object(answer)
        word = body.get("gen_status")
        if not isinstance(word, str) or not plain(word):
            item["said"] = self.without_status(answer, word).detail
            return
        item.pop("said", None)
        # Decided on the word alone: the URLs are there from the start.
        item["word"] = self.dialect.safe_text(word)
        item |= {name: url for name in _URLS if (url := self.upstream.url_or_none(body.get(name)))}
        if plain(word) == "succeeded":
            if not (item.get("permalink") or item.get("video_url")):
                raise NotReady("Gan.ai says SUCCEEDED, but gives no URL yet that can be opened.", answer.wait)
            item["over"] = "succeeded"
        elif plain(word) in _BAD_ENDS:
            reason = message_of(body.get("error")) or f"Gan.ai: {word}"
            item |= {"over": "failed", "message": self.dialect.safe_text(reason)}

    def partial_result(self, ticket: Ticket, reason: str) -> Update | None:
        """Unfinished items count as failed; what has succeeded stays."""
        items = [dict(item) for item in ticket["items"]]
        late = [item for item in items if not item.get("over")]
        for item in late:
            item |= {"over": "failed", "message": reason}
        return _update(items, late) if any(item["over"] == "succeeded" for item in items) else None

    async def content(self, ticket: Ticket, output: Output, n: int) -> Source:
        """The file, not the permalink (which may be a page): `video_url`, renewed by the status call."""
        item = dict(ticket["items"][n])
        failure = await self._ask(item, asyncio.Semaphore(1), LastAnswers())
        if isinstance(failure, UnknownToProvider):
            raise failure
        return Source(item.get("video_url") or output.url or "")


def _listed(reply: object) -> list[Any] | None:
    """The list of inferences, which a gateway may wrap."""
    while isinstance(reply, dict):
        reply = next(
            (reply[name] for name in ("data", "results", "items", "result") if reply.get(name) is not None), None
        )
    return reply if isinstance(reply, list) else None


def _by_unique_id(reply: list[Any], ordered: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """The reply's entries by `unique_id`; by their places where none of them has one and none is left out."""
    entries = [entry for entry in reply if isinstance(entry, dict)]
    if len(entries) == len(ordered) and not any(as_id(entry.get("unique_id")) for entry in entries):
        return dict(zip(ordered, entries, strict=True))
    # An entry that is there twice counts by the one that can be asked about, the first of several.
    entries.sort(key=lambda entry: not _inference(entry))
    return {str(entry.get("unique_id")): entry for entry in reversed(entries)}


def _inference(entry: Mapping[str, Any]) -> str:
    return id_in({name: value for name, value in entry.items() if name != "unique_id"}, "inference_id")


def _update(items: list[dict[str, Any]], asked: list[dict[str, Any]]) -> Update:
    if any(not item.get("over") for item in items):
        finished = [_made(n, item) for n, item in enumerate(items) if item in asked and item.get("over")]
        words = {item["word"] for item in items if item.get("word") and not item.get("over")}
        unknown = tuple(sorted(word for word in words if plain(word) not in _KNOWN))
        return Update(detail=_words(items), outputs=finished, ticket={"items": items}, unknown_words=unknown)
    outputs = [_made(n, item) for n, item in enumerate(items)]
    if all(made.output.failed for made in outputs):
        reason = next(made.output.message for made in outputs)
        error = UpstreamFailed(f"All {len(items)} items failed; the first: {reason}")
        return Update(status=Status.ERROR, error=error, outputs=outputs, ticket={"items": items})
    return Update(status=Status.COMPLETED, outputs=outputs, ticket={"items": items})


def _words(items: Sequence[Mapping[str, Any]]) -> str | None:
    """The provider's words for the items under way: one word, or each with its count."""
    said = (item.get("said") or item.get("word") for item in items if not item.get("over"))
    words = Counter(word for word in said if word)
    if len(words) <= 1:
        return next(iter(words), None)
    return ", ".join(f"{word} ({count})" for word, count in sorted(words.items()))


def _made(n: int, item: Mapping[str, Any]) -> NewOutput:
    failed = item["over"] == "failed"
    shown = () if failed else ("video_url", "audio_url", "smart_url", "permalink")
    url = None if failed else item.get("permalink") or item.get("video_url")
    output = Output(
        Role.VIDEO,
        by_url(item.get("video_url", ""), Role.VIDEO),
        n=n,
        url=url,
        unique_id=item["unique_id"],
        status=Status.ERROR if failed else Status.COMPLETED,
        message=item.get("message") if failed else None,
        thumbnail_url=None if failed else item.get("thumbnail_url"),
        ids={name: item[name] for name in (*shown, *_IDS) if item.get(name)},
    )
    return NewOutput(output)
