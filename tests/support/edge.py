"""A gateway such as a CDN: it forwards requests, or answers them with errors of its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import ClientConnectionError, ClientSession, web

from tests.support.deployment import Deployment
from tests.support.site import Site

PAGE = "<!doctype html><title>Just a moment</title>"
_OF_THE_HOP = frozenset({"transfer-encoding", "connection", "content-length", "host", "date", "server"})


class Edge:
    """A reverse proxy. It answers the next requests for a path with `statuses[path]`, one after the other."""

    def __init__(self, deployment: Deployment, session: ClientSession) -> None:
        self._world, self._session = deployment, session
        self.url = ""
        self.statuses: dict[str, list[int]] = {}
        self.lost: set[str] = set()
        """Paths whose next answer is replaced after the server has given it."""
        self.answered: list[tuple[str, int]] = []
        """Its own answers: path and status."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        pending = self.statuses.get(request.path)
        if not pending or request.method == "OPTIONS":  # no edge guards preflights
            return await self._pass_on(request)
        status = pending.pop(0)
        if request.path in self.lost:
            await self._pass_on(request, only_ask=True)
        self.answered.append((request.path, status))
        headers = {"Access-Control-Allow-Origin": "*"}
        return web.Response(status=status, text=PAGE, content_type="text/html", headers=headers)

    async def _pass_on(self, request: web.Request, *, only_ask: bool = False) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _OF_THE_HOP}
        url = f"{self._world.origin}{request.raw_path}"
        sent = self._session.request(
            request.method, url, headers=headers, data=await request.read(), allow_redirects=False
        )
        async with sent as given:
            headers = {name: value for name, value in given.headers.items() if name.lower() not in _OF_THE_HOP}
            response = web.StreamResponse(status=given.status, headers=headers)
            if not only_ask:
                await response.prepare(request)
                try:
                    async for chunk in given.content.iter_any():
                        await response.write(chunk)
                except ClientConnectionError:
                    pass  # the client has left
            return response


@asynccontextmanager
async def edge(deployment: Deployment) -> AsyncIterator[Edge]:
    async with ClientSession(auto_decompress=False) as session:
        made = Edge(deployment, session)
        async with Site(made.answer) as site:
            made.url = site.url
            yield made
