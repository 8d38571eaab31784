"""Classification of answers: which error a provider's answer means."""

import html
import re
from collections.abc import Collection, Mapping
from typing import Any, Final

from proxy.upstream.answers import loads

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
