"""The files of `playground/`: the page for people, and `pollcast.js`, which pages of any origin may load.

They are read once, at the start. A browser keeps them, but asks each time whether they are still the same.
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
_COMMON: Final = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' https: http: data: blob:; media-src 'self' https: http: data: blob:; "
    "form-action 'none'; frame-ancestors 'none'; base-uri 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Nothing comes from another host but results, which stand where providers put them (in a demo behind plain http); no
text becomes markup or script, since there are no trusted types; and nobody frames a page that holds a key."""
_PAGE: Final = {"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer"}
_ANY_ORIGIN: Final = {"Access-Control-Allow-Origin": "*", "Cross-Origin-Resource-Policy": "cross-origin"}


def routes(*, playground: bool) -> list[Route]:
    """`/pollcast.js` and its types; with `playground`, the page at `/` and its files too."""
    client = [
        # The header is how runtimes that import by URL find the types.
        _route("/pollcast.js", "pollcast.js", _ANY_ORIGIN | {"X-TypeScript-Types": "./pollcast.d.ts"}),
        _route("/pollcast.d.ts", "pollcast.d.ts", _ANY_ORIGIN),
    ]
    if not playground:
        return client
    parts = sorted(path.name for path in _FOLDER.glob("*.*") if not path.name.startswith(("index.", "pollcast.")))
    return [_route("/", "index.html", _PAGE), *(_route(f"/playground/{name}", name, {}) for name in parts), *client]


def _route(path: str, name: str, headers: dict[str, str]) -> Route:
    file = _FOLDER / name
    data = file.read_bytes()
    etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    return Route(path, _File(data, {"Content-Type": _TYPES[file.suffix], "ETag": etag, **_COMMON, **headers}).answer)


@dataclass(frozen=True, slots=True)
class _File:
    """One file, as it is answered."""

    data: bytes
    headers: dict[str, str]

    async def answer(self, request: Request) -> Response:
        """The file, or 304 to whoever has it."""
        if _names(request.headers.get("If-None-Match", ""), self.headers["ETag"]):
            return Response(status_code=304, headers=self.headers)
        return Response(self.data, headers=self.headers)


def _names(header: str, etag: str) -> bool:
    """Whether an `If-None-Match` names the tag, by weak comparison (RFC 9110, section 13.1.2): proxies weaken tags."""
    return header.strip() == "*" or etag in re.findall(r'"[^"]*"', header)
