"""The errors of a provider file: which error an answer means by its HTTP status and the provider's code.

The first rule that matches counts. Without one, answers mean what they mean for all providers, with one difference: an
order is sent again only if a rule says that the answer proves that nothing was bought.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from proxy.core import errors
from proxy.core.json_path import JsonPath
from proxy.core.provider_tables import ErrorRule, Errors
from proxy.upstream.answers import (
    Answer,
    CredentialRefused,
    CreditRefused,
    NotTaken,
    ReadFailed,
    Transient,
    UnknownToProvider,
    UnreadableAnswer,
    loads,
)
from proxy.upstream.classify import NOT_SENT_AGAIN, Dialect, message_of

_JOB_ERRORS: Final[Mapping[str, type[errors.JobError]]] = {
    "busy": errors.UpstreamFailed,
    "blocked": errors.UpstreamRejected,
    "gone": errors.UpstreamFailed,
    "upstream_rejected": errors.UpstreamRejected,
    "upstream_failed": errors.UpstreamFailed,
    "upstream_credits": errors.UpstreamCredits,
    "upstream_auth": errors.UpstreamAuth,
    "upstream_retired": errors.UpstreamRetired,
}
_READ_ERRORS: Final[Mapping[str, type[ReadFailed]]] = {
    "busy": Transient,
    "gone": UnknownToProvider,
    "upstream_credits": CreditRefused,
    "upstream_auth": CredentialRefused,
}


class Ended(ReadFailed):
    """An answer to a poll that says that the job has ended with `error`."""

    def __init__(self, error: errors.JobError) -> None:
        super().__init__(error.message)
        self.error = error


def first(paths: list[JsonPath], document: object) -> Any:
    """Return the value of the first path that has one."""
    for path in paths:
        value = path.find(document)
        if value is not None and value != []:
            return value
    return None


def is_set(value: object) -> bool:
    """Return whether a value is there: not null, false, 0, an empty text, nor an empty list or object."""
    return bool(value)


@dataclass(frozen=True)
class FileDialect(Dialect):
    """The errors of a provider file."""

    table: Errors = field(default_factory=Errors)

    def rule(self, status: int | None, body: object) -> ErrorRule | None:
        """Return the first rule for an answer. `status` is None for the body of a failed job."""
        codes = [code for path in self.table.code if (code := path.find(body)) is not None]
        code = next((code for code in codes if str(code) not in self._success), None)
        return next((rule for rule in self.table.rules if _matches(rule, status, code)), None)

    def is_failure(self, body: object) -> bool:
        """Return whether a body with an HTTP status of success has, at the first path, a code that is no success."""
        if not self._success:
            return False
        code = self.table.code[0].find(body)
        return code is not None and str(code) not in self._success

    @cached_property
    def _success(self) -> frozenset[str]:
        return frozenset(map(str, self.table.success))

    def submit_error(self, answer: Answer, status: int | None = None) -> errors.JobError | NotTaken:
        """Return what a failed answer means for the order. Only a rule with `paid = "no"` makes it be sent again."""
        rule = self.rule(answer.status, loads(answer.body))
        if rule is None:
            usual = super().submit_error(answer, status)
            return usual.error if isinstance(usual, NotTaken) else usual
        message = self.explain(answer)
        if rule.paid != "no":
            return errors.OutcomeUnknown(f"{NOT_SENT_AGAIN}: {message}")
        if rule.means == "busy":
            return NotTaken(errors.UpstreamRejected(message), answer.wait)
        return _JOB_ERRORS[rule.means](message)

    def upload_error(self, answer: Answer) -> errors.JobError | Transient:
        """Return what an upload's answer means that is a refusal with an HTTP status of success."""
        error = self.submit_error(answer, 400)
        if isinstance(error, NotTaken):
            return Transient(str(error), error.wait)
        # An upload orders nothing, so its outcome cannot be unknown.
        return errors.UpstreamRejected(self.explain(answer)) if isinstance(error, errors.OutcomeUnknown) else error

    def read_error(self, answer: Answer) -> ReadFailed:
        """Return the error that a failed read means."""
        rule = self.rule(answer.status, loads(answer.body))
        if rule is None:
            # A success whose code is an error says nothing about the job.
            return UnreadableAnswer(self.explain(answer), answer.wait) if answer.ok else super().read_error(answer)
        if rule.ends:
            return Ended(_JOB_ERRORS[rule.means](self.explain(answer)))
        return _READ_ERRORS.get(rule.means, UnreadableAnswer)(self.explain(answer), answer.wait)

    def failure(self, body: object, default: str) -> errors.JobError:
        """Return what the body of a failed job means."""
        rule = self.rule(None, body)
        if rule is None:
            usual = super().failure(body, default)
            return type(usual)(self.reason(body, default)) if isinstance(usual, errors.UpstreamFailed) else usual
        return _JOB_ERRORS[rule.means](self.reason(body, default))

    def answer_failure(self, answer: Answer) -> errors.JobError:
        """Return what a failed answer means that says that the job has failed."""
        body = loads(answer.body)
        rule = self.rule(answer.status, body)
        message = self.explain(answer)
        return self.failure(body, message) if rule is None else _JOB_ERRORS[rule.means](message)

    def reason(self, body: object, default: str) -> str:
        """Return the provider's message in a body, or `default`."""
        found = message_of(first(self.table.message, body)) or message_of(body)
        return self.safe_text(found or default)

    def message_in(self, answer: Answer) -> str | None:
        """Return the provider's message in an answer, at the file's paths if it is there."""
        found = message_of(first(self.table.message, loads(answer.body))) if self.table.message else None
        return self.safe_text(found) if found else super().message_in(answer)


def _matches(rule: ErrorRule, status: int | None, code: object) -> bool:
    if rule.code and (code is None or str(code) not in map(str, rule.code)):
        return False
    if rule.http and status is not None:
        return status in rule.http
    return bool(rule.code)
