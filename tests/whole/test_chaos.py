"""A small instance of each part of the fault campaign (`make chaos`), so that the campaign itself stays runnable."""

import pytest

from tests.chaos import cuts, exchanges, kills, oddities
from tests.chaos.odd_answers import cells


@pytest.mark.timeout(120)
@pytest.mark.wide
async def test_killing_the_server_loses_nothing_and_buys_nothing_twice() -> None:
    verdict, line = await kills.run(3, seed=7)
    assert not verdict.findings, f"{line}\n{verdict.evidence()}"
    assert line.startswith("kills: sqlite, seed 7, 3 kills")
    assert verdict.ends["Completed"]


@pytest.mark.timeout(120)
async def test_upstreams_that_do_everything_wrong_are_sent_each_order_once() -> None:
    verdict, line = await exchanges.run(200, seed=7)
    assert not verdict.findings, f"{line}\n{verdict.evidence()}"
    assert line.startswith("exchanges: sqlite, seed 7, ")
    assert verdict.ends["Completed"]


@pytest.mark.timeout(120)
async def test_odd_answers_end_no_paid_job_early() -> None:
    campaign, line = await oddities.run(60, seed=7)
    assert not campaign.findings, f"{line}\n{campaign.evidence()}"
    assert campaign.odd >= 60


@pytest.mark.timeout(120)
@pytest.mark.wide
async def test_answers_that_are_cut_buy_one_video_whatever_is_killed() -> None:
    campaign, line = await cuts.run(6, seed=7)
    assert not campaign.findings, f"{line}\n{campaign.evidence()}"
    assert campaign.server.kills


@pytest.mark.wide
@pytest.mark.timeout(300)
async def test_hundreds_of_odd_answers_end_no_paid_job_early() -> None:
    campaign, line = await oddities.run(600, seed=8)
    assert not campaign.findings, f"{line}\n{campaign.evidence()}"
    assert {*campaign.upstream.counted} == cells()  # each kind on each adapter to which it can apply
    assert {siege for siege, _ in campaign.besieged} == {"hopeless", "nineteen", "brief", "endless"}


@pytest.mark.wide
@pytest.mark.timeout(300)
@pytest.mark.parametrize("store", ["sqlite", "redis"])
async def test_thirty_kills_lose_nothing(store: str) -> None:
    verdict, line = await kills.run(30, seed=11, store=store)
    assert not verdict.findings, f"{line}\n{verdict.evidence()}"
