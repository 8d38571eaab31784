"""A dry run: what an order would send to its provider, and what it would cost. Nothing is sent, kept or charged.

It asks the provider nothing, whether it is there included: orders can be tried before there is a key for it.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from proxy.api.request import refuse_fields
from proxy.api.services import ApiServices
from proxy.core.errors import FieldError, NotFound
from proxy.core.job import Order
from proxy.core.links import Links
from proxy.core.media_types import UNKNOWN, extension
from proxy.providers.base import Provider, is_asset
from proxy.store.contract import Assets
from proxy.upstream import requests
from proxy.upstream.requests import File


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


async def shown(services: ApiServices, account: str, order: Order) -> dict[str, Any]:
    """The provider, its request with placeholders for what would be uploaded, and the price in tokens."""
    provider = services.catalogue.provider(order.model)
    request = await provider.prepare(order, DryInputs(account, services.store, services.links))
    return {
        "provider": provider.name,
        "request": _request(provider, request),
        "tokens": services.catalogue.price(order),
    }


def _request(provider: Provider, request: requests.Request) -> dict[str, Any]:
    """Everything but the credential and what an HTTP library adds of its own."""
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
    """A file without its bytes, for a request that is shown and not sent."""

    shown: str

    def data_url(self) -> str:
        """What stands where the bytes would."""
        return f"data:{self.type};base64,{self.shown}"


@dataclass(frozen=True, slots=True)
class DryInputs:
    """The inputs of a dry run: nothing is read, fetched or uploaded."""

    account: str
    store: Assets
    links: Links

    async def files(self, refs: Sequence[str]) -> list[Placeholder]:
        """What stands for the bytes behind asset ids and URLs. Raises NotFound."""
        return [await self._file(ref) for ref in refs]

    async def _file(self, ref: str) -> Placeholder:
        if not is_asset(ref):
            return Placeholder("input", UNKNOWN, b"", f"<file from {ref}>")
        asset = await self.store.asset(self.account, ref)
        if asset is None:
            raise NotFound(f"There is no asset {ref[:100]}.")
        name = ref + extension(asset.type)
        return Placeholder(name, asset.type, b"", f"<file {name}, {asset.size} bytes>")

    async def uploaded(self, ref: str, upload: Callable[[File], Awaitable[str]]) -> str:
        """What stands for the provider's id of an upload."""
        del upload
        return f"<upload of {ref}>"

    def url(self, ref: str) -> str:
        """What stands for the Link to an asset; a URL as it is."""
        return f"<Link to {self.links.absolute(f'/api/assets/{ref}/content')}>" if is_asset(ref) else ref
