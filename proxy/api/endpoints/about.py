"""Endpoints about the server itself: health, metrics, models and the API's description."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from proxy.api.auth import Auth
from proxy.api.catalogue import Catalogue
from proxy.api.request import json_response
from proxy.api.services import check_running
from proxy.core.errors import Unavailable
from proxy.core.links import Links
from proxy.store.contract import Store
from proxy.streams.feed import Feed
from proxy.telemetry.metrics import CONTENT_TYPE


@dataclass(frozen=True, slots=True)
class Probes:
    """Health endpoints, for orchestrators and load balancers."""

    store: Store
    feed: Feed

    async def healthz(self, _: Request) -> Response:
        """Liveness: 503 once the background tasks have ended, because some ASGI servers keep serving without them."""
        if self.feed.stopped:
            raise Unavailable("The server's background tasks have ended. Restart it.")
        return json_response({"status": "ok"})

    async def readyz(self, _: Request) -> Response:
        """Readiness: 503 while the server is stopping or the store cannot be written."""
        check_running(self.feed)
        await self.store.ping()
        return json_response({"status": "ok"})


@dataclass(frozen=True, slots=True)
class MetricsPage:
    """The metrics endpoint, for Prometheus."""

    auth: Auth
    scrape: Callable[[], Awaitable[bytes]]

    async def metrics(self, request: Request) -> Response:
        """Return the metrics, if POLLCAST_METRICS allows this caller to read them."""
        self.auth.check_scraper(request)
        return Response(await self.scrape(), headers={"Content-Type": CONTENT_TYPE})


@dataclass(frozen=True, slots=True)
class About:
    """The endpoints that describe the models and the API. They need no key."""

    catalogue: Catalogue
    links: Links

    async def models(self, _: Request) -> Response:
        """Return the catalogue of models."""
        return json_response({"models": await self.catalogue.as_json()})

    async def openapi(self, _: Request) -> Response:
        """Return the OpenAPI document."""
        from proxy.api.openapi import document  # noqa: PLC0415 - a tenth of a server's start, seldom needed

        return json_response(document(self.links.absolute(""), self.catalogue.registry))

    async def docs(self, _: Request) -> Response:
        """Return the OpenAPI document as an HTML page."""
        from proxy.api.openapi import page  # noqa: PLC0415

        return Response(page.page(self.links.absolute(""), self.catalogue.registry), headers=page.HEADERS)
