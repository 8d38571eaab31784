"""What a provider answers: a whole answer, the kinds of failed reads, and the provider's own words in a body."""

import codecs
import html
import json
import math
import re
from collections.abc import Collection, Mapping
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


def printable(text: str) -> str:
    """Text that JSON can hold: aiohttp hands header bytes that are no UTF-8 over as lone surrogates."""
    return text.encode(errors="replace").decode()


_MESSAGE_NAMES: Final = (
    "message",
    "errormessage",
    "errordescription",
    "error",
    "errors",
    "detail",
    "details",
    "msg",
    "errmsg",
    "errormsg",
    "failreason",
    "failurereason",
    "failuremessage",
    "reason",
)
"""Names of a provider's words in a body, in the order in which they are looked for; see `plain`."""
_WRAPPERS: Final = ("data", "result", "response")
_NO_WORDS: Final = frozenset({"", "ok", "success", "succeeded", "none", "null"})
"""Values of a message that explain nothing (`"None"` is Gan.ai's; the others are gateways')."""


def plain(text: str) -> str:
    """The letters and digits of a word, in lower case: `In-Progress`, ` in_progress ` and `INPROGRESS` are one word."""
    return _SEPARATORS.sub("", text).lower()


_SEPARATORS: Final = re.compile(r"[\W_]+")


def message_of(body: object, depth: int = 6) -> str | None:
    """The provider's own words in an error body, in any of the shapes that these APIs use; None when there are none.

    `depth` bounds the search: no known error body has more than six levels.
    """
    if isinstance(body, str):
        return None if plain(body) in _NO_WORDS and body.isascii() else body.strip()
    if depth and isinstance(body, list):
        return "; ".join(filter(None, (message_of(inner, depth - 1) for inner in body))) or None
    if not depth or not isinstance(body, dict):
        return None
    named = {plain(name): value for name, value in reversed(body.items()) if isinstance(name, str)}
    return _named_message(named, depth) or _wrapped_message(named, depth)


def _named_message(named: Mapping[str, Any], depth: int) -> str | None:
    for name in _MESSAGE_NAMES:
        found = _inner_message(name, named.get(name), depth - 1)
        if found and name == "msg" and named.get("loc"):
            return f"{found} ({_place(named['loc'])})"
        if found:
            return f"{title}: {found}" if name == "detail" and (title := _title(named)) else found
    return _title(named)


def _inner_message(name: str, value: object, depth: int) -> str | None:
    found = _fields_message(value, depth) if name == "errors" else message_of(value, depth)
    if found or name != "error" or not isinstance(value, dict):
        return found
    return next(filter(None, (message_of(value.get(name)) for name in ("code", "type"))), None)


def _fields_message(errors: object, depth: int) -> str | None:
    """The words of `errors`: a list, or an object from a field's name to what is wrong with it."""
    if (found := message_of(errors, depth)) or not isinstance(errors, dict):
        return found
    fields = ((name, message_of(inner, depth)) for name, inner in errors.items())
    return "; ".join(f"{name}: {found}" for name, found in fields if found) or None


def _title(named: Mapping[str, Any]) -> str | None:
    """The title of a problem document (RFC 9457). A title beside other fields may be a song's."""
    is_problem = not isinstance(named.get("status", 0), str) and named.keys() & {"status", "detail", "type", "instance"}
    title = named.get("title")
    return message_of(title) if is_problem and isinstance(title, str) else None


def _wrapped_message(named: Mapping[str, Any], depth: int) -> str | None:
    inner = (named[name] for name in _WRAPPERS if isinstance(named.get(name), dict))
    return next(filter(None, (message_of(body, depth - 1) for body in inner)), None)


def _place(loc: object) -> str:
    return ".".join(map(str, loc)) if isinstance(loc, list) else str(loc)


def is_error(body: object) -> bool:
    """Whether a body without a ticket or a state reports an error, whatever its HTTP status."""
    if isinstance(body, str):
        return _ERROR_TEXT.match(body) is not None
    if not isinstance(body, dict):
        return False
    named = {plain(name): value for name, value in body.items() if isinstance(name, str)}
    if any(is_reported(named.get(name)) for name in ("error", "errors")):
        return True
    if named.get("success") is False or named.get("ok") is False:
        return True
    states = (named.get(name) for name in ("status", "state", "type"))
    if any(isinstance(state, str) and plain(state) in _ERROR_WORDS for state in states):
        return True
    statuses, codes = (named.get("status"), named.get("statuscode")), (named.get("code"), named.get("errorcode"))
    if (any(map(_is_error_status, statuses)) or any(map(_is_error_code, codes))) and message_of(body):
        return True
    return is_error(named.get("data")) if isinstance(named.get("data"), dict) else False


def is_reported(error: object, depth: int = 6) -> bool:
    """Whether the value of a body's `error` reports one: by words, by a code, or by being true."""
    if isinstance(error, dict | list):
        values = error.values() if isinstance(error, dict) else error
        return depth > 0 and any(is_reported(value, depth - 1) for value in values)
    return message_of(error) is not None or error is True or _is_error_code(error)


def _is_error_status(code: object) -> bool:
    return isinstance(code, int) and 400 <= code < 600


def _is_error_code(code: object) -> bool:
    """Whether a code in a body is none of those that APIs of this kind use for success."""
    if isinstance(code, str) and code.strip().isdecimal():
        code = int(code.strip()[:9])
    if isinstance(code, str):
        return plain(code) not in _GOOD_CODES
    return isinstance(code, int) and not isinstance(code, bool) and code not in {0, 1, 100} and not 200 <= code < 300


_GOOD_CODES: Final = _NO_WORDS | {"created", "accepted", "queued", "pending", "processing"}
_ERROR_WORDS: Final = frozenset({"error", "fail", "failed", "failure", "rejected", "refused", "denied"})
_ERROR_TEXT: Final = re.compile(
    r"\W*(error|failed|failure|forbidden|refused|rejected|denied|invalid|unauthori[sz]ed|bad request)\b", re.IGNORECASE
)
"""How a plain text begins that reports an error with HTTP 200."""


def _codes(body: object, depth: int = 6) -> set[str]:
    if not depth or not isinstance(body, dict):
        return set()
    here = {str(body[name]) for name in ("code", "type") if body.get(name) is not None}
    return here.union(*(_codes(body.get(name), depth - 1) for name in ("error", "data", "detail")))


def says(body: object, words: Collection[str]) -> bool:
    """Whether a body holds one of `words`: a phrase (one with a space) anywhere in its message, a code as a whole."""
    message = (message_of(body) or "").lower()
    return bool(_codes(body) & frozenset(words)) or any(word in message for word in words if " " in word)


def no_credit(body: object) -> bool:
    """Whether a provider's words say that the account is empty, as most APIs word it."""
    return _NO_CREDIT.search(message_of(body) or "") is not None


def no_access(body: object) -> bool:
    """Whether a provider's words say that the key is refused, as most APIs word it."""
    return _NO_ACCESS.search(message_of(body) or "") is not None


_NO_CREDIT: Final = re.compile(
    r"(insufficient|not enough|out of|no)[\s-]+(\w+[\s-]+){0,2}(credits?|balance|funds?|quota)\b"
    r"(?!\s+(\w+\s+){0,2}(charged|billed|deducted|taken|used|spent|consumed|returned|refunded))"
    r"|insufficient (\w+ )?tokens|insufficient_(\w+_)?(quota|credits?|balance|funds)"
    r"|balance (is )?(\w+ )?(zero|0|empty|insufficient|too low|exhausted|not enough)"
    r"|credits? (\w+ ){0,2}(exhausted|too low|used up|depleted)"
    r"|exceeded your current quota|payment required",
    re.IGNORECASE,
)
_NO_ACCESS: Final = re.compile(
    r"(invalid|incorrect|expired|missing|unknown|revoked|wrong|bad|disabled|no)\W+(\w+\W+)?"
    r"(api[\s_-]?key|access[\s_-]?token|auth\w*[\s_-]token|credentials?|bearer[\s_-]token)\b"
    r"|(api[\s_-]?key|access[\s_-]?token|credentials?)\W+(\w+\W+){0,3}"
    r"(invalid|incorrect|expired|missing|not valid|disabled|revoked|not found)"
    r"|\A\W*(\d{3}\W*)?(unauthori[sz]ed|unauthenticated)\W*\Z|authentication (failed|required|error)|not authenticated",
    re.IGNORECASE,
)


def told(body: bytes) -> object:
    """What a body says: its JSON, or the text of a plain one, a page's title, an event's data; None for nothing."""
    found = loads(body)
    if found is not None:
        return found
    text = body[:_TEXT_LIMIT].decode(errors="replace").removeprefix("\ufeff").strip()
    if "\0" in text or text.count("\ufffd") * 20 > len(text):
        return None
    if text.startswith(("data:", "event:")):
        lines = [line[5:].strip() for line in text.splitlines() if line.startswith("data:")]
        return next(filter(None, (loads(line.encode()) for line in reversed(lines))), None) or " ".join(lines) or None
    return _page_text(text) if text.startswith("<") else text or None


def _page_text(page: str) -> str | None:
    """The title of an HTML page, the message of an XML document, or all its text."""
    titled = _TITLE.search(page)
    text = html.unescape(_TAG.sub(" ", titled[2] if titled else _UNSEEN.sub(" ", page)))
    return " ".join(text.split()) or None


_TEXT_LIMIT: Final = 1 << 16
"""Bytes of a body without JSON in which its words are looked for."""
_TITLE: Final = re.compile(r"<(title|h1|message)\b[^>]{0,200}>(.{1,1000}?)</\1", re.IGNORECASE | re.DOTALL)
_UNSEEN: Final = re.compile(r"<(script|style)\b.*?</\1", re.IGNORECASE | re.DOTALL)
_TAG: Final = re.compile(r"<[^>]*>?")


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
