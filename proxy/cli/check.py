"""`check`: reports whether the settings, the store, the asset storage and every provider's key work.

Nothing is paid for, and nothing is left behind.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Final

import click

from proxy.app import Pollcast
from proxy.cli.run import run
from proxy.core.clock import Clock, SystemClock
from proxy.core.errors import PollcastError
from proxy.core.job import new_id
from proxy.core.settings import ProviderSettings, Settings, is_loopback, load, through, unknown_variables
from proxy.core.text import replace_unprintable
from proxy.providers.base import Provider
from proxy.providers.registry import ProviderKind, installed_registry
from proxy.store import open_store
from proxy.store.blobs import Blobs
from proxy.upstream.answers import CredentialRefused, ReadFailed

_CHECK_TIMEOUT: Final = 20.0
"""Seconds to wait for one provider, the store or the asset storage."""
_MIN_SECRET_LENGTH: Final = 16
"""Characters. Anyone with one Link could guess a shorter secret."""


class CheckState(StrEnum):
    """Outcome of one check."""

    OK = "ok"
    NO_KEY = "no key"
    WARNING = "warning"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Result of checking `subject`, and the seconds that the check took."""

    subject: str
    state: CheckState
    remark: str = ""
    seconds: float | None = None

    @property
    def works(self) -> bool:
        """True unless the check failed. A provider without a key is not a failure."""
        return self.state not in {CheckState.REFUSED, CheckState.FAILED}

    def __str__(self) -> str:
        took = f" ({self.seconds:.1f} s)" if self.seconds is not None else ""
        remark = f": {self.remark}" if self.remark else ""
        return f"{self.subject:11} {self.state}{took}{remark}"


async def check_all(
    settings: Settings, providers: Sequence[tuple[ProviderKind, ProviderSettings]], clock: Clock
) -> AsyncIterator[CheckResult]:
    """Check everything, the providers with their settings in parallel, and yield the results in a fixed order."""
    yield _public_url(settings)
    for line in unknown_variables(kind.settings_type for kind, _ in providers):
        yield CheckResult("settings", CheckState.WARNING, line)
    if any(len(secret) < _MIN_SECRET_LENGTH for secret in settings.secrets):
        yield CheckResult(
            "secret",
            CheckState.WARNING,
            f"POLLCAST_SECRET is shorter than {_MIN_SECRET_LENGTH} characters and can be guessed",
        )
    yield await _run_check("store", partial(_store, settings, clock), clock)
    yield await _run_check("assets", partial(_assets, settings), clock)
    adapters = [kind(through(own, settings), clock, settings.base_url) for kind, own in providers]
    for result in await asyncio.gather(*(_provider(provider, clock) for provider in adapters)):
        yield result


def local_url_warning(url: str) -> str:
    """Return the warning for Links whose base URL is a loopback address."""
    return f"Links begin with {url}, which only this machine can open: set POLLCAST_PUBLIC_URL"


def _public_url(settings: Settings) -> CheckResult:
    url = settings.base_url
    if is_loopback(url):
        return CheckResult("public URL", CheckState.WARNING, local_url_warning(url))
    return CheckResult("public URL", CheckState.OK, url)


async def _store(settings: Settings, clock: Clock) -> str:
    async with open_store(settings.store, clock) as store:
        await store.ping()
    return ""


async def _assets(settings: Settings) -> str:
    blobs, name, data = Blobs(settings.assets), new_id("check"), b"pollcast"
    await blobs.put(name, data)
    try:
        stored = await blobs.read(name)
    finally:
        await blobs.delete(name)
    if stored != data:
        raise OSError("the storage returned other bytes than were written")
    return ""


async def _provider(provider: Provider, clock: Clock) -> CheckResult:
    if not provider.is_configured:
        return CheckResult(provider.name, CheckState.NO_KEY)
    async with provider.upstream:
        return await _run_check(provider.name, provider.check_key, clock)


async def _run_check(subject: str, check: Callable[[], Awaitable[str]], clock: Clock) -> CheckResult:
    began = clock.monotonic()
    try:
        async with asyncio.timeout(_CHECK_TIMEOUT):
            state, remark = CheckState.OK, await check()
    except CredentialRefused as error:
        state, remark = CheckState.REFUSED, error.message
    except TimeoutError:
        state, remark = CheckState.FAILED, f"no answer within {_CHECK_TIMEOUT:g} seconds"
    except (ReadFailed, PollcastError, OSError, ValueError) as error:
        state, remark = CheckState.FAILED, str(error)
    return CheckResult(subject, state, remark, clock.monotonic() - began)


@click.command()
def check() -> None:
    """Check the settings, the store, the asset storage and every provider's key. Nothing is paid for.

    Exit status 0 means that everything that is set up works. Otherwise it is 1.
    """
    sys.exit(0 if run(_check) else 1)


async def _check() -> bool:
    settings = load(Settings)
    registry = installed_registry(settings)
    Pollcast(settings, registry=registry)  # raises BadSetting if settings contradict each other
    works = True
    providers = [(kind, load(kind.settings_type)) for kind in registry.providers]
    async for result in check_all(settings, providers, SystemClock()):
        click.echo(replace_unprintable(str(result)))
        works = works and result.works
    return works
