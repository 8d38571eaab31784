"""One Pollcast a module, with a literal provider at its other end, and a fresh account of 1000 tokens a test."""

from collections.abc import AsyncIterator
from itertools import count

import pytest
import pytest_asyncio

from tests.support.deployment import Deployment
from tests.support.literal import Literal
from tests.support.registry import REGISTRY

ACCOUNTS = count(1)
KEY = "sk-the-operators-own"


async def fresh_account(deployment: Deployment) -> None:
    deployment.clock.at += 120  # what the last test did to a provider's health is forgotten
    deployment.key = await deployment.new_key(f"account-{next(ACCOUNTS)}", 1000)
    deployment.http.headers["Authorization"] = f"Bearer {deployment.key}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def standing(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Deployment, Literal]]:
    folder = tmp_path_factory.mktemp("literal")
    async with Literal() as upstream:
        deployment = Deployment(folder, provider={"base_url": upstream.origin, "api_key": KEY})
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)  # no .env here
            async with deployment:
                yield deployment, upstream


@pytest_asyncio.fixture(loop_scope="module")
async def deployment(standing: tuple[Deployment, Literal]) -> Deployment:
    await fresh_account(standing[0])
    return standing[0]


@pytest.fixture
def upstream(standing: tuple[Deployment, Literal]) -> Literal:
    standing[1].clear()
    return standing[1]


def pointed(deployment: Deployment, upstream: Literal) -> Deployment:
    """The world with the literal provider in the place of all five."""
    deployment.providers = {kind.name: {"base_url": upstream.origin, "api_key": KEY} for kind in REGISTRY.providers}
    return deployment
