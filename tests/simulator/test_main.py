import asyncio
import contextlib

import aiohttp
import pytest

from proxy.simulator import PROMPT_FAULTS, Simulator
from proxy.simulator.__main__ import run


async def test_it_runs_alone_and_prints_its_keys_and_fault_words(capsys: pytest.CaptureFixture[str]) -> None:
    simulator = Simulator()
    running = asyncio.create_task(run(simulator, "127.0.0.1", 0))
    async with asyncio.timeout(5):
        while not simulator.origin:
            await asyncio.sleep(0.001)
    headers = {"Authorization": f"Bearer {simulator.keys['ainow']}"}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{simulator.origin}/api/ping", headers=headers) as reply,
    ):
        assert await reply.text() == "pong"
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    printed = capsys.readouterr().out
    assert simulator.origin in printed
    assert all(text in printed for text in (*simulator.keys.values(), *PROMPT_FAULTS))
