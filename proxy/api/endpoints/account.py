"""The account: its balance and its ledger."""

import math
from dataclasses import asdict, dataclass

from starlette.requests import Request
from starlette.responses import Response

from proxy.api.request import answer, feed_position, limit
from proxy.api.services import ApiServices
from proxy.core.clock import rfc3339
from proxy.core.errors import NotFound, RateLimited, Unavailable
from proxy.streams.responses import FeedResponse, RetryLater
from proxy.streams.stream import AccountStream


@dataclass(frozen=True, slots=True)
class Accounts:
    """The endpoints of an account."""

    services: ApiServices

    async def account(self, request: Request) -> Response:
        """Name and balance."""
        key = await self.services.auth.key(request)
        account = await self.services.store.account(key.account)
        if account is None:
            raise NotFound("The account is gone.")
        return answer({"name": account.name, "tokens": account.tokens})

    async def ledger(self, request: Request) -> Response:
        """What moved the balance, newest first."""
        key = await self.services.auth.key(request)
        page = await self.services.store.ledger(key.account, limit(request), request.query_params.get("before"))
        entries = [asdict(entry) | {"at": rfc3339(entry.at)} for entry in page.items]
        return answer({"entries": entries, "next": page.next})

    async def events(self, request: Request) -> Response:
        """One stream for all jobs of the account, or those named in `jobs`; it never ends by itself."""
        services, query = self.services, request.query_params
        try:
            services.check_running()
            caller = await services.auth.caller(request)
            key = caller.key
            services.limits.check_stream(key.account)
        except (Unavailable, RateLimited) as error:
            # EventSource gives up for good on any status but 200, and this will pass.
            return RetryLater(error.message)
        jobs = frozenset(query["jobs"].split(",")) if "jobs" in query else None
        # What a Link opens lasts no longer than it.
        ends_in = math.inf if caller.until is None else caller.until - services.clock.now()
        after = feed_position(request)
        stream = AccountStream(services.feed, key.account, key.id, after=after, jobs=jobs, ends_in=ends_in)
        return FeedResponse(stream)
