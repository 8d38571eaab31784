"""Media server of the simulator: serves the results of jobs under `/media/...`.

A URL can be published before its file exists (Gan.ai), and can require a signature that expires (HeyGen).
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from itertools import count
from pathlib import Path
from urllib.parse import quote

from aiohttp import web

from .messages import Answer, File, Operation, ReceivedRequest
from .state import State

FOLDER = Path(__file__).parent / "media"


class Sample(Enum):
    """Media files of this package, with their content types."""

    VIDEO = ("video.mp4", "video/mp4")
    AUDIO = ("audio.mp3", "audio/mpeg")
    IMAGE = ("image.png", "image/png")
    THUMBNAIL = ("thumbnail.jpg", "image/jpeg")
    PREVIEW = ("preview.gif", "image/gif")

    @property
    def file(self) -> File:
        """The sample as a response."""
        name, content_type = self.value
        return File(FOLDER / name, content_type)

    @property
    def bytes(self) -> bytes:
        """The sample's bytes."""
        return self.file.path.read_bytes()


@dataclass(frozen=True, slots=True)
class Inline:
    """Content that is not a file of this package, such as an uploaded asset."""

    body: bytes
    content_type: str


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """Content of a published URL."""

    content: Sample | Inline
    ready: Callable[[], bool]
    signed: bool


class Files:
    """Serves the published files, without authentication."""

    name = "media"

    def __init__(self, state: State) -> None:
        self.state = state
        self._published: dict[str, PublishedFile] = {}
        self._links = count(1)

    def operations(self) -> tuple[Operation, ...]:
        """Return the routes: the files, and the target of the fault `redirect`."""
        return (
            Operation("media.get", "GET", "/media/{path:.+}", self.get),
            Operation("media.get", "HEAD", "/media/{path:.+}", self.get),
            Operation("media.moved", "*", "/moved/{path:.*}", self.redirect_target),
        )

    def error(self, status: int, message: str = "") -> web.Response:
        """Return an error in the XML format of object stores."""
        code = {403: "AccessDenied", 404: "NoSuchKey"}.get(status, "InternalError")
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
        return web.Response(status=status, text=text, content_type="application/xml")

    def publish(
        self, path: str, content: Sample | Inline, *, ready: Callable[[], bool] = lambda: True, signed: bool = False
    ) -> str:
        """Publish content under `path` and return its URL without a signature."""
        self._published[path] = PublishedFile(content, ready, signed)
        return self.url(path)

    def url(self, path: str) -> str:
        """Return the URL of a path, without a signature."""
        return f"{self.state.origin}/media/{quote(path)}"

    def link(self, path: str, lasts: float) -> str:
        """Return a new signed URL that expires after `lasts` simulated seconds."""
        expires, nonce = f"{self.state.wall_time() + lasts:.3f}", str(next(self._links))
        signature = self._signature(path, expires, nonce)
        return f"{self.url(path)}?Expires={expires}&Nonce={nonce}&Signature={signature}"

    async def get(self, received: ReceivedRequest) -> Answer:
        """Return a file. Answers 404 before it exists, and 403 for an invalid or expired signature."""
        path = received.params["path"]
        published = self._published.get(path)
        if published is None or not published.ready():
            return self.error(404, "The specified key does not exist.")
        if published.signed and not self._allows(path, received):
            return self.error(403, "Request has expired")
        if isinstance(published.content, Sample):
            return published.content.file
        return web.Response(body=published.content.body, content_type=published.content.content_type)

    async def redirect_target(self, received: ReceivedRequest) -> Answer:
        """Answer a redirected request. Tests inspect the request."""
        return web.json_response({"moved": received.params["path"]})

    def _allows(self, path: str, received: ReceivedRequest) -> bool:
        expires, nonce = received.query.get("Expires", "0"), received.query.get("Nonce", "")
        is_signed = received.query.get("Signature") == self._signature(path, expires, nonce)
        return is_signed and self.state.wall_time() < float(expires)

    def _signature(self, path: str, expires: str, nonce: str) -> str:
        return hashlib.sha256(f"{self.state.seed}/{path}/{expires}/{nonce}".encode()).hexdigest()[:32]
