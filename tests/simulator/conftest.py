from collections.abc import AsyncIterator

import aiohttp
import pytest

from proxy.simulator import Simulator
from tests.simulator.wire import Client, Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def simulator(clock: Clock) -> AsyncIterator[Simulator]:
    async with Simulator(now=clock.now, sleep=clock.sleep) as running:
        yield running


@pytest.fixture
async def client(simulator: Simulator) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession(simulator.origin) as session:
        yield Client(simulator, session)
