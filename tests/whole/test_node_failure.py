"""Node failures on one real Redis: a small `python -m tests.chaos cluster`, and suspended node processes."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import orjson
import pytest

from tests.chaos import cluster
from tests.chaos.cluster import PAUSED, Cluster
from tests.chaos.kills import Server
from tests.support.deployment import NO_AUTHORITIES

JOBS = 6


@pytest.fixture
async def nodes() -> AsyncIterator[Cluster]:
    async with cluster.opened(seed=7) as opened:
        yield opened


def at(node: Server, key: str) -> httpx.AsyncClient:
    """Return a client of one node."""
    return httpx.AsyncClient(
        base_url=node.origin,
        headers={"Authorization": f"Bearer {key}"},
        trust_env=False,
        verify=NO_AUTHORITIES,
        timeout=20,
    )


async def submit(http: httpx.AsyncClient) -> str:
    """Order a slow job and return its id."""
    body = {"model": "gaga-1", "prompt": "[slow] A lake"}
    return str((await http.post("/api/jobs", json=body)).raise_for_status().json()["id"])


async def events_of(http: httpx.AsyncClient, job: str) -> list[tuple[str, ...]]:
    """Wait for the job's end, and return status, number and time of its events. Links differ for each reader."""
    text = (await http.get(f"/api/jobs/{job}/events")).raise_for_status().text
    events = [orjson.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    return [(event["status"], str(event["n"]), event["at"]) for event in events]


@pytest.mark.wide
@pytest.mark.timeout(120)
async def test_killed_and_suspended_nodes_lose_nothing_and_buy_nothing_twice() -> None:
    verdict, line = await cluster.run(3, seed=7, jobs=40)
    assert not verdict.findings, f"{line}\n{verdict.evidence()}"
    assert line.startswith("cluster: seed 7, 3 nodes, 3 strikes")
    assert verdict.ends["Completed"]


@pytest.mark.timeout(120)
async def test_a_node_resumed_after_losing_its_jobs_changes_nothing(nodes: Cluster) -> None:
    key = nodes.keys[0]
    async with at(nodes.nodes[0], key) as first, at(nodes.nodes[1], key) as second:
        jobs = [await submit(first) for _ in range(JOBS)]
        while sum(len(nodes.holds(node)) for node in nodes.nodes) < JOBS:
            await asyncio.sleep(0.01)
        suspended = max(nodes.nodes, key=lambda node: len(nodes.holds(node)))
        running = second if suspended is nodes.nodes[0] else first
        suspended.pause()
        try:
            assert nodes.holds(suspended)
            events = await asyncio.gather(*(events_of(running, job) for job in jobs))
            assert not nodes.holds(suspended)
        finally:
            suspended.wake()
        await asyncio.sleep(PAUSED)  # time for the resumed node to continue its interrupted work
        assert nodes.simulator.calls["gaga.submit"] == JOBS
        assert await asyncio.gather(*(events_of(running, job) for job in jobs)) == events
    async with at(suspended, key) as woken:
        assert await asyncio.gather(*(events_of(woken, job) for job in jobs)) == events


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("moment", "end"), [("gaga.upload", "Completed"), ("gaga.submit", "Error")])
async def test_a_node_suspended_around_the_submit_sends_an_order_once(nodes: Cluster, moment: str, end: str) -> None:
    suspended: list[Server] = []

    def suspend(operation: str) -> None:
        """Suspend the node that holds the job when the provider receives its `moment` request."""
        if operation == moment and not suspended:
            suspended.extend(node for node in nodes.nodes if nodes.holds(node))
            suspended[0].pause()

    client = nodes.clients[0]
    nodes.verdict.ear.tell = suspend
    body = {"model": "avatar-h1", "image": client.assets["image"], "audio": client.assets["audio"], "prompt": "A lake"}
    job = (await client.http.post("/api/jobs", json=body)).raise_for_status().json()["id"]
    while not suspended:
        await asyncio.sleep(0.01)
    async with at(next(node for node in nodes.nodes if node not in suspended), nodes.keys[0]) as running:
        try:
            events = await events_of(running, job)
        finally:
            suspended[0].wake()
        await asyncio.sleep(PAUSED)
        assert nodes.simulator.calls["gaga.submit"] == 1
        assert await events_of(running, job) == events
    assert events[-1][0] == end
