"""Bytes at rest: assets and inline outputs, in a directory or an object store."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from proxy.errors import Unavailable

BlobsError = BaseError
"""What the storage library raises for a place that it cannot open."""

_CHUNK: Final = 1 << 18


class Blobs:
    """Named bytes behind one place: a directory's path, or an object store's URL (`s3://bucket/prefix`)."""

    def __init__(self, place: str) -> None:
        self._store = _open(place)

    async def put(self, name: str, data: bytes | AsyncIterator[bytes]) -> None:
        """Store bytes under `name`, replacing what was there. Raises errors.Unavailable."""
        try:
            await obstore.put_async(self._store, name, data)
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

    async def stream(self, name: str, start: int, end: int) -> AsyncIterator[bytes]:
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


def _open(place: str) -> ObjectStore:
    if "://" in place:
        return from_url(place)
    return LocalStore(Path(place).resolve(), mkdir=True)


def _unavailable(error: Exception) -> Unavailable:
    return Unavailable(f"The asset storage cannot serve now ({type(error).__name__}).")
