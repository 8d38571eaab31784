"""What a client brought, in the form a provider wants: bytes, an upload's id, or a URL; or what stands for them."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from proxy import breaker
from proxy.blobs import Blobs
from proxy.errors import NotFound, UpstreamRejected, UpstreamUnreachable
from proxy.fetch import Fetcher, FetchFailed, NotPublic
from proxy.job import Job
from proxy.links import Links
from proxy.media_types import UNKNOWN, extension
from proxy.providers.base import is_asset
from proxy.store.base import Store
from proxy.upstream import File

Uploaded = TypeVar("Uploaded")


@dataclass(frozen=True, slots=True)
class JobInputs:
    """The inputs of one job: its account's assets, and URLs of at most `limit` bytes."""

    job: Job
    store: Store
    blobs: Blobs
    fetcher: Fetcher
    links: Links
    limit: int
    _uploads: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    async def file(self, ref: str) -> File:
        """The bytes behind an asset id or URL; a JobError when they cannot be had (nothing was sent then)."""
        return await (self._asset(ref) if is_asset(ref) else self._fetched(ref))

    async def uploaded(self, ref: str, upload: Callable[[File], Awaitable[Uploaded]]) -> Uploaded:
        """What the provider's `upload` makes of the bytes behind `ref`; they are uploaded once for the job."""
        if ref not in self._uploads:
            file = await self.file(ref)
            job = breaker.subject.set(breaker.Subject(self.job.account, ref))  # a bad file counts once, whatever job
            try:
                self._uploads[ref] = await upload(file)
            finally:
                breaker.subject.reset(job)
        uploaded: Uploaded = self._uploads[ref]
        return uploaded

    def url(self, ref: str) -> str:
        """A Link to the asset, or the URL as it is."""
        return self.links.sign(f"/api/assets/{ref}/content", self.job.key) if is_asset(ref) else ref

    async def _asset(self, ref: str) -> File:
        asset = await self.store.asset(self.job.account, ref)
        if asset is None:
            raise UpstreamRejected(f"{ref} is gone; nothing was sent.")
        return File(ref + extension(asset.type), asset.type, await self.blobs.read(asset.blob))

    async def _fetched(self, ref: str) -> File:
        try:
            fetched = await self.fetcher.read(ref, self.limit)
        except NotPublic as error:
            raise UpstreamRejected(f"{error} Nothing was sent.") from None
        except FetchFailed as error:
            kind = UpstreamRejected if error.reached else UpstreamUnreachable
            raise kind(f"{error} Nothing was sent.") from None
        if fetched.type is None:
            raise UpstreamRejected("The URL's bytes are no image, audio or video that is known. Nothing was sent.")
        return File("input" + extension(fetched.type), fetched.type, fetched.data)


@dataclass(frozen=True, slots=True)
class Placeholder(File):
    """A file without its bytes, for a request that is shown and not sent."""

    shown: str

    def data_url(self) -> str:
        """What stands where the bytes would."""
        return f"data:{self.type};base64,{self.shown}"


@dataclass(frozen=True, slots=True)
class DryInputs:
    """The inputs of a dry run: nothing is read, fetched or uploaded."""

    account: str
    store: Store
    links: Links

    async def file(self, ref: str) -> Placeholder:
        """What stands for the bytes behind an asset id or URL. Raises NotFound."""
        if not is_asset(ref):
            return Placeholder("input", UNKNOWN, b"", f"<file from {ref}>")
        asset = await self.store.asset(self.account, ref)
        if asset is None:
            raise NotFound(f"There is no asset {ref[:100]}.")
        name = ref + extension(asset.type)
        return Placeholder(name, asset.type, b"", f"<file {name}, {asset.size} bytes>")

    async def uploaded(self, ref: str, upload: Callable[[File], Awaitable[str]]) -> str:
        """What stands for the provider's id of an upload."""
        del upload
        return f"<upload of {ref}>"

    def url(self, ref: str) -> str:
        """What stands for the Link to an asset; a URL as it is."""
        return f"<Link to {self.links.absolute(f'/api/assets/{ref}/content')}>" if is_asset(ref) else ref
