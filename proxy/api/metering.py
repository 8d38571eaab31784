"""Authentication and request limits of the endpoints that take a key.

`metered` looks up the caller's key, counts the request, adds the `RateLimit` headers to the response, and passes the
key to the endpoint. A request over the limit is refused with 429.
"""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from proxy.api.auth import Auth, is_link
from proxy.api.limits import AccountLimits
from proxy.core.errors import RateLimited, RequestError
from proxy.store.types import Key

Endpoint = Callable[[Request], Awaitable[Response]]
KeyEndpoint = Callable[[Request, Key], Awaitable[Response]]
OrderEndpoint = Callable[[Request, Key, RateLimited | None], Awaitable[Response]]


def metered(auth: Auth, limits: AccountLimits, endpoint: KeyEndpoint, *, or_link: bool = False) -> Endpoint:
    """Return the endpoint behind the request limit of the key's account.

    With `or_link` a Link is accepted in place of a key. Requests by a Link are not counted.
    """

    async def refuse_first(request: Request, key: Key, refusal: RateLimited | None) -> Response:
        if refusal is not None:
            raise refusal
        return await endpoint(request, key)

    metered_endpoint = metered_order(auth, limits, refuse_first)

    async def serve(request: Request) -> Response:
        if or_link and is_link(request):
            return await endpoint(request, await auth.key_or_link(request))
        return await metered_endpoint(request)

    return serve


def metered_order(auth: Auth, limits: AccountLimits, endpoint: OrderEndpoint) -> Endpoint:
    """Return an endpoint for orders behind the request limit of the key's account.

    A refusal is raised here, except for an order that may repeat an earlier one. The endpoint then receives the
    refusal, and raises it only if the order is new, because an order that was paid for is always answered.
    """

    async def serve(request: Request) -> Response:
        key = await auth.key(request)
        counted = await limits.count(key.account)
        try:
            if counted.refusal is not None and not _may_repeat(request):
                raise counted.refusal
            response = await endpoint(request, key, counted.refusal)
        except RequestError as error:
            error.headers.update(counted.headers)
            raise
        # Append to the list: all streams share the mapping of their headers.
        response.raw_headers += [(name.lower().encode(), value.encode()) for name, value in counted.headers.items()]
        return response

    return serve


def _may_repeat(request: Request) -> bool:
    return "Idempotency-Key" in request.headers and "dry_run" not in request.query_params
