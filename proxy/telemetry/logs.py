"""How the log is written: a record a line, as JSON or for a person, with the request it belongs to and without secrets.

Records carry their facts in `extra` (`job`, `account`, `status` ...); both forms show them. What must not be read by
whoever reads logs is masked in the text that is about to be written, wherever it came from: a message's arguments, an
exception's, a traceback.
"""

import asyncio
import logging
import re
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Any, Final

import orjson

from proxy.core.clock import rfc3339
from proxy.core.text import escape_unprintable

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request that is being served, if any."""

_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has, whatever it tells."""
_CANCELED: Final = "asyncio.exceptions.CancelledError"
"""The last line of a cancellation's traceback."""
_SHORTEST: Final = 6
"""Characters of a secret that is looked for: a shorter one would be found in every word."""
_SHAPES: Final = (
    r"pollcast_(?P<key>[\w-]{20,})",
    r"earer\s+(?P<bearer>[^\s\"',]+)",
    r"-[Aa][Pp][Ii]-[Kk]ey[\"']?\s*[:=]\s*[\"']?(?P<header>[^\s\"',]+)",
    # Ours, and providers' own: X-Amz-Signature and the like.
    r"ignature[\w%-]*=(?P<signature>[^&\s\"'<>]+)",
    r"://[^/\s:@]*:(?P<password>[^@/\s]+)(?=@)",
)
"""What a secret looks like that nobody has told us: what is named is masked.

None ignores case, and each begins with one letter, which is why the first of some words is missing: a search for any of
them then skips from one such letter to the next, and costs 2 microseconds a line, not hundreds.
"""


class Mask:
    """Takes secrets out of text: those that it was told, and those that can be told by their shape."""

    def __init__(self) -> None:
        self.hide(())

    def hide(self, secrets: Iterable[str]) -> None:
        """Have these secrets masked from now on, and no others but those of a known shape."""
        # The longest first: one may be the beginning of another.
        told = sorted((secret for secret in secrets if len(secret) >= _SHORTEST), key=len, reverse=True)
        self._pattern = re.compile("|".join([*map(re.escape, told), *_SHAPES]))

    def __call__(self, text: str) -> str:
        """The text with `***` in the place of each secret."""
        return self._pattern.sub(_masked, text)


def _masked(match: "re.Match[str]") -> str:
    if match.lastgroup is None:  # one that we were told
        return "***"
    found, (start, end) = match[0], match.span(match.lastgroup)
    return f"{found[: start - match.start()]}***{found[end - match.start() :]}"


class _Form(logging.Formatter):
    def __init__(self, mask: Mask) -> None:
        super().__init__()
        self._mask = mask

    def _facts(self, record: logging.LogRecord) -> dict[str, Any]:
        told = {name: value for name, value in vars(record).items() if name not in _OWN}
        request = request_id.get()
        return ({"request": request} if request else {}) | told

    def _trace(self, record: logging.LogRecord) -> str:
        parts = [self.formatException(record.exc_info)] if record.exc_info else []
        return self._mask("\n".join([*parts, *([self.formatStack(record.stack_info)] if record.stack_info else [])]))


class JsonForm(_Form):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        trace = self._trace(record)
        line = {
            "at": rfc3339(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._mask(record.getMessage()),
            **{name: self._masked(value) for name, value in self._facts(record).items()},
            **({"trace": trace} if trace else {}),
        }
        return orjson.dumps(line).decode()

    def _masked(self, value: object) -> object:
        return value if isinstance(value, int | float | None) else self._mask(str(value))


class ConsoleForm(_Form):
    """One line for a person; a traceback below it."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        facts = "".join(f" {name}={value}" for name, value in self._facts(record).items())
        text = escape_unprintable(self._mask(record.getMessage() + facts))
        trace = self._trace(record)
        line = f"{rfc3339(record.created)} {record.levelname:7} {record.name}: {text}"
        return f"{line}\n{trace}" if trace else line


_FORMS: Final[Mapping[str, type[_Form]]] = {"console": ConsoleForm, "json": JsonForm}


def configure(form: str, level: str) -> Mask:
    """Write what this process logs from now on to standard error; returns the mask, to be told this site's secrets."""
    mask = _configured(form, level)
    # Neither form shows where in the code a record was made, or in which thread; finding out is half a record's cost.
    # https://docs.python.org/3/howto/logging.html#optimization
    logging._srcfile = None  # noqa: SLF001
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    return mask


def _configured(form: str, level: str) -> Mask:
    mask = Mask()
    handler = logging.StreamHandler()
    handler.setFormatter(_FORMS[form](mask))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # What a library finds odd about a client's request is no business of the operator's.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    return mask


def join(form: str, level: str) -> Mask:
    """Log under an ASGI server of somebody else's: as by `configure`, unless its operator has set up a log already.

    Records keep their process and thread: the server's own forms may show them. Its log is masked: uvicorn's access log
    would show the signatures of Links.
    """
    mask = Mask() if logging.getLogger().handlers else _configured(form, level)

    def masked(record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(mask(value) if isinstance(value, str) else value for value in record.args)
        return True

    for name in ("uvicorn.access", "uvicorn.error"):
        logging.getLogger(name).addFilter(masked)
    logging.getLogger("uvicorn.error").addFilter(is_fault)
    return mask


def is_fault(record: logging.LogRecord) -> bool:
    """Whether a record of uvicorn's is about a fault.

    A stream that stops before its final event is broken off. A stop cancels the streams that are still open, and a
    forced one the lifespan too, whose traceback is then the message. uvicorn logs all three as errors.
    """
    if record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError):
        return False
    message = record.getMessage().rstrip()
    return message != "ASGI callable returned without completing response." and not message.endswith(_CANCELED)
