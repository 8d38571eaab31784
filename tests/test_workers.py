"""`serve --workers N`: several processes on one port, and the one that looks after them."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.ports import free_port
from tests.redis_server import flush, shared_server
from tests.test_cli import command, serving


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
            return httpx.get(f"http://127.0.0.1:{self.port}/readyz", trust_env=False, timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    @property
    def served(self) -> int:
        """How many workers have said that they listen."""
        return self.log.read_text().count("Pollcast listens on")


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
