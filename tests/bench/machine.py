"""The machine: one core for the server and one for the load, and the resources that processes have used."""

import os
import platform
import resource
import shutil
import subprocess
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path

PAGE = resource.getpagesize()
PACKAGES = ("uvicorn", "uvloop", "httptools", "starlette", "sse-starlette", "aiohttp", "orjson")


def cores() -> tuple[int, int]:
    """Return the server's core and the load's core. A machine with one core has the same for both."""
    usable = sorted(os.sched_getaffinity(0) | _at_start)
    return usable[0], usable[-1]


_at_start = frozenset(os.sched_getaffinity(0))
"""Cores available at the start. This process is later pinned to one of them."""


def pin(pid: int, core: int) -> None:
    """Pin a process and its future threads to one core."""
    with suppress(ProcessLookupError):  # The process has already ended.
        os.sched_setaffinity(pid, {core})


def unpin(pid: int) -> None:
    """Allow a process to run on all available cores."""
    os.sched_setaffinity(pid, _at_start)


def cpu(*pids: int) -> float:
    """Return the CPU seconds of processes so far, with all threads, at nanosecond resolution."""
    # The CPU clock of another process, computed like clock_getcpuclockid(3).
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


class Meter:
    """Measures the use of the server's core from now on, by the server and by other processes."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._cpu, self._busy, self._began = cpu(pid), _busy(cores()[0]), time.monotonic()

    @property
    def cpu(self) -> float:
        """CPU seconds of the server."""
        return cpu(self._pid) - self._cpu

    @property
    def seconds(self) -> float:
        """Elapsed seconds."""
        return time.monotonic() - self._began

    @property
    def others(self) -> float:
        """Share of the core that other processes used. 0 if the time was too short to measure it."""
        share = (_busy(cores()[0]) - self._busy - self.cpu) / self.seconds
        return max(share, 0) if self.seconds > 0.5 else 0


def _busy(core: int) -> float:
    """Return the busy seconds of a core, for all processes, at a resolution of 10 ms."""
    text = Path("/proc/stat").read_text().partition(f"cpu{core} ")[2].partition("\n")[0]
    user, nice, system, _, _, irq, softirq, steal = map(int, text.split()[:8])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def memory(*pids: int) -> float:
    """Return the resident memory of processes, in KiB."""
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE / 1024 for pid in pids)


def descriptors(pid: int) -> int:
    """Return the number of a process's open descriptors."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def allow_descriptors() -> int:
    """Raise the limit of descriptors to its maximum, for this process and its children. Return the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536
    if hard != resource.RLIM_INFINITY and hard < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))  # Only root may.
        except (ValueError, OSError):
            wanted = hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))
    return wanted


def children(pid: int) -> list[int]:
    """Return the child processes of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_root() -> bool:
    """Return True if this process runs as root."""
    return os.geteuid() == 0


def description() -> dict[str, str]:
    """Return the machine and the versions, for the head of a report."""
    server, load = cores()
    found = {
        "cores": f"{len(_at_start)} of {os.cpu_count()}; the server on {server}, the load on {load}",
        "cpu": _processor(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
    found |= {package: metadata.version(package) for package in PACKAGES}
    return found | {"nginx": _nginx()}


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _nginx() -> str:
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        return "none"
    said = subprocess.run([found, "-v"], capture_output=True, text=True, check=False).stderr  # noqa: S603
    return said.strip().rpartition("/")[2]
