"""Load generator for machines without a compiler. It does the same as `load.c`, at a fraction of its speed.

The head of `load.c` documents its arguments, its input and its output.
"""

import asyncio
import math
import sys
import time
from asyncio import StreamReader, StreamWriter
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Final

import orjson
import uvloop

from tests.bench.load import NUMBER

PER_ADDRESS: Final = 20_000
"""Maximum number of streams from one address, which has some 28,000 ports."""


class Requests:
    """The requests to send, in turn, each with its number."""

    def __init__(self, path: Path) -> None:
        self._requests = list(_split(path.read_bytes()))
        self._sent = count()

    def __next__(self) -> bytes:
        n = next(self._sent)
        return self._requests[n % len(self._requests)].replace(NUMBER.encode(), b"%010d" % n)


def _split(data: bytes) -> Iterator[bytes]:
    while data:
        length, _, data = data.partition(b"\n")
        yield data[: int(length)]
        data = data[int(length) :]


class Latencies:
    """Latencies in microseconds, by event."""

    def __init__(self) -> None:
        self._events: dict[int, list[float]] = defaultdict(list)

    def add(self, event: int, ns: int) -> None:
        self._events[event].append(max(ns, 0) / 1e3)

    def clear(self) -> None:
        self._events.clear()

    def figures(self) -> dict[str, Any]:
        found = [sorted(values) for values in self._events.values()]
        everything = sorted(value for values in found for value in values)
        tails, lasts = sorted(_at(values, 0.99) for values in found), sorted(values[-1] for values in found)
        return {
            "samples": len(everything),
            "p50": _at(everything, 0.5),
            "p99": _at(everything, 0.99),
            "max": _at(everything, 1),
            "groups": len(found),
            "one_p99": _at(tails, 0.5),
            "last_p50": _at(lasts, 0.5),
            "last_p99": _at(lasts, 0.99),
            "unit": "us",
        }


def _at(found: Sequence[float], share: float) -> float:
    """Return the value at a fraction of a sorted list."""
    return found[math.floor(share * (len(found) - 1) + 0.5)] if found else 0


class Streams:
    """Open streams and their events. Each stream is a task."""

    def __init__(self, port: int, number: int, in_flight: int, mark: str, requests: Requests) -> None:
        self._port = port
        self._number = number
        self._gate = asyncio.Semaphore(in_flight)
        self._mark = mark.encode()
        self._requests = requests
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._open: set[int] = set()
        self._events: dict[int, int] = defaultdict(int)
        self._latencies = Latencies()
        self._moved = asyncio.Event()
        self._answered = self._refused = self._broken = 0
        self._expected = self._complete = self._total = 0
        self._last_event = self._last_close = 0

    async def open_all(self) -> None:
        """Open all closed streams."""
        began, cpu = time.monotonic(), time.process_time()
        answered, refused, broken = self._answered, self._refused, self._broken
        closed = [n for n in range(self._number) if n not in self._open]
        for n in closed:
            await self._gate.acquire()
            self._tasks[n] = asyncio.create_task(self._follow(n))
        await self._until(lambda: self._answered + self._broken - answered - broken >= len(closed), math.inf)
        _say(
            opened=self._answered - answered,
            refused=self._refused - refused,
            broken=self._broken - broken,
            open=len(self._open),
            seconds=time.monotonic() - began,
            cpu=time.process_time() - cpu,
        )

    async def _follow(self, n: int) -> None:
        try:
            reader, writer = await _connected(self._port, n)
            writer.write(next(self._requests))
            status, _ = await _headers(reader)
        except (OSError, asyncio.IncompleteReadError):
            self._broken += 1
            return
        finally:
            self._gate.release()
            self._moved.set()
        self._answered += 1
        self._refused += status != 200
        self._open.add(n)
        self._moved.set()
        try:
            with suppress(OSError):
                while line := await reader.readline():
                    self._line(n, line)
        finally:
            writer.transport.abort()
            self._open.discard(n)
            self._last_close = time.monotonic_ns()
            self._moved.set()

    def _line(self, n: int, line: bytes) -> None:
        if not line.startswith(b"data:"):
            return
        self._last_event = now = time.monotonic_ns()
        self._total += 1
        self._events[n] += 1
        if self._events[n] == self._expected:
            self._complete += 1
            self._moved.set()
        rest = line.partition(self._mark)[2].lstrip() if self._mark else b""
        digits = rest[: len(rest) - len(rest.lstrip(b"0123456789"))]
        if digits:
            self._latencies.add(int(digits), now - int(digits))

    async def count_events(self, events: int, limit: float) -> None:
        """Count until every open stream has received `events` events, or until the limit in seconds."""
        began, cpu, had = time.monotonic_ns(), time.process_time(), len(self._open)
        self._expected, self._complete, self._total, self._last_event = events, 0, 0, began
        self._latencies.clear()
        self._events.clear()
        _say(begun=True)
        await self._until(lambda: self._complete >= had, limit)
        _say(
            events=self._total,
            streams=had,
            complete=self._complete,
            open=len(self._open),
            seconds=(self._last_event - began) / 1e9,
            wall=(time.monotonic_ns() - began) / 1e9,
            cpu=time.process_time() - cpu,
            **self._latencies.figures(),
        )

    async def wait_closed(self, limit: float) -> None:
        """Wait until the server has closed every stream."""
        self._last_close = began = time.monotonic_ns()
        _say(begun=True)
        await self._until(lambda: not self._open, limit)
        _say(open=len(self._open), seconds=(self._last_close - began) / 1e9, **self._latencies.figures())

    async def _until(self, reached: Callable[[], bool], limit: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(None if math.isinf(limit) else limit):
                while not reached():
                    self._moved.clear()
                    await self._moved.wait()

    async def renew(self, number: int) -> None:
        """Close the `number` oldest streams, then open all closed ones."""
        leaving = [task for n, task in list(self._tasks.items())[:number] if self._tasks.pop(n)]
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        await self.open_all()

    async def serve_input(self) -> None:
        """Open the streams, then obey standard input."""
        reader = StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        await self.open_all()
        while line := await reader.readline():
            match line.decode().split():
                case ["begin", events, limit]:
                    await self.count_events(int(events), float(limit))
                case ["closed", limit]:
                    await self.wait_closed(float(limit))
                case ["renew", number]:
                    await self.renew(int(number))
                case ["quit"]:
                    return


class Short:
    """Timed short requests, from a fixed number of tasks."""

    def __init__(self, port: int, number: int, *, keep_alive: bool, requests: Requests) -> None:
        self._port = port
        self._left = number
        self._keep_alive = keep_alive
        self._requests = requests
        self._latencies = Latencies()
        self._answered = self._refused = self._broken = 0

    async def run(self, in_flight: int) -> None:
        began, cpu = time.monotonic(), time.process_time()
        await asyncio.gather(*map(self._ask, range(in_flight)))
        wall = time.monotonic() - began
        _say(
            answered=self._answered,
            refused=self._refused,
            broken=self._broken,
            seconds=wall,
            wall=wall,
            cpu=time.process_time() - cpu,
            **self._latencies.figures(),
        )

    async def _ask(self, n: int) -> None:
        kept: tuple[StreamReader, StreamWriter] | None = None
        while self._left > 0:
            self._left -= 1
            asked = time.monotonic_ns()
            try:
                reader, writer = kept or await _connected(self._port, n)
                writer.write(next(self._requests))
                status, length = await _headers(reader)
                await reader.readexactly(length if self._keep_alive else 1)
            except (OSError, asyncio.IncompleteReadError):
                self._broken, kept = self._broken + 1, None
                continue
            self._latencies.add(0, time.monotonic_ns() - asked)
            self._answered += 1
            self._refused += status // 100 != 2
            kept = (reader, writer) if self._keep_alive else None
            if kept is None:
                writer.transport.abort()


async def _connected(port: int, n: int) -> tuple[StreamReader, StreamWriter]:
    source = (f"127.0.0.{1 + n // PER_ADDRESS}", 0)
    return await asyncio.open_connection("127.0.0.1", port, local_addr=source, limit=1 << 20)


async def _headers(reader: StreamReader) -> tuple[int, int]:
    """Return the status of an answer, and the length of its body, or 0 without a Content-Length."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = head.partition(b"\r\ncontent-length:")[2].split(b"\r\n")[0]
    return int(head.split(b" ", 2)[1]), int(length or 0)


def _say(**answer: Any) -> None:
    print(orjson.dumps(answer).decode(), flush=True)  # noqa: T201


async def main(kind: str, *arguments: str) -> None:
    port, number, in_flight = map(int, arguments[:3])
    requests = Requests(Path(arguments[4]))
    if kind == "streams":
        await Streams(port, number, in_flight, arguments[3], requests).serve_input()
    else:
        await Short(port, number, keep_alive=arguments[3] == "1", requests=requests).run(min(in_flight, number))


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
