"""Classification of answers: which error a provider's answer means. It does no I/O.

`Dialect` decides by HTTP status, by a provider's own codes and phrases, and by the phrases that most APIs use. The
functions below it find the message, the code and the error state in bodies of any shape.
"""

import html
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from proxy.core import errors
from proxy.core.text import replace_surrogates
from proxy.upstream.answers import (
    Answer,
    CredentialRefused,
    CreditRefused,
    GatewayRefusal,
    NotTaken,
    RateLimited,
    ReadFailed,
    Transient,
    UnknownToProvider,
    UnreadableAnswer,
    loads,
)

NOT_SENT_AGAIN: Final = "The order may have been taken, so it is not sent again"
_MESSAGE_LIMIT: Final = 500
"""Maximum length of a provider's message, in characters, so that a page of HTML does not fill an event."""
_GATEWAY_STATUSES: Final = frozenset({408, 460, 499, 502, 504, 598, 599, *range(520, 529), 530})
"""Statuses that a gateway sends when it has no answer of the provider: nginx (408, 499, 502, 504), Amazon's load
balancers (460), Cloudflare (520 to 527, 530) and some proxies (598, 599). The outcome of the request behind it is
unknown. 529 is not included, because providers themselves use it when they are overloaded."""
_TRANSIENT_STATUSES: Final = frozenset({408, 409, 425, 429, 460, 499})
"""4xx answers to a read that are likely to pass."""
_NOT_FOUND_STATUSES: Final = frozenset({400, 404, 410})
"""Answers to a read with which a provider says, in JSON, that it does not know the requested object."""


def is_transient(answer: Answer) -> bool:
    """Return whether a failed read is likely to succeed later."""
    return answer.status >= 500 or answer.status in _TRANSIENT_STATUSES


@dataclass(frozen=True, slots=True)
class Dialect:
    """A provider's credential and its phrases for errors, and the errors that its answers mean.

    An adapter declares it. A phrase (a text with a space, in lower case) matches anywhere in a message. A code matches
    as a whole.
    """

    credential: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Headers that hold the key."""
    query_credential: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Parameters of the query that hold the key."""
    signing_key: str = field(default="", repr=False)
    """The key itself, if the credential is a token that is signed with it and changes."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Further headers of every request. They are no secrets."""
    no_credit: Collection[str] = ()
    """Codes and phrases for an empty account."""
    refused_key: Collection[str] = ()
    """Codes and phrases for an invalid key."""
    retired: Collection[int] = ()
    """Statuses with which a submit to a deprecated API says that the API is gone."""
    in_progress: Collection[str] = ()
    """Codes of a 409 that says that an earlier request with the same key is still being worked on."""
    bad_file: Collection[str] = ()
    """Phrases with which a 5xx answer to an upload blames the file, not the provider."""
    proxy_secrets: Collection[str] = field(default=(), repr=False)
    """Parts of the proxy's credential, masked like the key."""

    @property
    def secrets(self) -> Sequence[str]:
        """Texts that no message may contain."""
        values = (*self.credential.values(), *self.query_credential.values())
        words = [word for value in values for word in value.split()[-1:]]
        return (*words, *filter(None, self.signing_key.split(":")), *self.proxy_secrets)

    @property
    def account(self) -> Sequence[object]:
        """The part of the credential that identifies the account and stays the same while a signed token changes."""
        return [self.signing_key] if self.signing_key else sorted({**self.credential, **self.query_credential}.items())

    # --- reads ---

    def read_error(self, answer: Answer) -> ReadFailed:
        """Return the error that a failed read means: its kind says whether to repeat it."""
        if refusal := self.access_error(answer):
            return refusal
        message = self.explain(answer)
        is_refusal = 400 <= answer.status < 500 and isinstance(loads(answer.body), dict)
        if answer.status in _NOT_FOUND_STATUSES and is_refusal:
            return UnknownToProvider(message, answer.wait, is_refusal=True)
        if answer.status == 429:
            return RateLimited(message, answer.wait)
        if is_transient(answer):
            return Transient(message, answer.wait)
        return UnreadableAnswer(message, answer.wait, is_refusal=is_refusal)

    def access_error(self, answer: Answer) -> CredentialRefused | None:
        """Return the error for a read that the operator's key or account, in its current state, does not permit.

        The status or the words say so, also those of a success. The words of a gateway's own answer do not count.
        """
        if answer.status in _GATEWAY_STATUSES:
            return None
        if answer.status in {402, 418} or self._is_empty(content_of(answer.body)):
            return CreditRefused(self.explain(answer), answer.wait)
        if answer.status in {401, 403} or self._refuses_key(content_of(answer.body)):
            return CredentialRefused(self.explain(answer), answer.wait)
        return None

    def check_access(self, answer: Answer) -> None:
        """Raise CredentialRefused if an answer to a read says that the key or the account is refused."""
        if error := self.access_error(answer):
            raise error

    def key_error(self, answer: Answer) -> ReadFailed | None:
        """Return the error of an answer to a key check; None if it proves the key, even where nothing was found."""
        if self._refuses_key(content_of(answer.body)):
            return CredentialRefused(self.explain(answer))
        if answer.status in _NOT_FOUND_STATUSES and loads(answer.body) is None:
            return UnreadableAnswer(f"HTTP {answer.status} without JSON: is this the provider's base URL?")
        error = None if answer.ok else self.read_error(answer)
        return None if isinstance(error, UnknownToProvider) else error

    def unreadable(self, answer: Answer, why: str) -> UnreadableAnswer:
        """Return the error of a poll's answer without a state, with the provider's words. `why` begins with a verb.

        Raises CredentialRefused if the words say that the key or the account is refused.
        """
        self.check_access(answer)
        words = self.message_in(answer)
        message = f"The provider's answer {why}: {words}" if words else f"The provider's answer {why}."
        return UnreadableAnswer(message, answer.wait)

    def json_object(self, answer: Answer) -> dict[str, Any]:
        """Return the JSON object of a poll's answer. Raises the ReadFailed that another answer means."""
        try:
            return answer.object()
        except UnreadableAnswer:
            raise self.unreadable(answer, f"(HTTP {answer.status}) is no JSON object") from None

    def blames_file(self, answer: Answer) -> bool:
        """Return whether the 5xx answer to an upload blames the file, not the provider."""
        return answer.status >= 500 and mentions(content_of(answer.body), self.bad_file)

    # --- submits ---

    def submit_error(self, answer: Answer, status: int | None = None) -> errors.JobError | NotTaken:
        """Return what a submit's failed answer means for the order: a JobError, or NotTaken.

        With `status` the answer is judged as if it had that HTTP status.
        """
        status, message = status or answer.status, self.explain(answer)
        if reason := self._unknown_outcome(answer, status):
            return errors.OutcomeUnknown(f"{reason}. {NOT_SENT_AGAIN}: {message}")
        if status in self.retired:
            return errors.UpstreamRetired(f"The provider has retired this API: {message}")
        if status in {402, 418} or self._is_empty(content_of(answer.body)):
            return errors.UpstreamCredits(message)
        if status == 401 or self._refuses_key(content_of(answer.body)):
            return errors.UpstreamAuth(message)
        if status == 429:
            return NotTaken(errors.UpstreamRejected(message), answer.wait)
        if status == 503 and answer.wait is not None:
            return NotTaken(errors.UpstreamFailed(message), answer.wait)
        if 400 <= status < 500:
            is_json = isinstance(loads(answer.body), dict | list)
            return errors.UpstreamRejected(message) if is_json else GatewayRefusal(message)
        if status in {301, 302, 307, 308}:
            return GatewayRefusal(f"The provider redirects elsewhere; check its base URL. {message}")
        # A gateway's pages are HTML or plain text. JSON comes from the provider itself, even with a 503 without a time.
        if status >= 500 and message_of(loads(answer.body)):
            return errors.UpstreamFailed(message)
        return errors.OutcomeUnknown(f"{NOT_SENT_AGAIN}: {message}")

    def _unknown_outcome(self, answer: Answer, status: int) -> str | None:
        """Return the reason why a submit's answer does not say what became of the order; None if it may say so."""
        if status in _GATEWAY_STATUSES:
            return "A gateway answered in the provider's place"
        if status == 409 and mentions(content_of(answer.body), self.in_progress):
            return "The provider still works on an earlier request with this key"
        return None

    def refusal_in_success(self, answer: Answer) -> errors.JobError:
        """Return what a refusal with HTTP 200 means: the same as with 400."""
        error = self.submit_error(answer, 400)
        return error if isinstance(error, errors.JobError) else errors.UpstreamRejected(str(error))

    def missing_ticket(self, answer: Answer, missing: str) -> errors.JobError:
        """Return what a success without a ticket means: a refusal if it reports an error, else an unknown outcome.

        `missing` is a clause for the message, such as "names no id".
        """
        body = content_of(answer.body)
        if self._is_empty(body) or self._refuses_key(body) or is_error(body):
            return self.refusal_in_success(answer)
        unknown = f"The provider answered HTTP {answer.status}, but its answer {missing}: {NOT_SENT_AGAIN.lower()}."
        return errors.OutcomeUnknown(" ".join(filter(None, (unknown, self.message_in(answer)))))

    def failure(self, body: object, default: str) -> errors.JobError:
        """Return what a body means that reports failed work. `default` is the message if it gives no reason."""
        reason = self.safe_text(message_of(body) or default)
        if self._is_empty(body):
            return errors.UpstreamCredits(reason)
        if self._refuses_key(body):
            return errors.UpstreamAuth(reason)
        return errors.UpstreamFailed(reason)

    # --- words ---

    def message_in(self, answer: Answer) -> str | None:
        """Return the provider's message in an answer, as `safe_text`. None if there is none."""
        message = message_of(content_of(answer.body))
        return self.safe_text(message) if message else None

    def safe_text(self, text: str) -> str:
        """Return a provider's text as one line of at most 500 characters, with the key masked."""
        for secret in self.secrets:
            text = text.replace(secret, "[key]")
        return " ".join(replace_surrogates(text).split())[:_MESSAGE_LIMIT]

    def explain(self, answer: Answer) -> str:
        """Return the provider's message with the HTTP status."""
        return f"{self.message_in(answer) or 'The provider gave no explanation'} (HTTP {answer.status})"

    def _is_empty(self, body: object) -> bool:
        """Return whether a body says that the operator's account is empty."""
        return mentions(body, self.no_credit) or reports_no_credit(body)

    def _refuses_key(self, body: object) -> bool:
        """Return whether a body, whatever its HTTP status, says that the operator's key is refused."""
        return mentions(body, self.refused_key) or reports_refused_key(body)


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
"""Names of the message in a body, in order of preference, in the form of `plain`."""


_WRAPPERS: Final = ("data", "result", "response")


_EMPTY_MESSAGES: Final = frozenset({"", "ok", "success", "succeeded", "none", "null"})
"""Values of a message without a meaning. `"None"` was seen at a provider, the others at gateways."""


def plain(text: str) -> str:
    """Return the letters and digits of a word in lower case, so that `In-Progress` equals ` IN_PROGRESS `."""
    return _SEPARATORS.sub("", text).lower()


_SEPARATORS: Final = re.compile(r"[\W_]+")


def message_of(body: object, depth: int = 6) -> str | None:
    """Return the provider's message in an error body of any known shape. None if there is none.

    `depth` limits the search. No known error body has more than six levels.
    """
    if isinstance(body, str):
        return None if plain(body) in _EMPTY_MESSAGES and body.isascii() else body.strip()
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
            return f"{found} ({_location(named['loc'])})"
        if found:
            return f"{title}: {found}" if name == "detail" and (title := _title(named)) else found
    return _title(named)


def _inner_message(name: str, value: object, depth: int) -> str | None:
    found = _fields_message(value, depth) if name == "errors" else message_of(value, depth)
    if found or name != "error" or not isinstance(value, dict):
        return found
    return next(filter(None, (message_of(value.get(name)) for name in ("code", "type"))), None)


def _fields_message(errors: object, depth: int) -> str | None:
    """Return the message of `errors`: a list, or an object that maps a field to its error."""
    if (found := message_of(errors, depth)) or not isinstance(errors, dict):
        return found
    fields = ((name, message_of(inner, depth)) for name, inner in errors.items())
    return "; ".join(f"{name}: {found}" for name, found in fields if found) or None


def _title(named: Mapping[str, Any]) -> str | None:
    """Return the title of a problem document (RFC 9457). In other objects a title may be a song's."""
    is_problem = not isinstance(named.get("status", 0), str) and named.keys() & {"status", "detail", "type", "instance"}
    title = named.get("title")
    return message_of(title) if is_problem and isinstance(title, str) else None


def _wrapped_message(named: Mapping[str, Any], depth: int) -> str | None:
    inner = (named[name] for name in _WRAPPERS if isinstance(named.get(name), dict))
    return next(filter(None, (message_of(body, depth - 1) for body in inner)), None)


def _location(loc: object) -> str:
    return ".".join(map(str, loc)) if isinstance(loc, list) else str(loc)


def is_error(body: object) -> bool:
    """Return whether a body without a ticket or a state reports an error, whatever its HTTP status."""
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
    """Return whether the value of a body's `error` is a message, an error code, or true."""
    if isinstance(error, dict | list):
        values = error.values() if isinstance(error, dict) else error
        return depth > 0 and any(is_reported(value, depth - 1) for value in values)
    return message_of(error) is not None or error is True or _is_error_code(error)


def _is_error_status(code: object) -> bool:
    return isinstance(code, int) and 400 <= code < 600


def _is_error_code(code: object) -> bool:
    """Return whether a code in a body is not one of the usual codes of success."""
    if isinstance(code, str) and code.strip().isdecimal():
        code = int(code.strip()[:9])
    if isinstance(code, str):
        return plain(code) not in _SUCCESS_CODES
    return isinstance(code, int) and not isinstance(code, bool) and code not in {0, 1, 100} and not 200 <= code < 300


_SUCCESS_CODES: Final = _EMPTY_MESSAGES | {"created", "accepted", "queued", "pending", "processing"}


_ERROR_WORDS: Final = frozenset({"error", "fail", "failed", "failure", "rejected", "refused", "denied"})


_ERROR_TEXT: Final = re.compile(
    r"\W*(error|failed|failure|forbidden|refused|rejected|denied|invalid|unauthori[sz]ed|bad request)\b", re.IGNORECASE
)
"""Beginning of a plain text that reports an error with HTTP 200."""


def _codes(body: object, depth: int = 6) -> set[str]:
    if not depth or not isinstance(body, dict):
        return set()
    here = {str(body[name]) for name in ("code", "type") if body.get(name) is not None}
    return here.union(*(_codes(body.get(name), depth - 1) for name in ("error", "data", "detail")))


def mentions(body: object, words: Collection[str]) -> bool:
    """Return whether a body has one of `words`: a phrase (with a space) in its message, or a whole code."""
    message = (message_of(body) or "").lower()
    return bool(_codes(body) & frozenset(words)) or any(word in message for word in words if " " in word)


def reports_no_credit(body: object) -> bool:
    """Return whether a body says, in the phrases of most APIs, that the account is empty."""
    return _NO_CREDIT.search(message_of(body) or "") is not None


def reports_refused_key(body: object) -> bool:
    """Return whether a body says, in the phrases of most APIs, that the key is refused."""
    return _REFUSED_KEY.search(message_of(body) or "") is not None


_NO_CREDIT: Final = re.compile(
    r"(insufficient|not enough|out of|no)[\s-]+(\w+[\s-]+){0,2}(credits?|balance|funds?|quota)\b"
    r"(?!\s+(\w+\s+){0,2}(charged|billed|deducted|taken|used|spent|consumed|returned|refunded))"
    r"|insufficient (\w+ )?tokens|insufficient_(\w+_)?(quota|credits?|balance|funds)"
    r"|balance (is )?(\w+ )?(zero|0|empty|insufficient|too low|exhausted|not enough)"
    r"|credits? (\w+ ){0,2}(exhausted|too low|used up|depleted)"
    r"|exceeded your current quota|payment required",
    re.IGNORECASE,
)


_REFUSED_KEY: Final = re.compile(
    r"(invalid|incorrect|expired|missing|unknown|revoked|wrong|bad|disabled|no)\W+(\w+\W+)?"
    r"(api[\s_-]?key|access[\s_-]?token|auth\w*[\s_-]token|credentials?|bearer[\s_-]token)\b"
    r"|(api[\s_-]?key|access[\s_-]?token|credentials?)\W+(\w+\W+){0,3}"
    r"(invalid|incorrect|expired|missing|not valid|disabled|revoked|not found)"
    r"|\A\W*(\d{3}\W*)?(unauthori[sz]ed|unauthenticated)\W*\Z|authentication (failed|required|error)|not authenticated",
    re.IGNORECASE,
)


def content_of(body: bytes) -> object:
    """Return a body as JSON, plain text, a page's title, or an event's data. None if it is empty or binary."""
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
    """Return the title of an HTML page, the message of an XML document, or the whole text."""
    titled = _TITLE.search(page)
    text = html.unescape(_TAG.sub(" ", titled[2] if titled else _INVISIBLE.sub(" ", page)))
    return " ".join(text.split()) or None


_TEXT_LIMIT: Final = 1 << 16
"""Bytes of a body without JSON that are searched for a message."""


_TITLE: Final = re.compile(r"<(title|h1|message)\b[^>]{0,200}>(.{1,1000}?)</\1", re.IGNORECASE | re.DOTALL)


_INVISIBLE: Final = re.compile(r"<(script|style)\b.*?</\1", re.IGNORECASE | re.DOTALL)


_TAG: Final = re.compile(r"<[^>]*>?")
