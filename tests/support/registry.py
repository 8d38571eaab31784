"""The registry of all installed providers, from which tests derive their lists of providers and models."""

from typing import Final

from proxy.providers.registry import ProviderKind, installed_registry, prefix_of

REGISTRY: Final = installed_registry()


def short(kind: ProviderKind) -> str:
    """The provider's name in the simulator and in its environment variables, such as `gaga`."""
    return prefix_of(kind).rstrip("_").lower()


def provider_named(name: str) -> ProviderKind:
    return next(kind for kind in REGISTRY.providers if kind.name == name)
