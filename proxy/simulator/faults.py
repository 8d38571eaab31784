"""Faults of the simulator, and the rules by which a fault hits a request.

Tests arm faults with `Simulator.fault`, and words in a prompt cause them. `Kind` is the closed set of faults, and
`delivery` implements those that change the transfer of a response.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase

from .messages import ReceivedRequest

Match = str | Callable[[ReceivedRequest], bool]


class Kind(StrEnum):
    """Kind of fault. Statuses, `reject`, `credits`, `html` and `redirect` create no job, nor does `reset`."""

    BAD_REQUEST = "400"
    UNAUTHORIZED = "401"
    PAYMENT_REQUIRED = "402"
    FORBIDDEN = "403"
    NOT_FOUND = "404"
    NOT_ALLOWED = "405"
    CONFLICT = "409"
    GONE = "410"
    TEAPOT = "418"
    UNPROCESSABLE = "422"
    TOO_MANY = "429"
    SERVER_ERROR = "500"
    BAD_GATEWAY = "502"
    BAD_GATEWAY_PAGE = "502 html"
    UNAVAILABLE = "503"
    GATEWAY_TIMEOUT = "504"
    REJECT = "reject"
    CREDITS = "credits"
    HTML = "html"
    REDIRECT = "redirect"
    RESET = "reset"
    TIMEOUT = "timeout"
    DROP = "drop"
    CUT = "cut"
    STALL = "stall"
    UNFINISHED = "unfinished"
    MALFORMED = "malformed"
    WRONG_TYPES = "wrong types"
    EMPTY = "empty"
    SLOW = "slow"
    UNKNOWN_STATUS = "unknown status"
    DRIP = "drip"
    HUGE = "huge"


STATUSES: Mapping[Kind, int] = {kind: int(kind) for kind in Kind if kind.isdigit()}
"""Kinds that are an HTTP status with the provider's error body."""


@dataclass(slots=True)
class Fault:
    """An armed fault: its operations, the requests that it matches, and how often it hits."""

    operation: str
    kind: Kind
    times: int | None = None
    after: int = 0
    match: Match | None = None
    seconds: float = 5.0
    retry_after: int = 1
    size: int = 32 * 1024 * 1024
    match_count: int = field(default=0, init=False)

    @property
    def hit_count(self) -> int:
        """Number of requests that it has hit."""
        return max(0, self.match_count - self.after)

    @property
    def hits_before_read(self) -> bool:
        """True if it hits before the request is read: a reset without `match`."""
        return self.kind is Kind.RESET and self.match is None

    def hits(self, received: ReceivedRequest, prompt: str) -> bool:
        """Return True if the fault hits this request, and count matching requests."""
        if not (fnmatchcase(received.operation, self.operation) and self._matches(received, prompt)):
            return False
        if self.times is not None and self.hit_count >= self.times:
            return False
        self.match_count += 1
        return self.match_count > self.after

    def _matches(self, received: ReceivedRequest, prompt: str) -> bool:
        if self.match is None:
            return True
        if callable(self.match):
            return self.match(received)
        return self.match in f"{received.path}\n{received.text}\n{prompt}"


class Faults:
    """Armed faults, in the order in which they were armed."""

    def __init__(self) -> None:
        self._armed: list[Fault] = []

    def arm(self, fault: Fault, operations: Iterable[str]) -> Fault:
        """Add a fault. Raises ValueError if its pattern matches no operation."""
        known = sorted(operations)
        if not any(fnmatchcase(name, fault.operation) for name in known):
            raise ValueError(f"no operation is called {fault.operation!r}; there are {', '.join(known)}")
        self._armed.append(fault)
        return fault

    def clear(self) -> None:
        """Remove all faults."""
        self._armed.clear()

    def take_before_read(self, received: ReceivedRequest) -> Fault | None:
        """Return the fault that hits a request before it is read, or None."""
        faults = (fault for fault in self._armed if fault.hits_before_read)
        return next((fault for fault in faults if fault.hits(received, "")), None)

    def take(self, received: ReceivedRequest, prompt: str) -> Fault | None:
        """Return the fault that hits a request after it was read, or None."""
        faults = (fault for fault in self._armed if not fault.hits_before_read)
        return next((fault for fault in faults if fault.hits(received, prompt)), None)
