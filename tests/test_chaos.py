"""A small instance of each part of the fault campaign (`make chaos`), so that the campaign itself cannot rot."""

import pytest

from tests.chaos import exchanges, kills


@pytest.mark.timeout(120)
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
