"""Random histories against the store in a real Redis, checked by the model that `test_sqlite_machine.py` defines."""

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
        """Continue in another process for the same nodes, which knows only the claims in Redis."""
        self.run(self.store.__aexit__(None, None, None))
        self.store = self.run(self.opened().__aenter__())
        self.callers = {name: Caller(self.store, caller.key) for name, caller in self.callers.items()}
        self.lapses = dict.fromkeys(self.lapses, math.inf)

    def prolong(self, node: str) -> None:
        """Start the lease again at the next claim, because that claim observes the renewal."""
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
