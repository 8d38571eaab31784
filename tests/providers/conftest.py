"""One Pollcast a module, with a literal provider at its other end, and a fresh account of 1000 tokens a test."""

from collections.abc import AsyncIterator
from itertools import count

import pytest
import pytest_asyncio

from proxy.providers import PROVIDERS
from tests.support.literal import Literal
from tests.support.world import World

ACCOUNTS = count(1)
KEY = "sk-the-operators-own"


async def fresh_account(world: World) -> None:
    world.clock.at += 120  # what the last test did to a provider's health is forgotten
    world.key = await world.new_key(f"account-{next(ACCOUNTS)}", 1000)
    world.http.headers["Authorization"] = f"Bearer {world.key}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def standing(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[World, Literal]]:
    folder = tmp_path_factory.mktemp("literal")
    async with Literal() as upstream:
        world = World(folder, provider={"base_url": upstream.origin, "api_key": KEY})
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)  # no .env here
            async with world:
                yield world, upstream


@pytest_asyncio.fixture(loop_scope="module")
async def world(standing: tuple[World, Literal]) -> World:
    await fresh_account(standing[0])
    return standing[0]


@pytest.fixture
def upstream(standing: tuple[World, Literal]) -> Literal:
    standing[1].clear()
    return standing[1]


def pointed(world: World, upstream: Literal) -> World:
    """The world with the literal provider in the place of all five."""
    world.providers = {kind.name: {"base_url": upstream.origin, "api_key": KEY} for kind in PROVIDERS}
    return world
