"""What anyone may ask, without a key: alive, ready, the models, the API described."""

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from proxy.api.openapi import document
from proxy.api.openapi import page as docs
from proxy.api.request import answer
from proxy.api.services import ApiServices
from proxy.core.errors import Unavailable
from proxy.telemetry.metrics import CONTENT_TYPE


@dataclass(frozen=True, slots=True)
class About:
    """The endpoints without a key."""

    services: ApiServices

    async def healthz(self, _: Request) -> Response:
        """The process is alive, and so is its work; an ASGI server of somebody else's may go on without that."""
        if self.services.feed.stopped:
            raise Unavailable("The server's own work has ended: start it anew.")
        return answer({"status": "ok"})

    async def readyz(self, _: Request) -> Response:
        """Work can be taken: the store can be written, and the server is not stopping."""
        self.services.check_running()
        await self.services.store.ping()
        return answer({"status": "ok"})

    async def models(self, _: Request) -> Response:
        """The catalogue."""
        return answer({"models": await self.services.catalogue.as_json()})

    async def metrics(self, request: Request) -> Response:
        """What Prometheus reads."""
        self.services.auth.check_scraper(request)
        return Response(await self.services.scrape(), headers={"Content-Type": CONTENT_TYPE})

    async def openapi(self, _: Request) -> Response:
        """The API described, for programs."""
        return answer(document(self.services.links.absolute("")))

    async def docs(self, _: Request) -> Response:
        """The API described, for people."""
        return Response(docs.page(self.services.links.absolute("")), headers=docs.HEADERS)
