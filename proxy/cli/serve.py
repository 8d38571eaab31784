"""`serve`: runs the API server with the real providers, or with the built-in simulator (`--demo`)."""

import gc
import logging
import socket
import sys
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Final

import click

from proxy.app import Pollcast
from proxy.cli.check import local_url_warning
from proxy.cli.run import run
from proxy.core import keys
from proxy.core.clock import SystemClock
from proxy.core.settings import BadSetting, ProviderSettings, Settings, load, unknown_variables
from proxy.providers.registry import Registry, installed_registry, prefix_of
from proxy.serving.server import Server, listen
from proxy.serving.workers import Supervisor, end_with_parent
from proxy.store import open_store
from proxy.telemetry import logs
from proxy.telemetry.worker_metrics import WorkerMetrics

log = logging.getLogger(__name__)

_DEMO_FOLDER: Final = Path("var/demo")
"""Folder of the demo's store and assets."""
_DEMO_TOKENS: Final = 10_000
"""Tokens granted to the demo's account at each start."""
_WORKER_STOP_TIMEOUT: Final = 10
"""Seconds in addition to POLLCAST_DRAIN that a worker has to stop before it is killed."""


@click.command()
@click.option(
    "--demo", is_flag=True, help="Use the built-in simulator instead of the providers, with a separate store and key."
)
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=1,
    help="Number of processes that share the port. More than one needs Redis.",
)
def serve(*, demo: bool, workers: int) -> None:
    """Run the API server, with settings from the environment or .env."""
    if workers > 1:
        _serve_with_workers(workers, demo=demo)
    else:
        run(_serve_demo if demo else _serve_installed)


def _serve_with_workers(workers: int, *, demo: bool) -> None:
    if demo:
        raise click.ClickException("--workers: the demo runs in one process, together with its simulator.")
    try:
        settings = load(Settings)
        registry = installed_registry(settings)
        listening = listen(settings.host, settings.port)
    except BadSetting as error:
        raise click.ClickException(str(error)) from None
    if settings.store.startswith("sqlite:"):
        listening.close()
        raise click.ClickException(
            "--workers: a SQLite file can be used by one process only. Set POLLCAST_STORE=redis://host:6379/0."
        )
    logs.configure(settings.log, settings.log_level)
    _warn_of_settings(settings, registry)
    with listening:
        try:
            sys.exit(Supervisor(workers, _run_worker, listening, grace=settings.drain + _WORKER_STOP_TIMEOUT).run())
        except BadSetting as error:
            raise click.ClickException(str(error)) from None


def _warn_of_settings(settings: Settings, registry: Registry) -> None:
    """Log a warning for each unknown setting, and for Links with a wildcard address.

    With several workers only the supervisor logs them.
    """
    for line in unknown_variables(kind.settings_type for kind in registry.providers):
        log.warning("%s.", line)
    if not settings.public_url and settings.host in {"0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
        log.warning("%s.", local_url_warning(settings.base_url))


def _log_configured(registry: Registry, providers: Mapping[str, ProviderSettings] | None = None) -> None:
    """Log the providers with a key. A key that was set for another program must not surprise the operator.

    `providers` are settings by name, where they are not those of the environment.
    """
    own = [(kind, (providers or {}).get(kind.name) or load(kind.settings_type)) for kind in registry.providers]
    log.info("Providers with a key: %s.", ", ".join(kind.name for kind, found in own if found.key) or "none")


def _run_worker(listening: socket.socket, served: Event, worker_metrics: WorkerMetrics) -> None:
    """Run one worker: a complete server on the socket that all workers share."""

    async def work() -> None:
        end_with_parent()
        settings = load(Settings)
        registry = installed_registry(settings)
        is_first = not served.is_set()

        def report_start() -> None:
            if is_first:
                _log_configured(registry)
            served.set()

        await _serve(settings, registry, ready=report_start, listening=listening, worker_metrics=worker_metrics)

    try:
        run(work)
    except click.ClickException as error:
        error.show()
        sys.exit(1)


def _tune_garbage_collection() -> None:
    """Run Python's cyclic garbage collector less often, and exclude the objects that exist at the start.

    Ten thousand streams are a million long-lived objects without cycles. With Python's default thresholds, the
    collector used a third of the CPU time of opening a stream.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 1000)


async def _serve(
    settings: Settings,
    registry: Registry,
    *,
    providers: dict[str, ProviderSettings] | None = None,
    ready: Callable[[], None] | None = None,
    listening: socket.socket | None = None,
    worker_metrics: WorkerMetrics | None = None,
) -> None:
    app = Pollcast(settings, providers, worker_metrics=worker_metrics, registry=registry)
    logs.configure(settings.log, settings.log_level).hide(app.secrets)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(logs.is_fault)
    if worker_metrics is None:
        _warn_of_settings(settings, registry)

    def report_start() -> None:
        if worker_metrics is None:
            _log_configured(registry, providers)
        if ready is not None:
            ready()

    _tune_garbage_collection()
    with listening or listen(settings.host, settings.port) as bound:
        try:
            await Server(app, settings, report_start).serve(sockets=[bound])
        except BaseExceptionGroup:  # of a background task. Python's own traceback would show secrets
            log.critical("Internal error: Pollcast has stopped.", exc_info=True)
            sys.exit(1)


async def _serve_installed() -> None:
    settings = load(Settings)
    await _serve(settings, installed_registry(settings))


async def _serve_demo() -> None:
    from proxy.simulator import Simulator  # noqa: PLC0415 - only the demo needs it, and it takes time to load

    settings = load(
        Settings,
        store=f"sqlite:///{_DEMO_FOLDER}/pollcast.db",
        assets=str(_DEMO_FOLDER / "assets"),
        upstream_proxy=None,
    )
    registry, key = installed_registry(settings), keys.new_key()
    async with open_store(settings.store, SystemClock()) as store:
        await store.create_key("demo", keys.digest(key), _DEMO_TOKENS)
    async with Simulator() as simulator:
        # These values override the environment, so that the demo can never reach a real provider.
        providers = {
            kind.name: load(
                kind.settings_type,
                base_url=simulator.origin,
                # The simulator's names are the prefixes of the environment variables, such as GAGA_. A provider
                # without a simulator file gets no key, so its models are unavailable.
                api_key=simulator.keys.get(prefix_of(kind).rstrip("_").lower(), ""),
                project_id="demo",
                proxy=None,
            )
            for kind in registry.providers
        }
        model = _demo_model(registry)
        ready = partial(_print_demo, settings.base_url, key, simulator.origin, model)
        await _serve(settings, registry, providers=providers, ready=ready)


def _demo_model(registry: Registry) -> str:
    """Return the first model that can be ordered with a prompt alone."""
    for model in registry.offered.values():
        schema = model.fields.model_json_schema()
        if "prompt" in schema["properties"] and set(schema.get("required", ())) <= {"prompt"}:
            return model.name
    raise LookupError("no model can be ordered with a prompt alone")


def _print_demo(url: str, key: str, upstreams: str, model: str) -> None:
    log.info("The providers are simulated at %s. No real provider is called.", upstreams)
    click.echo(
        f"\nDemo key: {key}\n\nTry it at {url}/, or watch a stream ({url}/api/models lists all models):\n\n"
        f"curl -N {url}/api/generate -H 'Authorization: Bearer {key}' \\\n"
        f"""  -d '{{"model": "{model}", "prompt": "Hello, World!"}}'\n"""
    )
