"""Tests of the benchmark, end to end at the smallest sizes. No time is asserted."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.bench import batches, delivery, jobs, journal, lag, nchan, nodes, orders, pollcast, report, soak, stopping
from tests.bench.book import Book
from tests.bench.load import built, request
from tests.bench.plan import Plan
from tests.support.ports import free_port

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(built(tmp_path), tmp_path, Book(), ("pollcast", "naive", "bare"), 1, (5,), (20,), quick=True)


def _cases(plan: Plan, row: str) -> set[tuple[str, ...]]:
    assert all(figure.median >= 0 for _, figure in plan.book.under(row))
    return {(name[0], name[2]) for name, _ in plan.book.under(row)}


@pytest.mark.wide
async def test_every_server_delivers_every_event_of_one_topic_and_of_many(plan: Plan) -> None:
    for server, each in (("pollcast", False), ("pollcast", True), ("naive", False), ("bare", True)):
        session = delivery.Session(server, 5, each, deliveries=50, idle=0.1)
        await delivery.measure(session, plan.load, plan.place(), plan.book)
    ours = {(shape, f"pollcast{way}") for shape in ("1 x 5", "5 x 1") for way in ("", " with its journal")}
    assert _cases(plan, "delivery") == ours | {("1 x 5", "naive"), ("5 x 1", "bare")}


@pytest.mark.skipif(nchan.missing() is not None, reason=str(nchan.missing()))
async def test_nchan_delivers_every_event(plan: Plan) -> None:
    session = delivery.Session("nchan", 5, each=True, deliveries=200, idle=0.1)
    await delivery.measure(session, plan.load, plan.place(), plan.book)
    assert ("5 x 1", "nchan") in _cases(plan, "delivery")


@pytest.mark.wide
async def test_orders_and_polls_are_as_many_as_with_the_bare_loops(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "WARM", 4)
    monkeypatch.setattr(jobs, "PACE", {True: 0.5})
    monkeypatch.setattr(jobs, "COUNTED", {True: 1.5})
    monkeypatch.setattr(orders, "NUMBER", {True: 60})
    await orders.run(plan)
    await jobs.run(plan)
    assert {"POST /api/generate", "GET /api/ping"} <= {what for _, what in _cases(plan, "orders")}
    polls = {name[2]: figure.median for name, figure in plan.book.under("jobs") if name[1] == "polls"}
    assert set(polls) == {"pollcast", "bare loop, a task each"}
    assert all(rate > 0 for rate in polls.values())


@pytest.mark.wide
async def test_the_bulk_status_needs_fewer_requests(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "JOBS", 50)
    await batches.run(plan)
    requests = {name[2]: figure.median for name, figure in plan.book.under("batches") if name[1] == "requests"}
    assert 0 < requests["pollcast"] < requests[batches.SINGLY]


@pytest.mark.wide
async def test_the_soak_looks_at_the_server_every_minute(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MINUTE", "SETTLED", "STALL"):
        monkeypatch.setattr(soak, name, 1.0)
    monkeypatch.setattr(soak, "WATCHED", 2)
    said: list[str] = []
    await soak.run(plan.load, plan.place(), said.append, minutes=3, streams=8, jobs=3)
    assert [line.split()[0] for line in said[:4]] == ["minute", "1", "2", "3"]
    assert said[-1] in {"flat", "NOT FLAT"}


def test_steady_growth_is_not_flat() -> None:
    growing = [dict.fromkeys(soak.FLAT, 100.0 + minute) for minute in range(30)]
    steady = [dict.fromkeys(soak.FLAT, 100.0 + minute % 2) for minute in range(30)]
    assert all(ratio > soak.FLAT[name] for name, ratio in soak.growth(growing).items())
    assert all(ratio == 1 for ratio in soak.growth(steady).values())


@pytest.mark.wide
async def test_every_job_s_lag_is_found(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lag, "MEAN", {True: 1.0})
    monkeypatch.setattr(lag, "TAUGHT", 3)
    monkeypatch.setattr(pollcast, "SAYING_WHEN", pollcast.ORDERS[:1])  # the model that is polled soonest
    await lag.run(plan)
    assert len(_cases(plan, "lag")) == 2


async def test_the_journal_and_the_stop_are_timed(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "EVENTS", {True: 256})
    monkeypatch.setattr(stopping, "STREAMS", {True: 5})
    await journal.run(plan)
    await stopping.run(plan)
    assert {what for _, what in _cases(plan, "journal")} == set(journal.WAYS)
    assert _cases(plan, "stop") == {("5 streams open", "pollcast")}


async def test_events_are_recorded_by_one_node_and_by_two(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "SECONDS", {True: 0.2})
    monkeypatch.setattr(nodes, "JOBS", 4)
    await nodes.run(plan)
    assert {way for _, way in _cases(plan, "nodes")} == {nodes.FILE, nodes.ONE, nodes.TWO}


# --- the load generators ---

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Site:
    """A server of streams with three events on command, one of them in two pieces; and of short answers."""

    def __init__(self) -> None:
        self.port = free_port()
        self.requests: list[bytes] = []
        self._clients: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            self.requests.append(head.split()[1])
            if b"/short" in head:
                writer.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 4\r\n\r\npong")
            elif b"/refused" in head:
                writer.write(b"HTTP/1.1 429 Too Many\r\nContent-Length: 2\r\n\r\nno")
            else:
                self._clients.append(writer)
                writer.write(HEAD + b"c\r\nretry: 2000\n\r\n")

    async def publish(self) -> None:
        for n in range(3):
            frame = b'data: {"n": %d, "t": %d}\nid: %d\n\n: keep-alive\n' % (n, time.monotonic_ns(), n)
            for writer in self._clients:
                writer.write(b"%x\r\n%s" % (len(frame), frame[:9]))
            await asyncio.sleep(0.05 if n == 1 else 0)
            for writer in self._clients:
                writer.write(frame[9:] + b"\r\n")

    def leave(self, number: int) -> None:
        for writer in self._clients[:number]:
            writer.close()


@asynccontextmanager
async def _site() -> AsyncIterator[Site]:
    site = Site()
    async with await asyncio.start_server(site.serve, "127.0.0.1", site.port):
        yield site


GENERATORS = [
    pytest.param(False, marks=pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")),
    True,
]


@pytest.mark.parametrize("fallback", GENERATORS, ids=["C", "Python"])
async def test_a_generator_counts_each_event_once(tmp_path: Path, *, fallback: bool) -> None:
    load = built(tmp_path, fallback=fallback)
    assert load.compiled is not fallback
    async with _site() as site:
        asked = [request("GET", f"/{name}-@@@@@@@@@@", site.port) for name in "ab"]
        async with load.streams(site.port, asked, 7) as streams:
            assert (streams.opened["opened"], streams.opened["open"], streams.opened["refused"]) == (7, 7, 0)
            await streams.begin(3)
            await site.publish()
            counted = await streams.counted()
            again = await streams.renew(2)
            await streams.closing()
            site.leave(9)
            closed = await streams.counted()
    assert _counts(counted) == {"events": 21, "streams": 7, "complete": 7, "open": 7, "samples": 21, "groups": 3}
    assert 0 < counted["p50"] <= counted["p99"] <= counted["max"]
    assert counted["max"] >= 50_000 - 5_000, "an event that came in two pieces was taken for one that came in one"
    assert (again["opened"], again["open"], closed["open"]) == (2, 7, 0)
    assert sorted(site.requests) == sorted(b"/%c-%010d" % (b"ab"[n % 2], n) for n in range(9))


def _counts(counted: dict[str, Any]) -> dict[str, Any]:
    return {name: counted[name] for name in ("events", "streams", "complete", "open", "samples", "groups")}


@pytest.mark.parametrize("fallback", GENERATORS, ids=["C", "Python"])
@pytest.mark.parametrize("keep_alive", [True, False])
async def test_a_generator_times_each_short_request(tmp_path: Path, *, fallback: bool, keep_alive: bool) -> None:
    load = built(tmp_path, fallback=fallback)
    async with _site() as site:
        asked = [request("GET", path, site.port) for path in ("/short", "/short", "/refused")]
        found = await load.requests(site.port, asked, 30, in_flight=4, keep_alive=keep_alive)
    assert (found["answered"], found["refused"], found["broken"], found["samples"]) == (30, 10, 0, 30)
    assert len(site.requests) == 30


# --- the report ---


def _book(**values: list[float]) -> Book:
    book = Book()
    for server, found in values.items():
        for value in found:
            book.add(("delivery", "1 x 1,000", "cpu", server), "us per event", value)
    return book


def test_a_report_holds_the_figures_against_the_goals() -> None:
    book = _book(pollcast=[4.0, 5.0, 9.0], nchan=[4.0], naive=[40.0])
    text = report.written(book, {"cores": "2"})
    assert "5.00 (4.00 to 9.00)" in text
    lines = {" ".join(line.split()) for line in text.splitlines()}
    assert "cpu, 1 x 1,000, against nchan 1.25 at most 1.25 at most 1.00 first" in lines
    assert "cpu, 1 x 1,000, against naive 0.12 at most 0.20 at most 0.14 second" in lines


def test_two_kept_runs_are_compared_figure_by_figure(tmp_path: Path) -> None:
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    report.keep(a, _book(pollcast=[8.0, 10.0, 12.0], naive=[40.0, 44.0], gone=[1.0]), {"python": "3.11"})
    report.keep(b, _book(pollcast=[4.0, 5.0, 6.0], naive=[43.0, 41.0]), {"python": "3.12"})
    lines = report.compared(a, b).splitlines()
    ours, theirs = (next(line for line in lines if f"cpu / {name}" in line) for name in ("pollcast", "naive"))
    assert "0.50" in ours
    assert "within the spread" not in ours
    assert "within the spread" in theirs
    assert "only in A: delivery / 1 x 1,000 / cpu / gone" in lines
    assert "python: 3.11 -> 3.12" in lines
    assert set(orjson.loads(a.read_bytes())) == {"machine", "figures", "notes"}
