"""Requests made with a key are counted, told of it by their answers' headers, and refused when they are too many."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from proxy.api.auth import is_link
from proxy.api.services import ApiServices
from proxy.core.errors import RateLimited, RequestError
from proxy.core.links import route_path

Endpoint = Callable[[Request], Awaitable[Response]]


def counted(services: ApiServices, endpoint: Endpoint, *, or_link: bool = False) -> Endpoint:
    """The endpoint, behind the limit of requests; with `or_link`, who comes by a Link is not counted.

    An order that may be a repetition goes on with its refusal (`refusal_of`): what was paid for is not refused.
    """

    async def counting(request: Request) -> Response:
        if or_link and is_link(request):
            return await endpoint(request)
        key = await services.auth.key(request)
        found = await services.limits.count(key.account)
        try:
            if found.refusal is not None:
                if not _may_repeat(request):
                    raise found.refusal
                request.state.refusal = found.refusal
            response = await endpoint(request)
        except RequestError as error:
            error.headers.update(found.headers)
            raise
        # Added to the list: the mapping over a stream's headers is shared by all streams.
        response.raw_headers += [(name.lower().encode(), value.encode()) for name, value in found.headers.items()]
        return response

    return counting


def _may_repeat(request: Request) -> bool:
    takes_orders = request.method == "POST" and route_path(request.scope) in {"/api/generate", "/api/jobs"}
    return takes_orders and "Idempotency-Key" in request.headers and "dry_run" not in request.query_params


def refusal_of(request: Request) -> RateLimited | None:
    """How this order is refused, unless it repeats one that was taken."""
    refusal: RateLimited | None = getattr(request.state, "refusal", None)
    return refusal
