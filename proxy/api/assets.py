"""Assets: bytes that a client brings in, from its disk or from a public URL."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import orjson
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import Response

from proxy import media
from proxy.api.reading import answer, body, limited, refuse_fields
from proxy.api.services import Services
from proxy.clock import rfc3339
from proxy.errors import BadRequest, FieldError, NotFound, TooLarge, UnsupportedType
from proxy.fetch import FetchFailed, NotPublic, check_public
from proxy.job import new_id
from proxy.media_types import sniff
from proxy.store.base import Asset, Key

_CHUNK: Final = 1 << 18
_MULTIPART_ROOM: Final = 1 << 16
"""Bytes that a multipart body may have beyond its file."""


@dataclass(frozen=True, slots=True)
class Assets:
    """The endpoints of assets."""

    services: Services

    async def add_asset(self, request: Request) -> Response:
        """Take in a file: multipart `file`, or JSON `{"url"}`."""
        key = await self.services.auth.key(request)
        asset_id = new_id("asset")
        blob = f"assets/{asset_id}"
        if request.headers.get("Content-Type", "").lower().startswith("multipart/form-data"):
            media_type, size = await self._upload(request, blob)
        else:
            media_type, size = await self._fetch(await body(request), blob)
        asset = Asset(asset_id, key.account, media_type, size, blob, self.services.clock.now())
        await self.services.store.add_asset(asset)
        return answer(self._asset(asset, key), 201)

    async def _upload(self, request: Request, blob: str) -> tuple[str, int]:
        limit = self.services.asset_limit
        parser = MultiPartParser(request.headers, limited(request, limit + _MULTIPART_ROOM), max_files=1, max_fields=16)
        try:
            form = await parser.parse()
        except MultiPartException as error:
            raise BadRequest(f"The multipart body cannot be read: {error.message}") from None
        try:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                refuse_fields([FieldError("file", "send the file as the multipart field `file`")])
            return await self._keep(file, blob)
        finally:
            await form.close()

    async def _keep(self, file: UploadFile, blob: str) -> tuple[str, int]:
        size = file.size or 0
        if size > self.services.asset_limit:
            raise TooLarge(f"The file has {size} bytes; at most {self.services.asset_limit} are taken.")
        media_type = _known_type(await file.read(512))
        await file.seek(0)
        await self.services.blobs.put(blob, _chunks(file))
        return media_type, size

    async def _fetch(self, body: bytes, blob: str) -> tuple[str, int]:
        url = _url(body)
        try:
            await check_public(url)
            fetched = await self.services.fetcher.read(url, self.services.asset_limit)
        except (NotPublic, FetchFailed) as error:
            refuse_fields([FieldError("url", str(error))])
        if fetched.type is None:
            _known_type(fetched.data[:512])
        await self.services.blobs.put(blob, fetched.data)
        return fetched.type or "", len(fetched.data)

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
        return await media.stored(request, self.services.blobs, asset.blob, asset.id, asset.type)

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


async def _chunks(file: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await file.read(_CHUNK):
        yield chunk


def _url(body: bytes) -> str:
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise BadRequest('Send a file as multipart `file`, or JSON: {"url": "https://..."}.') from None
    url = parsed.get("url") if isinstance(parsed, dict) else None
    if not isinstance(url, str):
        refuse_fields([FieldError("url", "a public https URL")])
    return url


def _known_type(head: bytes) -> str:
    media_type = sniff(head)
    if media_type is None:
        raise UnsupportedType("The bytes are no image (JPEG, PNG, GIF, WebP), video or audio of a known type.")
    return media_type
