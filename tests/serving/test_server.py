"""`server:app` under other ASGI servers."""

import asyncio
import copy
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp
from uvicorn.config import LOGGING_CONFIG

from proxy.app import Pollcast
from proxy.core import keys
from proxy.core.clock import SystemClock
from proxy.core.settings import Settings, load
from proxy.simulator import Simulator, default_keys
from proxy.store import open_store
from tests.support.deployment import NO_AUTHORITIES
from tests.support.npm import without
from tests.support.ports import free_port
from tests.support.root import ROOT

LINK = "/api/jobs/job_1/events?key=key_1&expires=1800000000&signature=" + "Zm9vYmFyYmF6"


def run_uvicorn(folder: Path, *options: str, **environment: str) -> str:
    """Start uvicorn by its own command, open a Link, stop it, and return its output."""
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
        answer = get_when_ready(f"http://127.0.0.1:{port}{LINK}")
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    finally:
        process.terminate()
        written, _ = process.communicate(timeout=10)
    return written


def get_when_ready(url: str) -> httpx.Response:
    until = time.monotonic() + 15
    while True:
        try:
            return httpx.get(url, trust_env=False, verify=NO_AUTHORITIES)
        except httpx.TransportError:
            assert time.monotonic() < until
            time.sleep(0.05)


@pytest.mark.parametrize("form", ["console", "json"])
def test_no_access_log_shows_the_signature_of_a_link(tmp_path: Path, form: str) -> None:
    written = run_uvicorn(tmp_path, POLLCAST_LOG=form)
    assert "Zm9vYmFyYmF6" not in written
    assert "GET /api/jobs/job_1/events?key=key_1&expires=1800000000&signature=*** HTTP/1.1" in written  # uvicorn's
    assert "Traceback" not in written


def test_a_log_configured_by_the_operator_is_not_changed(tmp_path: Path) -> None:
    config = tmp_path / "log.ini"
    config.write_text(
        "[loggers]\nkeys=root\n[handlers]\nkeys=out\n[formatters]\nkeys=plain\n"
        "[logger_root]\nlevel=INFO\nhandlers=out\n[handler_out]\nclass=StreamHandler\nargs=(sys.stdout,)\nformatter=plain\n"
        "[formatter_plain]\nformat=MINE %(name)s %(message)s\n"
    )
    written = run_uvicorn(tmp_path, "--log-config", str(config))
    assert "MINE uvicorn.access" in written
    assert "signature=***" in written
    assert "Zm9vYmFyYmF6" not in written


def test_uvicorns_access_log_may_show_its_process(tmp_path: Path) -> None:
    config = copy.deepcopy(LOGGING_CONFIG)
    config["formatters"]["access"]["fmt"] = "process %(process)d: %(message)s"
    (tmp_path / "log.json").write_text(json.dumps(config))
    written = run_uvicorn(tmp_path, "--log-config", str(tmp_path / "log.json"))
    assert re.search(r"process \d+: .*GET /api/jobs/job_1/events", written)
    assert "Traceback" not in written


async def test_healthz_is_503_after_a_background_task_has_died(tmp_path: Path, dies: asyncio.Event) -> None:
    port = free_port()
    app = Pollcast(load(Settings, store=f"sqlite:///{tmp_path}/pollcast.db", assets=str(tmp_path)))
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None))
    serving = asyncio.create_task(server.serve())
    async with (
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, verify=NO_AUTHORITIES) as client,
        asyncio.timeout(10),
    ):
        while not server.started:
            await asyncio.sleep(0.01)
        assert (await client.get("/healthz")).status_code == 200
        dies.set()
        while (await client.get("/healthz")).status_code == 200:
            await asyncio.sleep(0.01)
        assert (await client.get("/healthz")).json()["code"] == "unavailable"
        server.should_exit = True
        await serving


# --- without lifespan ---


@asynccontextmanager
async def in_process(app: ASGIApp, lifespan: Any) -> AsyncIterator[httpx.AsyncClient]:
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, lifespan=lifespan))
    serving = asyncio.create_task(server.serve())
    async with (
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, verify=NO_AUTHORITIES) as client,
        asyncio.timeout(10),
    ):
        while not server.started:
            await asyncio.sleep(0.001)
        yield client
        server.should_exit = True
        await serving


@pytest.fixture
def app(tmp_path: Path) -> Pollcast:
    return Pollcast(load(Settings, store=f"sqlite:///{tmp_path}/pollcast.db", assets=str(tmp_path)))


@pytest.mark.parametrize("path", ["/", "/healthz", "/api/ping", "/api/jobs/job_1/events", "/nowhere"])
async def test_a_server_without_lifespan_gets_503_that_names_lifespan(app: Pollcast, path: str) -> None:
    async with in_process(app, "off") as client:
        for method in ("GET", "POST"):
            answer = await client.request(method, path)
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            assert "lifespan" in answer.json()["message"]


async def test_a_mounted_application_works_once_its_parent_opens_it(app: Pollcast) -> None:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with app.opened():
            yield

    unopened = Starlette(routes=[Mount("/cast", app)])
    async with in_process(unopened, "on") as client:
        assert (await client.get("/cast/healthz")).status_code == 503
    async with in_process(Starlette(routes=[Mount("/cast", app)], lifespan=lifespan), "on") as client:
        assert (await client.get("/cast/healthz")).json() == {"status": "ok"}


# --- as a process ---


@contextmanager
def process(folder: Path, *command: str, **environment: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a server in a process. Its output goes to `log` in the folder."""
    own = {"PYTHONPATH": str(ROOT), "POLLCAST_STORE": f"sqlite:///{folder}/pollcast.db", "POLLCAST_ASSETS": str(folder)}
    with (folder / "log").open("w") as output:
        started = subprocess.Popen(  # noqa: S603
            [sys.executable, *command], env=os.environ | own | environment, stdout=output, stderr=output, text=True
        )
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(15)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


async def new_key(folder: Path) -> str:
    key = keys.new_key()
    async with open_store(f"sqlite:///{folder}/pollcast.db", SystemClock()) as store:
        await store.create_key("web", keys.digest(key), 1000)
    return key


@pytest.mark.parametrize(("patience", "signals"), [(("--timeout-graceful-shutdown", "1"), 1), ((), 2)])
async def test_a_stop_with_open_streams_logs_no_traceback(
    tmp_path: Path, patience: tuple[str, ...], signals: int
) -> None:
    """Without a limit uvicorn waits for the streams until a second signal."""
    headers = {"Authorization": f"Bearer {await new_key(tmp_path)}"}
    port = free_port()
    command = ("-m", "uvicorn", "server:app", "--port", str(port), *patience)
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", headers=headers, trust_env=False, verify=NO_AUTHORITIES
    ) as client:
        with process(tmp_path, *command) as server:
            await asyncio.to_thread(get_when_ready, f"http://127.0.0.1:{port}/healthz")
            async with client.stream("GET", "/api/events") as first, client.stream("GET", "/api/events") as second:
                reading = [
                    response.aiter_raw() for response in (first, second)
                ]  # a garbage-collected iterator would close its stream
                for chunks in reading:
                    await anext(chunks)
                for _ in range(signals):
                    server.send_signal(signal.SIGINT)
                    async with asyncio.timeout(10):
                        while "Shutting down" not in (tmp_path / "log").read_text():
                            await asyncio.sleep(0.01)
                await asyncio.to_thread(server.wait, 15)
    written = (tmp_path / "log").read_text()
    assert "Finished server process" in written
    assert "Traceback" not in written
    assert "CancelledError" not in written


def test_the_application_is_an_attribute_of_its_module(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    program = "import server; print(type(vars(server)['app']).__name__)"
    run = subprocess.run(  # noqa: S603
        [sys.executable, "-c", program], check=True, cwd=tmp_path, env=environment, stdout=subprocess.PIPE
    )
    assert run.stdout == b"Pollcast\n"


def test_a_bad_setting_stops_uvicorn_with_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "uvicorn", "server:app"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "POLLCAST_LEASE": "soon"}
    run = subprocess.run(  # noqa: S603
        command, check=False, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=20
    )
    assert run.returncode == 1
    assert run.stderr == "POLLCAST_LEASE: write 90s, 15m, 12h or 7d\n"


SERVERS: Mapping[str, tuple[str, ...]] = {
    "hypercorn": ("-m", "hypercorn", "server:app", "--graceful-timeout", "1", "--bind"),
    "granian": ("-m", "granian", "--interface", "asgi", "server:app", "--workers-kill-timeout", "2", "--port"),
    "gunicorn": (
        *("-m", "gunicorn.app.wsgiapp", "server:app", "-k", "uvicorn_worker.UvicornWorker"),
        *("--graceful-timeout", "1", "--bind"),
    ),
    "uvicorn": ("-m", "uvicorn", "server:app", "--timeout-graceful-shutdown", "1", "--port"),
}


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which other ASGI servers are installed."""
    folder = tmp_path_factory.mktemp("servers")
    wanted = ("hypercorn==0.18.0", "granian==2.8.9", "gunicorn==27.0.1", "uvicorn-worker==0.4.0")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), *wanted]
    if subprocess.run(command, check=False, timeout=200).returncode:  # noqa: S603
        without("pip cannot install other servers here")
    return folder


@pytest.mark.wide
@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", SERVERS)
async def test_orders_and_links_work_under_another_server(others: Path, tmp_path: Path, name: str) -> None:
    port = free_port()
    place = f"127.0.0.1:{port}" if "--bind" in SERVERS[name] else str(port)
    headers = {"Authorization": f"Bearer {await new_key(tmp_path)}"}
    async with Simulator() as simulator:
        simulator.state.speed = 20
        environment = {
            "PYTHONPATH": f"{ROOT}:{others}",
            "GAGA_BASE_URL": simulator.origin,
            "GAGA_API_KEY": default_keys()["gaga"],
            "GAGA_POLL_INTERVAL": "0.1",
            "POLLCAST_PORT": str(port),
        }
        with process(tmp_path, *SERVERS[name], place, **environment) as server:
            origin = f"http://127.0.0.1:{port}"
            await asyncio.to_thread(get_when_ready, f"{origin}/healthz")
            async with httpx.AsyncClient(base_url=origin, trust_env=False, verify=NO_AUTHORITIES, timeout=20) as client:
                order = {"model": "gaga-1", "prompt": "Hello"}
                answer = await client.post("/api/generate", json=order, headers=headers)
                assert '"status":"Completed"' in answer.text
                job = (await client.get(answer.headers["Location"], headers=headers)).json()
                assert '"status":"Completed"' in (await client.get(job["links"]["events"])).text
                async with client.stream("GET", "/api/events", headers=headers) as response:
                    chunks = response.aiter_raw()  # a garbage-collected iterator would close the stream
                    await anext(chunks)
                    server.terminate()
                    await asyncio.to_thread(server.wait, 15)
    if name != "hypercorn":  # 0.18 reports each stream that its own stop cancels
        assert "Traceback" not in (tmp_path / "log").read_text()
