"""`server:app` under an ASGI server of somebody else's."""

import asyncio
import copy
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import uvicorn
from uvicorn.config import LOGGING_CONFIG

from proxy.app import Pollcast
from proxy.settings import Settings, read
from tests.ports import free_port

ROOT = Path(__file__).parent.parent
LINK = "/api/jobs/job_1/events?key=key_1&expires=1800000000&signature=" + "Zm9vYmFyYmF6"


def hosted(folder: Path, *options: str, **environment: str) -> str:
    """What uvicorn, started by its own command, writes while a Link is opened and it is stopped."""
    port = str(free_port())
    own = {"PYTHONPATH": str(ROOT), "POLLCAST_STORE": f"sqlite:///{folder}/pollcast.db", "POLLCAST_ASSETS": str(folder)}
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "uvicorn", "server:app", "--port", port, *options],
        env=os.environ | own | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        answer = opened(f"http://127.0.0.1:{port}{LINK}")
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    finally:
        process.terminate()
        written, _ = process.communicate(timeout=10)
    return written


def opened(url: str) -> httpx.Response:
    until = time.monotonic() + 15
    while True:
        try:
            return httpx.get(url, trust_env=False)
        except httpx.TransportError:
            assert time.monotonic() < until
            time.sleep(0.05)


@pytest.mark.parametrize("form", ["console", "json"])
def test_neither_uvicorns_access_log_nor_ours_shows_a_link_s_signature(tmp_path: Path, form: str) -> None:
    written = hosted(tmp_path, POLLCAST_LOG=form)
    assert "Zm9vYmFyYmF6" not in written
    assert "GET /api/jobs/job_1/events?key=key_1&expires=1800000000&signature=*** HTTP/1.1" in written  # uvicorn's
    assert "Traceback" not in written


def test_a_log_that_its_operator_has_set_up_is_left_as_it_is(tmp_path: Path) -> None:
    config = tmp_path / "log.ini"
    config.write_text(
        "[loggers]\nkeys=root\n[handlers]\nkeys=out\n[formatters]\nkeys=plain\n"
        "[logger_root]\nlevel=INFO\nhandlers=out\n[handler_out]\nclass=StreamHandler\nargs=(sys.stdout,)\nformatter=plain\n"
        "[formatter_plain]\nformat=MINE %(name)s %(message)s\n"
    )
    written = hosted(tmp_path, "--log-config", str(config))
    assert "MINE uvicorn.access" in written
    assert "signature=***" in written
    assert "Zm9vYmFyYmF6" not in written


def test_a_log_of_the_server_s_own_may_show_its_process(tmp_path: Path) -> None:
    config = copy.deepcopy(LOGGING_CONFIG)
    config["formatters"]["access"]["fmt"] = "process %(process)d: %(message)s"
    (tmp_path / "log.json").write_text(json.dumps(config))
    written = hosted(tmp_path, "--log-config", str(tmp_path / "log.json"))
    assert re.search(r"process \d+: .*GET /api/jobs/job_1/events", written)
    assert "Traceback" not in written


async def test_where_the_work_has_died_and_the_server_goes_on_it_is_told_as_not_alive(
    tmp_path: Path, dies: asyncio.Event
) -> None:
    port = free_port()
    app = Pollcast(read(Settings, store=f"sqlite:///{tmp_path}/pollcast.db", assets=str(tmp_path)))
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None))
    serving = asyncio.create_task(server.serve())
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client, asyncio.timeout(10):
        while not server.started:
            await asyncio.sleep(0.01)
        assert (await client.get("/healthz")).status_code == 200
        dies.set()
        while (await client.get("/healthz")).status_code == 200:
            await asyncio.sleep(0.01)
        assert (await client.get("/healthz")).json()["code"] == "unavailable"
        server.should_exit = True
        await serving
