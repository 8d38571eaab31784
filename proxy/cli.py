"""The commands: serve, doctor, keys."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any, Final

import click
import uvicorn

from proxy import tokens
from proxy.app import Pollcast
from proxy.clock import SystemClock
from proxy.doctor import Examination, NoAnswer
from proxy.errors import PollcastError
from proxy.http import Http
from proxy.providers import PROVIDERS
from proxy.providers.base import Provider
from proxy.settings import BadSetting, ProviderSettings, Settings, read
from proxy.simulator import DEFAULT_KEYS, Simulator
from proxy.store import open_store
from proxy.store.base import Store

log = logging.getLogger(__name__)

_DEMO: Final = Path("var/demo")
_DEMO_TOKENS: Final = 10_000
_PATIENCE: Final = 1
"""Seconds that a stop waits for clients that neither read nor leave."""
_MOST_TOKENS: Final = 1 << 53
"""The largest whole number that every JSON reader keeps exactly."""
_KEEP_ALIVE: Final = 75
"""Seconds that an idle connection is kept: longer than the proxies in front usually do."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Pollcast: one server-sent-events stream for every generation provider."""


# --- serve ---


@main.command()
@click.option("--demo", is_flag=True, help="Against the built-in simulator, with a key and a store of its own.")
def serve(*, demo: bool) -> None:
    """Serve the API, with settings from the environment or .env."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    # What a client sends that is no multipart is its own affair; it is told.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    logging.getLogger("uvicorn.error").addFilter(_broken_on_purpose)
    _run(_serve_demo if demo else lambda: _serve(read(Settings)))


def _broken_on_purpose(record: logging.LogRecord) -> bool:
    """A stream that must not end cleanly is broken off, and so is whoever holds up a stop; neither is a mistake."""
    if record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError):
        return False
    return record.getMessage() != "ASGI callable returned without completing response."


class Server(uvicorn.Server):
    """uvicorn, with our life around its own.

    The application is opened before it listens (what stops that is raised as it is), its streams are broken off before
    it waits for them to end, and it is closed before the signal that stopped it is raised again.
    """

    def __init__(self, app: Pollcast, settings: Settings, ready: Callable[[], None] | None = None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Http,
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE,
                timeout_graceful_shutdown=_PATIENCE,
                # Links are made from POLLCAST_PUBLIC_URL, never from what a request claims.
                proxy_headers=False,
            )
        )
        self._app = app
        self._ready = ready
        self._open = AsyncExitStack()
        self._address = (settings.host, settings.port, settings.base_url)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the application, then listen."""
        await self._open.enter_async_context(self._app.opened())
        try:
            await super().startup(sockets)
        except BaseException:
            await self._open.aclose()
            raise
        log.info("Pollcast listens on %s:%s; clients reach it at %s.", *self._address)
        if self._ready is not None:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let the clients go, stop listening, then close the application."""
        self._app.stop_streams()
        await super().shutdown(sockets)
        await self._open.aclose()


async def _serve(
    settings: Settings,
    providers: dict[str, ProviderSettings] | None = None,
    ready: Callable[[], None] | None = None,
) -> None:
    app = Pollcast(settings, providers)
    with listen(settings.host, settings.port) as listening:
        await Server(app, settings, ready).serve(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """Bind the address to serve at; raises BadSetting when it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=4096)
    except OSError as error:
        raise BadSetting(f"POLLCAST_HOST, POLLCAST_PORT: cannot listen on {host}:{port}: {error.strerror}") from None
    # Accepted connections take it over: an event must not wait for the acknowledgement of the one before.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


async def _serve_demo() -> None:
    settings = read(Settings, store=f"sqlite:///{_DEMO}/pollcast.db", assets=str(_DEMO / "assets"))
    key = tokens.new_key()
    async with open_store(settings.store, SystemClock()) as store:
        await store.create_key("demo", tokens.digest(key), _DEMO_TOKENS)
    async with Simulator() as simulator:
        # Explicit values win over the environment's: nothing of a demo can reach a real installation.
        providers = {
            kind.name: read(kind.settings_type, base_url=simulator.origin, api_key=_demo_key(kind), project_id="demo")
            for kind in PROVIDERS
        }
        log.info("Upstreams are simulated at %s; no provider is called.", simulator.origin)
        await _serve(settings, providers, lambda: _print_demo(settings.base_url, key))


def _demo_key(kind: type[Provider]) -> str:
    # The simulator knows its five APIs by the same short names as the environment does.
    return DEFAULT_KEYS[str(kind.settings_type.model_config["env_prefix"]).rstrip("_").lower()]


def _print_demo(url: str, key: str) -> None:
    click.echo(
        f"\nDemo key: {key}\n\nWatch a stream (any model of {url}/api/models):\n\n"
        f"curl -N {url}/api/generate -H 'Authorization: Bearer {key}' \\\n"
        """  -d '{"model": "gaga-1", "prompt": "Hello, World!"}'\n"""
    )


# --- doctor ---


@main.command()
@click.argument("url")
@click.option(
    "--key",
    default="",
    envvar="POLLCAST_KEY",
    show_envvar=True,
    help="A key, to see whether it gets through and where Links lead.",
)
@click.option("--idle", type=click.FloatRange(0, 15), default=12, show_default=True, help="Seconds with heartbeats.")
@click.option("--silence", type=click.FloatRange(0, 90), default=0, help="Seconds without any, to find a time-out.")
def doctor(url: str, key: str, idle: float, silence: float) -> None:
    """Say what the proxies in front of a server do to its streams, and what mends it; status 1 if anything does."""
    if not _run(lambda: _examine(Examination(url, key, idle, silence))):
        raise SystemExit(1)


async def _examine(examination: Examination) -> bool:
    good = True
    async with aclosing(examination.findings()) as findings:
        async for finding in findings:
            click.echo(f"{'ok' if finding.good else 'TROUBLE':8} {finding.text}")
            for line in finding.mend:
                click.echo(f"{'':8}   {line}")
            good = good and finding.good
    return good


# --- keys ---


def _not_blank(_: click.Context, __: click.Parameter, name: str) -> str:
    if not name.strip():
        raise click.BadParameter("an account needs a name that is not blank")
    return name.strip()


@main.group()
def keys() -> None:
    """Accounts' keys and tokens; works while the server runs."""


@keys.command()
@click.option("--name", required=True, callback=_not_blank, help="The account; one that exists gets one more key.")
@click.option("--tokens", "granted", type=click.IntRange(0, _MOST_TOKENS), default=0, help="Tokens to grant with it.")
def create(name: str, granted: int) -> None:
    """Make a key and print it, alone, on standard output. It is not shown again."""
    secret = tokens.new_key()
    _with_store(lambda store: store.create_key(name, tokens.digest(secret), granted))
    click.echo(secret)


@keys.command("list")
def list_keys() -> None:
    """List keys (their ids, never the keys) and balances."""
    found, accounts = _with_store(_keys_and_accounts)
    balances = {account.id: account.tokens for account in accounts}
    for key in found:
        state = "revoked" if key.revoked_at is not None else "active"
        click.echo(f"{key.id}  {state:7}  {key.name}  {balances[key.account]} tokens")


async def _keys_and_accounts(store: Store) -> tuple[Sequence[Any], Sequence[Any]]:
    return await store.keys(), await store.accounts()


@keys.command()
@click.argument("key_id")
def revoke(key_id: str) -> None:
    """Revoke a key by its id; its Links die with it."""
    if _with_store(lambda store: store.revoke_key(key_id)) is None:
        raise click.ClickException(f"There is no key {key_id}; `keys list` shows them.")
    click.echo(f"{key_id}  revoked")


@keys.command()
@click.option("--name", required=True, help="The account.")
@click.argument("amount", type=click.IntRange(-_MOST_TOKENS, _MOST_TOKENS))
def grant(name: str, amount: int) -> None:
    """Add tokens to an account (a negative AMOUNT takes)."""
    account = _with_store(lambda store: store.grant(name, amount))
    if account is None:
        raise click.ClickException(f"There is no account {name!r}; `keys create --name {name}` makes one.")
    click.echo(f"{account.name}  {account.tokens} tokens")


def _with_store(work: Callable[[Store], Awaitable[Any]]) -> Any:
    async def opened() -> Any:
        async with open_store(read(Settings).store, SystemClock()) as store:
            return await work(store)

    return _run(opened)


def _run(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run a command; what stops it is one line on standard error."""
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(work())
    except (BadSetting, PollcastError, NoAnswer, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        return None


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - not there on Windows
    except ImportError:
        return None
    return uvloop.new_event_loop
