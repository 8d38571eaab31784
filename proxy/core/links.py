"""Links: signed, expiring URLs that work without a key.

A Link is a path of this API with three parameters added: `key` (the id, not the secret, of the key that made it),
`expires` (seconds since the epoch) and `signature`, over the path, the whole query and those two. `lastEventId` is
left out of what is signed: EventSource clients append it when they reconnect. A Link dies with the key that made it,
which is for `auth.py` to check.
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
_REMEMBERED: Final = 1000
"""Links that are not verified again: many clients of one job come by the same, and come back by it."""


@dataclass(frozen=True, slots=True)
class Signed:
    """What a Link says that was not altered: the id of the key that made it, and the second in which it expires."""

    key: str
    expires: int


class Links:
    """Makes and checks Links; the first of `secrets` signs, any of them is believed.

    `ttl` is how long the Links in jobs and events are valid, in seconds; with `relay`, outputs that have a public URL
    of the provider's are shown behind a Link too.
    """

    def __init__(
        self, secrets: Sequence[bytes], public_url: str, clock: Clock, *, ttl: float, relay: bool = False
    ) -> None:
        # itsdangerous signs with the last of a list and believes them all.
        self._signer = Signer(list(reversed(secrets)), salt=b"pollcast.link", sep=b".")
        self._public_url = public_url.rstrip("/")
        self._clock = clock
        self._ttl = ttl
        self._relay = relay
        self._read = lru_cache(_REMEMBERED)(self._verified)

    @property
    def prefix(self) -> str:
        """The path of the public URL, under which a proxy in front serves this API; empty at the root."""
        return urlsplit(self._public_url).path

    def absolute(self, path: str) -> str:
        """The path as an absolute URL of this installation, unsigned."""
        return self._public_url + path

    def expiry(self, ttl: float | None = None) -> int:
        """When a Link made now expires, in seconds since the epoch; `ttl` in seconds, else as in jobs and events."""
        return math.ceil(self._clock.now() + (self._ttl if ttl is None else ttl))

    def sign(self, path: str, key_id: str, expires: int | None = None, query: str = "") -> str:
        """Make the Link to `path` (with its own `query`, if any) as an absolute URL.

        Raises InvalidRequest when `query` holds one of the names that a Link adds.
        """
        pairs = parse_qsl(query, keep_blank_values=True)
        if any(name in _RESERVED for name, _ in pairs):
            raise InvalidRequest(f"A Link's own query cannot hold {', '.join(sorted(_RESERVED))}.")
        pairs += [("key", key_id), ("expires", str(self.expiry() if expires is None else expires))]
        signature = self._signer.get_signature(_message(path, pairs)).decode()
        return self.absolute(f"{path}?{urlencode([*pairs, ('signature', signature)])}")

    def to_output(self, job_id: str, output: Output, key_id: str) -> str | None:
        """Where a client opens an output: the provider's public URL, or a Link to our content; None: nowhere."""
        if output.failed:
            return None
        if output.url and not self._relay:
            return output.url
        return self.sign(f"/api/jobs/{job_id}/content/{output.n}", key_id)

    def check(self, path: str, query: str) -> Signed:
        """What this path and query say; raises Unauthorized when they were altered, or have expired."""
        signed = self._read(path, query)
        if self._clock.now() >= signed.expires:
            raise Unauthorized("This Link has expired: ask for a new one.")
        return signed

    def _verified(self, path: str, query: str) -> Signed:
        pairs = parse_qsl(query, keep_blank_values=True)
        named = dict(pairs)
        signature = named.get("signature", "")
        if not (_is_canonical(signature) and self._signer.verify_signature(_message(path, pairs), signature.encode())):
            raise Unauthorized("This Link was altered, or was made for another path: ask for a new one.")
        return Signed(named["key"], int(named["expires"]))


def _is_canonical(signature: str) -> bool:
    """Whether it is the one spelling of its bytes: the last letter of base64 has bits that decoding ignores."""
    try:
        return base64_encode(base64_decode(signature)).decode() == signature
    except BadData:
        return False


def _message(path: str, pairs: Iterable[tuple[str, str]]) -> bytes:
    # By name alone: of a parameter that is repeated the last one counts, so that their order matters.
    signed = sorted((pair for pair in pairs if pair[0] not in _UNSIGNED), key=lambda pair: pair[0])
    return f"{path}?{urlencode(signed)}".encode()


def route_path(scope: Mapping[str, Any]) -> str:
    """The path of an ASGI request inside this application: without the `root_path` under which it is mounted.

    That is the path that Links sign. A server may leave `root_path` out of `path`, as the proxy in front did.
    """
    path: str = scope["path"]
    root = scope.get("root_path", "")
    inside = path.removeprefix(root)
    return inside if inside.startswith("/") else path


def masked(url: str) -> str:
    """A URL, or its path and query, fit for a log: without the signature that would open it."""
    path, mark, query = url.partition("?")
    return path + mark + "&".join(map(_masked, query.split("&")))


def _masked(pair: str) -> str:
    name, equals, _ = pair.partition("=")
    # A name may be written with percents, and providers' signatures have names such as X-Amz-Signature.
    return f"{name}=***" if equals and "signature" in unquote_plus(name).lower() else pair
