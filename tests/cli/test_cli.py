"""The commands, each in its own process, as a user runs it."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import httpx
import pytest

from tests.support.deployment import NO_AUTHORITIES
from tests.support.ports import free_port
from tests.support.root import ROOT

SERVER = ROOT / "server.py"


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603
        [sys.executable, SERVER, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


@contextmanager
def serving(*arguments: str, log: Path, **environment: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A server process that listens."""
    port = environment["POLLCAST_PORT"]
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, SERVER, "serve", *arguments], env=os.environ | environment, stdout=output, stderr=output
        )
    try:
        until = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < until:
            with contextlib.suppress(httpx.TransportError):
                if (
                    httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False, verify=NO_AUTHORITIES).status_code
                    == 200
                ):
                    break
            time.sleep(0.02)
        yield process
    finally:
        process.terminate()
        process.wait(10)


def test_help_names_every_command() -> None:
    text = command("--help").stdout
    assert "serve" in text
    assert "keys" in text


def test_the_version_option_prints_the_version() -> None:
    assert command("--version").stdout == f"pollcast, version {version('pollcast')}\n"


BAD_SETTINGS = [
    ("POLLCAST_PORT", "http"),
    ("POLLCAST_HEARTBEAT", "-1"),
    ("POLLCAST_RETENTION", "a week"),
    ("POLLCAST_RESULTS", "maybe"),
    ("POLLCAST_TOKENS", "{gaga-1: 5}"),
    ("POLLCAST_PUBLIC_URL", "cast.example.com"),
    ("POLLCAST_STORE", "mysql://x"),
    ("POLLCAST_STORE", "redis://127.0.0.1:1/0"),
    ("POLLCAST_STORE", "sqlite:////dev/null/pollcast.db"),
    ("POLLCAST_ASSETS", "ftp://x"),
    ("POLLCAST_ASSETS", "s3://"),
    ("POLLCAST_ASSETS", "/dev/null/assets"),
    ("POLLCAST_TOKENS", '{"gagaa": 5}'),
    ("POLLCAST_HOST", "192.0.2.1"),
    ("GAGA_BASE_URL", "api.gaga.art"),
    ("HEYGEN_DEADLINE", "soon"),
]
START_WITH_EACH = """
import json, os, sys
from click.testing import CliRunner
from proxy.cli import main
for name, value in json.loads(sys.argv[1]):
    done = CliRunner().invoke(main, ["serve"], env={name: value})
    print(json.dumps([name, value, done.exit_code, done.stderr]), flush=True)
"""


@pytest.fixture(scope="module")
def refused_starts() -> dict[tuple[str, str], tuple[int, str]]:
    """Exit status and error output of a start with each bad setting, all in one process: each alone takes a second."""
    environment = os.environ | {"POLLCAST_PORT": str(free_port()), "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-c", START_WITH_EACH, json.dumps(BAD_SETTINGS)]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=60, check=True)  # noqa: S603
    assert done.stderr == ""
    lines = map(json.loads, done.stdout.splitlines())
    return {(name, value): (status, text) for name, value, status, text in lines}


@pytest.mark.parametrize(("name", "value"), BAD_SETTINGS)
def test_a_bad_setting_stops_the_start_with_one_line_that_names_it(
    refused_starts: dict[tuple[str, str], tuple[int, str]], name: str, value: str
) -> None:
    status, text = refused_starts[name, value]
    assert status != 0
    assert re.fullmatch(r"Error: [^\n]+\n", text), text
    assert name in text


def test_a_process_with_a_bad_setting_exits_with_one_line() -> None:
    done = command("serve", POLLCAST_PORT=str(free_port()), POLLCAST_ASSETS="/dev/null/assets")
    assert done.returncode != 0
    assert re.fullmatch(r"Error: POLLCAST_ASSETS[^\n]+\n", done.stderr), done.stderr


def test_the_start_logs_the_version(tmp_path: Path) -> None:
    with serving(log=tmp_path / "log", POLLCAST_PORT=str(free_port())):
        assert f"Pollcast {version('pollcast')} listens on 127.0.0.1:" in (tmp_path / "log").read_text()


def test_an_unknown_setting_is_logged_and_does_not_stop_the_start(tmp_path: Path) -> None:
    with serving(log=tmp_path / "log", POLLCAST_PORT=str(free_port()), POLLCAST_MAXJOBS="5"):
        text = (tmp_path / "log").read_text()
    assert "POLLCAST_MAXJOBS is not a setting; the nearest is POLLCAST_MAX_JOBS." in text
    assert "listens on" in text


def test_only_serve_and_check_warn_about_unknown_settings() -> None:
    assert command("keys", "list", POLLCAST_MAXJOBS="5").stderr == ""


def test_the_server_warns_about_links_to_a_wildcard_address(tmp_path: Path) -> None:
    port = str(free_port())
    with serving(log=tmp_path / "log", POLLCAST_PORT=port, POLLCAST_HOST="0.0.0.0"):  # noqa: S104
        told = f"Links begin with http://0.0.0.0:{port}, which only this machine can open: set POLLCAST_PUBLIC_URL."
        assert told in (tmp_path / "log").read_text()


def test_a_loopback_server_starts_without_warnings(tmp_path: Path) -> None:
    with serving(log=tmp_path / "log", POLLCAST_PORT=str(free_port())):
        assert "WARNING" not in (tmp_path / "log").read_text()


def test_a_demo_with_several_workers_is_refused() -> None:
    done = command("serve", "--demo", "--workers", "2", POLLCAST_STORE="redis://127.0.0.1:1/0")
    assert done.stderr == "Error: --workers: the demo runs in one process, together with its simulator.\n"


def test_the_demo_prints_a_curl_command_that_streams_to_completed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    # Provider settings of the environment must not reach a demo.
    environment = {"POLLCAST_PORT": str(free_port()), "GAGA_API_KEY": "real", "GAGA_BASE_URL": "https://api.gaga.art"}
    with serving("--demo", log=log, **environment):
        text = log.read_text()
        assert "simulated" in text
        curl = re.search(r"curl -N [^\n]+\\\n[^\n]+", text)
        assert curl is not None, text
        done = subprocess.run(curl[0], shell=True, capture_output=True, text=True, timeout=60, check=True)  # noqa: S602
        assert done.stdout.startswith('retry: 2000\ndata: {"status":"Processing started"')
        url = re.search(r'"status":"Completed".*?"url":"([^"]+)"', done.stdout)
        assert url is not None, done.stdout
        assert httpx.get(url[1], trust_env=False, verify=NO_AUTHORITIES).headers["content-type"] == "video/mp4"
    assert (tmp_path / "var/demo/pollcast.db").exists()
    assert not (tmp_path / "var/pollcast.db").exists()


def test_keys_can_be_managed_while_a_server_runs(tmp_path: Path) -> None:
    port = str(free_port())
    with serving(log=tmp_path / "log", POLLCAST_PORT=port):
        made = command("keys", "create", "--name", "web", "--tokens", "500")
        assert re.fullmatch(r"pollcast_[\w-]+\n", made.stdout)
        key = made.stdout.strip()
        account = httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers={"Authorization": f"Bearer {key}"},
            trust_env=False,
            verify=NO_AUTHORITIES,
        )
        assert account.get("/api/account").json() == {"name": "web", "tokens": 500}
        assert command("keys", "grant", "--name", "web", "--", "-100").stdout == "web  400 tokens\n"
        assert account.get("/api/account").json()["tokens"] == 400
        listed = command("keys", "list").stdout
        assert key not in listed
        assert "active   web  400 tokens" in listed
        assert command("keys", "revoke", listed.split()[0]).returncode == 0
        assert account.get("/api/account").status_code == 401
        account.close()


def test_a_second_key_of_an_account_spends_the_same_tokens() -> None:
    first = command("keys", "create", "--name", "web", "--tokens", "500").stdout
    second = command("keys", "create", "--name", "web").stdout
    assert first != second
    assert command("keys", "list").stdout.count("web  500 tokens") == 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("keys", "revoke", "key_x"), "key_x"),
        (("keys", "grant", "--name", "nobody", "5"), "nobody"),
    ],
)
def test_a_failing_command_prints_one_line(arguments: tuple[str, ...], named: str) -> None:
    done = command(*arguments)
    assert done.returncode == 1
    assert re.fullmatch(r"Error: [^\n]+\n", done.stderr)
    assert named in done.stderr


@pytest.mark.parametrize(
    "arguments", [("--name", " "), ("--name", "web", "--tokens", "-1"), ("--name", "web", "--tokens", "9" * 20)]
)
def test_a_key_with_a_blank_name_or_too_many_tokens_is_refused(arguments: tuple[str, ...]) -> None:
    done = command("keys", "create", *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert not done.stdout


def test_a_client_that_falls_silent_does_not_hold_up_a_stop(tmp_path: Path) -> None:
    port = str(free_port())
    log = tmp_path / "log"
    with serving("--demo", log=log, POLLCAST_PORT=port) as process, socket.socket() as silent:
        key = re.search(r"Demo key: (\S+)", log.read_text())
        assert key is not None
        silent.connect(("127.0.0.1", int(port)))
        head = f"POST /api/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key[1]}\r\nContent-Length: 99\r\n\r\n"
        silent.sendall(head.encode() + b"{")  # half an order, and no more
        time.sleep(0.2)
        process.terminate()
        process.wait(5)
    assert "Traceback" not in log.read_text()


def test_keys_are_hashed_at_rest(tmp_path: Path) -> None:
    key = command("keys", "create", "--name", "web").stdout.strip()
    with sqlite3.connect(tmp_path / "var/pollcast.db") as database:
        dump = "\n".join(database.iterdump())
    database.close()
    assert "web" in dump
    assert key not in dump
    assert key.removeprefix("pollcast_")[:43] not in dump


def test_a_second_server_on_the_same_store_is_refused_with_one_line(tmp_path: Path) -> None:
    with serving(log=tmp_path / "log", POLLCAST_PORT=str(free_port())):
        done = command("serve", POLLCAST_PORT=str(free_port()))
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
        assert "another" in done.stderr.lower()


def test_sigterm_ends_open_streams_and_the_server_at_once(tmp_path: Path) -> None:
    port = str(free_port())
    log = tmp_path / "log"
    with serving("--demo", log=log, POLLCAST_PORT=port) as process:
        key = re.search(r"Demo key: (\S+)", log.read_text())
        assert key is not None

        async def hold() -> bytes:
            headers = {"Authorization": f"Bearer {key[1]}"}
            order = {"model": "gaga-1", "prompt": "[stuck]"}
            read = b""
            async with (
                httpx.AsyncClient(trust_env=False, verify=NO_AUTHORITIES) as client,
                client.stream("POST", f"http://127.0.0.1:{port}/api/generate", json=order, headers=headers) as answer,
            ):
                with pytest.raises(httpx.RemoteProtocolError):
                    async for chunk in answer.aiter_raw():
                        read += chunk
                        process.send_signal(signal.SIGTERM)
            return read

        assert asyncio.run(hold()).startswith(b"retry: 2000\n")
        assert process.wait(10) in {0, -signal.SIGTERM}
    assert "Traceback" not in log.read_text()
    assert "ERROR" not in log.read_text()


DYING = """
from proxy import cli
from proxy.telemetry import metrics
async def work(_): raise RuntimeError("It holds pollcast_jBAT0aEIY43-UtMXsP29yGfyimnChmaqsExQLRJpuBk649081.")
metrics.Metrics.watch_loop = work
cli.main(["serve"])
"""


def test_an_internal_error_that_stops_the_server_is_only_logged(tmp_path: Path) -> None:
    own = {
        "PYTHONPATH": str(SERVER.parent),
        "POLLCAST_STORE": f"sqlite:///{tmp_path}/pollcast.db",
        "POLLCAST_LOG": "json",
    }
    died = subprocess.run(  # noqa: S603
        [sys.executable, "-c", DYING],
        env=os.environ | own | {"POLLCAST_ASSETS": str(tmp_path), "POLLCAST_PORT": str(free_port())},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert died.returncode == 1
    last = [json.loads(line) for line in died.stderr.splitlines()][-1]
    assert last["level"] == "critical"
    assert "It holds pollcast_***" in last["trace"]
