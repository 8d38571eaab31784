"""A minimal web server on a real socket, for tests that need no provider."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Self

from aiohttp import ClientResponse, web
from yarl import URL

from proxy.upstream.fetch import Fetcher, ProviderOrigin
from proxy.upstream.times import DEFAULT_TIMES, UpstreamTimes

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Site:
    """Serves one answer on its own port and records its requests."""

    def __init__(self, answer: Handler) -> None:
        self._answer = answer
        self.asked: list[web.Request] = []
        self.bodies: list[bytes] = []

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        self.bodies.append(await request.read())
        return await self._answer(request)


class Rerouted(Fetcher):
    """A fetcher to which one site is all of the open internet; a provider's own origin stays where it is."""

    def __init__(self, site: Site, times: UpstreamTimes = DEFAULT_TIMES) -> None:
        super().__init__(times)
        self._site = URL(site.url)

    @asynccontextmanager
    async def _request(
        self, method: str, url: URL, headers: dict[str, str], own: ProviderOrigin | None
    ) -> AsyncIterator[ClientResponse]:
        if own is None or not own.covers(url):
            url, own = self._site.join(url.relative()), ProviderOrigin(self._site)
        async with super()._request(method, url, headers, own) as response:
            yield response
