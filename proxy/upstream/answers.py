"""What a provider answers: a whole answer, the kinds of failed reads, and the provider's own words in a body."""

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

from proxy.core.errors import JobError

_HINT_LIMIT: Final = 120.0
"""The longest wait, in seconds, that a provider's hint can ask for."""
_HINT_HORIZON: Final = 20 * 366 * 86400.0
"""A date further ahead, in seconds, is no hint: it is a default such as the year 9999."""


class NotTaken(Exception):
    """The order surely was not taken; it may be sent again after `wait` seconds (None: as you like).

    `error` is how the job ends if it is never taken.
    """

    def __init__(self, error: JobError, wait: float | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.wait = wait


class ReadFailed(Exception):
    """A read that brought no usable answer; `wait` is the provider's hint, in seconds."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.wait = wait


class Transient(ReadFailed):
    """Network, 5xx, 429: likely to pass."""


class Resting(Transient):
    """The circuit breaker is open: nothing was sent, and `wait` is its own."""


class UnreadableAnswer(ReadFailed):
    """An answer that cannot be understood: malformed, of the wrong types, or refused with no sense in it."""


class NotReady(UnreadableAnswer):
    """The work has succeeded, but its result is not there yet."""


class CredentialRefused(ReadFailed):
    """401 or 403: the operator's key does not work now."""


class CreditRefused(CredentialRefused):
    """402 or 418, or words that mean it: the operator's account at the provider is empty."""


class UnknownToProvider(ReadFailed):
    """404, 410 or 400 in JSON: the provider does not know the thing asked for. Gateways say it in other formats."""


class Unchanged(Exception):
    """A poll's answer is, byte for byte, the last one that was understood; `wait` is its hint, in seconds."""

    def __init__(self, wait: float | None) -> None:
        super().__init__("Nothing has changed.")
        self.wait = wait


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: status, headers (a mapping to which the case of a name is nothing), body."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    at: float
    """When it came, in seconds since the epoch."""

    @property
    def ok(self) -> bool:
        """Whether the status is a success."""
        return 200 <= self.status < 300

    def json(self) -> Any:
        """The body as JSON; raises UnreadableAnswer when it is none."""
        try:
            return _parsed(self.body)
        except orjson.JSONDecodeError:
            raise UnreadableAnswer(f"The provider's answer (HTTP {self.status}) is not JSON.") from None

    def object(self) -> dict[str, Any]:
        """The body as a JSON object; raises UnreadableAnswer when it is none."""
        found = self.json()
        if not isinstance(found, dict):
            raise UnreadableAnswer(f"The provider's answer is {type(found).__name__}, not an object.")
        return found

    def exact(self) -> Any:
        """The body as JSON in which ids keep their digits: fractions are Decimals. Raises UnreadableAnswer.

        orjson reads integers above 2^64, and all that have a point or an exponent, as floats of 53 bits.
        """
        try:
            return _lenient(self.body.removeprefix(codecs.BOM_UTF8), _EXACT_DECODER)
        except (ValueError, ArithmeticError, RecursionError):
            raise UnreadableAnswer(f"The provider's answer (HTTP {self.status}) is not JSON.") from None

    @property
    def wait(self) -> float | None:
        """How many seconds the provider asks us to wait: `openai-poll-after-ms`, or `Retry-After` in either form."""
        milliseconds = self.headers.get("openai-poll-after-ms")
        if milliseconds and re.fullmatch("[0-9]{1,9}", milliseconds):
            return min(int(milliseconds) / 1000, _HINT_LIMIT)
        sent = _date(self.headers.get("date"))
        return _retry_after(self.headers.get("retry-after"), self.at if sent is None else sent)


class LastAnswers:
    """The last answers of one job that were understood, by their place: comparing costs less than parsing."""

    __slots__ = ("_bodies", "_new")

    def __init__(self) -> None:
        self._bodies: dict[str, bytes] = {}
        self._new: dict[str, bytes] = {}

    def compare(self, place: str, answer: Answer) -> None:
        """Raises Unchanged when the place has answered the same before; else notes the answer."""
        if self._bodies.get(place) == answer.body:
            raise Unchanged(answer.wait)
        self._new[place] = answer.body

    def forget(self, place: str) -> None:
        """What the place has answered just now made no sense: it is not to be taken for understood."""
        self._new.pop(place, None)

    def understood(self) -> None:
        """What was noted made sense: from now on it is old news."""
        self._bodies |= self._new
        self._new.clear()


def _retry_after(value: str | None, now: float) -> float | None:
    """The seconds that a Retry-After header asks for, if it can be believed; a date is read against `now`."""
    if not value:
        return None
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value.strip()):
        return min(float(value), _HINT_LIMIT)
    at = _date(value)
    if at is None or at - now > _HINT_HORIZON:
        return None
    return min(max(at - now, 0), _HINT_LIMIT)


def _date(value: str | None) -> float | None:
    """A header's date in seconds since the epoch; None where it is none, or one that no computer can mean."""
    try:
        return parsedate_to_datetime(value).timestamp() if value else None
    except (ValueError, TypeError, LookupError, OverflowError, OSError):
        return None


def loads(body: bytes) -> object:
    """The body as JSON; None when it is none."""
    try:
        return _parsed(body)
    except orjson.JSONDecodeError:
        return None


def is_whole(body: bytes) -> bool:
    """Whether these bytes are a complete JSON object or array: then nothing of the answer is missing."""
    return isinstance(loads(body), dict | list)


def _parsed(body: bytes) -> Any:
    """The body as JSON, also as programs write it that take more for JSON than there is (`_lenient`)."""
    body = body.removeprefix(codecs.BOM_UTF8)
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        try:
            return _lenient(body, _DECODER)
        except (ValueError, RecursionError):
            raise error from None


def _lenient(body: bytes, decoder: json.JSONDecoder) -> Any:
    """Read JSON with the deviations that were seen; raises ValueError when it is none.

    NaN and Infinity, as Python and C write them, are null. Half a character, from programs that cut texts, is U+FFFD.
    Line ends in strings, UTF-16, the `data:` of a stream, and bytes behind an object or array (zeros, a server's
    comment) are put up with.
    Several objects in a row are no JSON value.
    """
    text = body.decode(json.detect_encoding(body), errors="replace").strip(_BLANKS)
    text = text.removeprefix("data:").lstrip(_BLANKS)
    if text[:1] not in _BEGINNINGS:
        raise ValueError("not JSON")
    value, end = decoder.raw_decode(_WORD.sub(_null, _ESCAPE.sub(_whole, text)))
    rest = text[end:].lstrip(_BLANKS)
    if rest and (not isinstance(value, dict | list) or rest[0] in "{["):
        raise ValueError("more than one value")
    return value


def _finite(number: str) -> float | None:
    value = float(number)
    return value if math.isfinite(value) else None


_DECODER: Final = json.JSONDecoder(strict=False, parse_float=_finite)
_EXACT_DECODER: Final = json.JSONDecoder(strict=False, parse_float=Decimal)
_BLANKS: Final = " \t\r\n\0\ufeff"
_BEGINNINGS: Final = frozenset('{["-0123456789tfnNI')
"""How a JSON value begins; a page or a text is not searched any further."""
_ESCAPE: Final = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<half>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
_WORD: Final = re.compile(
    r'"[^"\\]*(?:\\.[^"\\]*)*"|(?P<word>[+-]?\b(?:nan|inf(?:inity)?)\b(?:\([^)]{0,20}\))?)', re.DOTALL | re.IGNORECASE
)
"""A string, or a number that is none: `NaN`, `-Infinity`, `inf`."""


def _whole(escape: "re.Match[str]") -> str:
    return r"\ufffd" if escape["half"] else escape[0]


def _null(word: "re.Match[str]") -> str:
    return "null" if word["word"] else word[0]
