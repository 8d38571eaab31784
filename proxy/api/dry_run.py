"""Dry runs: show the request that an order would send to its provider, and the price in tokens.

Nothing is sent, stored or charged. Availability is not checked, so orders can be tried before a provider key is set.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from proxy.api import orders
from proxy.api.admission import OrderChecks
from proxy.api.catalogue import Catalogue
from proxy.api.request import BodyReader, idempotency_key, refuse_fields
from proxy.api.services import find_asset
from proxy.core.errors import FieldError
from proxy.core.links import Links
from proxy.core.media_types import UNKNOWN, extension
from proxy.providers.base import Provider
from proxy.providers.fields import is_asset
from proxy.store.contract import Assets
from proxy.store.types import Key
from proxy.upstream import requests
from proxy.upstream.requests import File


def is_requested(request: Request) -> bool:
    """Return whether the query has `dry_run=1`. Raises InvalidRequest for a value that is neither yes nor no."""
    values = {text.lower() for text in request.query_params.getlist("dry_run")}
    if values <= {"1", "true"}:
        return bool(values)
    # A misspelled yes that is read as no would cost tokens.
    if not values <= {"0", "false"}:
        rule = "must be 1 or true for a dry run, 0 or false for an order; nothing was done"
        refuse_fields([FieldError("dry_run", rule)])
    return False


def refuse(request: Request) -> None:
    """Raise InvalidRequest if a dry run is requested from an endpoint that has none."""
    if is_requested(request):
        refuse_fields([FieldError("dry_run", "only POST /api/jobs supports dry runs; no job was created")])


@dataclass(frozen=True, slots=True)
class DryRuns:
    """Performs dry runs. Orders are checked like any other order."""

    store: Assets
    catalogue: Catalogue
    links: Links
    checks: OrderChecks
    bodies: BodyReader

    async def show(self, request: Request, key: Key) -> dict[str, Any]:
        """Return the provider, its request with placeholders for uploads, and the price in tokens.

        Raises the errors of an order. `openapi.shapes.DryRun` describes the result.
        """
        idempotency_key(request)
        parsed = orders.parse(await self.bodies.read(request), self.catalogue.models)
        await self.checks.check(key.account, parsed.order, parsed.references)
        provider = self.catalogue.provider(parsed.order.model)
        prepared = await provider.prepare(parsed.order, DryInputs(key.account, self.store, self.links))
        return {
            "provider": provider.name,
            "request": _as_json(provider, prepared),
            "tokens": self.catalogue.price(parsed.order),
        }


def _as_json(provider: Provider, request: requests.Request) -> dict[str, Any]:
    """Return the request without its credential and without the headers that an HTTP library adds."""
    if request.form:
        form = [{"name": name, "value": _text(value)} for name, value in request.form]
        content_type, body = "multipart/form-data", {"form": form}
    else:
        content_type, body = "application/json", {"json": request.json}
    return {
        "method": "POST",
        "url": provider.upstream.url(request.path),
        "query": request.query,
        "headers": {"Content-Type": content_type},
        **body,
    }


def _text(value: str | requests.File) -> str:
    return value.shown if isinstance(value, Placeholder) else str(value)


@dataclass(frozen=True, slots=True)
class Placeholder(File):
    """A file without bytes, for a request that is shown and not sent."""

    shown: str

    def data_url(self) -> str:
        """Return a `data:` URL with the placeholder instead of the bytes."""
        return f"data:{self.type};base64,{self.shown}"

    def base64(self) -> str:
        """Return the placeholder in place of the bytes."""
        return self.shown


@dataclass(frozen=True, slots=True)
class DryInputs:
    """The inputs of a dry run: placeholders. Nothing is read, fetched or uploaded."""

    account: str
    store: Assets
    links: Links

    async def files(self, refs: Sequence[str]) -> list[Placeholder]:
        """Return placeholders for the bytes behind asset ids and URLs. Raises NotFound."""
        return [await self._file(ref) for ref in refs]

    async def _file(self, ref: str) -> Placeholder:
        if not is_asset(ref):
            return Placeholder("input", UNKNOWN, b"", f"<file from {ref}>")
        asset = await find_asset(self.store, self.account, ref)
        name = ref + extension(asset.type)
        return Placeholder(name, asset.type, b"", f"<file {name}, {asset.size} bytes>")

    async def upload(self, ref: str, send: Callable[[File], Awaitable[str]]) -> str:
        """Return a placeholder for the provider's id of an upload."""
        del send
        return f"<upload of {ref}>"

    def url(self, ref: str) -> str:
        """Return a placeholder for the Link to an asset; a URL is returned unchanged."""
        return f"<Link to {self.links.absolute(f'/api/assets/{ref}/content')}>" if is_asset(ref) else ref
