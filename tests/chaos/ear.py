"""What the upstream heard: every request by its order, and what was done to it.

An `Ear` takes the place of the simulator's faults: each request that was read passes it, before it is answered.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from proxy.simulator import Fault, Kind, ReceivedRequest, Simulator
from proxy.simulator.faults import Faults
from tests.chaos.orders import token_in

Mischief = Callable[[ReceivedRequest], Fault | None]

ASKS_AGAIN = (Kind.TOO_MANY, Kind.UNAVAILABLE)
"""Answers after which an order may be sent once more: 429, and 503, which here comes with Retry-After."""

REPEATABLE = {"heygen3.submit"}
"""The submits that may be repeated with their key."""


@dataclass(frozen=True, slots=True)
class Line:
    """One request about an order."""

    at: float
    operation: str
    target: str
    paid: bool
    fault: Kind | None

    def __str__(self) -> str:
        return f"{self.at:9.3f} s  {self.operation}  {self.target}  {self.fault or ''}".rstrip()


class Ear(Faults):
    """Listens to a simulator. `mischief` chooses the fault of a request; `tell` is told its operation."""

    def __init__(self, simulator: Simulator, mischief: Mischief | None = None) -> None:
        super().__init__()
        self._simulator = simulator
        self._mischief: Mischief = mischief or (lambda _: None)
        self._paid = {operation.name for operation in simulator.operations if operation.role.is_paid}
        self._began = monotonic()
        self._lines: dict[str, list[Line]] = defaultdict(list)
        self.tell: Callable[[str], None] = lambda _: None
        simulator.state.faults = self

    def take(self, received: ReceivedRequest, prompt: str) -> Fault | None:
        """Note the request, tell of it, and choose what goes wrong."""
        fault = self._mischief(received)
        token = token_in(received.text) or token_in(prompt)
        if token is not None:
            kind = fault.kind if fault else None
            target = f"{received.path} {dict(received.query) or ''}"
            line = Line(monotonic() - self._began, received.operation, target, received.operation in self._paid, kind)
            self._lines[token].append(line)
        self.tell(received.operation)
        return fault

    def lines(self, token: str) -> list[Line]:
        """Every request about an order, in their order."""
        return self._lines.get(token, [])

    def polled(self, token: str) -> bool:
        """Whether the order's work was ever asked for by its ticket."""
        return any(not line.paid for line in self.lines(token))

    def bought(self) -> Counter[str]:
        """How often each order was taken and so paid for; of a list it is the item taken most often."""
        taken = Counter((token_in(job.prompt), getattr(job, "unique_id", "")) for job in self._simulator.jobs())
        bought: Counter[str] = Counter()
        for (token, _), times in taken.items():
            bought[token or ""] = max(bought[token or ""], times)
        return bought

    def sent_again(self, token: str) -> list[Line]:
        """The submits after which the order was sent again although it may have been taken.

        Those of a provider that promises to sell once for a key do not count.
        """
        sent = [line for line in self.lines(token) if line.paid and line.operation not in REPEATABLE]
        return [line for line in sent[:-1] if line.fault not in ASKS_AGAIN]
