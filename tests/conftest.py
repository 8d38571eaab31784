"""What every test may ask for: a world, and an environment that holds nothing of this machine's."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.world import World


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("POLLCAST_", "GAGA_", "GAIA_", "AINOW_", "GANAI_", "HEYGEN_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)  # no .env here


@pytest.fixture
def unstarted(tmp_path: Path) -> World:
    """A world to be given settings and entered by the test."""
    return World(tmp_path)


@pytest.fixture
async def world(unstarted: World) -> AsyncIterator[World]:
    async with unstarted:
        yield unstarted
