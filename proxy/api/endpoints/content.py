"""What jobs made: our own bytes, the provider's relayed, or a redirect to where they are now."""

import asyncio
from dataclasses import dataclass, field
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from proxy.api import downloads
from proxy.api.services import ApiServices
from proxy.core.errors import Conflict, NotFound, UpstreamFailed
from proxy.core.job import Job
from proxy.providers.base import Provider, Source
from proxy.upstream import breaker
from proxy.upstream.answers import CredentialRefused, ReadFailed, Transient

_FRESH: Final = 60.0
"""Seconds that a source is believed: a player that seeks asks for many ranges in a row."""
_KEPT: Final = 1000
"""Sources that are remembered at most."""
_PATIENCE: Final = 10.0
"""Seconds that a provider may take to say where its file is."""


@dataclass(frozen=True, slots=True)
class Contents:
    """The endpoints of outputs."""

    services: ApiServices
    _sources: dict[tuple[str, int], tuple[float, Source]] = field(default_factory=dict, init=False, repr=False)

    async def content(self, request: Request) -> Response:
        """Output n of a finished job."""
        key = await self.services.auth.key_or_link(request)
        job = await self.services.job(key, request.path_params["job"])
        if not job.status.final:
            raise Conflict(f"{job.id} is not over: there is no content yet.")
        n = _number(request.path_params.get("n", "0"))
        if n >= len(job.outputs):
            raise NotFound(f"{job.id} has no output {n}." + (f" {job.message}" if job.message else ""))
        output = job.outputs[n]
        if output.failed:
            raise NotFound(f"Output {n} of {job.id} failed: {output.message}")
        if output.blob:
            return await downloads.stored(request, self.services.blobs, output.blob, f"{job.id}-{n}", output.type)
        provider = self.services.catalogue.provider(job.model)
        try:
            return await self._provided(request, provider, job, n)
        except downloads.SourceGone:
            # What was remembered has expired, or what the provider said a moment ago: it is asked anew, once.
            self._sources.pop((job.id, n), None)
            return await self._provided(request, provider, job, n)

    async def _provided(self, request: Request, provider: Provider, job: Job, n: int) -> Response:
        source = await self._source(provider, job, n)
        if not (self.services.relay or source.keyed):
            return downloads.redirect(source.url)
        name, media_type = f"{job.id}-{n}", job.outputs[n].type
        return await downloads.relayed(
            request, self.services.fetcher, provider, source, name=name, media_type=media_type
        )

    async def _source(self, provider: Provider, job: Job, n: int) -> Source:
        """Where output n is: asked for each redirect, and remembered for a while for what passes through here."""
        if not (self.services.relay or job.outputs[n].relayed):
            return await _asked(provider, job, n)
        now = self.services.clock.now()
        until, source = self._sources.get((job.id, n), (now, None))
        if source is None or until <= now:
            source = await _asked(provider, job, n)
            while len(self._sources) >= _KEPT:
                del self._sources[next(iter(self._sources))]
            self._sources[job.id, n] = now + _FRESH, source
        return source


async def _asked(provider: Provider, job: Job, n: int) -> Source:
    """Where the provider says that the output is; where it cannot be asked now, its URL as it was."""
    output = job.outputs[n]
    breaker.subject.set(breaker.Subject(job.account, job.id))
    try:
        async with asyncio.timeout(_PATIENCE):
            return await provider.content(job.ticket or {}, output, n)
    except (Transient, CredentialRefused, TimeoutError) as error:
        if output.url:
            return Source(output.url)
        reason = str(error) or "it does not answer."
    except ReadFailed as error:
        reason = error.message
    raise UpstreamFailed(f"The provider does not say where the content is: {reason}")


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 9):
        raise NotFound("Outputs are numbered 0, 1, 2 ...")
    return int(text)
