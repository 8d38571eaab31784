"""The HTTP API of contract section 3: requests in, orders admitted, jobs and streams out.

It knows the store, never the runner: an admitted job is found there by whichever node has room for it.
"""

from functools import partial

from starlette.routing import Route

from proxy.api.endpoints.about import About
from proxy.api.endpoints.account import Accounts
from proxy.api.endpoints.assets import Assets
from proxy.api.endpoints.content import Contents
from proxy.api.endpoints.jobs import Jobs
from proxy.api.endpoints.links import LinkMaking
from proxy.api.endpoints.ping import Ping
from proxy.api.metering import Endpoint, counted
from proxy.api.services import ApiServices


def routes(services: ApiServices) -> list[Route]:
    """Every path of the API, the busiest first, for they are tried in turn; GET routes answer HEAD too."""
    about, accounts, jobs, assets = About(services), Accounts(services), Jobs(services), Assets(services)
    contents, links = Contents(services), LinkMaking(services)
    keyed, open_to_links = partial(counted, services), partial(counted, services, or_link=True)
    return [
        _route("GET", "/api/jobs/{job}/events", jobs.events),
        _route("POST", "/api/generate", keyed(jobs.generate)),
        Route("/api/jobs", keyed(jobs.jobs), methods=["GET", "POST"]),
        Route("/api/jobs/{job}", keyed(jobs.job), methods=["GET", "DELETE"]),
        _route("GET", "/api/ping", Ping(services).ping),
        _route("GET", "/healthz", about.healthz),
        _route("GET", "/readyz", about.readyz),
        _route("GET", "/openapi.json", about.openapi),
        _route("GET", "/docs", about.docs),
        _route("GET", "/api/models", about.models),
        _route("GET", "/metrics", about.metrics),
        _route("GET", "/api/account", keyed(accounts.account)),
        _route("GET", "/api/account/ledger", keyed(accounts.ledger)),
        _route("GET", "/api/events", accounts.events),
        _route("GET", "/api/jobs/{job}/content", open_to_links(contents.content)),
        _route("GET", "/api/jobs/{job}/content/{n}", open_to_links(contents.content)),
        _route("POST", "/api/jobs/{job}/cancel", keyed(jobs.cancel)),
        _route("POST", "/api/links", keyed(links.add_link)),
        _route("POST", "/api/assets", keyed(assets.add_asset)),
        Route("/api/assets/{asset}", keyed(assets.asset), methods=["GET", "DELETE"]),
        _route("GET", "/api/assets/{asset}/content", open_to_links(assets.asset_content)),
    ]


def _route(method: str, path: str, endpoint: Endpoint) -> Route:
    return Route(path, endpoint, methods=[method])
