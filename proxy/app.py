"""The composition root: builds every part of the application and connects them.

`Pollcast` is the ASGI application. It opens its parts when the server starts and closes them when it stops.
"""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from limits.aio.storage import Storage
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from proxy import api
from proxy.api.access_log import AccessLog
from proxy.api.auth import Auth
from proxy.api.catalogue import Catalogue
from proxy.api.cors import Cors
from proxy.api.endpoints import docs, playground
from proxy.api.error_responses import EXCEPTION_HANDLERS, AnswerOnShutdown
from proxy.api.eta import Eta
from proxy.api.limits import AccountLimits, storage
from proxy.api.services import ApiServices
from proxy.api.times import DEFAULT_TIMES as DEFAULT_API_TIMES
from proxy.api.times import ApiTimes
from proxy.core import errors
from proxy.core.clock import Clock, ClockSteps, SystemClock
from proxy.core.files import restrict_umask, warn_if_open
from proxy.core.links import Links, route_path
from proxy.core.origins import Origins
from proxy.core.settings import BadSetting, ProviderSettings, Settings, load, proxy_secrets, through
from proxy.providers.base import Model, Provider
from proxy.providers.registry import Registry, installed_registry
from proxy.runner import housekeeping
from proxy.runner.runner import Runner
from proxy.runner.services import DEFAULT_LIMITS, DEFAULT_TIMES, RunnerLimits, RunnerServices, RunnerTimes
from proxy.store import open_store
from proxy.store.blobs import Blobs, check_shared
from proxy.store.contract import Store
from proxy.streams.feed import Feed
from proxy.streams.responses import StreamOutsideMiddleware
from proxy.streams.times import DEFAULT_TIMES as DEFAULT_STREAM_TIMES
from proxy.streams.times import StreamTimes
from proxy.telemetry import logs
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.trace import Traces
from proxy.telemetry.worker_metrics import WorkerMetrics
from proxy.upstream.breaker import exchange_outcomes
from proxy.upstream.client import UpstreamOptions
from proxy.upstream.fetch import Fetcher
from proxy.upstream.times import DEFAULT_TIMES as DEFAULT_UPSTREAM_TIMES
from proxy.upstream.times import UpstreamTimes

log = logging.getLogger(__name__)

_NO_LIFESPAN: Final = (
    "Pollcast has not started: this server does not run the ASGI lifespan. Turn it on (uvicorn: --lifespan on). Where "
    "Pollcast is mounted in another application, enter `pollcast.opened()` in the lifespan of that application."
)


class Pollcast:
    """The ASGI application. Raises BadSetting.

    `providers` are settings by provider name; missing ones are read from the environment. `registry` has the providers
    that are served, all installed ones by default. One of several worker processes gets `worker_metrics`, through which
    it also serves the other workers' metrics.
    """

    def __init__(
        self,
        settings: Settings,
        providers: Mapping[str, ProviderSettings] | None = None,
        clock: Clock | None = None,
        worker_metrics: WorkerMetrics | None = None,
        *,
        registry: Registry | None = None,
        upstream_times: UpstreamTimes = DEFAULT_UPSTREAM_TIMES,
        runner_times: RunnerTimes = DEFAULT_TIMES,
        runner_limits: RunnerLimits = DEFAULT_LIMITS,
        stream_times: StreamTimes = DEFAULT_STREAM_TIMES,
        api_times: ApiTimes = DEFAULT_API_TIMES,
    ) -> None:
        self._api_times = api_times
        self._settings = settings
        self._worker_metrics = worker_metrics
        self._upstream_times = upstream_times
        self._runner_times = runner_times
        self._runner_limits = runner_limits
        self._stream_times = stream_times
        self._registry = registry or installed_registry(settings)
        self._prices = _prices(settings, self._registry.models)
        given = providers or {}
        self._providers = {
            kind.name: through(given.get(kind.name) or load(kind.settings_type), settings)
            for kind in self._registry.providers
        }
        self._clock = clock or SystemClock()
        self._feed: Feed | None = None
        self._prefix = unquote(urlsplit(settings.base_url).path)
        self._app = Starlette(lifespan=lambda _: self.opened(), exception_handlers=EXCEPTION_HANDLERS)
        # No redirects to paths with or without a slash: they lose the body of a POST and break a Link's signature.
        self._app.router.redirect_slashes = False
        self._app.router.default = self._answer_before_start
        self._asgi = StreamOutsideMiddleware(
            AccessLog(Cors(AnswerOnShutdown(self._app), Origins(settings.cors_origins), settings.base_url))
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of an ASGI server."""
        if scope["type"] == "http" and (self._prefix or scope.get("root_path")):
            self._find_root(scope)
        await self._asgi(scope, receive, send)

    def _find_root(self, scope: Scope) -> None:
        """Set `root_path` to what precedes the route in the path.

        A proxy in front may pass on the prefix of the public URL or strip it, and a server may add its `root_path` to
        the path (uvicorn) or not (hypercorn). Prefixes such as `/api` begin like a route, so the routes decide.
        """
        path: str = scope["path"]
        inside = route_path(scope)
        for route in (inside.removeprefix(self._prefix), inside, path.removeprefix(self._prefix), path):
            if any(known.path_regex.match(route) for known in self.routes):
                scope["root_path"] = path.removesuffix(route)
                return

    async def _answer_before_start(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer requests before `opened` is entered, while there are no routes."""
        if scope["type"] == "http":
            raise errors.Unavailable(_NO_LIFESPAN)
        await self._app.router.not_found(scope, receive, send)

    @property
    def secrets(self) -> Sequence[str]:
        """The operator's secrets, which no log may contain."""
        scraper = self._settings.metrics.get_secret_value()
        return [
            *self._settings.secrets,
            *(provider.key for provider in self._providers.values() if provider.key),
            *(secret for provider in self._providers.values() for secret in proxy_secrets(provider.proxy)),
            *([] if scraper in {"", "public", "off"} else [scraper]),
        ]

    @property
    def routes(self) -> Sequence[Route]:
        """All routes; empty before `opened` is entered."""
        return [route for route in self._app.routes if isinstance(route, Route)]

    def stop_streams(self) -> None:
        """Close all streams. Call this before the server waits for them at shutdown."""
        if self._feed is not None:
            self._feed.stop()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Open the store and the providers, and run jobs, while the body runs. This is the ASGI lifespan."""
        async with AsyncExitStack() as stack:
            store, blobs = await self._open_storage(stack)
            metrics = Metrics()
            self._feed = self._build_feed(store, metrics)
            runner_services = await self._build_runner_services(store, blobs, metrics)
            self._runner = self._build_runner(runner_services)
            counts = await stack.enter_async_context(storage(self._settings.store))
            api_services = self._build_api_services(runner_services, self._feed, counts)
            await self._start(stack, runner_services, api_services)
            self._add_routes(api_services)
            try:
                yield
            finally:
                self.stop_streams()
            await self._runner.drain(self._settings.drain)

    async def _open_storage(self, stack: AsyncExitStack) -> tuple[Store, Blobs]:
        settings = self._settings
        with _blame_setting("POLLCAST_STORE"):
            unopened = open_store(settings.store, self._clock, lease=settings.lease, exclusive=True)
        with _blame_setting("POLLCAST_ASSETS"):
            blobs = Blobs(settings.assets)
        with _blame_setting("POLLCAST_STORE"):
            store = await stack.enter_async_context(unopened)
        self._warn_of_open_folders()
        if store.shared is not None:
            await check_shared(store, blobs)
        return store, blobs

    def _build_feed(self, store: Store, metrics: Metrics) -> Feed:
        def observe_lag(at: float) -> None:
            metrics.delivery_lag.observe(max(self._clock.now() - at, 0))

        feed = Feed(store=store, heartbeat=self._settings.heartbeat, observe_lag=observe_lag, times=self._stream_times)
        metrics.watch(feed.metrics)
        return feed

    async def _build_runner_services(self, store: Store, blobs: Blobs, metrics: Metrics) -> RunnerServices:
        settings, clock = self._settings, self._clock
        links = Links(
            secrets=await _secrets(settings, store),
            public_url=settings.base_url,
            clock=clock,
            ttl=settings.retention,
            relay=settings.results == "relay",
        )
        with _blame_setting("POLLCAST_TRACE"):
            traces = Traces(settings.trace) if settings.trace else None
        return RunnerServices(
            store=store,
            blobs=blobs,
            fetcher=Fetcher(self._upstream_times),
            links=links,
            clock=clock,
            steps=ClockSteps(clock),
            metrics=metrics,
            registry=self._registry,
            providers=self._build_providers(metrics, store),
            asset_limit=settings.asset_limit,
            retention=settings.retention,
            traces=traces,
            times=self._runner_times,
            limits=self._runner_limits,
        )

    def _build_providers(self, metrics: Metrics, store: Store) -> dict[str, Provider]:
        """Return the adapters by model. An adapter serves all its models with one HTTP client."""
        providers: dict[str, Provider] = {}
        for kind in self._registry.providers:
            options = UpstreamOptions(
                times=self._upstream_times,
                observe=partial(_observe, metrics, kind.name),
                reserve=partial(store.shared.reserve_slots, kind.name) if store.shared is not None else None,
            )
            provider = kind(self._providers[kind.name], self._clock, self._settings.base_url, options)
            providers |= {model.name: provider for model in kind.models}
        return providers

    def _build_runner(self, services: RunnerServices) -> Runner:
        settings = self._settings
        runner = Runner(services=services, node=_node(), lease=settings.lease, max_jobs=settings.max_jobs or None)
        services.metrics.watch(runner.metrics)
        return runner

    def _build_api_services(self, services: RunnerServices, feed: Feed, counts: Storage) -> ApiServices:
        """Return the parts of the endpoints. `counts` stores how many requests each account has made."""
        settings, clock, store, links = self._settings, self._clock, services.store, services.links
        limits = AccountLimits(
            storage=counts,
            streams_open=feed.streams_by_account,
            metrics=services.metrics,
            requests=settings.max_requests,
            streams=settings.max_streams,
            uploads=settings.max_uploads,
            jobs=settings.max_jobs,
            backlog=settings.queue,
        )
        scrapers = settings.metrics.get_secret_value()
        return ApiServices(
            store=store,
            blobs=services.blobs,
            feed=feed,
            links=links,
            auth=Auth(store=store, links=links, clock=clock, scrapers=scrapers, times=self._api_times),
            catalogue=Catalogue(
                registry=self._registry, providers=services.providers, prices=self._prices, clock=clock
            ),
            fetcher=services.fetcher,
            clock=clock,
            metrics=services.metrics,
            limits=limits,
            eta=Eta(store=store, clock=clock),
            polled=services.polled,
            asset_limit=settings.asset_limit,
            relay=settings.results == "relay",
            worker_metrics=self._worker_metrics,
            times=self._api_times,
        )

    async def _start(self, stack: AsyncExitStack, services: RunnerServices, api_services: ApiServices) -> None:
        """Open the HTTP clients and start the background tasks. `stack` stops them in reverse order."""
        store, metrics, feed = services.store, services.metrics, api_services.feed
        upstreams = {provider.name: provider.upstream for provider in services.providers.values()}
        await stack.enter_async_context(services.fetcher)
        for upstream in upstreams.values():
            await stack.enter_async_context(upstream)
        if services.traces is not None:
            stack.enter_context(services.traces.writing())
        orphans = housekeeping.delete_orphans_periodically(store, services.blobs, services.steps, services.times)
        await stack.enter_async_context(_running(orphans))
        await stack.enter_async_context(_running(feed.run(), self._runner.run(), metrics.watch_loop()))
        await stack.enter_async_context(_running(api_services.auth.watch(feed)))
        if store.shared is not None:
            breakers = {name: upstream.breaker for name, upstream in upstreams.items()}
            await stack.enter_async_context(_running(exchange_outcomes(breakers, store.shared, self._upstream_times)))
        if self._worker_metrics is not None:
            await stack.enter_async_context(self._worker_metrics.serve(metrics.scrape))

    def _add_routes(self, services: ApiServices) -> None:
        routes = self._app.router.routes
        routes.extend(api.routes(services))
        routes.extend(playground.routes(playground=self._settings.playground == "on"))
        routes.extend(docs.routes())
        self._app.router.default = self._app.router.not_found

    def _warn_of_open_folders(self) -> None:
        places = {"POLLCAST_STORE": Path(self._settings.store.removeprefix("sqlite:///")).parent}
        if not self._settings.store.startswith("sqlite:"):
            places.clear()
        if "://" not in self._settings.assets:
            places["POLLCAST_ASSETS"] = Path(self._settings.assets)
        for setting, folder in places.items():
            warn_if_open(folder, setting)


def hosted() -> Pollcast:
    """Return the application for another ASGI server, with settings from the environment. Raises BadSetting."""
    restrict_umask()
    settings = load(Settings)
    app = Pollcast(settings)
    logs.join(settings.log, settings.log_level).hide(app.secrets)
    return app


def _observe(metrics: Metrics, provider: str, call: str, seconds: float) -> None:
    metrics.upstream(provider, call).observe(seconds)


@contextmanager
def _blame_setting(setting: str) -> Iterator[None]:
    """Turn errors of the body into a BadSetting that names the setting."""
    try:
        yield
    except (ValueError, OSError, errors.Unavailable) as error:
        raise BadSetting(f"{setting}: {error}") from None


def _prices(settings: Settings, models: Mapping[str, Model]) -> Mapping[str, int]:
    unknown = [model for model in settings.tokens if model not in models]
    if unknown:
        raise BadSetting(f"POLLCAST_TOKENS: there is no model {unknown[0]!r}; there are {', '.join(models)}")
    return settings.tokens


async def _secrets(settings: Settings, store: Store) -> Sequence[bytes]:
    return [secret.encode() for secret in settings.secrets] or [await store.secret("links")]


def _node() -> str:
    """Return a new unique node name. With a repeated name, jobs of the earlier node would never be taken over."""
    return f"{socket.gethostname()}:{os.getpid()}:{token_hex(4)}"


@asynccontextmanager
async def _running(*work: Any) -> AsyncIterator[None]:
    """Run coroutines concurrently with the body. At its end, cancel them and wait for them."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(coroutine) for coroutine in work]
        yield
        for task in tasks:
            task.cancel()
