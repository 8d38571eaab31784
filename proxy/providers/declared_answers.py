"""Reads the answers of a provider that a file describes, as tickets, updates and outputs. No I/O."""

import math
from dataclasses import dataclass
from typing import Final

from proxy.core import templates
from proxy.core.errors import JobError, UpstreamFailed, UpstreamRejected
from proxy.core.job import Status, Ticket
from proxy.core.provider_tables import ErrorRule, Keep, ModelTable, Poll, ProviderFile, State, Upload
from proxy.providers.base import Update, as_id
from proxy.providers.declared_errors import FileDialect, first, is_set
from proxy.providers.declared_outputs import OutputReader
from proxy.upstream.answers import Answer, NotReady, UnknownToProvider, UnreadableAnswer
from proxy.upstream.classify import is_error, plain
from proxy.upstream.client import Upstream

_FINAL_WORDS: Final = frozenset({"canceled", "blocked", "expired", "gone"})
"""States whose word outweighs an error in the same answer."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Progress of a job: its state (None: unknown), the provider's word, and the progress in percent."""

    state: State | None
    word: str | None = None
    progress: float | None = None


class StateReader:
    """Reads the state of a job from the answers to polls."""

    def __init__(self, poll: Poll) -> None:
        self._poll = poll
        self._words: dict[str, State] = {plain(word): state for word, state in poll.words.items()}
        self._http: dict[int, State] = {int(status): state for status, state in poll.http.items()}

    def standing(self, body: object, status: int) -> Standing:
        """Return how the job stands by an answer."""
        poll = self._poll
        value = first(poll.status, body)
        word = _word(value) if poll.present is None else None
        state = self._words.get(plain(word)) if word else None
        if poll.present is not None and is_set(value):
            state = poll.present
        if any(_equals(path.find(body), value) for path, value in poll.blocked.items()):
            state = "blocked"
        elif state not in _FINAL_WORDS and any(is_set(path.find(body)) for path in poll.failed):
            state = "failed"
        elif state is None and not word:
            state = self._http.get(status, poll.absent)
        return Standing(state, word, self._progress(body) if poll.progress else None)

    def _progress(self, body: object) -> float | None:
        value = first(self._poll.progress, body)
        try:
            number = float(value.strip().removesuffix("%") if isinstance(value, str) else value)
        except (TypeError, ValueError):
            return None
        return min(max(number / self._poll.progress_scale * 100, 0.0), 100.0) if math.isfinite(number) else None


def _word(value: object) -> str | None:
    """Return a status as a word: booleans and numbers count as theirs."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int):
        return str(value).strip() or None
    return None


def _equals(value: object, expected: object) -> bool:
    """Return whether two JSON values are equal. To Python, True equals 1."""
    return isinstance(value, bool) == isinstance(expected, bool) and value == expected


class Answers:
    """Reads the answers of one provider."""

    def __init__(self, file: ProviderFile, dialect: FileDialect, upstream: Upstream) -> None:
        self._file = file
        self._dialect = dialect
        self._states = StateReader(file.poll)
        self._outputs = {model.name: OutputReader(file.result, model, upstream) for model in file.model}

    def check(self, answer: Answer) -> None:
        """Raise the ReadFailed of an answer that is an error, also with an HTTP status of success."""
        if not answer.ok:
            raise self._dialect.read_error(answer)
        if self._file.errors.success and self._dialect.is_failure(answer.json()):
            raise self._dialect.read_error(answer)

    def rule(self, answer: Answer) -> ErrorRule | None:
        """Return the rule for a failed answer, if there is one."""
        return self._dialect.rule(answer.status, _exact(answer))

    def ticket(self, model: str, answer: Answer) -> Ticket:
        """Return the ticket of an order by the answer to its submit. Raises NotTaken, or the order's JobError."""
        body = _exact(answer)
        if not answer.ok or self._dialect.is_failure(body):
            raise self._dialect.submit_error(answer, None if not answer.ok else 400)
        submit = self._file.submit
        found = as_id(first(submit.id, body))
        if not found:
            raise self._dialect.missing_ticket(answer, "names no id")
        ticket = {"model": model, "id": found, **kept_values(submit.keep, body)}
        known = {*ticket, "path"}
        if not any(known.issuperset(templates.placeholders(path)) for path in self._file.poll.path):
            raise self._dialect.missing_ticket(answer, "lacks what its polls need")
        return ticket

    def found_ticket(self, model: str, answer: Answer) -> Ticket | None:
        """Return the ticket of a job that was looked up; None if the answer names none."""
        lookup, body = self._file.lookup, answer.exact()
        found = as_id(first(lookup.id, body)) if lookup else ""
        return {"model": model, "id": found, **kept_values(lookup.keep, body)} if lookup and found else None

    def uploaded(self, upload: Upload, answer: Answer) -> str:
        """Return what an order names, by the answer to an upload. Raises a JobError, Transient and UnreadableAnswer."""
        body = answer.exact()
        found = as_id(first(upload.id, body))
        refused = not found and (is_error(body) or self._dialect.message_in(answer))
        if self._dialect.is_failure(body) or refused:
            raise self._dialect.upload_error(answer)
        if not found:
            raise UnreadableAnswer(f"{self._file.title}'s answer to the upload names no id.")
        return templates.fill_text(upload.value, {"id": found})

    # --- polls ---

    def standing(self, answer: Answer) -> Standing:
        """Return how a job stands by the answer to a poll."""
        return self._states.standing(self._json(answer), answer.status)

    def update(self, table: ModelTable, answer: Answer, result: Answer | None) -> Update:
        """Return the update of an answer to a poll. `result` is the answer that has the outputs of a done job.

        Raises a ReadFailed.
        """
        body = self._json(answer)
        standing = self._states.standing(body, answer.status)
        shown = self._shown(standing, body)
        match standing.state:
            case "queued" | "running":
                return Update(detail=shown, progress=standing.progress, wait=answer.wait)
            case "done":
                return self.result(table, answer if result is None else result, shown)
            case None if standing.word:
                unknown = (shown,) if shown else ()
                return Update(detail=shown, progress=standing.progress, wait=answer.wait, unknown_words=unknown)
            case None:
                return self._without_status(answer)
            case "canceled":
                return Update(detail=shown, status=Status.CANCELED, message=f"{self._file.title} canceled the job.")
            case "gone":
                default = f"{self._file.title} answers {standing.word}."
                raise UnknownToProvider(self._dialect.reason(body, default), answer.wait)
        return Update(detail=shown, status=Status.ERROR, error=self._failure(standing, body))

    def _json(self, answer: Answer) -> object:
        try:
            return answer.json()
        except UnreadableAnswer:
            raise self._dialect.unreadable(answer, f"(HTTP {answer.status}) is not JSON") from None

    def _shown(self, standing: Standing, body: object) -> str | None:
        detail = first(self._file.poll.detail, body)
        is_boolean = standing.word in {"true", "false"}  # says nothing to a client
        text = detail if isinstance(detail, str) and detail.strip() else None if is_boolean else standing.word
        return self._dialect.safe_text(text) if text else None

    def _without_status(self, answer: Answer) -> Update:
        if is_error(answer.object()):
            raise self._dialect.unreadable(answer, "reports an error")
        self._dialect.check_access(answer)
        return Update(detail=self._dialect.message_in(answer), wait=answer.wait)

    def _failure(self, standing: Standing, body: object) -> JobError:
        if standing.state == "blocked":
            return UpstreamRejected(self._dialect.reason(body, self._blocked))
        if standing.state == "expired":
            return UpstreamFailed(self._dialect.reason(body, f"{self._file.title} says that the job has expired."))
        return self._dialect.failure(body, f"{self._file.title} gave no reason.")

    @property
    def _blocked(self) -> str:
        return f"{self._file.title} blocked the result because of its content."

    # --- results ---

    def result(self, table: ModelTable, answer: Answer, shown: str | None) -> Update:
        """Return the final update of a done job, by the answer that has its outputs. Raises NotReady without any."""
        if answer.status in self._file.result.http_failure:
            return Update(detail=shown, status=Status.ERROR, error=self._dialect.answer_failure(answer))
        reader = self._outputs[table.name]
        document = reader.document(answer.exact() if self._file.result.ids else answer.json())
        outputs = reader.outputs(document)
        if outputs:
            return Update(detail=shown, status=Status.COMPLETED, outputs=outputs)
        blocked = reader.blocked_message(document)
        if blocked is not None:
            error = UpstreamRejected(self._dialect.safe_text(blocked) or self._blocked)
            return Update(detail=shown, status=Status.ERROR, error=error)
        raise NotReady(f"{self._file.title} says {shown or 'done'}, but gives no result yet.")

    def urls(self, table: ModelTable, answer: Answer) -> list[str | None]:
        """Return the URLs of a done job's outputs, in their order; None for bytes. Raises UnreadableAnswer."""
        reader = self._outputs[table.name]
        return [found.url for found in reader.found(reader.document(answer.json()))]


def kept_values(keep: Keep, body: object) -> dict[str, str]:
    """Return the values of an answer that later requests need."""
    found = {name: as_id(first(paths, body)) for name, paths in keep.items()}
    return {name: value for name, value in found.items() if value}


def _exact(answer: Answer) -> object:
    try:
        return answer.exact()
    except UnreadableAnswer:
        return None
