"""The endpoint of outputs: stored bytes, a provider's bytes relayed, or a redirect to the provider's URL."""

import asyncio
from dataclasses import dataclass, field
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from proxy.api.catalogue import Catalogue
from proxy.api.downloads import RelayedFiles, SourceGone, StoredFiles, redirect
from proxy.api.services import find_job
from proxy.core.clock import Clock
from proxy.core.errors import Conflict, NotFound, UpstreamFailed
from proxy.core.job import Job
from proxy.providers.base import Provider, Source
from proxy.store.contract import Jobs
from proxy.store.types import Key
from proxy.upstream import breaker
from proxy.upstream.answers import CredentialRefused, ReadFailed, Transient

_SOURCE_CACHE_SECONDS: Final = 60.0
"""Cache lifetime of a source, in seconds. A player that seeks asks for many ranges in a row."""
_MAX_CACHED_SOURCES: Final = 1000
"""Maximum number of cached sources. The oldest one is dropped first."""
_MAX_DIGITS: Final = 8
"""Maximum number of digits of an output's number."""


@dataclass(frozen=True, slots=True)
class Contents:
    """The endpoint that delivers outputs."""

    store: Jobs
    catalogue: Catalogue
    stored_files: StoredFiles
    provider_files: "ProviderFiles"

    async def content(self, request: Request, key: Key) -> Response:
        """Return output n of a finished job."""
        job = await find_job(self.store, key.account, request.path_params["job"])
        if not job.status.final:
            raise Conflict(f"{job.id} has not ended yet: it has no content.")
        n = _number(request.path_params.get("n", "0"))
        if n >= len(job.outputs):
            raise NotFound(f"{job.id} has no output {n}." + (f" {job.message}" if job.message else ""))
        output = job.outputs[n]
        if output.failed:
            raise NotFound(f"Output {n} of {job.id} failed: {output.message}")
        if output.blob:
            return await self.stored_files.deliver(request, output.blob, f"{job.id}-{n}", output.type)
        return await self.provider_files.deliver(request, self.catalogue.provider(job.model), job, n)


@dataclass(frozen=True, slots=True)
class ProviderFiles:
    """Delivers outputs that a provider stores: relays the bytes, or redirects to the provider's URL.

    `timeout` is the maximum time for a provider to return the URL, in seconds.
    """

    relayed_files: RelayedFiles
    clock: Clock
    relay: bool
    timeout: float
    _sources: dict[tuple[str, int], tuple[float, Source]] = field(default_factory=dict, init=False, repr=False)

    async def deliver(self, request: Request, provider: Provider, job: Job, n: int) -> Response:
        """Return output n of the job. Raises UpstreamFailed and UpstreamUnreachable."""
        try:
            return await self._deliver(request, provider, job, n)
        except SourceGone:
            # The URL has expired, cached or not. Ask the provider for a new one, once.
            self._sources.pop((job.id, n), None)
            return await self._deliver(request, provider, job, n)

    async def _deliver(self, request: Request, provider: Provider, job: Job, n: int) -> Response:
        source = await self._source(provider, job, n)
        if not (self.relay or source.needs_key):
            return redirect(source.url)
        name, media_type = f"{job.id}-{n}", job.outputs[n].type
        return await self.relayed_files.deliver(request, provider, source, name=name, media_type=media_type)

    async def _source(self, provider: Provider, job: Job, n: int) -> Source:
        """Return the source of output n. It is cached if its bytes are relayed, but not for redirects."""
        if not (self.relay or job.outputs[n].relayed):
            return await self._request_source(provider, job, n)
        now = self.clock.now()
        until, source = self._sources.get((job.id, n), (now, None))
        if source is None or until <= now:
            source = await self._request_source(provider, job, n)
            while len(self._sources) >= _MAX_CACHED_SOURCES:
                del self._sources[next(iter(self._sources))]
            self._sources[job.id, n] = now + _SOURCE_CACHE_SECONDS, source
        return source

    async def _request_source(self, provider: Provider, job: Job, n: int) -> Source:
        """Ask the provider for the output's URL. If it cannot be reached now, return the URL in the job's record."""
        output = job.outputs[n]
        breaker.subjects.set((breaker.Subject(job.account, job.id),))
        try:
            async with asyncio.timeout(self.timeout):
                return await provider.content(job.ticket or {}, output, n)
        except (Transient, CredentialRefused, TimeoutError) as error:
            if output.url:
                return Source(output.url)
            reason = str(error) or "it does not answer."
        except ReadFailed as error:
            reason = error.message
        raise UpstreamFailed(f"The provider did not return the URL of the content: {reason}")


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        raise NotFound("Outputs are numbered 0, 1, 2 ...")
    return int(text)
