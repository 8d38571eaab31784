"""Examples of a provider file: what the adapter makes of each literal answer, beside what its author expects.

Nothing is sent. The same reading explains an answer that somebody has at hand.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from multidict import CIMultiDict
from pydantic import SecretStr

from proxy.core.clock import SystemClock
from proxy.core.errors import JobError, OutcomeUnknown
from proxy.core.job import Order, Status
from proxy.core.provider_rules import choice_key
from proxy.core.provider_tables import Example, ModelTable
from proxy.providers.base import Update
from proxy.providers.declared import Declared, DeclaredKind
from proxy.providers.declared_errors import Ended
from proxy.upstream.answers import Answer, NotTaken, ReadFailed, loads
from proxy.upstream.requests import File, dump_json

_KEY: Final = SecretStr("example-key")
"""The key of a provider that is never asked."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What Pollcast makes of an answer. The names are those of an example's `expect`."""

    path: str | None = None
    body: Any = None
    form: dict[str, str] | None = None
    id: str | None = None
    keep: dict[str, str] | None = None
    state: str | None = None
    unknown: str | None = None
    detail: str | None = None
    progress: float | None = None
    outputs: list[str] | None = None
    error: str | None = None
    message: str | None = None
    resend: bool | None = None
    paid: str | None = None
    continues: bool | None = None

    def as_json(self) -> dict[str, Any]:
        """Return what is known, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


async def examine(kind: DeclaredKind) -> list[str]:
    """Return one line for each example that the adapter reads otherwise than its author expects."""
    differences = []
    for n, example in enumerate(kind.read.file.example):
        found = (await explain(kind, example)).as_json()
        for name, value in example.expect.model_dump(exclude_none=True).items():
            wanted = loads(value.encode()) if name == "body" else value
            if found.get(name) != wanted:
                place = f"example.{n}.expect.{name} ({example.step})"
                differences.append(f"{place}: expected {wanted!r}, but it is {found.get(name)!r}")
    return differences


async def explain(kind: DeclaredKind, example: Example) -> Reading:
    """Return what the adapter makes of an example. Nothing is sent."""
    file = kind.read.file
    settings = kind.settings_type(base_url=file.base_url, api_key=_KEY)
    provider = kind(settings, SystemClock(), file.base_url)
    table = next((model for model in file.model if model.name == example.model), file.model[0])
    answer = Answer(example.http, CIMultiDict(example.headers), example.answer.encode(), 0.0)
    match example.step:
        case "request":
            return await _request(provider, table, example)
        case "submit":
            return _submit(provider, table, answer)
        case "poll":
            return _poll(provider, table, answer)
        case "result":
            return _ended(lambda: _result(provider, table, answer), provider, table, answer)
        case "upload":
            return _upload(provider, answer)
        case "lookup":
            return _lookup(provider, table, answer)
        case "cancel":
            return Reading() if answer.ok else Reading(message=provider.dialect.read_error(answer).message)


async def _request(provider: Declared, table: ModelTable, example: Example) -> Reading:
    """Return the request of an order, as a dry run shows it."""
    model = next(model for model in provider.models if model.name == f"{provider.name}/{table.name}")
    fields = model.fields.model_validate(example.order).model_dump(exclude_none=True)
    request = await provider.prepare(Order(model.name, fields), _Shown())
    if request.form:
        return Reading(path=request.path, form={name: _form_text(value) for name, value in request.form})
    return Reading(path=request.path, body=loads(dump_json(request.json, str)))


class _Shown:
    """Inputs of a request that is only shown: each reference stands for its bytes and for its upload."""

    async def files(self, refs: Sequence[str]) -> Sequence[File]:
        """Return files whose bytes are the text of the reference."""
        return [File("input", "image/png", ref.encode()) for ref in refs]

    async def upload(self, ref: str, send: Callable[[File], Any]) -> str:
        """Return the reference in place of the upload."""
        del send
        return f"<upload of {ref}>"

    def url(self, ref: str) -> str:
        """Return the reference."""
        return ref


def _form_text(value: str | File) -> str:
    return f"<{value.name}>" if isinstance(value, File) else choice_key(value)


def _submit(provider: Declared, table: ModelTable, answer: Answer) -> Reading:
    try:
        ticket = provider.answers.ticket(table.name, answer)
    except NotTaken as refusal:
        return Reading(error=refusal.error.code, message=refusal.error.message, resend=True, paid="no")
    except JobError as error:
        rule = provider.answers.rule(answer)
        paid = "unknown" if rule is None or isinstance(error, OutcomeUnknown) else rule.paid
        return Reading(error=error.code, message=_bare(provider, answer, error), resend=False, paid=paid)
    keep = {name: value for name, value in ticket.items() if name not in {"id", "model"}}
    return Reading(id=ticket["id"], keep=keep, paid="yes")


def _bare(provider: Declared, answer: Answer, error: JobError) -> str:
    """Return the provider's own words, where there are some."""
    return provider.dialect.message_in(answer) or error.message


def _poll(provider: Declared, table: ModelTable, answer: Answer) -> Reading:
    def read() -> Update | None:
        provider.answers.check(answer)
        has_result = not provider.file.result.path or provider.answers.standing(answer).state != "done"
        return provider.answers.update(table, answer, None) if has_result else None

    return _ended(read, provider, table, answer)


def _result(provider: Declared, table: ModelTable, answer: Answer) -> Update:
    if answer.status not in provider.file.result.http_failure:
        provider.answers.check(answer)
    return provider.answers.result(table, answer, None)


def _ended(read: Callable[[], Update | None], provider: Declared, table: ModelTable, answer: Answer) -> Reading:
    """Return what becomes of a job by an answer that `read` reads. It returns None if the result is elsewhere."""
    try:
        standing = provider.answers.standing(answer)
    except ReadFailed:
        standing = None
    state = standing.state if standing else None
    try:
        update = read()
    except Ended as ended:
        return Reading(state=state, error=ended.error.code, message=ended.error.message, continues=False)
    except ReadFailed as error:
        return Reading(state=state, message=error.message, continues=True)
    if update is None:
        return Reading(state=state, continues=True)
    is_completed = update.status is Status.COMPLETED
    urls = [url or "" for url in provider.answers.urls(table, answer)] if is_completed else None
    return Reading(
        state=state,
        unknown=next(iter(update.unknown_words), None),
        detail=update.detail,
        progress=update.progress,
        outputs=urls,
        error=update.error.code if update.error else None,
        message=update.error.message if update.error else update.message,
        continues=update.status is None,
    )


def _upload(provider: Declared, answer: Answer) -> Reading:
    upload = provider.file.upload
    try:
        return Reading(id=provider.answers.uploaded(upload, answer)) if upload else Reading()
    except (JobError, ReadFailed) as error:
        return Reading(error=getattr(error, "code", None), message=error.message)


def _lookup(provider: Declared, table: ModelTable, answer: Answer) -> Reading:
    try:
        provider.answers.check(answer)
        ticket = provider.answers.found_ticket(table.name, answer)
    except ReadFailed as error:
        return Reading(message=error.message)
    return Reading(id=ticket["id"]) if ticket else Reading()
