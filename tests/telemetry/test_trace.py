"""Traces: their content, their limits, and the replay of a recorded job."""

import asyncio
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.simulator import Replay, default_keys
from proxy.telemetry import trace
from proxy.telemetry.trace import Exchange, TraceLimits, Traces
from tests.cli.test_cli import command
from tests.support.deployment import Deployment

FOLDER = "traces"


@pytest.fixture
def recorded(unstarted: Deployment) -> Deployment:
    unstarted.settings = {"trace": str(unstarted.folder / FOLDER)}
    return unstarted


def traces(deployment: Deployment) -> Traces:
    return Traces(str(deployment.folder / FOLDER))


def polled(body: bytes = b'{"status": "Pending"}', **changes: Any) -> Exchange:
    values: dict[str, Any] = {"at": 1.0, "seconds": 0.1, "status": 200, "body": body}
    return Exchange(**values | {"method": "GET", "path": "/v1/jobs/1", "query": {}, "sent": ""} | changes)


async def test_nothing_is_recorded_by_default(deployment: Deployment) -> None:
    await deployment.generate("gaga-1", prompt="Hello")
    assert {path.name for path in deployment.folder.iterdir()} >= {"pollcast.db"}
    assert not list(deployment.folder.rglob("*.jsonl"))


async def test_unchanged_poll_answers_are_recorded_once_with_a_count(recorded: Deployment) -> None:
    recorded.provider = {"poll_interval": 0.5}
    async with recorded as deployment:
        job = (await deployment.generate("gaga-1", prompt="[slow]"))[-1]["job"]
    polls = [exchange for exchange in traces(deployment).read(job) if exchange["method"] == "GET"]
    assert sum(poll.get("count", 1) for poll in polls) == deployment.simulator.calls["gaga.check"]
    bodies = [poll["body"] for poll in polls]
    assert len(polls) > 1
    assert all(one != other for one, other in pairwise(bodies))
    assert any(poll.get("count", 1) > 1 and poll["until"] > poll["at"] for poll in polls)


async def test_a_submit_is_recorded_with_its_request_answer_and_time(recorded: Deployment) -> None:
    async with recorded as deployment:
        events = await deployment.generate("gaga-1", prompt="A red balloon")
    submit = next(each for each in traces(deployment).read(events[-1]["job"]) if each["method"] == "POST")
    assert submit["path"] == "/v1/generations"
    assert "A red balloon" in submit["sent"]
    assert orjson.loads(submit["body"])["id"]
    assert (submit["status"], submit["headers"]["content-type"]) == (200, "application/json; charset=utf-8")
    assert submit["at"] >= 1_800_000_000


async def test_a_trace_contains_only_its_own_job_s_exchanges(recorded: Deployment) -> None:
    async with recorded as deployment:
        jobs = [await deployment.submit("gaga-1", prompt=f"Prompt {n}") for n in range(3)]
        for job in jobs:
            await deployment.ended(job["id"])
    for n, job in enumerate(jobs):
        text = orjson.dumps(traces(deployment).read(job["id"])).decode()
        assert [other for other in range(3) if f"Prompt {other}" in text] == [n]


async def test_deleting_a_job_deletes_its_trace(recorded: Deployment) -> None:
    async with recorded as deployment:
        gone, kept = [(await deployment.generate("gaga-1", prompt="Hello"))[-1]["job"] for _ in range(2)]
        assert (await deployment.http.delete(f"/api/jobs/{gone}")).status_code == 204
        while traces(deployment).read(gone):
            await asyncio.sleep(0.001)
    assert traces(deployment).read(kept)
    assert len(list((deployment.folder / FOLDER).iterdir())) == 1


async def test_a_trace_continues_after_a_restart(recorded: Deployment) -> None:
    async with recorded as deployment:
        deployment.simulator.fault("gaga.check", "slow", times=1, seconds=60)
        job = await deployment.submit("gaga-1", prompt="Hello")
        await deployment.restart()
        await deployment.ended(job["id"])
    exchanges = traces(deployment).read(job["id"])
    assert [exchange["n"] for exchange in exchanges] == list(range(len(exchanges)))
    assert exchanges[0]["method"] == "POST"
    assert "Success" in exchanges[-1]["body"] or "result" in exchanges[-1]["body"]


def test_a_trace_contains_neither_keys_nor_signatures(tmp_path: Path) -> None:
    key = 'sk-"quoted'
    link = "https://x/a?key=k&signature=Zm9v-_b&size=1"
    body = orjson.dumps({"message": f"bad key {key}", "url": link, "X": "a?X-Amz-Signature=00ff&b=1", "next": link})
    recorder = Traces(str(tmp_path)).of("job_1")
    recorder.record(polled(body, query={"u": link}, sent=f"{key} {link}", headers={"location": link}), [key])
    kept = (tmp_path / "job_1.jsonl").read_text()
    for secret in ("quoted", "Zm9v", "00ff"):
        assert secret not in kept
    assert "size=1" in kept
    assert (tmp_path / "job_1.jsonl").stat().st_mode & 0o077 == 0


def test_a_trace_bounds_each_text_and_its_size(tmp_path: Path) -> None:
    recorder = Traces(str(tmp_path), TraceLimits(trace_size=1 << 20)).of("job_1")
    for n in range(20):
        recorder.record(polled(b"%d" % n + bytes(1 << 20).replace(b"\0", b"x"), sent="y" * 9999), [])
    first = Traces(str(tmp_path)).read("job_1")[0]
    assert (len(first["body"]), first["cut"], len(first["sent"])) == (trace.ANSWER_LIMIT, True, trace.SENT_LIMIT)
    assert (tmp_path / "job_1.jsonl").stat().st_size < (1 << 20) + trace.ANSWER_LIMIT + 10_000


def test_old_and_surplus_traces_are_deleted(tmp_path: Path) -> None:
    kept = Traces(str(tmp_path), TraceLimits(traces=2))
    for n in range(5):
        kept.of(f"job_{n}").record(polled(), [])
        os.utime(tmp_path / f"job_{n}.jsonl", (100 + n, 100 + n))
    kept.sweep(104)
    assert [file.name for file in tmp_path.iterdir()] == ["job_4.jsonl"]
    for n in range(5):
        kept.of(f"job_{n}").record(polled(), [])
        os.utime(tmp_path / f"job_{n}.jsonl", (100 + n, 100 + n))
    kept.sweep(0)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["job_3.jsonl", "job_4.jsonl"]


def test_a_slow_disk_drops_and_counts_exchanges_without_blocking(tmp_path: Path) -> None:
    kept, slow = Traces(str(tmp_path), TraceLimits(queue_size=15_000)), tmp_path / "job_slow.jsonl"
    os.mkfifo(slow)  # a writer of a FIFO blocks until it has a reader
    with kept.writing():
        kept.of("job_slow").record(polled(), [])
        writes = slow.open("wb")  # waits until the thread is there
        recorder = kept.of("job_1")
        for n in range(5):
            recorder.record(polled(b"%d" % n), [])
        assert kept.dropped == 3
        slow.unlink()
        writes.close()
    assert [each["body"] for each in kept.read("job_1")] == ["0", "1"]


def test_an_unwritable_trace_does_not_block_others(tmp_path: Path) -> None:
    kept = Traces(str(tmp_path))
    (tmp_path / "job_1.jsonl").mkdir()
    with kept.writing():
        for job in ("job_1", "job_2"):
            kept.forget(job)
            kept.of(job).record(polled(), [])
    assert len(kept.read("job_2")) == 1


async def test_dropped_exchanges_are_counted_in_the_metrics(recorded: Deployment) -> None:
    async with recorded as deployment:
        assert "pollcast_trace_dropped_total 0.0" in (await deployment.http.get("/metrics")).text


def test_a_line_torn_by_a_power_cut_leaves_the_others_readable(tmp_path: Path) -> None:
    kept = Traces(str(tmp_path))
    kept.of("job_1").record(polled(b"one"), [])
    with (tmp_path / "job_1.jsonl").open("ab") as file:
        file.write(b'{"n":1,"at":2,"met\n')
    recorder = kept.of("job_1")
    for _ in range(3):
        recorder.record(polled(b"two"), [])
    assert [(each["body"], each.get("count")) for each in kept.read("job_1")] == [("one", None), ("two", 3)]


ENDS: Sequence[tuple[tuple[str, str], tuple[str, str]]] = [
    (("gaga-1", "Gaga"), ("gaga.check", "")),
    (("gaga-1", "Gaga"), ("gaga.submit", "reject")),
    (("gaga-1", "Gaga"), ("gaga.submit", "drop")),
    (("gaga-1", "Gaga"), ("gaga.check", "wrong types")),
    (("gaga-1", "Gaga"), ("gaga.check", "404")),
    (("gpt-5.4-mini", "Gaia"), ("gaia.chat", "")),
    (("gpt-5.4-mini", "Gaia"), ("gaia.chat", "cut")),
    (("suno", "AI-Now"), ("ainow.generate", "")),
]


@pytest.mark.parametrize(("order", "fault"), ENDS)
async def test_a_recorded_job_that_is_replayed_ends_the_same_way(
    recorded: Deployment, tmp_path: Path, order: tuple[str, str], fault: tuple[str, str]
) -> None:
    model, provider = order
    async with recorded as deployment:
        if fault[1]:
            deployment.simulator.fault(*fault)
        events = await deployment.generate(model, prompt="Hello")
    lines = [orjson.dumps(exchange) for exchange in traces(deployment).read(events[-1]["job"])]
    (tmp_path / "again").mkdir()
    async with Replay(lines) as replay:
        again = Deployment(tmp_path / "again", providers={provider: {"base_url": replay.origin}})
        async with again:
            replayed = await again.generate(model, prompt="Hello")
        assert set(replay.unknown_paths) <= {"/v1/models"}  # what the catalogue asks is no job's
        assert not again.simulator.calls
    assert told(replayed) == told(events)


def told(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the content of events without ids and times, with streamed text joined."""
    names = ("status", "code", "detail", "progress", "message", "text", "refunded")
    return [{name: event.get(name) for name in names} for event in events if "delta" not in event]


async def test_the_command_prints_a_trace_as_json_lines_that_can_be_replayed(recorded: Deployment) -> None:
    async with recorded as deployment:
        job = (await deployment.generate("gaga-1", prompt="Hello"))[-1]["job"]
    where = {"POLLCAST_TRACE": str(deployment.folder / FOLDER)}
    done = command("trace", job, **where)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert orjson.loads(lines[0])["method"] == "POST"
    assert orjson.loads(lines[0])["at"].endswith("Z")
    assert Replay(lines).origin == ""
    assert not any(key in done.stdout for key in default_keys().values())


@pytest.mark.parametrize(
    ("job", "environment", "named"),
    [
        ("job_1", {}, "POLLCAST_TRACE"),
        ("job_1", {"POLLCAST_TRACE": "traces"}, "job_1"),
        ("../job_1", {"POLLCAST_TRACE": "traces"}, "../job_1"),
    ],
)
def test_a_missing_trace_is_reported_in_one_line(job: str, environment: dict[str, str], named: str) -> None:
    done = command("trace", job, **environment)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert named in done.stderr
