"""Input media of a job, in the form that its provider takes: bytes, the id of an upload, or a URL."""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from proxy.core.errors import UpstreamRejected, UpstreamUnreachable
from proxy.core.job import Job
from proxy.core.links import Links
from proxy.core.media_types import extension
from proxy.providers.fields import is_asset
from proxy.store.blobs import Blobs
from proxy.store.contract import Assets
from proxy.upstream import breaker
from proxy.upstream.fetch import Fetcher, FetchFailed, FileTooLarge
from proxy.upstream.requests import File
from proxy.upstream.ssrf import NotPublic, current_account

Uploaded = TypeVar("Uploaded")


@dataclass(frozen=True, slots=True)
class JobInputs:
    """Input media of one job: assets of its account, and URLs. Each is read once; all have at most `limit` bytes."""

    job: Job
    store: Assets
    blobs: Blobs
    fetcher: Fetcher
    links: Links
    limit: int
    _files: dict[str, File] = field(default_factory=dict, init=False, repr=False)
    _uploads: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    _sizes: dict[str, int] = field(default_factory=dict, init=False, repr=False)

    async def files(self, refs: Sequence[str]) -> list[File]:
        """Return the bytes of asset ids and URLs. A repeated one counts twice, because it is sent twice.

        Raises a JobError if they cannot be read. Nothing was sent then.
        """
        named, left = Counter(refs), self.limit
        for ref, times in named.items():
            if ref not in self._files:
                self._files[ref] = await self._read(ref, left // times)
            left -= times * len(self._files[ref].data)
            if left < 0:
                raise self._too_large()
        return [self._files[ref] for ref in refs]

    async def upload(self, ref: str, send: Callable[[File], Awaitable[Uploaded]]) -> Uploaded:
        """Upload an asset or URL with the adapter's function `send`, once for the job, and return its result."""
        if ref not in self._uploads:
            file = await self._read(ref, self.limit)
            # a bad file counts once, not for each job
            token = breaker.subjects.set((breaker.Subject(self.job.account, ref),))
            try:
                self._uploads[ref] = await send(file)
            finally:
                breaker.subjects.reset(token)
        uploaded: Uploaded = self._uploads[ref]
        return uploaded

    async def _read(self, ref: str, limit: int) -> File:
        """Return the bytes of an asset id or URL: at most `limit`, and no more than the job's other inputs leave."""
        limit = min(limit, self.limit - sum(size for other, size in self._sizes.items() if other != ref))
        file = await (self._read_asset(ref, limit) if is_asset(ref) else self._fetch(ref, limit))
        self._sizes[ref] = len(file.data)
        return file

    def _too_large(self) -> UpstreamRejected:
        return UpstreamRejected(f"The order's inputs are larger than {self.limit} bytes together. Nothing was sent.")

    def url(self, ref: str) -> str:
        """Return a signed Link to the asset, or the URL unchanged."""
        return self.links.sign(f"/api/assets/{ref}/content", self.job.key) if is_asset(ref) else ref

    async def _read_asset(self, ref: str, limit: int) -> File:
        asset = await self.store.asset(self.job.account, ref)
        if asset is None:
            raise UpstreamRejected(f"{ref} has been deleted. Nothing was sent.")
        if asset.size > limit:
            raise self._too_large()
        return File(ref + extension(asset.type), asset.type, await self.blobs.read(asset.blob))

    async def _fetch(self, ref: str, limit: int) -> File:
        token = current_account.set(self.job.account)
        try:
            fetched = await self.fetcher.read(ref, limit)
        except FileTooLarge as error:
            if limit < self.limit:
                raise self._too_large() from None
            raise UpstreamRejected(f"{error} Nothing was sent.") from None
        except NotPublic as error:
            raise UpstreamRejected(f"{error} Nothing was sent.") from None
        except FetchFailed as error:
            kind = UpstreamRejected if error.reached else UpstreamUnreachable
            raise kind(f"{error} Nothing was sent.") from None
        finally:
            current_account.reset(token)
        if fetched.type is None:
            raise UpstreamRejected("The URL is not an image, audio or video of a known type. Nothing was sent.")
        return File("input" + extension(fetched.type), fetched.type, fetched.data)
