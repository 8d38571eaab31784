"""Room at a provider, shared fairly: accounts take turns, however many jobs each of them has waiting."""

import asyncio
from collections import OrderedDict, deque


class Slots:
    """At most `limit` holders at once; who waits is served account by account, each account's own in order."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    async def acquire(self, account: str) -> None:
        """Wait for a slot; a cancelled wait holds none."""
        if self._free and not self._waiting:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(account, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            # The slot may have been handed over in the very moment of the cancel.
            if turn.done() and not turn.cancelled():
                self.release()
            raise

    def release(self) -> None:
        """Give a slot back, to the next account's oldest that still waits."""
        while self._waiting:
            account, turns = self._waiting.popitem(last=False)
            turn = turns.popleft()
            if turns:
                self._waiting[account] = turns
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
