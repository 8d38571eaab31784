"""Assets: bytes that a client brings in, from its disk or from a public URL."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from proxy.api import downloads
from proxy.api.body import AssetPlace
from proxy.api.multipart import file_of
from proxy.api.request import answer, limited, record, refuse_fields
from proxy.api.services import ApiServices
from proxy.core.clock import rfc3339
from proxy.core.errors import FieldError, NotFound, TooLarge, UnsupportedType
from proxy.core.job import new_id
from proxy.core.media_types import SNIFFED, sniff
from proxy.core.tracks import Read, with_tracks
from proxy.store.blobs import asset_blob
from proxy.store.types import Asset, Key
from proxy.upstream.fetch import FetchFailed, FileTooLarge
from proxy.upstream.ssrf import NotPublic, check_public

_MULTIPART_ROOM: Final = 1 << 16
"""Bytes that a multipart body may have beyond its file."""


@dataclass(frozen=True, slots=True)
class Assets:
    """The endpoints of assets."""

    services: ApiServices

    async def add_asset(self, request: Request) -> Response:
        """Take in a file: multipart `file`, or JSON `{"url"}`. It is stored as it comes, and never held whole."""
        key = await self.services.auth.key(request)
        with self.services.limits.uploading(key.account):
            asset = await self._taken(request, key)
        return answer(self._asset(asset, key), 201)

    async def _taken(self, request: Request, key: Key) -> Asset:
        content_type = request.headers.get("Content-Type", "")
        if content_type.lower().startswith("multipart/form-data"):
            return await self._keep(key, self._uploaded(request, content_type))
        return await self._keep(key, self._fetched(await self._place(request)))

    async def _keep(self, key: Key, chunks: AsyncGenerator[bytes]) -> Asset:
        """Store the bytes, if they are of a type that is taken, and then the asset's record.

        Bytes that are left without a record by a crash in between are swept away later (`orphans.py`).
        """
        asset_id = new_id("asset")
        blob = asset_blob(key.account, asset_id)
        async with _closed(chunks):
            head = await _head(chunks)
            media_type = sniff(head[:SNIFFED])
            if media_type is None:
                raise UnsupportedType("The bytes are no image (JPEG, PNG, GIF, WebP), video or audio of a known type.")
            await self.services.blobs.put(blob, _joined(head, chunks))
        size = await self.services.blobs.size(blob)
        media_type = await with_tracks(media_type, size, self._stored(blob))
        asset = Asset(asset_id, key.account, media_type, size, blob, self.services.clock.now())
        await self.services.store.add_asset(asset)
        return asset

    def _stored(self, blob: str) -> Read:
        async def read(start: int, end: int) -> bytes:
            return b"".join([piece async for piece in self.services.blobs.stream(blob, start, end)])

        return read

    async def _uploaded(self, request: Request, content_type: str) -> AsyncGenerator[bytes]:
        limit, size = self.services.asset_limit, 0
        async for chunk in file_of("file", content_type, limited(request, limit + _MULTIPART_ROOM)):
            size += len(chunk)
            if size > limit:
                raise TooLarge(f"The file is larger than {limit} bytes.")
            yield chunk

    async def _place(self, request: Request) -> str:
        what = 'A file is sent as multipart `file`, or named by a JSON object, {"url": "https://..."}'
        url = (await record(request, AssetPlace, what)).url
        try:
            await check_public(url)
        except NotPublic as error:
            refuse_fields([FieldError("url", str(error))])
        return url

    async def _fetched(self, url: str) -> AsyncGenerator[bytes]:
        try:
            async with aclosing(self.services.fetcher.stream(url, self.services.asset_limit)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except FileTooLarge as error:
            raise TooLarge(str(error)) from None
        except (NotPublic, FetchFailed) as error:
            refuse_fields([FieldError("url", str(error))])

    async def asset(self, request: Request) -> Response:
        """GET: the asset. DELETE: forget it and its bytes."""
        key = await self.services.auth.key(request)
        asset_id = request.path_params["asset"]
        if request.method != "DELETE":
            return answer(self._asset(await self._own_asset(key, asset_id), key))
        asset = await self.services.store.delete_asset(key.account, asset_id)
        if asset is None:
            raise NotFound(f"There is no asset {asset_id[:100]}.")
        await self.services.blobs.delete(asset.blob)
        return Response(status_code=204)

    async def asset_content(self, request: Request) -> Response:
        """The asset's bytes."""
        key = await self.services.auth.key_or_link(request)
        asset = await self._own_asset(key, request.path_params["asset"])
        return await downloads.stored(request, self.services.blobs, asset.blob, asset.id, asset.type)

    async def _own_asset(self, key: Key, asset_id: str) -> Asset:
        asset = await self.services.store.asset(key.account, asset_id)
        if asset is None:
            raise NotFound(f"There is no asset {asset_id[:100]}.")
        return asset

    def _asset(self, asset: Asset, key: Key) -> dict[str, Any]:
        return {
            "id": asset.id,
            "type": asset.type,
            "size": asset.size,
            "url": self.services.links.sign(f"/api/assets/{asset.id}/content", key.id),
            "created_at": rfc3339(asset.created_at),
        }


@asynccontextmanager
async def _closed(chunks: AsyncGenerator[bytes]) -> AsyncIterator[None]:
    """Close what is read in the body, once it is left."""
    try:
        yield
    finally:
        # Where the server's stop cancels a put, the storage is still waiting for the next piece, and ends with that.
        with suppress(RuntimeError):
            await chunks.aclose()


async def _head(chunks: AsyncIterator[bytes]) -> bytes:
    """The first bytes: enough to tell their type, or all there are."""
    head = b""
    async for chunk in chunks:
        head += chunk
        if len(head) >= SNIFFED:
            break
    return head


async def _joined(head: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield head
    async for chunk in rest:
        yield chunk
