"""The media files that results are, and the route that serves them: `/media/...` on the simulator's own origin.

A file may be published before it exists (Gan.ai's URLs) and may ask for a signature that expires (HeyGen's).
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from itertools import count
from pathlib import Path
from urllib.parse import quote

from aiohttp import web

from .messages import Answer, File, Operation, Received
from .state import State

FOLDER = Path(__file__).parent / "media"


class Sample(Enum):
    """The real media files of this package, with their types."""

    VIDEO = ("video.mp4", "video/mp4")
    AUDIO = ("audio.mp3", "audio/mpeg")
    IMAGE = ("image.png", "image/png")
    THUMBNAIL = ("thumbnail.jpg", "image/jpeg")
    PREVIEW = ("preview.gif", "image/gif")

    @property
    def file(self) -> File:
        """The sample as an answer."""
        name, content_type = self.value
        return File(FOLDER / name, content_type)

    @property
    def bytes(self) -> bytes:
        """The sample's bytes."""
        return self.file.path.read_bytes()


@dataclass(frozen=True, slots=True)
class Inline:
    """Bytes that are not a file of this package: an uploaded asset, a page."""

    body: bytes
    content_type: str


@dataclass(frozen=True, slots=True)
class Published:
    """What is behind a URL."""

    content: Sample | Inline
    ready: Callable[[], bool]
    signed: bool


class Files:
    """The published files; served without any key."""

    name = "media"

    def __init__(self, state: State) -> None:
        self.state = state
        self._published: dict[str, Published] = {}
        self._links = count(1)

    def operations(self) -> tuple[Operation, ...]:
        """The routes: the files, and the place where the fault `redirect` leads."""
        return (
            Operation("media.get", "GET", "/media/{path:.+}", self.get),
            Operation("media.get", "HEAD", "/media/{path:.+}", self.get),
            Operation("media.moved", "*", "/moved/{path:.*}", self.moved),
        )

    def error(self, status: int, message: str = "") -> web.Response:
        """An error as an object store shows it."""
        code = {403: "AccessDenied", 404: "NoSuchKey"}.get(status, "InternalError")
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
        return web.Response(status=status, text=text, content_type="application/xml")

    def publish(
        self, path: str, content: Sample | Inline, *, ready: Callable[[], bool] = lambda: True, signed: bool = False
    ) -> str:
        """Put a file under `path`; gives its bare URL."""
        self._published[path] = Published(content, ready, signed)
        return self.url(path)

    def url(self, path: str) -> str:
        """The bare URL of a path."""
        return f"{self.state.origin}/media/{quote(path)}"

    def link(self, path: str, lasts: float) -> str:
        """A new signed URL that lasts for that many simulated seconds."""
        expires, nonce = f"{self.state.wall() + lasts:.3f}", str(next(self._links))
        signature = self._signature(path, expires, nonce)
        return f"{self.url(path)}?Expires={expires}&Nonce={nonce}&Signature={signature}"

    async def get(self, received: Received) -> Answer:
        """Serve a file that exists, to whoever has its URL."""
        path = received.params["path"]
        published = self._published.get(path)
        if published is None or not published.ready():
            return self.error(404, "The specified key does not exist.")
        if published.signed and not self._allows(path, received):
            return self.error(403, "Request has expired")
        if isinstance(published.content, Sample):
            return published.content.file
        return web.Response(body=published.content.body, content_type=published.content.content_type)

    async def moved(self, received: Received) -> Answer:
        """Where redirects end; tests look at what was sent here."""
        return web.json_response({"moved": received.params["path"]})

    def _allows(self, path: str, received: Received) -> bool:
        expires, nonce = received.query.get("Expires", "0"), received.query.get("Nonce", "")
        right = received.query.get("Signature") == self._signature(path, expires, nonce)
        return right and self.state.wall() < float(expires)

    def _signature(self, path: str, expires: str, nonce: str) -> str:
        return hashlib.sha256(f"{self.state.seed}/{path}/{expires}/{nonce}".encode()).hexdigest()[:32]
