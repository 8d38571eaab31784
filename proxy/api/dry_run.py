"""A dry run: what an order would send to its provider, and what it would cost. Nothing is sent, kept or charged.

It asks the provider nothing, whether it is there included: orders can be tried before there is a key for it.
"""

from typing import Any

from starlette.requests import Request

from proxy import upstream
from proxy.api.reading import refuse_fields
from proxy.api.services import Services
from proxy.errors import FieldError
from proxy.inputs import DryInputs, Placeholder
from proxy.job import Order
from proxy.providers.base import Provider


def is_asked(request: Request) -> bool:
    """Whether `?dry_run=1` stands in the URL. Raises InvalidRequest for a value that is neither yes nor no."""
    given = {text.lower() for text in request.query_params.getlist("dry_run")}
    if given <= {"1", "true"}:
        return bool(given)
    # A mistyped yes that is taken for a no would cost tokens.
    if not given <= {"0", "false"}:
        refuse_fields([FieldError("dry_run", "1 (or true) to try an order, 0 (or false) to send it; nothing was done")])
    return False


def refuse(request: Request) -> None:
    """Raises InvalidRequest where a dry run is asked of an endpoint that has none."""
    if is_asked(request):
        refuse_fields([FieldError("dry_run", "POST /api/jobs has it, a stream has not; no job was made")])


async def shown(services: Services, account: str, order: Order) -> dict[str, Any]:
    """The provider, its request with placeholders for what would be uploaded, and the price in tokens."""
    provider = services.catalogue.provider(order.model)
    request = await provider.prepare(order, DryInputs(account, services.store, services.links))
    return {
        "provider": provider.name,
        "request": _request(provider, request),
        "tokens": services.catalogue.price(order),
    }


def _request(provider: Provider, request: upstream.Request) -> dict[str, Any]:
    """Everything but the credential and what an HTTP library adds of its own."""
    if request.form:
        form = [{"name": name, "value": _text(value)} for name, value in request.form]
        content_type, body = "multipart/form-data", {"form": form}
    else:
        content_type, body = "application/json", {"json": request.json}
    return {
        "method": "POST",
        "url": provider.upstream.at(request.path),
        "query": request.query,
        "headers": {"Content-Type": content_type},
        **body,
    }


def _text(value: str | upstream.File) -> str:
    return value.shown if isinstance(value, Placeholder) else str(value)
