"""`serve --workers N`: worker processes on one port, and their supervisor."""

import concurrent.futures
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from proxy.core.settings import BadSetting
from proxy.serving.workers import Supervisor
from tests.cli.test_cli import command, serving
from tests.support.deployment import NO_AUTHORITIES
from tests.support.ports import free_port
from tests.support.redis_server import flush, shared_server
from tests.support.root import ROOT

HANGING = """
import signal, socket, sys, time
from proxy.serving.workers import Supervisor

def work(listening, is_serving, metrics):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    is_serving.set()
    time.sleep(60)

class Reporting(Supervisor):
    def _start(self, place):
        super()._start(place)
        self._is_serving.wait(10)
        print(self._workers[place].pid, flush=True)

if __name__ == "__main__":
    sys.exit(Reporting(1, work, socket.socket(fileno=int(sys.argv[1])), grace=0.1).run())
"""
"""A program whose only worker ignores SIGTERM."""


class RunningCommand:
    """The command `serve` with two workers on a Redis."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: str, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log

    @property
    def workers(self) -> set[int]:
        """The ids of the living worker processes."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return {pid for pid in map(int, children) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()}

    def answers(self) -> bool:
        try:
            return (
                httpx.get(
                    f"http://127.0.0.1:{self.port}/readyz", trust_env=False, verify=NO_AUTHORITIES, timeout=5
                ).status_code
                == 200
            )
        except httpx.TransportError:
            return False

    @property
    def served(self) -> int:
        """Number of log lines that report a listening worker."""
        return self.log.read_text().count("; clients reach it at ")


def until(holds: Callable[[], bool], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningCommand]:
    flush(shared_server())
    port, log = str(free_port()), tmp_path / "log"
    with serving("--workers", "2", log=log, POLLCAST_PORT=port, POLLCAST_STORE=shared_server().url) as process:
        found = RunningCommand(process, port, log)
        until(lambda: found.served == 2)
        yield found


def test_all_workers_serve_on_one_port(server: RunningCommand) -> None:
    assert len(server.workers) == 2
    assert all(server.answers() for _ in range(20))


def test_a_killed_worker_is_replaced_while_the_other_serves(server: RunningCommand) -> None:
    (killed, kept) = sorted(server.workers)
    os.kill(killed, signal.SIGKILL)
    until(lambda: killed not in server.workers)
    assert server.answers()
    until(lambda: server.served == 3)
    assert kept in server.workers
    assert len(server.workers) == 2
    assert f"Worker {killed} ended" in server.log.read_text()


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_ends_all_workers_with_exit_status_0(server: RunningCommand, stop: signal.Signals) -> None:
    workers = server.workers
    server.process.send_signal(stop)
    assert server.process.wait(10) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert "Traceback" not in server.log.read_text()


def test_a_worker_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    """The exit status of the command is then 1."""
    (tmp_path / "hanging.py").write_text(HANGING)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        hanging = subprocess.Popen(  # noqa: S603
            [sys.executable, tmp_path / "hanging.py", str(listening.fileno())],
            pass_fds=[listening.fileno()],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert hanging.stdout
        worker = int(hanging.stdout.readline())
        hanging.terminate()
        _, output = hanging.communicate(timeout=10)
    assert hanging.returncode == 1
    assert f"Worker {worker} did not stop within 0.1 seconds and is killed." in output.decode()
    assert cmdline(worker) == b""


def test_workers_without_a_writable_folder_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with socket.socket() as listening, pytest.raises(BadSetting, match="TMPDIR: the workers need a writable folder"):
        Supervisor(1, lambda *_: None, listening, grace=1).run()


def test_a_folder_name_too_long_for_sockets_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("long" * 25)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with socket.socket() as listening, pytest.raises(BadSetting, match=r"TMPDIR: .*too long"):
        Supervisor(1, lambda *_: None, listening, grace=1).run()
    assert not list(long.iterdir())


def test_a_warning_at_start_is_logged_once_for_all_workers(tmp_path: Path) -> None:
    flush(shared_server())
    environment = {"POLLCAST_PORT": str(free_port()), "POLLCAST_STORE": shared_server().url, "POLLCAST_MAXJOBS": "5"}
    with serving("--workers", "2", log=tmp_path / "log", **environment) as process:
        server = RunningCommand(process, environment["POLLCAST_PORT"], tmp_path / "log")
        until(lambda: server.served == 2)
    assert server.log.read_text().count("POLLCAST_MAXJOBS is not a setting") == 1


def test_a_scrape_of_any_worker_contains_the_metrics_of_all(server: RunningCommand) -> None:
    url = f"http://127.0.0.1:{server.port}/metrics"
    with concurrent.futures.ThreadPoolExecutor(8) as clients:  # each uses its own connection
        for answer in clients.map(lambda _: httpx.get(url, trust_env=False, verify=NO_AUTHORITIES), range(16)):
            output = answer.text
            assert set(re.findall(r'pollcast_loop_lag_seconds_count\{worker="(\d)"\}', output)) == {"0", "1"}
            assert set(re.findall(r'pollcast_breaker_open\{provider="Gaga",worker="(\d)"\} 0.0', output)) == {"0", "1"}
            assert output.count("# TYPE pollcast_breaker_open gauge") == 1
            assert output.count("# TYPE pollcast_polls_total counter") == 1


def test_a_replaced_worker_reports_metrics_under_the_same_label(server: RunningCommand) -> None:
    os.kill(min(server.workers), signal.SIGKILL)
    until(lambda: server.served == 3)
    output = httpx.get(f"http://127.0.0.1:{server.port}/metrics", trust_env=False, verify=NO_AUTHORITIES).text
    assert set(re.findall(r'pollcast_loop_lag_seconds_count\{worker="(\d)"\}', output)) == {"0", "1"}


def test_workers_end_after_their_supervisor_is_killed(server: RunningCommand) -> None:
    workers = server.workers
    server.process.kill()
    until(lambda: not server.answers())
    until(lambda: not any(b"spawn_main" in cmdline(pid) for pid in workers))


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({}, "POLLCAST_STORE=redis://"),
        ({"POLLCAST_STORE": "redis://127.0.0.1:1/0"}, "store"),
        ({"POLLCAST_STORE": "mysql://x"}, "POLLCAST_STORE"),
        ({"POLLCAST_STORE": "redis://127.0.0.1:1/0", "POLLCAST_HOST": "192.0.2.1"}, "POLLCAST_HOST"),
    ],
)
def test_workers_that_cannot_serve_exit_with_one_line(environment: dict[str, str], named: str) -> None:
    done = command("serve", "--workers", "3", **{"POLLCAST_PORT": str(free_port()), **environment})
    assert done.returncode == 1
    assert re.fullmatch(r"Error: [^\n]+\n", done.stderr), done.stderr
    assert named in done.stderr
