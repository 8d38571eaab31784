"""Fixtures of all tests: a deployment, and an environment without the variables of this machine."""

import asyncio
import faulthandler
import gc
import os
import threading
from collections.abc import AsyncIterator, Callable, Generator
from pathlib import Path

import pytest

from proxy.cli.run import loop_factory
from proxy.providers.registry import prefix_of
from proxy.telemetry.metrics import Metrics
from tests.support.deployment import Deployment
from tests.support.registry import REGISTRY

pytest.register_assert_rewrite("tests.support.store")

STDERR = 2


def _give_up(name: str) -> None:
    os.write(STDERR, f"{name} hangs. The stacks:\n".encode())
    faulthandler.dump_traceback(STDERR)
    os._exit(1)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """End the process of a test that its own time limit does not end.

    That limit raises in the running code: a task may suppress it, and a teardown after a failure has no limit.
    """
    own = item.get_closest_marker("timeout")
    limit = own.args[0] if own else float(item.config.getini("timeout"))
    timer = threading.Timer(2 * limit + 30, _give_up, [item.nodeid])
    timer.daemon = True
    timer.start()
    try:
        return (yield)
    finally:
        timer.cancel()


def pytest_collection_finish() -> None:
    """Leave the thousands of collected tests out of each garbage collection."""
    gc.collect()
    gc.freeze()


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Return the server's own event loop. It is stricter than asyncio's, and raises where that is silent."""
    return {"server": loop_factory() or asyncio.new_event_loop}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Remove Pollcast's settings. Processes load no certificate authorities, which takes an eighth of their start."""
    prefixes = ("POLLCAST_", *map(prefix_of, REGISTRY.providers))
    for name in list(os.environ):
        if name.startswith(prefixes):
            monkeypatch.delenv(name)
    if request.node.get_closest_marker("wide") is None:  # wide tests may install packages
        monkeypatch.setenv("SSL_CERT_FILE", os.devnull)
    monkeypatch.chdir(tmp_path)  # no .env here


@pytest.fixture
def dies(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Where it is set, a part of the server's own work breaks."""
    dies = asyncio.Event()

    async def work(_: Metrics) -> None:
        await dies.wait()
        raise RuntimeError("The work broke.")

    monkeypatch.setattr(Metrics, "watch_loop", work)
    return dies


@pytest.fixture
def unstarted(tmp_path: Path) -> Deployment:
    """A world to be given settings and entered by the test."""
    return Deployment(tmp_path)


@pytest.fixture
async def deployment(unstarted: Deployment) -> AsyncIterator[Deployment]:
    async with unstarted:
        yield unstarted
