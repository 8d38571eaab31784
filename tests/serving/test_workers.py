"""`serve --workers N`: several processes on one port, and the one that looks after them."""

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
from proxy.serving import workers as crew_of_processes
from tests.cli.test_cli import command, serving
from tests.support.deployment import NO_AUTHORITIES
from tests.support.ports import free_port
from tests.support.redis_server import flush, shared_server
from tests.support.root import ROOT

HANGING = """
import signal, socket, sys, time
from proxy.serving.workers import Supervisor

def work(listening, served, siblings):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    served.set()
    time.sleep(60)

class Told(Supervisor):
    def _start(self, place):
        super()._start(place)
        self._served.wait(10)
        print(self._workers[place].pid, flush=True)

if __name__ == "__main__":
    sys.exit(Told(1, work, socket.socket(fileno=int(sys.argv[1])), grace=0.1).run())
"""
"""A crew whose one worker does not hear SIGTERM."""


class Crew:
    """Two workers on a Redis, as a user starts them."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: str, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log

    @property
    def workers(self) -> set[int]:
        """The processes that serve, by the lines of the log that say so; who is dead does not count."""
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
        """How many workers have said that they listen."""
        return self.log.read_text().count("; clients reach it at ")


def until(holds: Callable[[], bool], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    flush(shared_server())
    port, log = str(free_port()), tmp_path / "log"
    with serving("--workers", "2", log=log, POLLCAST_PORT=port, POLLCAST_STORE=shared_server().url) as process:
        found = Crew(process, port, log)
        until(lambda: found.served == 2)
        yield found


def test_as_many_workers_as_asked_for_serve_on_one_port(crew: Crew) -> None:
    assert len(crew.workers) == 2
    assert all(crew.answers() for _ in range(20))


def test_a_worker_that_is_killed_is_replaced_and_the_other_serves_meanwhile(crew: Crew) -> None:
    (killed, kept) = sorted(crew.workers)
    os.kill(killed, signal.SIGKILL)
    until(lambda: killed not in crew.workers)
    assert crew.answers()
    until(lambda: crew.served == 3)
    assert kept in crew.workers
    assert len(crew.workers) == 2
    assert f"Worker {killed} ended" in crew.log.read_text()


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_ends_all_workers_and_is_no_failure(crew: Crew, stop: signal.Signals) -> None:
    workers = crew.workers
    crew.process.send_signal(stop)
    assert crew.process.wait(10) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert "Traceback" not in crew.log.read_text()


def test_a_worker_that_does_not_stop_is_killed_and_the_exit_status_says_so(tmp_path: Path) -> None:
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
        _, told = hanging.communicate(timeout=10)
    assert hanging.returncode == 1
    assert f"Worker {worker} has not stopped within 0.1 seconds: it is killed." in told.decode()
    assert cmdline(worker) == b""


def test_workers_without_a_folder_to_write_in_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with socket.socket() as listening, pytest.raises(BadSetting, match="TMPDIR: the workers need a folder"):
        crew_of_processes.Supervisor(1, lambda *_: None, listening, grace=1).run()


def test_workers_whose_folder_has_too_long_a_name_for_sockets_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("long" * 25)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with socket.socket() as listening, pytest.raises(BadSetting, match=r"TMPDIR: .*too long"):
        crew_of_processes.Supervisor(1, lambda *_: None, listening, grace=1).run()
    assert not list(long.iterdir())


def test_what_a_start_warns_of_is_said_once_for_all_workers(tmp_path: Path) -> None:
    flush(shared_server())
    environment = {"POLLCAST_PORT": str(free_port()), "POLLCAST_STORE": shared_server().url, "POLLCAST_MAXJOBS": "5"}
    with serving("--workers", "2", log=tmp_path / "log", **environment) as process:
        crew = Crew(process, environment["POLLCAST_PORT"], tmp_path / "log")
        until(lambda: crew.served == 2)
    assert crew.log.read_text().count("POLLCAST_MAXJOBS is not a setting") == 1


def test_a_scrape_is_whole_whichever_worker_it_meets(crew: Crew) -> None:
    url = f"http://127.0.0.1:{crew.port}/metrics"
    with concurrent.futures.ThreadPoolExecutor(8) as clients:  # each on a connection of its own
        for answer in clients.map(lambda _: httpx.get(url, trust_env=False, verify=NO_AUTHORITIES), range(16)):
            told = answer.text
            assert set(re.findall(r'pollcast_loop_lag_seconds_count\{worker="(\d)"\}', told)) == {"0", "1"}
            assert set(re.findall(r'pollcast_breaker_open\{provider="Gaga",worker="(\d)"\} 0.0', told)) == {"0", "1"}
            assert told.count("# TYPE pollcast_breaker_open gauge") == 1
            assert told.count("# TYPE pollcast_polls_total counter") == 1


def test_a_worker_in_the_place_of_a_dead_one_tells_its_metrics_there(crew: Crew) -> None:
    os.kill(min(crew.workers), signal.SIGKILL)
    until(lambda: crew.served == 3)
    told = httpx.get(f"http://127.0.0.1:{crew.port}/metrics", trust_env=False, verify=NO_AUTHORITIES).text
    assert set(re.findall(r'pollcast_loop_lag_seconds_count\{worker="(\d)"\}', told)) == {"0", "1"}


def test_workers_whose_parent_is_killed_end_too(crew: Crew) -> None:
    workers = crew.workers
    crew.process.kill()
    until(lambda: not crew.answers())
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
def test_workers_that_cannot_serve_are_refused_with_one_line(environment: dict[str, str], named: str) -> None:
    done = command("serve", "--workers", "3", **{"POLLCAST_PORT": str(free_port()), **environment})
    assert done.returncode == 1
    assert re.fullmatch(r"Error: [^\n]+\n", done.stderr), done.stderr
    assert named in done.stderr
