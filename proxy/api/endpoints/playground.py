"""Static files of `proxy/playground/`: the playground page, and `pollcast.js`, which pages of any origin may load.

They are read once at start. Browsers cache them and revalidate each time by ETag.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_FOLDER: Final = Path(__file__).parents[2] / "playground"
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".ts": "application/typescript; charset=utf-8",
}
_COMMON_HEADERS: Final = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' https: http: data: blob:; media-src 'self' https: http: data: blob:; "
    "form-action 'none'; frame-ancestors 'none'; base-uri 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Content security policy of the page. Only results load from other hosts, over plain http in a demo. Text cannot
become markup or script, because no trusted types are allowed. The page holds a key, so it cannot be framed."""
_PAGE_HEADERS: Final = {"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer"}
_ANY_ORIGIN_HEADERS: Final = {"Access-Control-Allow-Origin": "*", "Cross-Origin-Resource-Policy": "cross-origin"}


def routes(*, playground: bool) -> list[Route]:
    """Return the routes of `/pollcast.js` and its types; with `playground`, also of the page at `/` and its files."""
    client = [
        # Runtimes that import by URL (Deno) find the types by this header.
        _route("/pollcast.js", "pollcast.js", _ANY_ORIGIN_HEADERS | {"X-TypeScript-Types": "./pollcast.d.ts"}),
        _route("/pollcast.d.ts", "pollcast.d.ts", _ANY_ORIGIN_HEADERS),
    ]
    if not playground:
        return client
    parts = sorted(path.name for path in _FOLDER.glob("*.*") if not path.name.startswith(("index.", "pollcast.")))
    return [
        _route("/", "index.html", _PAGE_HEADERS),
        *(_route(f"/playground/{name}", name, {}) for name in parts),
        *client,
    ]


def _route(path: str, name: str, headers: dict[str, str]) -> Route:
    file = _FOLDER / name
    data = file.read_bytes()
    etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    return Route(
        path, _File(data, {"Content-Type": _TYPES[file.suffix], "ETag": etag, **_COMMON_HEADERS, **headers}).serve
    )


@dataclass(frozen=True, slots=True)
class _File:
    """A file, with the headers of its response."""

    data: bytes
    headers: dict[str, str]

    async def serve(self, request: Request) -> Response:
        """Return the file, or 304 if the client has it already."""
        if _matches(request.headers.get("If-None-Match", ""), self.headers["ETag"]):
            return Response(status_code=304, headers=self.headers)
        return Response(self.data, headers=self.headers)


def _matches(header: str, etag: str) -> bool:
    """Return whether an `If-None-Match` header has the tag.

    The comparison is weak (RFC 9110, section 13.1.2), because proxies make tags weak.
    """
    return header.strip() == "*" or etag in re.findall(r'"[^"]*"', header)
