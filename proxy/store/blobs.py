"""Bytes at rest: assets and inline outputs, in a directory or an object store."""

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

log = logging.getLogger(__name__)

_CHUNK: Final = 1 << 18
_PARTS: Final = 2
"""Parts of a multipart upload to an object store that are under way at once; each is held in memory."""
_PART: Final = 5 << 20
"""Bytes of such a part: the least that S3 takes."""


def asset_blob(account: str, asset_id: str) -> str:
    """The name of an asset's bytes; it says whose record to look for."""
    return f"assets/{account}/{asset_id}"


class Blobs:
    """Named bytes behind one place: a directory's path, or an object store's URL (`s3://bucket/prefix`).

    Raises ValueError or OSError for a place that cannot be opened.
    """

    def __init__(self, place: str) -> None:
        self._folder = None if "://" in place else Path(place).resolve()
        if self._folder is not None:
            make_private_folder(self._folder)
        # Empty directories go with the last file in them.
        self._store: ObjectStore = (
            LocalStore(self._folder, automatic_cleanup=True) if self._folder else _object_store(place)
        )

    async def put(self, name: str, data: bytes | AsyncIterator[bytes]) -> None:
        """Store bytes under `name`, replacing what was there; nothing is left of pieces that break off.

        A few pieces are held in memory at a time. Raises errors.Unavailable, and what the pieces raise.
        """
        try:
            await obstore.put_async(self._store, name, data, chunk_size=_PART, max_concurrency=_PARTS)
        except (BaseError, OSError) as error:
            raise _unavailable(error) from None

    async def read(self, name: str) -> bytes:
        """All the bytes of `name`. Raises FileNotFoundError and errors.Unavailable."""
        return b"".join([chunk async for chunk in self.stream(name, 0, await self.size(name))])

    async def size(self, name: str) -> int:
        """How many bytes there are. Raises FileNotFoundError and errors.Unavailable."""
        try:
            return int((await obstore.head_async(self._store, name))["size"])
        except FileNotFoundError:
            raise
        except (BaseError, OSError) as error:
            raise _unavailable(error) from None

    async def stream(self, name: str, start: int, end: int) -> AsyncGenerator[bytes]:
        """The bytes from `start` up to, not including, `end`, in pieces. Raises as `read`."""
        if start >= end:
            return
        try:
            found = await obstore.get_async(self._store, name, options={"range": (start, end)})
            async for chunk in found.stream(min_chunk_size=_CHUNK):
                yield bytes(chunk)
        except FileNotFoundError:
            raise
        except (BaseError, OSError) as error:
            raise _unavailable(error) from None

    async def delete(self, name: str) -> None:
        """Remove `name`; nothing if it is not there. Raises errors.Unavailable."""
        try:
            await obstore.delete_async(self._store, name)
        except FileNotFoundError:
            return
        except (BaseError, OSError) as error:
            raise _unavailable(error) from None

    async def older(self, prefix: str, before: float) -> AsyncIterator[str]:
        """The names under `prefix` (a path's first parts) that were last written before that second of the epoch.

        Raises errors.Unavailable.
        """
        try:
            async for page in obstore.list(self._store, prefix):
                for found in page:
                    if found["last_modified"].timestamp() < before:
                        yield found["path"]
        except (BaseError, OSError) as error:
            raise _unavailable(error) from None

    async def drop_unfinished(self, before: float) -> None:
        """Remove what a crash has left of pieces that were being written to a directory before that second.

        An object store has a rule of its own for that, to abort multipart uploads that are not completed.
        """
        if self._folder is not None:
            await asyncio.to_thread(_drop_unfinished, self._folder, before)


def _object_store(url: str) -> ObjectStore:
    try:
        return from_url(url)
    except BaseError as error:
        raise ValueError(f"{_said(error)}; use a directory, or s3://bucket/prefix.") from None


def _drop_unfinished(folder: Path, before: float) -> None:
    # Not `rglob`, which breaks off where a folder goes meanwhile, as it does with the last file in it.
    for place, _, names in os.walk(folder):
        # Such names are the storage library's, for what it is still writing; it takes none from outside.
        for path in (Path(place, name) for name in names if re.search(r"#\d+$", name)):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < before:
                    path.unlink()


def _unavailable(error: Exception) -> Unavailable:
    # For the operator alone: paths and buckets are in it.
    log.warning("The asset storage cannot serve: %s", _said(error))
    return Unavailable("The asset storage cannot serve now.")


def _said(error: Exception) -> str:
    """What went wrong, in a line, without the library's own view of it, which is for its makers."""
    return " ".join(str(error).partition("\n\nDebug source:")[0].split())
