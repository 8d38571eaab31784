"""The faults that can be asked for, by a test in a call or by a prompt in a word, and which request each one hits.

`Kind` is the closed set of what can go wrong on the wire; `delivery` knows how each looks there.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase

from .messages import Received

Match = str | Callable[[Received], bool]


class Kind(StrEnum):
    """What goes wrong. The statuses, `reject`, `credits`, `html` and `redirect` make no job; the others do."""

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
"""The kinds that are an HTTP status with the provider's own error body."""


@dataclass(slots=True)
class Fault:
    """A fault that is armed: for which operations, how often, and for which requests."""

    operation: str
    kind: Kind
    times: int | None = None
    after: int = 0
    match: Match | None = None
    seconds: float = 5.0
    retry_after: int = 1
    size: int = 32 * 1024 * 1024
    met: int = field(default=0, init=False)

    @property
    def used(self) -> int:
        """How many requests it has hit."""
        return max(0, self.met - self.after)

    @property
    def blind(self) -> bool:
        """Whether it strikes without a look at the request: a reset, unless it is only for some."""
        return self.kind is Kind.RESET and self.match is None

    def hits(self, received: Received, prompt: str) -> bool:
        """Whether it concerns this request; counts those it concerns."""
        if not (fnmatchcase(received.operation, self.operation) and self._matches(received, prompt)):
            return False
        if self.times is not None and self.used >= self.times:
            return False
        self.met += 1
        return self.met > self.after

    def _matches(self, received: Received, prompt: str) -> bool:
        if self.match is None:
            return True
        if callable(self.match):
            return self.match(received)
        return self.match in f"{received.path}\n{received.text}\n{prompt}"


class Faults:
    """The armed faults, first come first served."""

    def __init__(self) -> None:
        self._armed: list[Fault] = []

    def arm(self, fault: Fault, operations: Iterable[str]) -> Fault:
        """Add a fault, provided that some operation can meet it."""
        known = sorted(operations)
        if not any(fnmatchcase(name, fault.operation) for name in known):
            raise ValueError(f"no operation is called {fault.operation!r}; there are {', '.join(known)}")
        self._armed.append(fault)
        return fault

    def clear(self) -> None:
        """Forget them all."""
        self._armed.clear()

    def take_unread(self, received: Received) -> Fault | None:
        """The fault that hits before anything is read."""
        return next((fault for fault in self._armed if fault.blind and fault.hits(received, "")), None)

    def take(self, received: Received, prompt: str) -> Fault | None:
        """The fault that hits a request that was read."""
        return next((fault for fault in self._armed if not fault.blind and fault.hits(received, prompt)), None)
