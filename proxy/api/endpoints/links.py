"""Links on demand: a backend hands its browser one stream or file, and not its key."""

import re
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from proxy.api.body import LinkWish
from proxy.api.request import answer, record, refuse_fields
from proxy.api.services import ApiServices
from proxy.core.clock import rfc3339
from proxy.core.errors import FieldError, InvalidRequest, NotFound
from proxy.store.types import Key

_PATH: Final = re.compile(
    r"/api/(?:events|jobs/(?P<job>\w+)/(?:events|content(?:/[0-9]{1,8})?)|assets/(?P<asset>\w+)/content)", re.ASCII
)
"""Ids need no percent-encoding, so that nothing here has two spellings."""
_QUERY: Final = re.compile(r'[!"$-~]*')
_FORMS: Final = (
    "a Link can be made to /api/events, /api/jobs/{id}/events, /api/jobs/{id}/content, /api/jobs/{id}/content/{n} or "
    "/api/assets/{id}/content, with a query if need be, written plainly: no host, no #, nothing in the path with %"
)


@dataclass(frozen=True, slots=True)
class LinkMaking:
    """The endpoint that makes Links."""

    services: ApiServices

    async def add_link(self, request: Request) -> Response:
        """Sign a path of the own account, with its query, for a time."""
        key = await self.services.auth.key(request)
        wish = await record(request, LinkWish, "A Link is asked for by a JSON object with a path")
        path, _, query = wish.path.partition("?")
        await self._check(key, path, query)
        expires = self.services.links.expiry(wish.ttl)
        try:
            url = self.services.links.sign(path, key.id, expires, query)
        except InvalidRequest as error:
            refuse_fields([FieldError("path", error.message)])
        return answer({"url": url, "expires_at": rfc3339(expires)}, 201)

    async def _check(self, key: Key, path: str, query: str) -> None:
        """Raises InvalidRequest for a path that no Link opens, and NotFound where nothing of the account's is."""
        named = _PATH.fullmatch(path)
        if named is None or not _QUERY.fullmatch(query):
            refuse_fields([FieldError("path", _FORMS)])
        job, asset = named["job"], named["asset"]
        found: Any = True
        if job:
            found = await self.services.store.job(key.account, job)
        elif asset:
            found = await self.services.store.asset(key.account, asset)
        if found is None:
            raise NotFound(f"There is nothing of yours at {path}.")
