"""Registry of providers: every provider of this installation, and a look-up of models by name.

`installed_registry` finds the adapters: the classes in this folder, and the entry points of the group
`pollcast.providers`. The composition root builds one registry and hands it on. Nothing else lists providers or models.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from inspect import isabstract
from pkgutil import iter_modules
from typing import Final, Protocol, TypeGuard, runtime_checkable

from proxy import providers
from proxy.core.clock import Clock
from proxy.core.settings import BadSetting, ProviderSettings, Settings
from proxy.providers.base import Model, Provider
from proxy.providers.declared_files import read_folder
from proxy.upstream.client import UpstreamOptions

ENTRY_POINTS: Final = "pollcast.providers"
"""Group of the entry points through which other packages add providers."""


@runtime_checkable
class ProviderKind(Protocol):
    """A provider that can be built. An adapter class is one; so is any object with these attributes and this call."""

    @property
    def name(self) -> str:
        """The provider's name, as users read it."""

    @property
    def models(self) -> tuple[Model, ...]:
        """The provider's models, in the order of the catalogue."""

    @property
    def settings_type(self) -> type[ProviderSettings]:
        """The class of the provider's settings, with the prefix of their environment variables."""

    @property
    def position(self) -> int:
        """The provider's place in the catalogue. Providers with the same position are sorted by name."""

    def __call__(
        self, settings: ProviderSettings, clock: Clock, public_url: str, options: UpstreamOptions = ..., /
    ) -> Provider:
        """Build the provider."""


class BadRegistry(BadSetting):
    """The installed providers cannot be used together, or one of them cannot be loaded."""


@dataclass(frozen=True, slots=True, eq=False)
class Registry:
    """The providers of an installation, and their models. Raises BadRegistry if two have the same name.

    A registry does not change. Ask the object that was handed to you for each use instead of copying its models.
    """

    providers: tuple[ProviderKind, ...]
    patterns: Sequence[str] = ()
    """Names of the offered models, or prefixes that end in `*`; empty if all are offered."""
    models: Mapping[str, Model] = field(init=False)
    """All models by name, in the order of the catalogue."""
    offered: Mapping[str, Model] = field(init=False)
    """The models that clients can order. Jobs of the others are still finished."""
    _by_model: Mapping[str, ProviderKind] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.providers, key=lambda kind: (kind.position, kind.name)))
        _check_unique("are named", ((kind.name, kind) for kind in ordered))
        _check_unique("have settings with the prefix", ((prefix_of(kind), kind) for kind in ordered))
        by_model = _check_unique("have a model", ((model.name, kind) for kind in ordered for model in kind.models))
        object.__setattr__(self, "providers", ordered)
        object.__setattr__(self, "models", {model.name: model for kind in ordered for model in kind.models})
        object.__setattr__(self, "offered", _offered(self.models, self.patterns))
        object.__setattr__(self, "_by_model", by_model)

    def provider_of(self, model: str) -> ProviderKind:
        """Return the provider of a model. Raises KeyError."""
        return self._by_model[model]


def installed_registry(settings: Settings | None = None) -> Registry:
    """Return the registry of all installed providers, and of those in the folder of the settings. Raises BadSetting."""
    adapters = (*_adapters(), *map(_load, entry_points(group=ENTRY_POINTS)))
    prefixes = {prefix_of(kind).rstrip("_").lower().replace("_", "-") for kind in adapters}
    files = read_folder(settings.providers if settings else "", prefixes)
    return Registry((*adapters, *files), settings.models if settings else ())


def _offered(models: Mapping[str, Model], patterns: Sequence[str]) -> Mapping[str, Model]:
    """Return the models that match a pattern. Raises BadRegistry for a pattern that matches none."""
    names: set[str] = set()
    for pattern in patterns:
        prefix = pattern.removesuffix("*")
        matching = {name for name in models if name == pattern or (prefix != pattern and name.startswith(prefix))}
        if not matching:
            raise BadRegistry(f"POLLCAST_MODELS: there is no model {pattern!r}; there are {', '.join(models)}")
        names |= matching
    return {name: model for name, model in models.items() if name in names} if patterns else models


def prefix_of(kind: ProviderKind) -> str:
    """Return the prefix of a provider's environment variables, such as `GAGA_`."""
    return str(kind.settings_type.model_config.get("env_prefix", ""))


def _adapters() -> Iterator[ProviderKind]:
    """Yield each concrete adapter class of this folder.

    A generic adapter, which has no `models` of its own, is no provider by itself.
    """
    for found in iter_modules(providers.__path__, f"{providers.__name__}."):
        module = import_module(found.name)
        yield from (value for value in vars(module).values() if _is_adapter(value, module.__name__))


def _is_adapter(value: object, module: str) -> TypeGuard[type[Provider]]:
    """Return whether a value is a concrete adapter class that the module defines."""
    is_provider = isinstance(value, type) and issubclass(value, Provider) and not isabstract(value)
    return is_provider and value.__module__ == module and hasattr(value, "models")


def _load(entry_point: EntryPoint) -> ProviderKind:
    place = f"Entry point {entry_point.name} ({entry_point.value}) of {ENTRY_POINTS}"
    try:
        loaded = entry_point.load()
    except (ImportError, AttributeError) as error:
        raise BadRegistry(f"{place} cannot be loaded: {error}") from None
    if not isinstance(loaded, ProviderKind):
        raise BadRegistry(f"{place} is not a provider: it needs name, models, settings_type and position")
    return loaded


def _check_unique(what: str, named: Iterable[tuple[str, ProviderKind]]) -> dict[str, ProviderKind]:
    """Return the providers by the given names. Raises BadRegistry, which names both, if two have the same."""
    found: dict[str, ProviderKind] = {}
    for name, kind in named:
        if name in found:
            raise BadRegistry(f"Two providers {what} {name}: {_described(found[name])} and {_described(kind)}")
        found[name] = kind
    return found


def _described(kind: ProviderKind) -> str:
    place = getattr(kind, "__qualname__", type(kind).__qualname__)
    return f"{kind.name} ({getattr(kind, '__module__', type(kind).__module__)}.{place})"
