"""Timeouts and intervals of event streams, in seconds; tests pass in shorter ones."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class StreamTimes:
    """Timeouts and intervals of a feed and of its streams, in seconds. The heartbeat is a separate setting."""

    read_retry: float = 1.0
    """Delay before a read is repeated that failed because the store was unavailable."""
    publish_window: float = 0.002
    """Minimum time between two rounds of pushes. Events that arrive within it go out as one write."""
    write_timeout: float = 60.0
    """Maximum time that one write waits for a client that reads nothing. The stream is dropped afterwards."""
    line_repeat: float = 15.0
    """Silence after which a stream of plain lines repeats its last line."""


DEFAULT_TIMES: Final = StreamTimes()
"""The times of a production server."""
