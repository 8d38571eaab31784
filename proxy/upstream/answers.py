"""Answers of providers, the errors of failed reads, and a lenient JSON parser."""

import codecs
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any, Final

import orjson

from proxy.core.errors import JobError, UpstreamRejected

_MAX_WAIT: Final = 120.0
"""Maximum wait, in seconds, that a provider's hint can request."""
_HINT_HORIZON: Final = 20 * 366 * 86400.0
"""Maximum distance of a date, in seconds. A later one is a default such as the year 9999, not a hint."""


class NotTaken(Exception):
    """The provider certainly did not take the order. It may be sent again after `wait` seconds (None: at any time).

    The job ends with `error` if no attempt succeeds.
    """

    def __init__(self, error: JobError, wait: float | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.wait = wait


class GatewayRefusal(UpstreamRejected):
    """A refusal that may be a gateway's, and not the provider's own: a redirect, or 4xx without JSON.

    It ends an order that was sent once. A repeat of an order that may have been taken continues after it.
    """


class ReadFailed(Exception):
    """A read without a usable answer.

    `wait` is the provider's hint in seconds. `is_refusal` is True if the provider itself refused the request (4xx in
    JSON), and not its key, its pace or a gateway.
    """

    def __init__(self, message: str, wait: float | None = None, *, is_refusal: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.wait = wait
        self.is_refusal = is_refusal


class Transient(ReadFailed):
    """A network error, a 5xx or 429: the next read may succeed."""


class RateLimited(Transient):
    """429: the provider gets too many requests at present."""


class BreakerOpen(Transient):
    """The circuit breaker is open. Nothing was sent, and `wait` comes from the breaker."""


class UnreadableAnswer(ReadFailed):
    """An answer that cannot be interpreted: malformed, of wrong types, or an unexplained refusal."""


class NotReady(UnreadableAnswer):
    """The work has succeeded, but its result is not available yet."""


class CredentialRefused(ReadFailed):
    """401 or 403: the provider refuses the operator's key at present."""


class CreditRefused(CredentialRefused):
    """402, 418 or a message to that effect: the operator's account at the provider is empty."""


class UnknownToProvider(ReadFailed):
    """404, 410 or 400 in JSON: the provider does not know the requested object. Gateways do not answer in JSON."""


class Unchanged(Exception):
    """A poll's answer equals the last understood one, byte for byte. `wait` is its hint in seconds."""

    def __init__(self, wait: float | None) -> None:
        super().__init__("Nothing has changed.")
        self.wait = wait


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: status, headers (a mapping that ignores case) and body."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    at: float
    """Time of arrival, in seconds since the epoch."""

    @property
    def ok(self) -> bool:
        """True for a 2xx status."""
        return 200 <= self.status < 300

    def json(self) -> Any:
        """Parse the body as JSON. Raises UnreadableAnswer."""
        try:
            return _parse(self.body)
        except orjson.JSONDecodeError:
            raise UnreadableAnswer(f"The provider's answer (HTTP {self.status}) is not JSON.") from None

    def object(self) -> dict[str, Any]:
        """Parse the body as a JSON object. Raises UnreadableAnswer."""
        found = self.json()
        if not isinstance(found, dict):
            raise UnreadableAnswer(f"The provider's answer is {type(found).__name__}, not an object.")
        return found

    def exact(self) -> Any:
        """Parse the body as JSON with exact numbers, so that ids keep all digits. Fractions are Decimals.

        orjson reads integers above 2^64, and numbers with a point or an exponent, as floats of 53 bits. Raises
        UnreadableAnswer.
        """
        try:
            return _parse_leniently(self.body.removeprefix(codecs.BOM_UTF8), _EXACT_DECODER)
        except (ValueError, ArithmeticError, RecursionError):
            raise UnreadableAnswer(f"The provider's answer (HTTP {self.status}) is not JSON.") from None

    @property
    def wait(self) -> float | None:
        """Seconds that the provider asks us to wait, from `openai-poll-after-ms` or either form of `Retry-After`."""
        milliseconds = self.headers.get("openai-poll-after-ms")
        if milliseconds and re.fullmatch("[0-9]{1,9}", milliseconds):
            return min(int(milliseconds) / 1000, _MAX_WAIT)
        hint = self.headers.get("retry-after")
        if not hint:  # parsing `Date` takes 25 microseconds, so only an answer with a hint pays for it
            return None
        sent = _date(self.headers.get("date"))
        return _retry_after(hint, self.at if sent is None else sent)


class LastAnswers:
    """The last understood answers of one job, by path. An unchanged answer is compared and not parsed."""

    __slots__ = ("_bodies", "_new")

    def __init__(self) -> None:
        self._bodies: dict[str, bytes] = {}
        self._new: dict[str, bytes] = {}

    def compare(self, path: str, answer: Answer) -> None:
        """Raise Unchanged if the path has the same answer as before. Otherwise remember the answer."""
        if self._bodies.get(path) == answer.body:
            raise Unchanged(answer.wait)
        self._new[path] = answer.body

    def forget(self, path: str) -> None:
        """Forget the path's newest answer, because it was not understood."""
        self._new.pop(path, None)

    def understood(self) -> None:
        """Mark the newest answers as understood. From now on equal ones are unchanged."""
        self._bodies |= self._new
        self._new.clear()


def _retry_after(value: str, now: float) -> float | None:
    """Return the seconds of a plausible Retry-After header. A date is compared with `now`."""
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value.strip()):
        return min(float(value), _MAX_WAIT)
    at = _date(value)
    if at is None or at - now > _HINT_HORIZON:
        return None
    return min(max(at - now, 0), _MAX_WAIT)


def _date(value: str | None) -> float | None:
    """Return a header's date in seconds since the epoch. None if it is invalid or out of range."""
    try:
        return parsedate_to_datetime(value).timestamp() if value else None
    except (ValueError, TypeError, LookupError, OverflowError, OSError):
        return None


def loads(body: bytes) -> object:
    """Parse a body as JSON. Return None if it is not JSON."""
    try:
        return _parse(body)
    except orjson.JSONDecodeError:
        return None


def is_whole(body: bytes) -> bool:
    """Return whether these bytes are a complete JSON object or array."""
    return isinstance(loads(body), dict | list)


def _parse(body: bytes) -> Any:
    """Parse a body as JSON, or leniently if it is not valid."""
    body = body.removeprefix(codecs.BOM_UTF8)
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        try:
            return _parse_leniently(body, _DECODER)
        except (ValueError, RecursionError):
            raise error from None


def _parse_leniently(body: bytes, decoder: json.JSONDecoder) -> Any:
    """Parse JSON with the deviations that providers were seen to send. Raises ValueError.

    NaN and Infinity, as Python and C write them, become null. A lone surrogate, from a program that cuts texts, becomes
    U+FFFD. Accepted: line ends in strings, UTF-16, the `data:` prefix of a stream, and bytes after an object or array,
    such as zeros or a server's comment. Several objects in a row are refused.
    """
    text = body.decode(json.detect_encoding(body), errors="replace").strip(_PADDING)
    text = text.removeprefix("data:").lstrip(_PADDING)
    if text[:1] not in _FIRST_CHARACTERS:
        raise ValueError("not JSON")
    value, end = decoder.raw_decode(_NUMBER_WORD.sub(_replace_number_word, _ESCAPE.sub(_replace_lone_surrogate, text)))
    rest = text[end:].lstrip(_PADDING)
    if rest and (not isinstance(value, dict | list) or rest[0] in "{["):
        raise ValueError("more than one value")
    return value


def _finite_or_none(number: str) -> float | None:
    value = float(number)
    return value if math.isfinite(value) else None


_DECODER: Final = json.JSONDecoder(strict=False, parse_float=_finite_or_none)
_EXACT_DECODER: Final = json.JSONDecoder(strict=False, parse_float=Decimal)
_PADDING: Final = " \t\r\n\0\ufeff"
_FIRST_CHARACTERS: Final = frozenset('{["-0123456789tfnNI')
"""First characters of a JSON value. Pages and plain texts are refused early."""
_ESCAPE: Final = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<half>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
_NUMBER_WORD: Final = re.compile(
    r'"[^"\\]*(?:\\.[^"\\]*)*"|(?P<word>[+-]?\b(?:nan|inf(?:inity)?)\b(?:\([^)]{0,20}\))?)', re.DOTALL | re.IGNORECASE
)
"""A string, or a word in place of a number: `NaN`, `-Infinity`, `inf`."""


def _replace_lone_surrogate(escape: "re.Match[str]") -> str:
    return r"\ufffd" if escape["half"] else escape[0]


def _replace_number_word(word: "re.Match[str]") -> str:
    return "null" if word["word"] else word[0]
