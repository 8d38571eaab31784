"""Blob storage: the bytes of assets and inline outputs, in a directory or an object store.

Also checks that all nodes share one blob storage. The first node writes a marker blob, and every other node must find
it. A node with another storage would answer 404 for the assets and outputs of the others.
"""

import asyncio
import logging
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from proxy.core.errors import Unavailable
from proxy.core.files import make_private_folder
from proxy.core.job import new_id
from proxy.core.settings import BadSetting
from proxy.store.contract import Store

log = logging.getLogger(__name__)

_MIN_CHUNK_BYTES: Final = 1 << 18
"""Minimum bytes of a chunk that `Blobs.stream` yields, except the last."""
_CONCURRENT_PARTS: Final = 2
"""Parts of a multipart upload to an object store that are sent at the same time. Each is held in memory."""
_PART_BYTES: Final = 5 << 20
"""Bytes of such a part: the minimum of S3."""
_MARKER_NAME: Final = "blobs"
"""Name in the store of the marker blob's name."""


def asset_blob(account: str, asset_id: str) -> str:
    """Return the name of an asset's blob. It contains the account and the id under which the asset is recorded."""
    return f"assets/{account}/{asset_id}"


class Blobs:
    """Blobs by name, in the directory or the object store (`s3://bucket/prefix`) that `place` names.

    Every method raises errors.Unavailable when the storage fails.
    """

    def __init__(self, place: str) -> None:
        """Raise ValueError or OSError for a place that cannot be opened."""
        self._folder = None if "://" in place else Path(place).resolve()
        if self._folder is not None:
            make_private_folder(self._folder)
        # `automatic_cleanup` removes a directory together with its last file.
        self._store: ObjectStore = (
            LocalStore(self._folder, automatic_cleanup=True) if self._folder else _object_store(place)
        )

    async def put(self, name: str, data: bytes | AsyncIterator[bytes]) -> None:
        """Store bytes under `name` and replace those stored before.

        An iterator is read a few chunks at a time. If it raises, nothing is stored and `put` raises the same.
        """
        try:
            await obstore.put_async(self._store, name, data, chunk_size=_PART_BYTES, max_concurrency=_CONCURRENT_PARTS)
        except (BaseError, OSError) as error:
            raise _unavailable(error) from None

    async def read(self, name: str) -> bytes:
        """Return all bytes of `name`. Raises FileNotFoundError."""
        return b"".join([chunk async for chunk in self.stream(name, 0, await self.size(name))])

    async def size(self, name: str) -> int:
        """Return the number of bytes of `name`. Raises FileNotFoundError."""
        try:
            return int((await obstore.head_async(self._store, name))["size"])
        except FileNotFoundError:
            raise
        except (BaseError, OSError) as error:
            raise _unavailable(error) from None

    async def stream(self, name: str, start: int, end: int) -> AsyncGenerator[bytes]:
        """Yield the bytes from `start` up to and excluding `end`, in chunks. Raises FileNotFoundError."""
        if start >= end:
            return
        try:
            found = await obstore.get_async(self._store, name, options={"range": (start, end)})
            async for chunk in found.stream(min_chunk_size=_MIN_CHUNK_BYTES):
                yield bytes(chunk)
        except FileNotFoundError:
            raise
        except (BaseError, OSError) as error:
            raise _unavailable(error) from None

    async def delete(self, name: str) -> None:
        """Delete `name`, if it exists."""
        try:
            await obstore.delete_async(self._store, name)
        except FileNotFoundError:
            return
        except (BaseError, OSError) as error:
            raise _unavailable(error) from None

    async def list_older(self, prefix: str, before: float) -> AsyncIterator[str]:
        """Yield the names under `prefix` that were last written before `before`, in seconds since the epoch.

        `prefix` is whole parts of a path, such as `assets`.
        """
        try:
            async for page in obstore.list(self._store, prefix):
                for found in page:
                    if found["last_modified"].timestamp() < before:
                        yield found["path"]
        except (BaseError, OSError) as error:
            raise _unavailable(error) from None

    async def drop_unfinished(self, before: float) -> None:
        """Delete partial files that a crash left in a directory before `before`, in seconds since the epoch.

        An object store does this by a lifecycle rule that aborts incomplete multipart uploads.
        """
        if self._folder is not None:
            await asyncio.to_thread(_drop_unfinished, self._folder, before)


async def check_shared(store: Store, blobs: Blobs) -> None:
    """Check that these blobs are in the same storage as those of the other nodes on this store. Raises BadSetting."""
    own = new_id("cluster")
    # The blob is written before its name is proposed, so the marker exists as soon as its name is in the store.
    await blobs.put(own, b"Marker of Pollcast: all nodes that share a store must find this file in their storage.\n")
    marker = (await store.get_or_set(_MARKER_NAME, own.encode())).decode()
    if marker == own:
        return
    await blobs.delete(own)
    try:
        await blobs.size(marker)
    except FileNotFoundError:
        raise BadSetting(
            f"POLLCAST_ASSETS: the marker file {marker} of the other nodes on this Redis is missing here. "
            "Give all nodes the same object store or shared directory."
        ) from None


def _object_store(url: str) -> ObjectStore:
    try:
        return from_url(url)
    except BaseError as error:
        raise ValueError(f"{_reason(error)}; use a directory, or s3://bucket/prefix.") from None


def _drop_unfinished(folder: Path, before: float) -> None:
    # `rglob` would fail if a folder disappeared meanwhile, which happens when its last file is deleted.
    for place, _, names in os.walk(folder):
        # obstore gives such names to files that it is still writing, and accepts none from callers.
        for path in (Path(place, name) for name in names if re.search(r"#\d+$", name)):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < before:
                    path.unlink()


def _unavailable(error: Exception) -> Unavailable:
    # The reason contains paths and buckets, so only the operator sees it.
    log.warning("The asset storage failed: %s", _reason(error))
    return Unavailable("The asset storage cannot serve now.")


def _reason(error: Exception) -> str:
    """Return the error's text in one line, without the debug output that obstore appends."""
    return " ".join(str(error).partition("\n\nDebug source:")[0].split())
