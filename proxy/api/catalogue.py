"""The catalogue of models: prices, fields, styles, and whether each model can be ordered now."""

import asyncio
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from proxy.core.clock import Clock
from proxy.core.errors import ProviderUnavailable
from proxy.core.job import Order
from proxy.providers.base import Model, Provider
from proxy.providers.fields import Fields
from proxy.providers.registry import Registry
from proxy.upstream.answers import ReadFailed

log = logging.getLogger(__name__)

_LISTING_CACHE_SECONDS: Final = 60.0
"""Cache lifetime of a provider's list of models, in seconds."""
_LISTING_RETRY_SECONDS: Final = 10.0
"""Delay before a list that could not be read is requested again, in seconds."""
_CATALOGUE_TIMEOUT: Final = 5.0
"""Maximum time that a client's request waits for a provider's list, in seconds."""


@dataclass(slots=True)
class _Listing:
    """A provider's cached list of models.

    `models` is None if the provider serves all its models. `until` is the end of the cache lifetime, in monotonic
    seconds. With the lock only one request at a time asks the provider.
    """

    models: frozenset[str] | None
    until: float
    lock: asyncio.Lock


class Catalogue:
    """The models of the registry. `providers` are by model; `prices`, in tokens, replace the models' own."""

    def __init__(
        self, registry: Registry, providers: Mapping[str, Provider], prices: Mapping[str, int], clock: Clock
    ) -> None:
        self.registry = registry
        self._providers = providers
        self._prices = prices
        self._clock = clock
        self._listings = {
            name: _Listing(None, -math.inf, asyncio.Lock()) for name in {p.name for p in providers.values()}
        }

    @property
    def models(self) -> Mapping[str, Model]:
        """The models that clients can order, by name."""
        return self.registry.offered

    def price(self, order: Order) -> int:
        """Return the price of an order, in tokens."""
        model = self.models[order.model]
        return self._unit_price(model) * model.units(order.fields)

    def provider(self, model: str) -> Provider:
        """Return the provider of a model."""
        return self._providers[model]

    async def check_available(self, model: str, account: str) -> None:
        """Raise ProviderUnavailable, with the reason, unless the account can order the model now."""
        provider = self._providers[model]
        if not provider.is_configured:
            raise ProviderUnavailable(f"{model} is not available: this installation has no {provider.name} key.")
        wait = math.ceil(provider.upstream.breaker.wait_of(account))
        if wait:
            message = f"{model} is not available: requests to {provider.name} keep failing. Retry in {wait} seconds."
            raise ProviderUnavailable(message, headers={"Retry-After": str(wait)})
        if not await self._is_listed(provider, model):
            raise ProviderUnavailable(f"{model} is not available: {provider.name} does not list it.")

    async def as_json(self) -> list[dict[str, Any]]:
        """Return the models as JSON. `openapi.shapes.ModelEntry` describes one."""
        await asyncio.gather(*(self._listing(provider) for provider in set(self._providers.values())))
        return [await self._model(model) for model in self.models.values()]

    async def _model(self, model: Model) -> dict[str, Any]:
        provider = self._providers[model.name]
        return {
            "id": model.name,
            "provider": provider.name,
            "kind": model.kind,
            "tokens": self._unit_price(model),
            "available": await self._is_available(provider, model.name),
            "note": model.note,
            **({"retired_on": model.retired_on} if model.retired_on else {}),
            "typical_seconds": model.typical_seconds,
            "fields": _schema(model.fields),
            "styles": [{"value": value, "name": name} for value, name in model.styles.items()],
        }

    async def _is_available(self, provider: Provider, model: str) -> bool:
        return provider.is_configured and not provider.upstream.breaker.wait and await self._is_listed(provider, model)

    def _unit_price(self, model: Model) -> int:
        return self._prices.get(model.name, model.tokens)

    async def _is_listed(self, provider: Provider, model: str) -> bool:
        models = await self._listing(provider)
        return models is None or model in models

    async def _listing(self, provider: Provider) -> frozenset[str] | None:
        listing = self._listings[provider.name]
        if not provider.is_configured or self._clock.monotonic() < listing.until:
            return listing.models
        async with listing.lock:
            if self._clock.monotonic() >= listing.until:
                await self._refresh(provider, listing)
        return listing.models

    async def _refresh(self, provider: Provider, listing: _Listing) -> None:
        try:
            async with asyncio.timeout(_CATALOGUE_TIMEOUT):
                listing.models = await provider.list_models()
            listing.until = self._clock.monotonic() + _LISTING_CACHE_SECONDS
        except (ReadFailed, TimeoutError) as error:
            # Keep the previous list: a provider that cannot list its models may still serve them.
            log.warning("Reading the list of models of %s failed: %s", provider.name, error)
            listing.until = self._clock.monotonic() + _LISTING_RETRY_SECONDS


@cache
def _schema(fields: type[Fields]) -> Any:
    return without_nulls(fields.model_json_schema())


def without_nulls(schema: Any) -> Any:
    """Return the schema with `X or null` replaced by X, because null means absent in an order."""
    if isinstance(schema, list):
        return [without_nulls(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    options = [option for option in schema.get("anyOf", []) if option != {"type": "null"}]
    rest = {name: without_nulls(inner) for name, inner in schema.items() if name != "anyOf"}
    if rest.get("default", ...) is None:
        del rest["default"]
    if len(options) == 1:
        return without_nulls(options[0]) | rest
    return rest | ({"anyOf": [without_nulls(option) for option in options]} if options else {})
