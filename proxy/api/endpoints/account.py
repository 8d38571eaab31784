"""Endpoints of an account: its balance, its ledger, and one stream for all its jobs."""

import math
from dataclasses import asdict, dataclass

from starlette.requests import Request
from starlette.responses import Response

from proxy.api.auth import Auth
from proxy.api.limits import AccountLimits
from proxy.api.request import feed_position, json_response, page_size
from proxy.api.services import check_running
from proxy.core.clock import Clock, rfc3339
from proxy.core.errors import NotFound, RateLimited, Unavailable
from proxy.store import contract
from proxy.store.types import Key
from proxy.streams.feed import Feed
from proxy.streams.responses import FeedResponse, RetryLater
from proxy.streams.stream import AccountStream


@dataclass(frozen=True, slots=True)
class AccountEndpoints:
    """The endpoints that show an account."""

    store: contract.Accounts

    async def account(self, _: Request, key: Key) -> Response:
        """Return the account's name and balance."""
        account = await self.store.account(key.account)
        if account is None:
            raise NotFound("This account no longer exists.")
        return json_response({"name": account.name, "tokens": account.tokens})

    async def ledger(self, request: Request, key: Key) -> Response:
        """Return a page of the account's ledger, newest entries first."""
        page = await self.store.ledger(key.account, page_size(request), request.query_params.get("before"))
        entries = [asdict(entry) | {"at": rfc3339(entry.at)} for entry in page.items]
        return json_response({"entries": entries, "next": page.next})


@dataclass(frozen=True, slots=True)
class AccountEvents:
    """The endpoint that streams the events of an account."""

    auth: Auth
    feed: Feed
    limits: AccountLimits
    clock: Clock

    async def events(self, request: Request) -> Response:
        """Stream the events of all jobs of the account, or of those in `jobs`. The stream has no end."""
        query = request.query_params
        try:
            check_running(self.feed)
            caller = await self.auth.caller(request)
            key = caller.key
            self.limits.check_stream(key.account)
        except (Unavailable, RateLimited) as error:
            # EventSource does not reconnect after any status but 200, and these errors are temporary.
            return RetryLater(error.message)
        jobs = frozenset(query["jobs"].split(",")) if "jobs" in query else None
        # A stream that a Link opened ends when the Link expires.
        ends_in = math.inf if caller.until is None else caller.until - self.clock.now()
        after = feed_position(request)
        return FeedResponse(AccountStream(self.feed, key.account, key.id, after=after, jobs=jobs, ends_in=ends_in))
