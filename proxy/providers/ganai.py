"""Gan.ai Studio: personalized videos in bulk.

One POST of an array makes one video for each item. Its reply already has every URL, but the videos do not exist yet.
Only `gen_status` tells when an item is finished, with one status call for each inference. An order is one job, whose
items finish and fail one by one.

Source: Gan.ai's `create_video/bulk` and inference pages, read 2026-11. Lines with another source say so.
Inferred, 2026-11: an item's error may have other shapes than an object, null and the text "None". An item that the
reply omits was not taken.
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
from proxy.store.types import Asset
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

_IN_PROGRESS_WORDS = frozenset(
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
_KNOWN_WORDS = _IN_PROGRESS_WORDS | {"succeeded"}
"""Documented words of unfinished items. A success is unfinished until it has a URL."""
_FAILURE_WORDS = frozenset(map(plain, ("FAILED", "BLOCKED", "DELETED", "REGENERATE_REQUIRED")))
"""Words of items that failed. Inferred, 2026-11: the last three mean failure; the page only lists them."""
_URL_NAMES = ("video_url", "audio_url", "thumbnail_url", "smart_url", "permalink")
_ID_NAMES = ("inference_id", "project_id")
_MAX_STATUS_CALLS = 16
"""Maximum number of concurrent status calls of one job, so that a large order does not flood the provider."""


class GanAiSettings(ProviderSettings):
    """Settings with the prefix `GANAI_`."""

    model_config = SettingsConfigDict(env_prefix="GANAI_")

    base_url: str = "https://api.gan.ai"
    poll_interval: float = Field(default=5, gt=0)
    deadline: float = Field(default=7200, gt=0)
    project_id: str = ""
    """Default project, for orders without `project_id`."""


class GanAiFields(Fields):
    """Fields of ganai-bulk: the project, and items with the project's tags and a `unique_id` each."""

    # The maximum number of items is ours, because the pages name none.
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
    def _check_project_id(cls, project_id: str | None) -> str | None:
        if project_id in {".", ".."}:  # these cannot be escaped in a path
            raise field_error("", "is not a project id")
        return project_id

    @field_validator("items")
    @classmethod
    def _check_items(cls, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        unique_ids: set[str] = set()
        for index, item in enumerate(items):
            unique_id = item.get("unique_id")
            if not isinstance(unique_id, str) or not unique_id.strip():
                raise field_error(f"{index}.unique_id", "every item needs a unique_id, as text")
            if unique_id in unique_ids:
                raise field_error(
                    f"{index}.unique_id", f"{unique_id!r} is the unique_id of two items; each needs its own"
                )
            unique_ids.add(unique_id)
            nested = [tag for tag, value in item.items() if not isinstance(value, str | int | float)]
            if nested:
                raise field_error(f"{index}.{nested[0]}", "a tag must be a text, a number or a boolean")
        return items


def _item_units(fields: Mapping[str, Any]) -> int:
    return len(fields["items"])


class GanAi(Provider):
    """Adapter for https://api.gan.ai."""

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
            note="The price is per item. Failed items are refunded at the end.",
            extra="refused",
            units=_item_units,
        ),
    )
    settings_type = GanAiSettings
    settings: GanAiSettings

    def declare_dialect(self) -> Dialect:
        """Return the dialect. The pages name no codes for an empty account."""
        return Dialect(bearer(self.settings))

    def validate(self, order: Order, assets: Mapping[str, Asset]) -> Sequence[FieldError]:
        """Require a project, from the order or the settings."""
        del assets
        if order.fields.get("project_id") or self.settings.project_id:
            return ()
        return [
            FieldError(
                "project_id", "project_id is required, because this installation has no default (GANAI_PROJECT_ID)"
            )
        ]

    async def check_key(self) -> str:
        """Read the status of an inference that does not exist. This checks the key, but not the project."""
        project = quote(self.settings.project_id or "none", safe="")
        await self.upstream.check_key(f"/projects/{project}/inference/{UUID(int=0)}/video_status")
        return "" if self.settings.project_id else "GANAI_PROJECT_ID is not set, so every order must name its project"

    async def prepare(self, order: Order, inputs: Inputs) -> Request:
        """Build the request: the items as an array, and the project in the query."""
        del inputs
        project = order.fields.get("project_id") or self.settings.project_id
        return Request("/create_video/bulk", json=list(order.fields["items"]), query={"project_id": project})

    async def submit(self, request: Request) -> Ticket:
        """Send the order once. The reply is an array, matched by `unique_id`. Its URLs are kept, but prove nothing."""
        answer = await self.upstream.submit(request)
        try:
            reply = _find_list(answer.exact())
        except UnreadableAnswer:
            reply = None
        if reply is None:
            raise self.dialect.missing_ticket(answer, "is not the list of its inferences")
        entries = _by_unique_id(reply, [entry["unique_id"] for entry in request.json])
        project = request.query["project_id"]
        items = [self._new_item(item["unique_id"], entries.get(item["unique_id"]), project) for item in request.json]
        return {"items": items}

    def _new_item(self, unique_id: str, entry: Mapping[str, Any] | None, project: str) -> dict[str, Any]:
        if entry is None:
            return {"unique_id": unique_id, "message": "Gan.ai's reply left this item out."}
        item = {name: url for name in _URL_NAMES if (url := self.upstream.url_or_none(entry.get(name)))}
        ids = {"inference_id": _inference_id(entry), "project_id": as_id(entry.get("project_id"))}
        item |= {name: value for name, value in ids.items() if value}
        if "inference_id" not in item:
            message = message_of({**entry, "unique_id": None})
            item["message"] = self.dialect.safe_text(message or "Gan.ai's reply gave this item no inference_id.")
        return {"unique_id": unique_id, "project_id": project} | item

    async def check(self, ticket: Ticket, last_answers: LastAnswers) -> Update:
        """Read the status of each unfinished item. A failed call leaves its item unchanged.

        Raises ReadFailed or Unchanged only if no call brought news.
        """
        items = [dict(item) for item in ticket["items"]]
        unfinished = [item for item in items if not item.get("over")]
        outcomes = await self._request_statuses(unfinished, last_answers)
        # All items are polled together, so the longest requested wait applies.
        wait = max((outcome.wait for outcome in outcomes if outcome and outcome.wait), default=None)
        no_news = [outcome for outcome in outcomes if isinstance(outcome, ReadFailed | Unchanged)]
        outcomes.clear()  # Breaks the cycle of exception and frame, which only the garbage collector would free.
        if no_news and len(no_news) == len(unfinished):
            # Unchanged takes precedence over ReadFailed: one unchanged answer proves that the provider works.
            no_news.sort(key=lambda outcome: isinstance(outcome, Unchanged))
            no_news[-1].wait = wait
            raise no_news.pop()
        return replace(_update(items, unfinished), wait=wait)

    async def _request_statuses(
        self, items: list[dict[str, Any]], last_answers: LastAnswers
    ) -> list[ReadFailed | Unchanged | Answer | None]:
        slots = asyncio.Semaphore(_MAX_STATUS_CALLS)
        if len(items) == 1:  # A separate task would add a tenth to the cost of a poll.
            return [await self._request_status(items[0], slots, last_answers)]
        return await asyncio.gather(*(self._request_status(item, slots, last_answers) for item in items))

    async def _request_status(
        self, item: dict[str, Any], slots: asyncio.Semaphore, last_answers: LastAnswers
    ) -> ReadFailed | Unchanged | Answer | None:
        """Read an item's status into `item`. Return the answer, or the exception if it brought no news.

        An item without an inference fails without a call, and the result is None.
        """
        if not item.get("inference_id"):
            item |= {"over": "failed", "message": item.get("message") or "Gan.ai's reply left this item out."}
            return None
        project, inference = (quote(item[name], safe="") for name in ("project_id", "inference_id"))
        path = f"/projects/{project}/inference/{inference}/video_status"
        try:
            async with slots:
                answer = await self.upstream.get(path, last_answers=last_answers)
            self._apply_status(item, answer)
        except (ReadFailed, Unchanged) as no_news:
            last_answers.forget(path)
            return no_news
        return answer

    def _apply_status(self, item: dict[str, Any], answer: Answer) -> None:
        body = self.dialect.json_object(answer)
        word = body.get("gen_status")
        if not isinstance(word, str) or not plain(word):
            item["said"] = self.without_status(answer, word).detail
            return
        item.pop("said", None)
        # Only the word decides, because the URLs are present from the start.
        item["word"] = self.dialect.safe_text(word)
        item |= {name: url for name in _URL_NAMES if (url := self.upstream.url_or_none(body.get(name)))}
        if plain(word) == "succeeded":
            if not (item.get("permalink") or item.get("video_url")):
                raise NotReady("Gan.ai reports SUCCEEDED, but names no URL yet that can be opened.", answer.wait)
            item["over"] = "succeeded"
        elif plain(word) in _FAILURE_WORDS:
            reason = message_of(body.get("error")) or f"Gan.ai: {word}"
            item |= {"over": "failed", "message": self.dialect.safe_text(reason)}

    def partial_result(self, ticket: Ticket, reason: str) -> Update | None:
        """Count unfinished items as failed, and keep the others. Return None if no item has succeeded."""
        items = [dict(item) for item in ticket["items"]]
        unfinished = [item for item in items if not item.get("over")]
        for item in unfinished:
            item |= {"over": "failed", "message": reason}
        return _update(items, unfinished) if any(item["over"] == "succeeded" for item in items) else None

    async def content(self, ticket: Ticket, output: Output, n: int) -> Source:
        """Return the `video_url` that the status call names now. The permalink may be a page instead of a file."""
        item = dict(ticket["items"][n])
        outcome = await self._request_status(item, asyncio.Semaphore(1), LastAnswers())
        if isinstance(outcome, UnknownToProvider):
            raise outcome
        return Source(item.get("video_url") or output.url or "")


def _find_list(reply: object) -> list[Any] | None:
    """Return the list of inferences, also from a gateway's envelope, or None."""
    while isinstance(reply, dict):
        reply = next(
            (reply[name] for name in ("data", "results", "items", "result") if reply.get(name) is not None), None
        )
    return reply if isinstance(reply, list) else None


def _by_unique_id(reply: list[Any], ordered: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Return the reply's entries by `unique_id`.

    A complete reply without any `unique_id` is matched by position.
    """
    entries = [entry for entry in reply if isinstance(entry, dict)]
    if len(entries) == len(ordered) and not any(as_id(entry.get("unique_id")) for entry in entries):
        return dict(zip(ordered, entries, strict=True))
    # Of several entries with one unique_id, the first that has an inference_id counts.
    entries.sort(key=lambda entry: not _inference_id(entry))
    return {str(entry.get("unique_id")): entry for entry in reversed(entries)}


def _inference_id(entry: Mapping[str, Any]) -> str:
    return id_in({name: value for name, value in entry.items() if name != "unique_id"}, "inference_id")


def _update(items: list[dict[str, Any]], polled: list[dict[str, Any]]) -> Update:
    """Return the update of all items. While some are unfinished, its outputs are those of `polled` that have ended."""
    if any(not item.get("over") for item in items):
        finished = [_new_output(n, item) for n, item in enumerate(items) if item in polled and item.get("over")]
        words = {item["word"] for item in items if item.get("word") and not item.get("over")}
        unknown = tuple(sorted(word for word in words if plain(word) not in _KNOWN_WORDS))
        return Update(detail=_detail(items), outputs=finished, ticket={"items": items}, unknown_words=unknown)
    outputs = [_new_output(n, item) for n, item in enumerate(items)]
    if all(each.output.failed for each in outputs):
        reason = next(each.output.message for each in outputs)
        error = UpstreamFailed(f"All {len(items)} items failed. The first one: {reason}")
        return Update(status=Status.ERROR, error=error, outputs=outputs, ticket={"items": items})
    return Update(status=Status.COMPLETED, outputs=outputs, ticket={"items": items})


def _detail(items: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the provider's words for the unfinished items: one word, or each word with its count."""
    said = (item.get("said") or item.get("word") for item in items if not item.get("over"))
    words = Counter(word for word in said if word)
    if len(words) <= 1:
        return next(iter(words), None)
    return ", ".join(f"{word} ({count})" for word, count in sorted(words.items()))


def _new_output(n: int, item: Mapping[str, Any]) -> NewOutput:
    failed = item["over"] == "failed"
    names = () if failed else ("video_url", "audio_url", "smart_url", "permalink")
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
        ids={name: item[name] for name in (*names, *_ID_NAMES) if item.get(name)},
    )
    return NewOutput(output)
