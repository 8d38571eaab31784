"""The timeouts, intervals and batch sizes of the API. Tests pass shorter ones."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class ApiTimes:
    """Timeouts and intervals in seconds. The defaults are those of production."""

    body_timeout: float = 60.0
    """Maximum time without a byte of a request's body. The request is then refused with 400."""
    write_timeout: float = 60.0
    """Maximum time that one write waits for a client that does not read. Its connection is then closed."""
    content_timeout: float = 10.0
    """Maximum time for a provider to return the URL of a file."""
    revocation_interval: float = 0.5
    """Time between two checks of the keys of open streams. Streams of a revoked key end within a second."""
    key_batch: int = 1000
    """Maximum number of keys in one such check. It takes the store a few milliseconds, which others wait for."""


DEFAULT_TIMES: Final = ApiTimes()
"""The times of production."""
