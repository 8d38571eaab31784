"""The same model as for SQLite, against a real Redis: whatever is done in whatever order, the promises hold."""

import math

from hypothesis import HealthCheck, settings
from hypothesis.stateful import rule

from proxy.store.contract import Store
from proxy.store.redis.store import RedisStore
from tests.store.test_sqlite_machine import SqliteMachine
from tests.support.redis_server import flush, shared_server
from tests.support.store import LEASE, Caller


class RedisMachine(SqliteMachine):
    claim_renews = True

    def __init__(self) -> None:
        super().__init__()
        self.server = shared_server()
        flush(self.server)

    def opened(self) -> Store:
        return RedisStore(self.server.url, self.clock, lease=LEASE)

    @rule()
    def restart(self) -> None:
        """Another process goes on for the same nodes: it knows nothing of the claims but what Redis says."""
        self.run(self.store.__aexit__(None, None, None))
        self.store = self.run(self.opened().__aenter__())
        self.callers = {name: Caller(self.store, caller.key) for name, caller in self.callers.items()}
        self.lapses = dict.fromkeys(self.lapses, math.inf)

    def prolong(self, node: str) -> None:
        """A renewal counts from the claim that sees it."""
        for job, claim in self.holders.items():
            if claim.node == node:
                self.lapses[job] = math.inf

    def looked(self) -> None:
        for job, lapse in self.lapses.items():
            if math.isinf(lapse):
                self.lapses[job] = self.clock.now() + LEASE


TestRedisMachine = RedisMachine.TestCase
TestRedisMachine.settings = settings(
    max_examples=25, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
