"""Links: signed URLs that expire and need no API key.

A Link is a path of this API with three more parameters: `key` (the id, not the secret, of the key that made it),
`expires` (seconds since the epoch) and `signature`. The signature covers the path and the whole query except
`lastEventId`, which EventSource polyfills append when they reconnect. A Link becomes invalid when its key is revoked;
`api/auth.py` checks that.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final
from urllib.parse import parse_qsl, unquote_plus, urlencode, urlsplit

from itsdangerous import BadData, Signer
from itsdangerous.encoding import base64_decode, base64_encode

from proxy.core.clock import Clock
from proxy.core.errors import InvalidRequest, Unauthorized
from proxy.core.job import Output

_RESERVED: Final = frozenset({"key", "expires", "signature"})
_UNSIGNED: Final = frozenset({"lastEventId", "signature"})
_LINK_CACHE_SIZE: Final = 1000
"""Number of verified Links in the cache. Many clients of a job use the same Link, and reconnect with it."""


@dataclass(frozen=True, slots=True)
class Signed:
    """The content of a valid Link: the id of the key that made it, and its expiry in seconds since the epoch."""

    key: str
    expires: int


class Links:
    """Signs and verifies Links. The first of `secrets` signs; a signature by any of them is valid.

    `ttl` is the lifetime of the Links in jobs and events, in seconds. With `relay`, clients get a Link also for
    outputs that have a public URL at the provider.
    """

    def __init__(
        self, secrets: Sequence[bytes], public_url: str, clock: Clock, *, ttl: float, relay: bool = False
    ) -> None:
        # itsdangerous signs with the last secret of a list and accepts all of them.
        self._signer = Signer(list(reversed(secrets)), salt=b"pollcast.link", sep=b".")
        self._public_url = public_url.rstrip("/")
        self._clock = clock
        self._ttl = ttl
        self._relay = relay
        self._read = lru_cache(_LINK_CACHE_SIZE)(self._verify)

    @property
    def prefix(self) -> str:
        """The path of the public URL, under which a reverse proxy serves this API; empty at the root."""
        return urlsplit(self._public_url).path

    def absolute(self, path: str) -> str:
        """Return a path as an absolute, unsigned URL of this installation."""
        return self._public_url + path

    def expiry(self, ttl: float | None = None) -> int:
        """Return the expiry of a new Link in seconds since the epoch. `ttl` is in seconds; None is the default."""
        return math.ceil(self._clock.now() + (self._ttl if ttl is None else ttl))

    def sign(self, path: str, key_id: str, expires: int | None = None, query: str = "") -> str:
        """Return a Link to `path`, with its own `query`, as an absolute URL.

        Raises InvalidRequest if `query` contains a parameter that a Link adds.
        """
        pairs = parse_qsl(query, keep_blank_values=True)
        if any(name in _RESERVED for name, _ in pairs):
            raise InvalidRequest(f"A Link's own query cannot hold {', '.join(sorted(_RESERVED))}.")
        pairs += [("key", key_id), ("expires", str(self.expiry() if expires is None else expires))]
        signature = self._signer.get_signature(_message(path, pairs)).decode()
        return self.absolute(f"{path}?{urlencode([*pairs, ('signature', signature)])}")

    def to_output(self, job_id: str, output: Output, key_id: str) -> str | None:
        """Return the URL of an output: the provider's public URL, or a Link to our content. None if the item failed."""
        if output.failed:
            return None
        if output.url and not self._relay:
            return output.url
        return self.sign(f"/api/jobs/{job_id}/content/{output.n}", key_id)

    def check(self, path: str, query: str) -> Signed:
        """Return the content of a Link from its path and query. Raises Unauthorized if it is altered or expired."""
        signed = self._read(path, query)
        if self._clock.now() >= signed.expires:
            raise Unauthorized("This Link has expired. Request a new one.")
        return signed

    def _verify(self, path: str, query: str) -> Signed:
        pairs = parse_qsl(query, keep_blank_values=True)
        named = dict(pairs)
        signature = named.get("signature", "")
        if not (_is_canonical(signature) and self._signer.verify_signature(_message(path, pairs), signature.encode())):
            raise Unauthorized("This Link was altered or belongs to another path. Request a new one.")
        return Signed(named["key"], int(named["expires"]))


def _is_canonical(signature: str) -> bool:
    """Return whether this is the canonical base64 of its bytes. Decoders ignore some bits of the last character."""
    try:
        return base64_encode(base64_decode(signature)).decode() == signature
    except BadData:
        return False


def _message(path: str, pairs: Iterable[tuple[str, str]]) -> bytes:
    # Sorted by name alone: the last value of a repeated parameter counts, so their order must be kept.
    signed = sorted((pair for pair in pairs if pair[0] not in _UNSIGNED), key=lambda pair: pair[0])
    return f"{path}?{urlencode(signed)}".encode()


def route_path(scope: Mapping[str, Any]) -> str:
    """Return the path of an ASGI request inside this application, without the `root_path` where it is mounted.

    Links sign this path. A server may omit `root_path` from `path`, because a reverse proxy has removed it.
    """
    path: str = scope["path"]
    root = scope.get("root_path", "")
    inside = path.removeprefix(root)
    return inside if inside.startswith("/") else path


def mask_signatures(url: str) -> str:
    """Return a URL, or its path and query, without signatures, for a log."""
    path, mark, query = url.partition("?")
    return path + mark + "&".join(map(_mask_parameter, query.split("&")))


def _mask_parameter(pair: str) -> str:
    name, equals, _ = pair.partition("=")
    # A name may be percent-encoded, and providers' signatures have names such as X-Amz-Signature.
    return f"{name}=***" if equals and "signature" in unquote_plus(name).lower() else pair
