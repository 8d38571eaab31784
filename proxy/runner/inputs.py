"""What a client brought, in the form a provider wants: bytes, an upload's id, or a URL; or what stands for them."""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from proxy.core.errors import UpstreamRejected, UpstreamUnreachable
from proxy.core.job import Job
from proxy.core.links import Links
from proxy.core.media_types import extension
from proxy.providers.base import is_asset
from proxy.store.blobs import Blobs
from proxy.store.contract import Assets
from proxy.upstream import breaker
from proxy.upstream.fetch import Fetcher, FetchFailed, FileTooLarge
from proxy.upstream.requests import File
from proxy.upstream.ssrf import NotPublic, current_account

Uploaded = TypeVar("Uploaded")


@dataclass(frozen=True, slots=True)
class JobInputs:
    """The inputs of one job: its account's assets, and URLs; each is read once, and all have at most `limit` bytes."""

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
        """The bytes behind asset ids and URLs; what is named twice counts twice, because it is sent twice.

        Raises a JobError when they cannot be had (nothing was sent then).
        """
        named, left = Counter(refs), self.limit
        for ref, times in named.items():
            if ref not in self._files:
                self._files[ref] = await self._read(ref, left // times)
            left -= times * len(self._files[ref].data)
            if left < 0:
                raise self._too_large()
        return [self._files[ref] for ref in refs]

    async def uploaded(self, ref: str, upload: Callable[[File], Awaitable[Uploaded]]) -> Uploaded:
        """What the provider's `upload` makes of the bytes behind `ref`; they are uploaded once for the job."""
        if ref not in self._uploads:
            file = await self._read(ref, self.limit)
            job = breaker.subject.set(breaker.Subject(self.job.account, ref))  # a bad file counts once, whatever job
            try:
                self._uploads[ref] = await upload(file)
            finally:
                breaker.subject.reset(job)
        uploaded: Uploaded = self._uploads[ref]
        return uploaded

    async def _read(self, ref: str, most: int) -> File:
        """The bytes behind `ref`, at most so many, and no more than the job's other inputs leave."""
        most = min(most, self.limit - sum(size for other, size in self._sizes.items() if other != ref))
        found = await (self._asset(ref, most) if is_asset(ref) else self._fetched(ref, most))
        self._sizes[ref] = len(found.data)
        return found

    def _too_large(self) -> UpstreamRejected:
        return UpstreamRejected(f"The order's inputs are larger than {self.limit} bytes together. Nothing was sent.")

    def url(self, ref: str) -> str:
        """A Link to the asset, or the URL as it is."""
        return self.links.sign(f"/api/assets/{ref}/content", self.job.key) if is_asset(ref) else ref

    async def _asset(self, ref: str, most: int) -> File:
        asset = await self.store.asset(self.job.account, ref)
        if asset is None:
            raise UpstreamRejected(f"{ref} is gone; nothing was sent.")
        if asset.size > most:
            raise self._too_large()
        return File(ref + extension(asset.type), asset.type, await self.blobs.read(asset.blob))

    async def _fetched(self, ref: str, most: int) -> File:
        current_account.set(self.job.account)
        try:
            fetched = await self.fetcher.read(ref, most)
        except FileTooLarge as error:
            if most < self.limit:
                raise self._too_large() from None
            raise UpstreamRejected(f"{error} Nothing was sent.") from None
        except NotPublic as error:
            raise UpstreamRejected(f"{error} Nothing was sent.") from None
        except FetchFailed as error:
            kind = UpstreamRejected if error.reached else UpstreamUnreachable
            raise kind(f"{error} Nothing was sent.") from None
        if fetched.type is None:
            raise UpstreamRejected("The URL's bytes are no image, audio or video that is known. Nothing was sent.")
        return File("input" + extension(fetched.type), fetched.type, fetched.data)
