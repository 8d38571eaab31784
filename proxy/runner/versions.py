"""Providers as jobs began with them: a job continues with the version of its provider's file that it was ordered with.

The registry has the current versions. The store keeps the texts of each version of a file (`Store.get_or_set`), and a
claim names the version of its job (`Claim.version`). So any node can continue the job, also after the file has changed
or is gone.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final, Self

from proxy.core.settings import BadSetting
from proxy.providers.base import Provider
from proxy.providers.declared import DeclaredKind
from proxy.providers.declared_files import dump_texts, load_texts
from proxy.providers.registry import ProviderKind, Registry
from proxy.store.contract import Store
from proxy.store.types import Claim

log = logging.getLogger(__name__)

Build = Callable[[ProviderKind], Provider]
"""Builds a provider with the operator's settings."""


class ProviderVersions:
    """Opens the providers of earlier versions, each once, and keeps them open as long as it is entered."""

    def __init__(self, store: Store, registry: Registry, build: Build) -> None:
        self._store: Final = store
        self._registry = registry
        self._build = build
        self._earlier: dict[str, Provider] = {}
        self._opening = asyncio.Lock()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Keep the texts of the current versions in the store."""
        for kind in self._registry.providers:
            if isinstance(kind, DeclaredKind):
                await self._store.get_or_set(kind.version, dump_texts(kind))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def is_current(self, claim: Claim) -> bool:
        """Return whether the claim's job runs with the registry's provider. One without a version always does."""
        model = claim.job.model
        known = model in self._registry.models
        return known and claim.version in {"", self._registry.provider_of(model).version}

    async def earlier(self, version: str) -> Provider | None:
        """Return the provider of an earlier version, or None if it cannot be read. Raises errors.Unavailable."""
        async with self._opening:
            if version not in self._earlier:
                texts = await self._store.value(version) if version else None
                if texts is None:
                    return None
                try:
                    provider = self._build(load_texts(texts))
                except BadSetting as error:
                    log.warning("The provider file of earlier jobs cannot be used any more: %s", error)
                    return None
                self._earlier[version] = await self._open(provider)
            return self._earlier[version]

    async def _open(self, provider: Provider) -> Provider:
        await self._stack.enter_async_context(provider.upstream)
        return provider
