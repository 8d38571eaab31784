"""The error tree: each class is its code, its HTTP status and what it says.

Two branches: `RequestError` answers a client's request; `JobError` ends a job as its final `Error` event (and, while
content is relayed, answers 502). Messages are written for a person: what was wrong, where, what would be right. They
never hold an operator's key, upstream headers or a stack trace.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar


class PollcastError(Exception):
    """The root: a message for a person and a `code` for a program."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


# --- answers to a client's request (contract, section 4) ---


class RequestError(PollcastError):
    """A request that cannot be served as it stands."""

    def __init__(self, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.headers = dict(headers or {})


class BadRequest(RequestError):
    """Not JSON, or a header that cannot be read."""

    code, status = "bad_request", 400


class Unauthorized(RequestError):
    """A key that is missing, unknown or revoked; a Link that is altered or expired."""

    code, status = "unauthorized", 401

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"WWW-Authenticate": "Bearer"})


class NotFound(RequestError):
    """No such thing, or another account's: which of the two is not told."""

    code, status = "not_found", 404


class MethodNotAllowed(RequestError):
    """The path exists, the method does not."""

    code, status = "method_not_allowed", 405


class Conflict(RequestError):
    """Right in itself, wrong at this moment: content before the end, cancel after it."""

    code, status = "conflict", 409


class TooLarge(RequestError):
    """A body or asset over its limit."""

    code, status = "too_large", 413


class UrlTooLong(TooLarge):
    """A URL over its limit."""

    status = 414


class HeadersTooLong(TooLarge):
    """Headers that are over their limit together."""

    status = 431


class UnsupportedType(RequestError):
    """An asset whose bytes are of no type that a provider takes."""

    code, status = "unsupported_type", 415


class RangeNotSatisfiable(RequestError):
    """A byte range outside the content."""

    code, status = "range_not_satisfiable", 416


class InsufficientTokens(RequestError):
    """The balance is below what is to be taken from it; the message says both."""

    code, status = "insufficient_tokens", 418


@dataclass(frozen=True, slots=True)
class FieldError:
    """One field that is at fault: its path (`clips.0.avatar_id`) and what would be right."""

    field: str
    message: str


class InvalidRequest(RequestError):
    """Well-formed JSON that is no valid order; `errors` names each field at fault."""

    code, status = "invalid_request", 422

    def __init__(self, message: str, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(message)
        self.errors = tuple(errors)


class UnknownModel(RequestError):
    """A model name that is not in the catalogue."""

    code, status = "unknown_model", 422


class IdempotencyConflict(RequestError):
    """An `Idempotency-Key` that was used for another body."""

    code, status = "idempotency_conflict", 422


class RateLimited(RequestError):
    """Over one of the account's limits; `seconds` is when to try again."""

    code, status = "rate_limited", 429

    def __init__(self, message: str, seconds: int = 5) -> None:
        super().__init__(message, headers={"Retry-After": str(seconds)})


class Unavailable(RequestError):
    """The store is away, or the server is stopping."""

    code, status = "unavailable", 503


class ProviderUnavailable(RequestError):
    """The model's provider has no key here, does not list the model, or is down."""

    code, status = "provider_unavailable", 503


# --- ends of a job (contract, section 4; each is refunded in full, section 5) ---


class JobError(PollcastError):
    """Why a job ended in `Error`."""

    status = 502


class UpstreamRejected(JobError):
    """The provider refused the order; the message holds its own words."""

    code = "upstream_rejected"


class UpstreamFailed(JobError):
    """The provider tried and failed, or answered with its own error."""

    code = "upstream_failed"


class UpstreamCredits(JobError):
    """The operator's account at the provider is empty."""

    code = "upstream_credits"

    def __init__(self, words: str) -> None:
        # Whose it is, first: clients have an account of their own, whose emptiness the same words could tell.
        super().__init__(f"The operator's account at the provider is empty: {words}")


class UpstreamAuth(JobError):
    """The provider refused the operator's key."""

    code = "upstream_auth"


class UpstreamUnreachable(JobError):
    """The order surely was not sent: refused, DNS, TLS."""

    code = "upstream_unreachable"


class UpstreamRetired(JobError):
    """A deprecated endpoint is gone."""

    code = "upstream_retired"


class UpstreamProtocol(JobError):
    """Answers to polls that make no sense."""

    code = "upstream_protocol"


class DeadlineExceeded(JobError):
    """The provider did not finish in the time this installation gives it."""

    code = "deadline_exceeded"


class OutcomeUnknown(JobError):
    """The order may have reached the provider, but no readable ticket came back: never sent twice."""

    code = "outcome_unknown"


class Interrupted(JobError):
    """An upstream stream that cannot be resumed broke."""

    code = "interrupted"


class Internal(JobError):
    """A fault of ours; the log has the details."""

    code, status = "internal", 500
