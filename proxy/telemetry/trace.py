"""The flight recorder: what a job and its provider said to each other, for whoever must find out what went wrong.

Off unless there is a folder for it. `drive` says whose exchanges follow, `upstream` hands them over without their
secrets, and an answer that is the same as before is only counted. It is bounded for each exchange, each job and in all.
A thread writes: what it cannot keep up with is dropped and counted, for a job matters more than its trace.
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

MOST_SENT: Final = 4096
"""Characters that are kept of what was sent: enough to recognise an order."""
MOST_ANSWERED: Final = 256 << 10
"""Bytes that are kept of an answer."""
_MOST_OF_A_JOB: Final = 4 << 20
"""Bytes of one trace; what comes later is not kept."""
_MOST_JOBS: Final = 1000
_MOST_WAITING: Final = 64 << 20
"""Bytes of the exchanges that wait to be written: more than the largest answer that is read at all."""
_OVERHEAD: Final = 4 << 10
"""Bytes that an exchange takes beside its texts."""
_TELLING: Final = ("content-type", "location", "openai-poll-after-ms", "retry-after")
"""The headers of an answer that Pollcast itself goes by; no other is kept."""
_SIGNATURE: Final = re.compile(r"(?i)(signature(?:=|%3D))[^&\"'\\\s%]+")


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and what came of it; an `error` is the name of what kept the answer from coming, or from ending."""

    at: float
    """When the answer came, in seconds since the epoch."""
    seconds: float
    method: str
    path: str
    query: Mapping[str, str]
    sent: str
    """What was sent, files left out, as text."""
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    error: str | None = None

    def as_json(self, secrets: list[str]) -> dict[str, Any]:
        """What is kept of it: bounded, without secrets, without what is empty."""
        query = {name: _redacted(value, secrets) for name, value in self.query.items()}
        kept: dict[str, Any] = {
            "seconds": round(self.seconds, 3),
            "method": self.method,
            "path": _redacted(self.path, secrets),
            "query": query,
            "sent": _redacted(self.sent, secrets)[:MOST_SENT],
            "status": self.status,
            "headers": {name: _redacted(self.headers[name], secrets) for name in _TELLING if name in self.headers},
            **_body(self.body, secrets),
            "error": self.error,
        }
        return {name: value for name, value in kept.items() if value not in (None, "", {})}


class Recorder:
    """One job's exchanges, a JSON line each, or a short one for an answer that has not changed."""

    def __init__(self, file: Path, keep: Callable[[Callable[[], None], int], None]) -> None:
        self._file = file
        self._keep = keep
        self._latest: dict[tuple[Any, ...], tuple[int, dict[str, Any]]] = {}
        self._size: int | None = None
        """Bytes of the file; None before it was looked at."""
        self._next = 0

    def record(self, exchange: Exchange, secrets: list[str]) -> None:
        """Have an exchange kept, unless the job has had its share; it never fails, and waits for nothing."""
        size = len(exchange.body) + len(exchange.sent) + _OVERHEAD
        self._keep(partial(self._record, exchange, secrets), size)

    def _record(self, exchange: Exchange, secrets: list[str]) -> None:
        if self._size is None:
            lines = _lines(self._file)
            self._size, self._next = sum(map(len, lines)), len(lines)
        if self._size >= _MOST_OF_A_JOB:
            return
        kept = exchange.as_json(secrets)
        told = {name: value for name, value in kept.items() if name != "seconds"}
        place = (exchange.method, exchange.path, tuple(sorted(exchange.query.items())))
        n, before = self._latest.get(place, (0, None))
        if told == before:
            self._write({"again": n, "at": exchange.at})
            return
        self._latest[place] = self._next, told
        self._write({"n": self._next, "at": exchange.at} | kept)
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
    """A folder of traces, a file for each job."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        make_private_folder(self._folder)
        self._waiting: SimpleQueue[Callable[[], None] | None] | None = None
        self._handed_on = 0
        """Bytes of exchanges, since the start."""
        self._worked_off = 0
        """Of these; written by the thread alone, as the other is by the loop alone."""
        self.dropped = 0
        """Exchanges that were not kept, because too many waited."""

    @contextmanager
    def written(self) -> Iterator[None]:
        """Have a thread write while the body lasts, and finish what waits at its end; else who records writes."""
        waiting = self._waiting = SimpleQueue[Callable[[], None] | None]()
        thread = Thread(target=_write, args=[waiting], name="traces", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._waiting = None
            waiting.put(None)
            thread.join()

    def of(self, job: str) -> Recorder:
        """The job's recorder; it goes on where an earlier one of the same job stopped."""
        return Recorder(self._path(job), self._keep)

    def _keep(self, work: Callable[[], None], size: int) -> None:
        if self._handed_on - self._worked_off + size > _MOST_WAITING:
            self.dropped += 1
            return
        self._handed_on += size
        self._hand_on(partial(self._work_off, work, size))

    def _work_off(self, work: Callable[[], None], size: int) -> None:
        try:
            work()
        finally:
            self._worked_off += size

    def forget(self, job: str) -> None:
        """Delete the trace of a job, after what of it waits to be written."""
        self._hand_on(partial(self._path(job).unlink, missing_ok=True))

    def _hand_on(self, work: Callable[[], None]) -> None:
        if self._waiting is None:
            work()
        else:
            self._waiting.put(work)

    def read(self, job: str) -> list[dict[str, Any]]:
        """The job's exchanges, those that repeated themselves with their `count` and the time of the last."""
        exchanges: dict[int, dict[str, Any]] = {}
        for line in map(_parsed, _lines(self._path(job))):
            if "n" in line:
                exchanges[line["n"]] = line
            elif (repeated := exchanges.get(line.get("again", -1))) is not None:
                repeated["count"] = repeated.get("count", 1) + 1
                repeated["until"] = line["at"]
        return list(exchanges.values())

    def sweep(self, before: float) -> None:
        """Forget traces that were last written before that second of the world's, and all but the newest thousand."""
        files = sorted(self._folder.glob("job_*.jsonl"), key=_age, reverse=True)
        for n, file in enumerate(files):
            if n >= _MOST_JOBS or _age(file) < before:
                with suppress(OSError):
                    file.unlink()

    def _path(self, job: str) -> Path:
        if not re.fullmatch(r"job_\w+", job):
            raise ValueError(f"{job!r} is no job's id")
        return self._folder / f"{job}.jsonl"


def _write(waiting: "SimpleQueue[Callable[[], None] | None]") -> None:
    while work := waiting.get():
        try:
            work()
        except OSError as error:
            log.warning("A trace cannot be written: %s", error)
        except Exception:
            log.exception("An exchange cannot be kept.")


recorder: ContextVar[Recorder | None] = ContextVar("recorder", default=None)
"""Who records what the current task exchanges with a provider; nobody, as a rule."""


def _lines(file: Path) -> list[bytes]:
    try:
        return file.read_bytes().splitlines(keepends=True)
    except OSError:
        return []


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        found: dict[str, Any] = orjson.loads(line)
    except orjson.JSONDecodeError:  # torn by a power cut
        return {}
    return found


def _age(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return time.time()


def _redacted(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "[key]").replace(orjson.dumps(secret).decode()[1:-1], "[key]")
    return _SIGNATURE.sub(r"\1[signature]", text)


def _body(body: bytes, secrets: list[str]) -> dict[str, Any]:
    """The body as text where it is text, else in base64; `cut` says that there was more of it."""
    cut = {"cut": True} if len(body) > MOST_ANSWERED else {}
    try:
        # Secrets go before the cut: a half of one would not be recognised.
        text = _redacted(body.decode(), secrets)
    except UnicodeDecodeError:
        if any(secret.encode() in body for secret in secrets):
            return {"cut": True}
        return {"base64": base64.b64encode(body[:MOST_ANSWERED]).decode(), **cut}
    return {"body": text[:MOST_ANSWERED], **cut}
