"""A Pollcast for each module, with a literal provider behind it, and a new account of 1000 tokens for each test."""

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
    deployment.clock.at += 120  # The breaker forgets the failures of the last test.
    deployment.key = await deployment.new_key(f"account-{next(ACCOUNTS)}", 1000)
    deployment.http.headers["Authorization"] = f"Bearer {deployment.key}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_deployment(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Deployment, Literal]]:
    folder = tmp_path_factory.mktemp("literal")
    async with Literal() as upstream:
        deployment = Deployment(folder, provider={"base_url": upstream.origin, "api_key": KEY})
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)  # a folder without .env
            async with deployment:
                yield deployment, upstream


@pytest_asyncio.fixture(loop_scope="module")
async def deployment(module_deployment: tuple[Deployment, Literal]) -> Deployment:
    await fresh_account(module_deployment[0])
    return module_deployment[0]


@pytest.fixture
def upstream(module_deployment: tuple[Deployment, Literal]) -> Literal:
    module_deployment[1].clear()
    return module_deployment[1]


def point_at(deployment: Deployment, upstream: Literal) -> Deployment:
    """Return the deployment, with the literal provider as the base URL of all providers."""
    deployment.providers = {kind.name: {"base_url": upstream.origin, "api_key": KEY} for kind in REGISTRY.providers}
    return deployment
