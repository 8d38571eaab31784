"""Several processes that serve from one listening socket (`serve --workers N`), and the one that looks after them."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from socket import AF_UNIX, socket
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Final

from proxy.core.settings import BadSetting
from proxy.telemetry.worker_metrics import WorkerMetrics

log = logging.getLogger(__name__)

Work = Callable[[socket, Event, WorkerMetrics], None]
"""What a worker does; it sets the event when it serves."""

_PAUSE: Final = 1.0
"""Seconds from a worker's death to the start of the next in its place, and between two looks for dead ones."""
_LOOK: Final = 0.05
"""Seconds between two looks whether the first worker serves."""

_spawn = get_context("spawn")


class Supervisor:
    """So many workers; `run` keeps them alive until SIGTERM or SIGINT, which each of them is given as SIGTERM."""

    def __init__(self, number: int, work: Work, listening: socket, *, grace: float) -> None:
        self._number = number
        self._work = work
        self._listening = listening
        self._grace = grace
        """Seconds that workers have to stop before they are killed."""
        self._workers: dict[int, SpawnProcess] = {}
        """By their place."""
        self._served = _spawn.Event()
        self._stopping = False

    def run(self) -> int:
        """Look after the workers; returns the exit status.

        0 after a stop; 1 when not even the first could serve, or when one did not stop and was killed. Raises
        BadSetting when there is nowhere to write.
        """
        with ExitStack() as stack:
            self._folder = _folder(stack)
            for number in (signal.SIGTERM, signal.SIGINT):
                stack.callback(signal.signal, number, signal.signal(number, self._stop))
            self._start(0)
            # What stops the first would stop them all: it is said once.
            while not (self._served.is_set() or self._stopping) and self._workers[0].is_alive():
                time.sleep(_LOOK)
            while not self._stopping and self._served.is_set():
                self._fill()
                wait([worker.sentinel for worker in self._workers.values()], timeout=_PAUSE)
            return 0 if self._all_ended() and (self._served.is_set() or self._stopping) else 1

    def _all_ended(self) -> bool:
        """Wait for the workers; false when one had to be killed."""
        end = time.monotonic() + self._grace
        for worker in self._workers.values():
            worker.join(max(end - time.monotonic(), 0))
        hanging = [worker for worker in self._workers.values() if worker.is_alive()]
        for worker in hanging:
            log.error("Worker %s has not stopped within %g seconds: it is killed.", worker.pid, self._grace)
            worker.kill()
            worker.join()
        return not hanging

    def _fill(self) -> None:
        """Start a worker in the place of each that is missing."""
        for place, worker in list(self._workers.items()):
            if not worker.is_alive():
                del self._workers[place]
                log.error("Worker %s ended (exit status %s); another takes its place.", worker.pid, worker.exitcode)
                time.sleep(_PAUSE)
        for place in range(self._number):
            if place not in self._workers and not self._stopping:
                self._start(place)

    def _start(self, place: int) -> None:
        given = (self._listening, self._served, WorkerMetrics(self._folder, place))
        worker = _spawn.Process(target=self._work, args=given, name="worker")
        worker.start()
        self._workers[place] = worker
        if self._stopping:  # the signal came while it was started
            worker.terminate()

    def _stop(self, _: int, __: FrameType | None) -> None:
        self._stopping = True
        for worker in self._workers.values():
            worker.terminate()


def _folder(stack: ExitStack) -> Path:
    try:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="pollcast-")))
        # A socket's path has some hundred characters at the most: with one of a long name, all the workers' will do.
        longest = folder / "000"
        with socket(AF_UNIX) as trial:
            trial.bind(str(longest))
        longest.unlink()
    except OSError as error:
        reason = error.strerror or error
        raise BadSetting(f"TMPDIR: the workers need a folder to write in, and sockets in it: {reason}.") from None
    return folder


def end_with_parent() -> None:
    """Have this worker stop, as by SIGTERM, when the process that looks after it is gone, however that ended."""
    if parent := parent_process():
        loop = asyncio.get_running_loop()

        def stop() -> None:
            loop.remove_reader(parent.sentinel)
            os.kill(os.getpid(), signal.SIGTERM)

        loop.add_reader(parent.sentinel, stop)
