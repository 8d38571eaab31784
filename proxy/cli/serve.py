"""`serve`: the API, against the providers or (`--demo`) against the built-in simulator."""

import asyncio
import errno
import gc
import logging
import socket
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Final, cast

import click
import uvicorn

from proxy.app import Pollcast
from proxy.cli.checkup import opened_here_alone
from proxy.cli.run import run
from proxy.core import keys
from proxy.core.clock import SystemClock
from proxy.core.settings import BadSetting, ProviderSettings, Settings, in_brackets, load, unknown_variables
from proxy.providers import PROVIDERS
from proxy.providers.base import Provider
from proxy.serving.protocol import Http, Timeouts
from proxy.serving.workers import Supervisor, end_with_parent
from proxy.simulator import DEFAULT_KEYS, Simulator
from proxy.store import open_store
from proxy.telemetry import logs
from proxy.telemetry.worker_metrics import WorkerMetrics

log = logging.getLogger(__name__)

_DEMO: Final = Path("var/demo")
_NO_IPV6: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})
"""What a bind to an IPv6 address fails with where the kernel lacks IPv6 or has it switched off."""
_DEMO_TOKENS: Final = 10_000
_PATIENCE: Final = 1
"""Seconds that a stop waits for clients that neither read nor leave."""
_GRACE: Final = 10
"""Seconds that a worker has to stop, beside POLLCAST_DRAIN, before it is killed."""


@click.command()
@click.option("--demo", is_flag=True, help="Against the built-in simulator, with a key and a store of its own.")
@click.option("--workers", type=click.IntRange(1, 256), default=1, help="Processes on the one port; needs Redis.")
def serve(*, demo: bool, workers: int) -> None:
    """Serve the API, with settings from the environment or .env."""
    if workers > 1:
        _serve_with(workers, demo=demo)
    else:
        run(_serve_demo if demo else lambda: _serve(load(Settings)))


def _serve_with(workers: int, *, demo: bool) -> None:
    if demo:
        raise click.ClickException("--workers: a demo is one process, with its simulator in it.")
    try:
        settings = load(Settings)
        listening = listen(settings.host, settings.port)
    except BadSetting as error:
        raise click.ClickException(str(error)) from None
    if settings.store.startswith("sqlite:"):
        listening.close()
        raise click.ClickException(
            "--workers: only one process serves from a SQLite file; set POLLCAST_STORE=redis://host:6379/0."
        )
    logs.configure(settings.log, settings.log_level)
    _warn(settings)
    with listening:
        try:
            sys.exit(Supervisor(workers, _work, listening, grace=settings.drain + _GRACE).run())
        except BadSetting as error:
            raise click.ClickException(str(error)) from None


def _warn(settings: Settings) -> None:
    """Say what will surely not do what was meant; of a crew, its parent says it for all."""
    for line in unknown_variables(kind.settings_type for kind in PROVIDERS):
        log.warning("%s.", line)
    if not settings.public_url and settings.host in {"0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
        log.warning("%s.", opened_here_alone(settings.base_url))


def _work(listening: socket.socket, served: Event, worker_metrics: WorkerMetrics) -> None:
    """One worker's life: as that of a server of its own, on the socket that all share."""

    async def work() -> None:
        end_with_parent()
        await _serve(load(Settings), ready=served.set, listening=listening, worker_metrics=worker_metrics)

    try:
        run(work)
    except click.ClickException as error:
        error.show()
        sys.exit(1)


class Server(uvicorn.Server):
    """uvicorn, with our life around its own.

    The application is opened before it listens (what stops that is raised as it is), its streams are broken off before
    it waits for them to end, and it is closed before the signal that stopped it is raised again.
    """

    def __init__(
        self,
        app: Pollcast,
        settings: Settings,
        ready: Callable[[], None] | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=cast("type[Http]", partial(Http, timeouts=timeouts or Timeouts(idle=settings.keepalive))),
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_graceful_shutdown=_PATIENCE,
                # Links are made from POLLCAST_PUBLIC_URL, never from what a request claims.
                proxy_headers=False,
            )
        )
        self._app = app
        self._ready = ready
        self._open = AsyncExitStack()
        self._address = (in_brackets(settings.host), settings.port, settings.base_url)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the application, then listen."""
        await self._open.enter_async_context(self._app.opened())
        try:
            await super().startup(sockets)
        except BaseException:
            await self._open.aclose()
            raise
        log.info("Pollcast %s listens on %s:%s; clients reach it at %s.", _version(), *self._address)
        if self._ready is not None:
            self._ready()

    async def main_loop(self) -> None:
        """Serve until a stop, or until our own work dies, which cancels this: then stop in order, and say of what."""
        with suppress(asyncio.CancelledError):
            await super().main_loop()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let the clients go, stop listening, then close the application."""
        self._app.stop_streams()
        try:
            await super().shutdown(sockets)
        finally:
            # Also where our own work has died, and with it this stop: here it says of what.
            await self._open.aclose()


def _version() -> str:
    try:
        return version("pollcast")
    except PackageNotFoundError:
        return "(a checkout)"


def _spare_the_collector() -> None:
    """Have the cyclic collector look less often, and not at what is there for good.

    Ten thousand streams are a million objects that live long and make no cycles: at Python's own thresholds, looking
    at them was a third of the CPU of opening one.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 1000)


async def _serve(
    settings: Settings,
    providers: dict[str, ProviderSettings] | None = None,
    ready: Callable[[], None] | None = None,
    listening: socket.socket | None = None,
    worker_metrics: WorkerMetrics | None = None,
) -> None:
    app = Pollcast(settings, providers, worker_metrics=worker_metrics)
    logs.configure(settings.log, settings.log_level).hide(app.secrets)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(logs.is_fault)
    if worker_metrics is None:
        _warn(settings)
    _spare_the_collector()
    with listening or listen(settings.host, settings.port) as own:
        try:
            await Server(app, settings, ready).serve(sockets=[own])
        except BaseExceptionGroup:  # of the work beside the server; left to Python, it would be shown without the mask
            log.critical("Pollcast has met a fault of its own, and has stopped.", exc_info=True)
            sys.exit(1)


def listen(host: str, port: int) -> socket.socket:
    """Bind the address to serve at; raises BadSetting when it cannot be had. `::` listens on IPv4 too."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == "::" and socket.has_dualstack_ipv6()
    try:
        listening = socket.create_server((host, port), family=family, backlog=4096, dualstack_ipv6=both)
    except OSError as error:
        reason = error.strerror or str(error)
        if family == socket.AF_INET6 and error.errno in _NO_IPV6:
            reason += "; this machine may have no IPv6: set POLLCAST_HOST=0.0.0.0 or an IPv4 address"
        place = f"{in_brackets(host)}:{port}"
        raise BadSetting(f"POLLCAST_HOST, POLLCAST_PORT: cannot listen on {place}: {reason}") from None
    # Accepted connections take it over: an event must not wait for the acknowledgement of the one before.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


async def _serve_demo() -> None:
    settings = load(Settings, store=f"sqlite:///{_DEMO}/pollcast.db", assets=str(_DEMO / "assets"), upstream_proxy=None)
    key = keys.new_key()
    async with open_store(settings.store, SystemClock()) as store:
        await store.create_key("demo", keys.digest(key), _DEMO_TOKENS)
    async with Simulator() as simulator:
        # Explicit values win over the environment's: nothing of a demo can reach a real installation.
        providers = {
            kind.name: load(
                kind.settings_type, base_url=simulator.origin, api_key=_demo_key(kind), project_id="demo", proxy=None
            )
            for kind in PROVIDERS
        }
        await _serve(settings, providers, lambda: _print_demo(settings.base_url, key, simulator.origin))


def _demo_key(kind: type[Provider]) -> str:
    # The simulator knows its five APIs by the same short names as the environment does.
    return DEFAULT_KEYS[str(kind.settings_type.model_config["env_prefix"]).rstrip("_").lower()]


def _print_demo(url: str, key: str, upstreams: str) -> None:
    log.info("Upstreams are simulated at %s; no provider is called.", upstreams)
    click.echo(
        f"\nDemo key: {key}\n\nTry it at {url}/, or watch a stream (any model of {url}/api/models):\n\n"
        f"curl -N {url}/api/generate -H 'Authorization: Bearer {key}' \\\n"
        """  -d '{"model": "gaga-1", "prompt": "Hello, World!"}'\n"""
    )
