"""The error tree. Each class defines an error code and its HTTP status.

A `RequestError` answers a client's request. A `JobError` ends a job as its final `Error` event; while content is
relayed, it answers 502. A message is for a person: it names the fault, its place and a valid value. It never contains
an operator's key, upstream headers or a stack trace. `proxy/docs/api.md` lists all codes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar


class PollcastError(Exception):
    """Base of all errors: a message for a person and a `code` for a program."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


# --- errors that answer a client's request ---


class RequestError(PollcastError):
    """Base of the errors that answer a client's request."""

    def __init__(self, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.headers = dict(headers or {})


class BadRequest(RequestError):
    """The body is not JSON, or a header is malformed."""

    code, status = "bad_request", 400


class Unauthorized(RequestError):
    """The API key is missing, unknown or revoked, or the Link is altered or expired."""

    code, status = "unauthorized", 401

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"WWW-Authenticate": "Bearer"})


class NotFound(RequestError):
    """The object does not exist or belongs to another account. The answer does not say which."""

    code, status = "not_found", 404


class MethodNotAllowed(RequestError):
    """The path exists but does not allow this method."""

    code, status = "method_not_allowed", 405


class Conflict(RequestError):
    """The job's state forbids the request: content before the job ends, cancellation after it."""

    code, status = "conflict", 409


class TooLarge(RequestError):
    """A request body or asset exceeds its size limit."""

    code, status = "too_large", 413


class UrlTooLong(TooLarge):
    """The URL exceeds its length limit."""

    status = 414


class HeadersTooLong(TooLarge):
    """The headers together exceed their size limit."""

    status = 431


class UnsupportedType(RequestError):
    """The type of an asset's bytes is not supported by any provider."""

    code, status = "unsupported_type", 415


class RangeNotSatisfiable(RequestError):
    """The requested byte range lies outside the content."""

    code, status = "range_not_satisfiable", 416


class InsufficientTokens(RequestError):
    """The account's balance is too low. The message gives the balance and the price."""

    code, status = "insufficient_tokens", 418


@dataclass(frozen=True, slots=True)
class FieldError:
    """One invalid field: its path (`clips.0.avatar_id`) and a message that describes a valid value."""

    field: str
    message: str


class InvalidRequest(RequestError):
    """The JSON is well-formed but the order is invalid. `errors` names each invalid field."""

    code, status = "invalid_request", 422

    def __init__(self, message: str, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(message)
        self.errors = tuple(errors)


class UnknownModel(RequestError):
    """The model is not in the catalogue."""

    code, status = "unknown_model", 422


class IdempotencyConflict(RequestError):
    """The `Idempotency-Key` was already used with a different body."""

    code, status = "idempotency_conflict", 422


class RateLimited(RequestError):
    """The account exceeds one of its limits. The client may retry after `seconds`."""

    code, status = "rate_limited", 429

    def __init__(self, message: str, seconds: int = 5) -> None:
        super().__init__(message, headers={"Retry-After": str(seconds)})


class Unavailable(RequestError):
    """The store is unreachable, or the server is shutting down."""

    code, status = "unavailable", 503


class ProviderUnavailable(RequestError):
    """The model's provider has no API key configured, does not list the model, or is down."""

    code, status = "provider_unavailable", 503


# --- errors that end a job; each refunds the full price ---


class JobError(PollcastError):
    """Base of the errors that end a job with `Error`."""

    status = 502


class UpstreamRejected(JobError):
    """The provider refused the order. The message contains the provider's words."""

    code = "upstream_rejected"


class UpstreamFailed(JobError):
    """The provider accepted the order and failed, or answered with an error of its own."""

    code = "upstream_failed"


class UpstreamCredits(JobError):
    """The operator's account at the provider has no credit left."""

    code = "upstream_credits"

    def __init__(self, words: str) -> None:
        # Name the operator's account first: a client could think of its own account here.
        super().__init__(f"The operator's account at the provider is empty: {words}")


class UpstreamAuth(JobError):
    """The provider refused the operator's API key."""

    code = "upstream_auth"


class UpstreamUnreachable(JobError):
    """The order was certainly not sent: the connection, DNS or TLS failed."""

    code = "upstream_unreachable"


class UpstreamRetired(JobError):
    """The provider has removed the endpoint."""

    code = "upstream_retired"


class UpstreamProtocol(JobError):
    """The provider's answers to polls stayed unreadable."""

    code = "upstream_protocol"


class DeadlineExceeded(JobError):
    """The provider did not finish before the job's deadline."""

    code = "deadline_exceeded"


class OutcomeUnknown(JobError):
    """The order may have reached the provider, but no ticket was received. It is not sent again."""

    code = "outcome_unknown"


class Interrupted(JobError):
    """The provider's stream broke, and the provider cannot resume it."""

    code = "interrupted"


class Internal(JobError):
    """An internal error of Pollcast. The log has the details."""

    code, status = "internal", 500
