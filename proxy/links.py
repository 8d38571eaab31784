"""Links: signed, expiring URLs that work without a key.

A Link is a path of this API with three parameters added: `key` (the id, not the secret, of the key that made it),
`expires` (seconds since the epoch) and `signature`, over the path, the whole query and those two. `lastEventId` is
left out of what is signed: EventSource clients append it when they reconnect. A Link dies with the key that made it,
which is for `auth.py` to check.
"""

import math
from collections.abc import Iterable, Sequence
from urllib.parse import parse_qsl, urlencode

from itsdangerous import Signer

from proxy.clock import Clock
from proxy.errors import InvalidRequest, Unauthorized
from proxy.job import Output

_RESERVED = frozenset({"key", "expires", "signature"})
_UNSIGNED = frozenset({"lastEventId", "signature"})


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

    def absolute(self, path: str) -> str:
        """The path as an absolute URL of this installation, unsigned."""
        return self._public_url + path

    def sign(self, path: str, key_id: str, ttl: float | None = None, query: str = "") -> str:
        """Make the Link to `path` (with its own `query`, if any) for `ttl` seconds, as an absolute URL.

        Raises InvalidRequest when `query` holds one of the names that a Link adds.
        """
        ttl = self._ttl if ttl is None else ttl
        pairs = parse_qsl(query, keep_blank_values=True)
        if any(name in _RESERVED for name, _ in pairs):
            raise InvalidRequest(f"A Link's own query cannot hold {', '.join(sorted(_RESERVED))}.")
        pairs += [("key", key_id), ("expires", str(math.ceil(self._clock.now() + ttl)))]
        signature = self._signer.get_signature(_message(path, pairs)).decode()
        return self.absolute(f"{path}?{urlencode([*pairs, ('signature', signature)])}")

    def to_output(self, job_id: str, output: Output, key_id: str) -> str | None:
        """Where a client opens an output: the provider's public URL, or a Link to our content; None: nowhere."""
        if output.failed:
            return None
        if output.url and not self._relay:
            return output.url
        return self.sign(f"/api/jobs/{job_id}/content/{output.n}", key_id)

    def check(self, path: str, query: str) -> str:
        """The id of the key that signed this path and query; raises Unauthorized when altered or expired."""
        pairs = parse_qsl(query, keep_blank_values=True)
        named = dict(pairs)
        signature = named.get("signature", "")
        if not self._signer.verify_signature(_message(path, pairs), signature.encode()):
            raise Unauthorized("This Link was altered, or was made for another path: ask for a new one.")
        if self._clock.now() >= int(named["expires"]):
            raise Unauthorized("This Link has expired: ask for a new one.")
        return named["key"]


def _message(path: str, pairs: Iterable[tuple[str, str]]) -> bytes:
    signed = sorted(pair for pair in pairs if pair[0] not in _UNSIGNED)
    return f"{path}?{urlencode(signed)}".encode()
