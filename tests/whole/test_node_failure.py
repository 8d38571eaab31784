"""Several real nodes on one real Redis: a small instance of `python -m tests.chaos cluster`, and a node that sleeps."""

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
    """A client of that node alone."""
    return httpx.AsyncClient(
        base_url=node.origin,
        headers={"Authorization": f"Bearer {key}"},
        trust_env=False,
        verify=NO_AUTHORITIES,
        timeout=20,
    )


async def ordered(http: httpx.AsyncClient) -> str:
    body = {"model": "gaga-1", "prompt": "[slow] A lake"}
    return str((await http.post("/api/jobs", json=body)).raise_for_status().json()["id"])


async def events_of(http: httpx.AsyncClient, job: str) -> list[tuple[str, ...]]:
    """What the job's events are and when they were recorded, once it is over; each reader gets Links of its own."""
    text = (await http.get(f"/api/jobs/{job}/events")).raise_for_status().text
    events = [orjson.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    return [(event["status"], str(event["n"]), event["at"]) for event in events]


@pytest.mark.wide
@pytest.mark.timeout(120)
async def test_nodes_that_are_killed_and_paused_lose_nothing_and_buy_nothing_twice() -> None:
    verdict, line = await cluster.run(3, seed=7, jobs=40)
    assert not verdict.findings, f"{line}\n{verdict.evidence()}"
    assert line.startswith("cluster: seed 7, 3 nodes, 3 strikes")
    assert verdict.ends["Completed"]


@pytest.mark.timeout(120)
async def test_a_node_that_slept_while_others_took_its_jobs_changes_nothing_afterwards(nodes: Cluster) -> None:
    key = nodes.keys[0]
    async with at(nodes.nodes[0], key) as first, at(nodes.nodes[1], key) as second:
        jobs = [await ordered(first) for _ in range(JOBS)]
        while sum(len(nodes.holds(node)) for node in nodes.nodes) < JOBS:
            await asyncio.sleep(0.01)
        sleeper = max(nodes.nodes, key=lambda node: len(nodes.holds(node)))
        awake = second if sleeper is nodes.nodes[0] else first
        sleeper.pause()
        try:
            assert nodes.holds(sleeper)
            told = await asyncio.gather(*(events_of(awake, job) for job in jobs))
            assert not nodes.holds(sleeper)
        finally:
            sleeper.wake()
        await asyncio.sleep(PAUSED)  # long enough for whatever it had meant to do
        assert nodes.simulator.calls["gaga.submit"] == JOBS
        assert await asyncio.gather(*(events_of(awake, job) for job in jobs)) == told
    async with at(sleeper, key) as woken:
        assert await asyncio.gather(*(events_of(woken, job) for job in jobs)) == told


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("moment", "end"), [("gaga.upload", "Completed"), ("gaga.submit", "Error")])
async def test_an_order_is_sent_once_though_its_node_slept_before_or_after_it_sent_it(
    nodes: Cluster, moment: str, end: str
) -> None:
    asleep: list[Server] = []

    def fall_asleep(operation: str) -> None:
        """The one that holds the job sleeps in the moment in which this is heard of it."""
        if operation == moment and not asleep:
            asleep.extend(node for node in nodes.nodes if nodes.holds(node))
            asleep[0].pause()

    client = nodes.clients[0]
    nodes.verdict.ear.tell = fall_asleep
    body = {"model": "avatar-h1", "image": client.assets["image"], "audio": client.assets["audio"], "prompt": "A lake"}
    job = (await client.http.post("/api/jobs", json=body)).raise_for_status().json()["id"]
    while not asleep:
        await asyncio.sleep(0.01)
    async with at(next(node for node in nodes.nodes if node not in asleep), nodes.keys[0]) as awake:
        try:
            told = await events_of(awake, job)
        finally:
            asleep[0].wake()
        await asyncio.sleep(PAUSED)
        assert nodes.simulator.calls["gaga.submit"] == 1
        assert await events_of(awake, job) == told
    assert told[-1][0] == end
