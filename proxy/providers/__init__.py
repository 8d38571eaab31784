"""The five providers, and the one look-up from a model's name to its provider.

A new provider is one adapter, one simulator file, one test file and one entry in `PROVIDERS`
(`proxy/docs/adding-a-provider.md`).
"""

from collections.abc import Iterable, Mapping
from typing import Final

from proxy.providers.ainow import AiNow
from proxy.providers.base import Model, Provider
from proxy.providers.gaga import Gaga
from proxy.providers.gaia import Gaia
from proxy.providers.ganai import GanAi
from proxy.providers.heygen import HeyGen

PROVIDERS: Final[tuple[type[Provider], ...]] = (Gaga, Gaia, AiNow, GanAi, HeyGen)

MODELS: Final[Mapping[str, Model]] = {model.name: model for kind in PROVIDERS for model in kind.models}


def by_model(providers: Iterable[Provider]) -> dict[str, Provider]:
    """From each model's name to the provider that serves it."""
    return {model.name: provider for provider in providers for model in provider.models}
