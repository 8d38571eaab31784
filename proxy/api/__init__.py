"""The HTTP API, described in `proxy/docs/api.md`: `routes` has every path.

The API admits orders to the store and streams events out of it. It does not call the runner: the runner of any node
finds an admitted job in the store.
"""

from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from proxy.api.admission import Admissions, OrderChecks
from proxy.api.downloads import RelayedFiles, StoredFiles
from proxy.api.dry_run import DryRuns
from proxy.api.endpoints.about import About, MetricsPage, Probes
from proxy.api.endpoints.account import AccountEndpoints, AccountEvents
from proxy.api.endpoints.assets import AssetEndpoints, AssetSource, NewAssets
from proxy.api.endpoints.content import Contents, ProviderFiles
from proxy.api.endpoints.jobs import JobEndpoints, Orders, WatchedJobs
from proxy.api.endpoints.links import NewLinks
from proxy.api.endpoints.ping import Ping
from proxy.api.job_view import JobView
from proxy.api.metering import Endpoint, metered, metered_order
from proxy.api.request import BodyReader
from proxy.api.services import ApiServices


def routes(services: ApiServices) -> list[Route]:
    """Return the routes of all paths.

    Starlette tries them in order, so the busiest are first. GET routes also answer HEAD.
    """
    s = services
    keyed = partial(metered, s.auth, s.limits)
    keyed_or_link = partial(metered, s.auth, s.limits, or_link=True)
    bodies = BodyReader(s.times.body_timeout)
    stored, relayed = StoredFiles(s.blobs, s.times.write_timeout), RelayedFiles(s.fetcher, s.times.write_timeout)
    view = JobView(s.links, s.eta, s.polled)
    orders = _orders(s, bodies, view)
    jobs = JobEndpoints(s.store, s.blobs, s.feed, view)
    watched = WatchedJobs(auth=s.auth, store=s.store, feed=s.feed, limits=s.limits, view=view)
    files = ProviderFiles(relayed, s.clock, s.relay, s.times.content_timeout)
    contents = Contents(s.store, s.catalogue, stored, files)
    assets = AssetEndpoints(s.store, s.blobs, s.links, stored)
    source = AssetSource(bodies, s.fetcher, s.asset_limit)
    new_assets = NewAssets(store=s.store, blobs=s.blobs, links=s.links, limits=s.limits, clock=s.clock, source=source)
    new_links = NewLinks(s.store, s.links, bodies)
    accounts, account_events = AccountEndpoints(s.store), AccountEvents(s.auth, s.feed, s.limits, s.clock)
    probes, about, metrics = Probes(s.store, s.feed), About(s.catalogue, s.links), MetricsPage(s.auth, s.scrape)
    return [
        _route("/api/jobs/{job}/events", GET=watched.events),
        _route("/api/generate", POST=metered_order(s.auth, s.limits, orders.generate)),
        _route("/api/jobs", GET=keyed(jobs.list), POST=metered_order(s.auth, s.limits, orders.create)),
        _route("/api/jobs/{job}", GET=keyed(watched.job), DELETE=keyed(jobs.delete)),
        _route("/api/ping", GET=Ping(s.clock, s.feed.heartbeat).ping),
        _route("/healthz", GET=probes.healthz),
        _route("/readyz", GET=probes.readyz),
        _route("/openapi.json", GET=about.openapi),
        _route("/docs", GET=about.docs),
        _route("/api/models", GET=about.models),
        _route("/metrics", GET=metrics.metrics),
        _route("/api/account", GET=keyed(accounts.account)),
        _route("/api/account/ledger", GET=keyed(accounts.ledger)),
        _route("/api/events", GET=account_events.events),
        _route("/api/jobs/{job}/content", GET=keyed_or_link(contents.content)),
        _route("/api/jobs/{job}/content/{n}", GET=keyed_or_link(contents.content)),
        _route("/api/jobs/{job}/cancel", POST=keyed(jobs.cancel)),
        _route("/api/links", POST=keyed(new_links.add)),
        _route("/api/assets", POST=keyed(new_assets.add)),
        _route("/api/assets/{asset}", GET=keyed(assets.asset), DELETE=keyed(assets.delete)),
        _route("/api/assets/{asset}/content", GET=keyed_or_link(assets.content)),
    ]


def _orders(services: ApiServices, bodies: BodyReader, view: JobView) -> Orders:
    s = services
    checks = OrderChecks(s.store, s.catalogue, s.asset_limit)
    admissions = Admissions(
        store=s.store, catalogue=s.catalogue, limits=s.limits, metrics=s.metrics, checks=checks, bodies=bodies
    )
    dry_runs = DryRuns(store=s.store, catalogue=s.catalogue, links=s.links, checks=checks, bodies=bodies)
    return Orders(admissions=admissions, dry_runs=dry_runs, feed=s.feed, limits=s.limits, view=view)


def _route(path: str, **endpoints: Endpoint) -> Route:
    """Return a route with an endpoint for each method.

    It is one route, because Starlette's 405 lists only the methods of the first route that matches the path.
    """

    async def serve(request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        return await endpoints[method](request)

    return Route(path, serve, methods=list(endpoints))
