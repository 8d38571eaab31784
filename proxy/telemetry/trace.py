"""Traces: records the requests to a provider and its answers, by job, to find out what went wrong.

Traces are off unless `POLLCAST_TRACE` names a folder. `runner/job_run.py` sets the current job's recorder, and
`upstream/client.py` passes each exchange to it. Secrets are removed, and a repeated answer is only counted. The size of
each exchange, of each job's trace and of all traces is bounded. A thread writes the files. If it falls behind,
exchanges are dropped and counted, because a job matters more than its trace.
"""

import base64
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final

import orjson

from proxy.core.files import make_private_folder, open_private

log = logging.getLogger(__name__)

SENT_LIMIT: Final = 4096
"""Number of characters entry of a request, enough to recognize an order."""
ANSWER_LIMIT: Final = 256 << 10
"""Number of bytes entry of an answer."""
_EXCHANGE_OVERHEAD: Final = 4 << 10
"""Size of an exchange without its texts, in bytes."""
_KEPT_HEADERS: Final = ("content-type", "location", "openai-poll-after-ms", "retry-after")
"""The headers of an answer that Pollcast uses. Others are not entry."""
_SIGNATURE: Final = re.compile(r"(?i)(signature(?:=|%3D))[^&\"'\\\s%]+")


@dataclass(frozen=True, slots=True)
class TraceLimits:
    """Bounds on what traces take."""

    trace_size: int = 4 << 20
    """Largest size of a trace, in bytes. Later exchanges are not kept."""
    traces: int = 1000
    """Largest number of traces. The oldest are deleted."""
    queue_size: int = 64 << 20
    """Largest size of the exchanges that wait for the thread, in bytes; larger than any answer."""


DEFAULT_LIMITS: Final = TraceLimits()
"""The limits of production."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its answer. `error` names the exception that prevented the answer or cut it off."""

    at: float
    """Time of the answer, in seconds since the epoch."""
    seconds: float
    method: str
    path: str
    query: Mapping[str, str]
    sent: str
    """The request body as text, without files."""
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    error: str | None = None

    def as_json(self, secrets: list[str]) -> dict[str, Any]:
        """Return the JSON to keep: bounded, without secrets and empty fields."""
        query = {name: _redact(value, secrets) for name, value in self.query.items()}
        entry: dict[str, Any] = {
            "seconds": round(self.seconds, 3),
            "method": self.method,
            "path": _redact(self.path, secrets),
            "query": query,
            "sent": _redact(self.sent, secrets)[:SENT_LIMIT],
            "status": self.status,
            "headers": {name: _redact(self.headers[name], secrets) for name in _KEPT_HEADERS if name in self.headers},
            **_body(self.body, secrets),
            "error": self.error,
        }
        return {name: value for name, value in entry.items() if value not in (None, "", {})}


class Recorder:
    """Writes the exchanges of one job as JSON lines; an unchanged answer gets a short line."""

    def __init__(self, file: Path, limit: int, enqueue: Callable[[Callable[[], None], int], None]) -> None:
        self._file = file
        self._limit = limit
        self._enqueue = enqueue
        self._latest: dict[tuple[Any, ...], tuple[int, dict[str, Any]]] = {}
        self._size: int | None = None
        """Size of the file in bytes; None before it is read."""
        self._next = 0

    def record(self, exchange: Exchange, secrets: list[str]) -> None:
        """Queue an exchange for writing, unless the job's trace is full. Never blocks and never raises."""
        size = len(exchange.body) + len(exchange.sent) + _EXCHANGE_OVERHEAD
        self._enqueue(partial(self._record, exchange, secrets), size)

    def _record(self, exchange: Exchange, secrets: list[str]) -> None:
        if self._size is None:
            lines = _lines(self._file)
            self._size, self._next = sum(map(len, lines)), len(lines)
        if self._size >= self._limit:
            return
        entry = exchange.as_json(secrets)
        comparable = {name: value for name, value in entry.items() if name != "seconds"}
        request = (exchange.method, exchange.path, tuple(sorted(exchange.query.items())))
        n, before = self._latest.get(request, (0, None))
        if comparable == before:
            self._write({"again": n, "at": exchange.at})
            return
        self._latest[request] = self._next, comparable
        self._write({"n": self._next, "at": exchange.at} | entry)
        self._next += 1

    def _write(self, line: Mapping[str, Any]) -> None:
        data = orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
        self._size = (self._size or 0) + len(data)
        with (
            suppress(OSError),
            os.fdopen(open_private(self._file, os.O_WRONLY | os.O_APPEND), "wb") as f,
        ):
            f.write(data)


class Traces:
    """A folder of traces, with a file for each job."""

    def __init__(self, folder: str, limits: TraceLimits = DEFAULT_LIMITS) -> None:
        self._folder = Path(folder)
        self._limits = limits
        make_private_folder(self._folder)
        self._queue: SimpleQueue[Callable[[], None] | None] | None = None
        self._queued_size = 0
        """Size of all queued exchanges since the start, in bytes. Only the event loop writes it."""
        self._written_size = 0
        """Size of all written exchanges since the start, in bytes. Only the thread writes it."""
        self.dropped = 0
        """Number of exchanges that were dropped because too many waited."""

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write in a thread while the body runs; finish the queue at its end. Otherwise `record` writes directly."""
        queue = self._queue = SimpleQueue[Callable[[], None] | None]()
        thread = Thread(target=_write, args=[queue], name="traces", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._queue = None
            queue.put(None)
            thread.join()

    def of(self, job: str) -> Recorder:
        """Return the job's recorder. It continues the file of an earlier recorder of the same job."""
        return Recorder(self._path(job), self._limits.trace_size, self._enqueue)

    def _enqueue(self, work: Callable[[], None], size: int) -> None:
        if self._queued_size - self._written_size + size > self._limits.queue_size:
            self.dropped += 1
            return
        self._queued_size += size
        self._submit(partial(self._run, work, size))

    def _run(self, work: Callable[[], None], size: int) -> None:
        try:
            work()
        finally:
            self._written_size += size

    def forget(self, job: str) -> None:
        """Delete the trace of a job, after its queued exchanges are writing."""
        self._submit(partial(self._path(job).unlink, missing_ok=True))

    def _submit(self, work: Callable[[], None]) -> None:
        if self._queue is None:
            work()
        else:
            self._queue.put(work)

    def read(self, job: str) -> list[dict[str, Any]]:
        """Return the job's exchanges. A repeated one has its `count`, and the time of the last in `until`."""
        exchanges: dict[int, dict[str, Any]] = {}
        for line in map(_parse, _lines(self._path(job))):
            if "n" in line:
                exchanges[line["n"]] = line
            elif (repeated := exchanges.get(line.get("again", -1))) is not None:
                repeated["count"] = repeated.get("count", 1) + 1
                repeated["until"] = line["at"]
        return list(exchanges.values())

    def sweep(self, before: float) -> None:
        """Delete traces last writing before this time (seconds since the epoch), and all except the newest thousand."""
        files = sorted(self._folder.glob("job_*.jsonl"), key=_age, reverse=True)
        for n, file in enumerate(files):
            if n >= self._limits.traces or _age(file) < before:
                with suppress(OSError):
                    file.unlink()

    def _path(self, job: str) -> Path:
        if not re.fullmatch(r"job_\w+", job):
            raise ValueError(f"{job!r} is not a job id")
        return self._folder / f"{job}.jsonl"


def _write(queue: "SimpleQueue[Callable[[], None] | None]") -> None:
    while work := queue.get():
        try:
            work()
        except OSError as error:
            log.warning("Cannot write a trace: %s", error)
        except Exception:
            log.exception("Internal error while writing a trace")


recorder: ContextVar[Recorder | None] = ContextVar("recorder", default=None)
"""The recorder of the current task's exchanges with a provider; usually None."""


def _lines(file: Path) -> list[bytes]:
    try:
        return file.read_bytes().splitlines(keepends=True)
    except OSError:
        return []


def _parse(line: bytes) -> dict[str, Any]:
    try:
        found: dict[str, Any] = orjson.loads(line)
    except orjson.JSONDecodeError:  # cut off by a power failure
        return {}
    return found


def _age(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return time.time()


def _redact(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "[key]").replace(orjson.dumps(secret).decode()[1:-1], "[key]")
    return _SIGNATURE.sub(r"\1[signature]", text)


def _body(body: bytes, secrets: list[str]) -> dict[str, Any]:
    """Return the body as text or else in base64. `cut` marks a body that was longer."""
    cut = {"cut": True} if len(body) > ANSWER_LIMIT else {}
    try:
        # Secrets are removed before the cut, because half a secret would not be recognized.
        text = _redact(body.decode(), secrets)
    except UnicodeDecodeError:
        if any(secret.encode() in body for secret in secrets):
            return {"cut": True}
        return {"base64": base64.b64encode(body[:ANSWER_LIMIT]).decode(), **cut}
    return {"body": text[:ANSWER_LIMIT], **cut}
