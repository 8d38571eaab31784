"""Several processes that serve from one listening socket (`serve --workers N`), and the one that looks after them."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Event
from socket import socket
from types import FrameType
from typing import Final

log = logging.getLogger(__name__)

Work = Callable[[socket, Event], None]
"""What a worker does; it sets the event when it serves."""

_PAUSE: Final = 1.0
"""Seconds from a worker's death to the start of the next in its place, and between two looks for dead ones."""
_LOOK: Final = 0.05
"""Seconds between two looks whether the first worker serves."""

_spawn = get_context("spawn")


class Crew:
    """So many workers; `run` keeps them alive until SIGTERM or SIGINT, which each of them is given as SIGTERM."""

    def __init__(self, number: int, work: Work, listening: socket) -> None:
        self._number = number
        self._work = work
        self._listening = listening
        self._workers: list[SpawnProcess] = []
        self._served = _spawn.Event()
        self._stopping = False

    def run(self) -> int:
        """Look after the workers; returns the exit status: 0 after a stop, 1 when not even the first could serve."""
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            self._start()
            # What stops the first would stop them all: it is said once.
            while not (self._served.is_set() or self._stopping) and self._workers[0].is_alive():
                time.sleep(_LOOK)
            while not self._stopping and self._served.is_set():
                self._fill()
                wait([worker.sentinel for worker in self._workers], timeout=_PAUSE)
            for worker in self._workers:
                worker.join()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return 0 if self._served.is_set() or self._stopping else 1

    def _fill(self) -> None:
        """Start a worker in the place of each that is missing."""
        for worker in [worker for worker in self._workers if not worker.is_alive()]:
            self._workers.remove(worker)
            log.error("Worker %s ended (exit status %s); another takes its place.", worker.pid, worker.exitcode)
            time.sleep(_PAUSE)
        while len(self._workers) < self._number and not self._stopping:
            self._start()

    def _start(self) -> None:
        worker = _spawn.Process(target=self._work, args=(self._listening, self._served), name="worker")
        worker.start()
        self._workers.append(worker)
        if self._stopping:  # the signal came while it was started
            worker.terminate()

    def _stop(self, _: int, __: FrameType | None) -> None:
        self._stopping = True
        for worker in self._workers:
            worker.terminate()


def end_with_parent() -> None:
    """Have this worker stop, as by SIGTERM, when the process that looks after it is gone, however that ended."""
    if parent := parent_process():
        loop = asyncio.get_running_loop()

        def stop() -> None:
            loop.remove_reader(parent.sentinel)
            os.kill(os.getpid(), signal.SIGTERM)

        loop.add_reader(parent.sentinel, stop)
