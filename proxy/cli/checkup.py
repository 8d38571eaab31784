"""What `check` finds out: whether the store, the assets' storage and every provider's key work, here and now.

Nothing that it does is paid for, and nothing of it is left behind.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Final

from proxy.core.clock import Clock
from proxy.core.errors import PollcastError
from proxy.core.job import new_id
from proxy.core.settings import ProviderSettings, Settings, is_loopback, through, unknown_variables
from proxy.providers.base import Provider
from proxy.store import open_store
from proxy.store.blobs import Blobs
from proxy.upstream.answers import CredentialRefused, ReadFailed

_PATIENCE: Final = 20.0
"""Seconds that a provider, or the storage, is waited for."""
_GUESSED: Final = 16
"""Characters of a secret that is too short to withstand guessing, by who has one Link."""


class State(StrEnum):
    """How it stands with one thing."""

    OK = "ok"
    NO_KEY = "no key"
    WARNING = "warning"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """How it stands with `subject`, and how long it took to find out, in seconds."""

    subject: str
    state: State
    remark: str = ""
    seconds: float | None = None

    @property
    def works(self) -> bool:
        """Whether what is set up works; what is not set up is no fault."""
        return self.state not in {State.REFUSED, State.FAILED}

    def __str__(self) -> str:
        took = f" ({self.seconds:.1f} s)" if self.seconds is not None else ""
        remark = f": {self.remark}" if self.remark else ""
        return f"{self.subject:11} {self.state}{took}{remark}"


async def checkup(
    settings: Settings, providers: Mapping[type[Provider], ProviderSettings], clock: Clock
) -> AsyncIterator[CheckResult]:
    """Look at everything, the providers at the same time, and tell each finding in its turn."""
    yield _public_url(settings)
    for line in unknown_variables(kind.settings_type for kind in providers):
        yield CheckResult("settings", State.WARNING, line)
    if any(len(secret) < _GUESSED for secret in settings.secrets):
        yield CheckResult(
            "secret", State.WARNING, f"POLLCAST_SECRET is shorter than {_GUESSED} characters: it can be guessed"
        )
    yield await _found("store", partial(_store, settings, clock), clock)
    yield await _found("assets", partial(_assets, settings), clock)
    made = [kind(through(own, settings), clock, settings.base_url) for kind, own in providers.items()]
    for finding in await asyncio.gather(*(_provider(provider, clock) for provider in made)):
        yield finding


def opened_here_alone(url: str) -> str:
    """What is wrong with a base of Links that names this machine's own."""
    return f"Links begin with {url}, which nobody but this machine can open: set POLLCAST_PUBLIC_URL"


def _public_url(settings: Settings) -> CheckResult:
    url = settings.base_url
    if is_loopback(url):
        return CheckResult("public URL", State.WARNING, opened_here_alone(url))
    return CheckResult("public URL", State.OK, url)


async def _store(settings: Settings, clock: Clock) -> str:
    async with open_store(settings.store, clock) as store:
        await store.ping()
    return ""


async def _assets(settings: Settings) -> str:
    blobs, name, data = Blobs(settings.assets), new_id("check"), b"pollcast"
    await blobs.put(name, data)
    try:
        kept = await blobs.read(name)
    finally:
        await blobs.delete(name)
    if kept != data:
        raise OSError("what was written reads back as something else")
    return ""


async def _provider(provider: Provider, clock: Clock) -> CheckResult:
    if not provider.configured:
        return CheckResult(provider.name, State.NO_KEY)
    async with provider.upstream:
        return await _found(provider.name, provider.check_key, clock)


async def _found(subject: str, look: Callable[[], Awaitable[str]], clock: Clock) -> CheckResult:
    began = clock.monotonic()
    try:
        async with asyncio.timeout(_PATIENCE):
            state, remark = State.OK, await look()
    except CredentialRefused as error:
        state, remark = State.REFUSED, error.message
    except TimeoutError:
        state, remark = State.FAILED, f"no answer within {_PATIENCE:g} seconds"
    except (ReadFailed, PollcastError, OSError, ValueError) as error:
        state, remark = State.FAILED, str(error)
    return CheckResult(subject, state, remark, clock.monotonic() - began)
