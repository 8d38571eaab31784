"""The machine: one core for the server, another for the load, and what a process has used of it."""

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
    """The server's core and the load's; the same one where there is only one."""
    usable = sorted(os.sched_getaffinity(0) | _at_start)
    return usable[0], usable[-1]


_at_start = frozenset(os.sched_getaffinity(0))
"""What may be used; this process is pinned to a part of it later."""


def pin(pid: int, core: int) -> None:
    """Let a process, with all its threads to come, run on that core alone."""
    with suppress(ProcessLookupError):  # it had little to do, and is over
        os.sched_setaffinity(pid, {core})


def unpin(pid: int) -> None:
    """Let a process run on every core that there is for us."""
    os.sched_setaffinity(pid, _at_start)


def cpu(*pids: int) -> float:
    """Seconds of CPU that processes have used so far, to the nanosecond, all their threads together."""
    # The clock of another process's CPU time, as clock_getcpuclockid(3) makes it.
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


class Meter:
    """What is used of the server's core from now on, by the server and by others."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._cpu, self._busy, self._began = cpu(pid), _busy(cores()[0]), time.monotonic()

    @property
    def cpu(self) -> float:
        """Seconds of CPU that the server has used."""
        return cpu(self._pid) - self._cpu

    @property
    def seconds(self) -> float:
        """Seconds that have passed."""
        return time.monotonic() - self._began

    @property
    def others(self) -> float:
        """The share of the core that other processes had: 0 where the time was too short to tell."""
        share = (_busy(cores()[0]) - self._busy - self.cpu) / self.seconds
        return max(share, 0) if self.seconds > 0.5 else 0


def _busy(core: int) -> float:
    """Seconds that a core has been at work, for whomever; in hundredths."""
    text = Path("/proc/stat").read_text().partition(f"cpu{core} ")[2].partition("\n")[0]
    user, nice, system, _, _, irq, softirq, steal = map(int, text.split()[:8])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def memory(*pids: int) -> float:
    """Resident KiB of processes."""
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE / 1024 for pid in pids)


def descriptors(pid: int) -> int:
    """How many descriptors a process holds."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def allow_descriptors() -> int:
    """Raise this process's limit, which its children take over, as far as it goes; gives the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536
    if hard != resource.RLIM_INFINITY and hard < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))  # root may
        except (ValueError, OSError):
            wanted = hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))
    return wanted


def children(pid: int) -> list[int]:
    """The processes that one has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_root() -> bool:
    """Whether this process may do what it wants."""
    return os.geteuid() == 0


def description() -> dict[str, str]:
    """The machine and the versions, for the head of a report."""
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
