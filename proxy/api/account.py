"""The account: its balance and its ledger."""

from dataclasses import asdict, dataclass

from starlette.requests import Request
from starlette.responses import Response

from proxy.api.reading import answer, limit
from proxy.api.services import Services
from proxy.clock import rfc3339
from proxy.errors import NotFound


@dataclass(frozen=True, slots=True)
class Accounts:
    """The endpoints of an account."""

    services: Services

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
