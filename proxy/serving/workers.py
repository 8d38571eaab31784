"""Worker processes that share one listening socket (`serve --workers N`), and their supervisor."""

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
"""The function that a worker process runs. It sets the event when it accepts connections."""

_RESTART_DELAY: Final = 1.0
"""Seconds from a worker's death to the start of its replacement, and between two checks for dead workers."""
_READY_CHECK_INTERVAL: Final = 0.05
"""Seconds between two checks whether the first worker accepts connections."""

_spawn = get_context("spawn")


class Supervisor:
    """Supervisor of `number` worker processes. `run` replaces dead ones until SIGTERM or SIGINT.

    Each worker then gets a SIGTERM. `work` runs in each worker. `grace` is the time, in seconds, that workers have to
    stop before they are killed.
    """

    def __init__(self, number: int, work: Work, listening: socket, *, grace: float) -> None:
        self._number = number
        self._work = work
        self._listening = listening
        self._grace = grace
        self._workers: dict[int, SpawnProcess] = {}
        """The processes by place: a number from 0, which labels a worker's metrics."""
        self._is_serving = _spawn.Event()
        self._stopping = False

    def run(self) -> int:
        """Start and replace workers until a signal. Return the exit status of the command.

        The status is 0 after a stop. It is 1 if the first worker could not serve, or if a worker did not stop and was
        killed. Raises BadSetting if there is no writable temporary directory.
        """
        with ExitStack() as stack:
            self._folder = _metrics_folder(stack)
            for number in (signal.SIGTERM, signal.SIGINT):
                stack.callback(signal.signal, number, signal.signal(number, self._stop))
            self._start(0)
            # An error that stops the first worker would stop all. Waiting for it logs such an error once.
            while not (self._is_serving.is_set() or self._stopping) and self._workers[0].is_alive():
                time.sleep(_READY_CHECK_INTERVAL)
            while not self._stopping and self._is_serving.is_set():
                self._replace_missing()
                wait([worker.sentinel for worker in self._workers.values()], timeout=_RESTART_DELAY)
            return 0 if self._join_workers() and (self._is_serving.is_set() or self._stopping) else 1

    def _join_workers(self) -> bool:
        """Wait until all workers have stopped. Return False if one was killed."""
        end = time.monotonic() + self._grace
        for worker in self._workers.values():
            worker.join(max(end - time.monotonic(), 0))
        hanging = [worker for worker in self._workers.values() if worker.is_alive()]
        for worker in hanging:
            log.error("Worker %s did not stop within %g seconds and is killed.", worker.pid, self._grace)
            worker.kill()
            worker.join()
        return not hanging

    def _replace_missing(self) -> None:
        """Start a worker in each place that has none."""
        for place, worker in list(self._workers.items()):
            if not worker.is_alive():
                del self._workers[place]
                log.error("Worker %s ended (exit status %s). A new worker replaces it.", worker.pid, worker.exitcode)
                time.sleep(_RESTART_DELAY)
        for place in range(self._number):
            if place not in self._workers and not self._stopping:
                self._start(place)

    def _start(self, place: int) -> None:
        arguments = (self._listening, self._is_serving, WorkerMetrics(self._folder, place))
        worker = _spawn.Process(target=self._work, args=arguments, name="worker")
        worker.start()
        self._workers[place] = worker
        if self._stopping:  # the signal arrived during the start
            worker.terminate()

    def _stop(self, _: int, __: FrameType | None) -> None:
        self._stopping = True
        for worker in self._workers.values():
            worker.terminate()


def _metrics_folder(stack: ExitStack) -> Path:
    try:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="pollcast-")))
        # The path of a Unix socket has at most about 100 characters. If this one works, those of all workers do.
        longest = folder / "000"
        with socket(AF_UNIX) as trial:
            trial.bind(str(longest))
        longest.unlink()
    except OSError as error:
        reason = error.strerror or error
        raise BadSetting(f"TMPDIR: the workers need a writable folder for their sockets: {reason}.") from None
    return folder


def end_with_parent() -> None:
    """Stop this worker, as by SIGTERM, when its supervisor has ended for any reason, such as a SIGKILL."""
    if parent := parent_process():
        loop = asyncio.get_running_loop()

        def stop() -> None:
            loop.remove_reader(parent.sentinel)
            os.kill(os.getpid(), signal.SIGTERM)

        loop.add_reader(parent.sentinel, stop)
