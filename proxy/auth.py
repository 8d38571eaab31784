"""Who calls: a bearer key, or a Link."""

from dataclasses import dataclass

from starlette.requests import Request

from proxy import tokens
from proxy.errors import Unauthorized
from proxy.links import Links
from proxy.store.base import Key, Store


@dataclass(frozen=True, slots=True)
class Caller:
    """The key that calls, itself or by its Link; `until` is when that Link expires, in seconds since the epoch."""

    key: Key
    until: float | None = None


class Auth:
    """Reads a request's key or Link; every failure is the same 401 to whoever has neither."""

    def __init__(self, store: Store, links: Links) -> None:
        self._store = store
        self._links = links

    async def key(self, request: Request) -> Key:
        """The key in `Authorization: Bearer`. Raises Unauthorized."""
        scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise Unauthorized("Send your key as `Authorization: Bearer <key>`.")
        return _valid(await self._store.key(tokens.digest(secret.strip())))

    async def key_or_link(self, request: Request) -> Key:
        """The key that made the Link which this URL is, or the one in the header. Raises Unauthorized."""
        return (await self.caller(request)).key

    async def caller(self, request: Request) -> Caller:
        """Like `key_or_link`, with the end of a Link's time.

        A Link counts before a header: a proxy in front may add an `Authorization` of its own.
        """
        if "signature" not in request.query_params:
            return Caller(await self.key(request))
        signed = self._links.check(request.scope["path"], request.scope["query_string"].decode("latin-1"))
        return Caller(_valid(await self._store.key_by_id(signed.key)), signed.expires)


def _valid(key: Key | None) -> Key:
    if key is None or key.revoked_at is not None:
        raise Unauthorized("This key is unknown or was revoked.")
    return key
