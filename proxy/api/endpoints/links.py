"""The endpoint that makes Links: a backend gives its browser one stream or file instead of its key."""

import re
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from proxy.api.body import LinkRequest
from proxy.api.request import BodyReader, json_response, refuse_fields
from proxy.core.clock import rfc3339
from proxy.core.errors import FieldError, InvalidRequest, NotFound
from proxy.core.job import Job
from proxy.core.links import Links
from proxy.store.contract import Store
from proxy.store.types import Asset, Key

_PATH: Final = re.compile(
    r"/api/(?:events|jobs/(?P<job>\w+)/(?:events|content(?:/[0-9]{1,8})?)|assets/(?P<asset>\w+)/content)", re.ASCII
)
"""Paths that a Link can open. Percent-encoding is refused, so that each path has one spelling."""
_QUERY: Final = re.compile(r'[!"$-~]*')
"""Characters that a query may have: printable ASCII without spaces and `#`."""
_PATH_RULE: Final = (
    "must be /api/events, /api/jobs/{id}/events, /api/jobs/{id}/content, /api/jobs/{id}/content/{n} or "
    "/api/assets/{id}/content, with an optional query; without a host, a fragment or percent-encoding in the path"
)


@dataclass(frozen=True, slots=True)
class NewLinks:
    """The endpoint that makes Links."""

    store: Store
    links: Links
    bodies: BodyReader

    async def add(self, request: Request, key: Key) -> Response:
        """Sign a path of the account, with its query, for a limited time."""
        expected = "Send a JSON object with the path of the Link"
        asked = await self.bodies.record(request, LinkRequest, expected)
        path, _, query = asked.path.partition("?")
        await self._check(key, path, query)
        expires = self.links.expiry(asked.ttl)
        try:
            url = self.links.sign(path, key.id, expires, query)
        except InvalidRequest as error:
            refuse_fields([FieldError("path", error.message)])
        return json_response({"url": url, "expires_at": rfc3339(expires)}, 201)

    async def _check(self, key: Key, path: str, query: str) -> None:
        """Raise InvalidRequest for a path that a Link cannot open, NotFound for one of another account."""
        match = _PATH.fullmatch(path)
        if match is None or not _QUERY.fullmatch(query):
            refuse_fields([FieldError("path", _PATH_RULE)])
        found: Job | Asset | None
        if match["job"]:
            found = await self.store.job(key.account, match["job"])
        elif match["asset"]:
            found = await self.store.asset(key.account, match["asset"])
        else:
            return
        if found is None:
            raise NotFound(f"Your account has nothing at {path}.")
