"""Log records: one line each, as JSON or for a person, with the id of their request and without secrets.

Records carry fields in `extra` (`job`, `account`, `status`, ...), and both formats show them. Secrets are masked in the
final text, wherever they came from: the arguments of a message, an exception or a traceback.
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
"""The id of the current request, if there is one."""

_STANDARD_ATTRIBUTES: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""Attributes of every record; all others are fields from `extra`."""
_CANCELED: Final = "asyncio.exceptions.CancelledError"
"""The last line of a cancellation's traceback."""
_SHORTEST_SECRET: Final = 6
"""Smallest length, in characters, of a secret that is masked. A shorter one would match parts of many words."""
_SECRET_SHAPES: Final = (
    r"pollcast_(?P<key>[\w-]{20,})",
    r"earer\s+(?P<bearer>[^\s\"',]+)",
    r"-[Aa][Pp][Ii]-[Kk]ey[\"']?\s*[:=]\s*[\"']?(?P<header>[^\s\"',]+)",
    # Signatures of our Links and of providers' URLs (X-Amz-Signature).
    r"ignature[\w%-]*=(?P<signature>[^&\s\"'<>]+)",
    r"://[^/\s:@]*:(?P<password>[^@/\s]+)(?=@)",
)
"""Shapes of secrets that were not registered. The named group of a match is masked.

Each shape starts with a single letter and respects case, so some words lack their first letter. The regular expression
engine then skips from one such letter to the next: 2 microseconds a line instead of hundreds.
"""


class Mask:
    """Masks secrets in text: the registered ones, and those that have a known shape."""

    def __init__(self) -> None:
        self.hide(())

    def hide(self, secrets: Iterable[str]) -> None:
        """Register the secrets to mask. They replace those that were registered before."""
        # The longest comes first, because one secret may be a prefix of another.
        known = sorted((secret for secret in secrets if len(secret) >= _SHORTEST_SECRET), key=len, reverse=True)
        self._pattern = re.compile("|".join([*map(re.escape, known), *_SECRET_SHAPES]))

    def __call__(self, text: str) -> str:
        """Return the text with each secret replaced by `***`."""
        return self._pattern.sub(_mask_match, text)


def _mask_match(match: "re.Match[str]") -> str:
    if match.lastgroup is None:  # a registered secret
        return "***"
    found, (start, end) = match[0], match.span(match.lastgroup)
    return f"{found[: start - match.start()]}***{found[end - match.start() :]}"


class _Formatter(logging.Formatter):
    def __init__(self, mask: Mask) -> None:
        super().__init__()
        self._mask = mask

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        known = {name: value for name, value in vars(record).items() if name not in _STANDARD_ATTRIBUTES}
        request = request_id.get()
        return ({"request": request} if request else {}) | known

    def _trace(self, record: logging.LogRecord) -> str:
        parts = [self.formatException(record.exc_info)] if record.exc_info else []
        return self._mask("\n".join([*parts, *([self.formatStack(record.stack_info)] if record.stack_info else [])]))


class JsonFormatter(_Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        trace = self._trace(record)
        line = {
            "at": rfc3339(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._mask(record.getMessage()),
            **{name: self._mask_value(value) for name, value in self._fields(record).items()},
            **({"trace": trace} if trace else {}),
        }
        return orjson.dumps(line).decode()

    def _mask_value(self, value: object) -> object:
        return value if isinstance(value, int | float | None) else self._mask(str(value))


class ConsoleFormatter(_Formatter):
    """Formats a record as one line for a person, followed by its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        fields = "".join(f" {name}={value}" for name, value in self._fields(record).items())
        text = escape_unprintable(self._mask(record.getMessage() + fields))
        trace = self._trace(record)
        line = f"{rfc3339(record.created)} {record.levelname:7} {record.name}: {text}"
        return f"{line}\n{trace}" if trace else line


_FORMATTERS: Final[Mapping[str, type[_Formatter]]] = {"console": ConsoleFormatter, "json": JsonFormatter}


def configure(form: str, level: str) -> Mask:
    """Log to standard error. Return the mask, with which the caller registers the secrets of this installation."""
    mask = _configure(form, level)
    # Neither format shows the source line or the thread of a record. Finding them is half of a record's cost.
    # https://docs.python.org/3/howto/logging.html#optimization
    logging._srcfile = None  # noqa: SLF001
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    return mask


def _configure(form: str, level: str) -> Mask:
    mask = Mask()
    handler = logging.StreamHandler()
    handler.setFormatter(_FORMATTERS[form](mask))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Warnings of this library are about clients' malformed requests and do not concern the operator.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    return mask


def join(form: str, level: str) -> Mask:
    """Log inside another ASGI server: like `configure`, unless its operator has configured logging already.

    Records keep their process and thread, because the server's formats may show them. The server's log is masked too,
    because uvicorn's access log would show the signatures of Links.
    """
    mask = Mask() if logging.getLogger().handlers else _configure(form, level)

    def masked(record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(mask(value) if isinstance(value, str) else value for value in record.args)
        return True

    for name in ("uvicorn.access", "uvicorn.error"):
        logging.getLogger(name).addFilter(masked)
    logging.getLogger("uvicorn.error").addFilter(is_fault)
    return mask


def is_fault(record: logging.LogRecord) -> bool:
    """Return whether a log record of uvicorn reports a real error.

    uvicorn also logs three normal cases as errors: a stream that was closed before its final event, the cancellation of
    open streams at shutdown, and, at a forced shutdown, the cancellation of the lifespan with its traceback.
    """
    if record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError):
        return False
    message = record.getMessage().rstrip()
    return message != "ASGI callable returned without completing response." and not message.endswith(_CANCELED)
