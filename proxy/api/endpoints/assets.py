"""Endpoints of assets: files that a client uploads, or has fetched from a public URL, for use in orders."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from proxy.api.body import AssetUrl
from proxy.api.downloads import StoredFiles
from proxy.api.limits import AccountLimits
from proxy.api.multipart import file_of
from proxy.api.request import BodyReader, json_response, refuse_fields
from proxy.api.services import find_asset
from proxy.core.clock import Clock, rfc3339
from proxy.core.errors import FieldError, TooLarge, UnsupportedType
from proxy.core.job import new_id
from proxy.core.links import Links
from proxy.core.media_types import SNIFFED, sniff
from proxy.core.tracks import Read, with_tracks
from proxy.store import contract
from proxy.store.blobs import Blobs, asset_blob
from proxy.store.types import Asset, Key, no_asset
from proxy.upstream.fetch import Fetcher, FetchFailed, FileTooLarge
from proxy.upstream.ssrf import NotPublic, check_public

_MULTIPART_OVERHEAD: Final = 1 << 16
"""Maximum size of a multipart body beyond its file, in bytes."""


@dataclass(frozen=True, slots=True)
class AssetSource:
    """Reads an asset's bytes: from the body of a request, or from the URL that the body names.

    `max_size` is the maximum size of an asset, in bytes.
    """

    bodies: BodyReader
    fetcher: Fetcher
    max_size: int

    async def open(self, request: Request) -> AsyncGenerator[bytes]:
        """Return the chunks of the asset's bytes. Opening and reading raise the errors of a refused asset."""
        content_type = request.headers.get("Content-Type", "")
        if content_type.lower().startswith("multipart/form-data"):
            return self._read_upload(request, content_type)
        return self._fetch(await self._read_url(request))

    async def _read_upload(self, request: Request, content_type: str) -> AsyncGenerator[bytes]:
        size = 0
        body = self.bodies.chunks(request, self.max_size + _MULTIPART_OVERHEAD)
        async for chunk in file_of("file", content_type, body):
            size += len(chunk)
            if size > self.max_size:
                raise TooLarge(f"The file is larger than {self.max_size} bytes.")
            yield chunk

    async def _read_url(self, request: Request) -> str:
        expected = 'Send a file as multipart field `file`, or a JSON object {"url": "https://..."}'
        url = (await self.bodies.record(request, AssetUrl, expected)).url
        try:
            await check_public(url)
        except NotPublic as error:
            refuse_fields([FieldError("url", str(error))])
        return url

    async def _fetch(self, url: str) -> AsyncGenerator[bytes]:
        try:
            async with aclosing(self.fetcher.stream(url, self.max_size)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except FileTooLarge as error:
            raise TooLarge(str(error)) from None
        except (NotPublic, FetchFailed) as error:
            refuse_fields([FieldError("url", str(error))])


@dataclass(frozen=True, slots=True)
class NewAssets:
    """The endpoint that adds assets. The file is stored as it arrives, so that memory never holds all of it."""

    store: contract.Assets
    blobs: Blobs
    links: Links
    limits: AccountLimits
    clock: Clock
    source: AssetSource

    async def add(self, request: Request, key: Key) -> Response:
        """Store the file of a multipart body, or the file at the URL of a JSON body."""
        with self.limits.reserve_upload(key.account):
            asset = await self._keep(key, await self.source.open(request))
        return json_response(_as_json(asset, self.links, key), 201)

    async def _keep(self, key: Key, chunks: AsyncGenerator[bytes]) -> Asset:
        """Store the bytes, if their type is supported, and then the asset's record.

        After a crash in between, `runner/housekeeping.py` deletes the bytes.
        """
        asset_id = new_id("asset")
        blob = asset_blob(key.account, asset_id)
        async with _closing(chunks):
            head = await _head(chunks)
            media_type = sniff(head[:SNIFFED])
            if media_type is None:
                raise UnsupportedType("The file must be an image (JPEG, PNG, GIF, WebP), a video or audio.")
            await self.blobs.put(blob, _join(head, chunks))
        size = await self.blobs.size(blob)
        media_type = await with_tracks(media_type, size, self._reader(blob))
        asset = Asset(asset_id, key.account, media_type, size, blob, self.clock.now())
        await self.store.add_asset(asset)
        return asset

    def _reader(self, blob: str) -> Read:
        async def read(start: int, end: int) -> bytes:
            return b"".join([piece async for piece in self.blobs.stream(blob, start, end)])

        return read


@dataclass(frozen=True, slots=True)
class AssetEndpoints:
    """The endpoints that show, deliver and delete assets."""

    store: contract.Assets
    blobs: Blobs
    links: Links
    stored_files: StoredFiles

    async def asset(self, request: Request, key: Key) -> Response:
        """Return an asset."""
        asset = await find_asset(self.store, key.account, request.path_params["asset"])
        return json_response(_as_json(asset, self.links, key))

    async def delete(self, request: Request, key: Key) -> Response:
        """Delete an asset and its bytes."""
        asset_id = request.path_params["asset"]
        asset = await self.store.delete_asset(key.account, asset_id)
        if asset is None:
            raise no_asset(asset_id)
        await self.blobs.delete(asset.blob)
        return Response(status_code=204)

    async def content(self, request: Request, key: Key) -> Response:
        """Return an asset's bytes."""
        asset = await find_asset(self.store, key.account, request.path_params["asset"])
        return await self.stored_files.deliver(request, asset.blob, asset.id, asset.type)


def _as_json(asset: Asset, links: Links, key: Key) -> dict[str, Any]:
    """Return the asset as JSON, as `openapi.shapes.Asset` describes it."""
    return {
        "id": asset.id,
        "type": asset.type,
        "size": asset.size,
        "url": links.sign(f"/api/assets/{asset.id}/content", key.id),
        "created_at": rfc3339(asset.created_at),
    }


@asynccontextmanager
async def _closing(chunks: AsyncGenerator[bytes]) -> AsyncIterator[None]:
    """Close the chunks when the body of the `async with` is left."""
    try:
        yield
    finally:
        # When the server's shutdown cancels `put`, the storage still waits for the next chunk, and ends with it.
        with suppress(RuntimeError):
            await chunks.aclose()


async def _head(chunks: AsyncIterator[bytes]) -> bytes:
    """Return the first bytes: enough to detect the media type, or all of a short file."""
    head = b""
    async for chunk in chunks:
        head += chunk
        if len(head) >= SNIFFED:
            break
    return head


async def _join(head: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield head
    async for chunk in rest:
        yield chunk
