"""Finds the simulated providers: every concrete `Provider` class in this folder, in the order of their names."""

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from inspect import isabstract
from pkgutil import iter_modules
from typing import TypeGuard

from proxy import simulator

from .provider import Provider


@cache
def provider_types() -> tuple[type[Provider], ...]:
    """Return the classes of all simulated providers."""
    return tuple(sorted(_provider_types(), key=lambda kind: kind.name))


def default_keys() -> Mapping[str, str]:
    """Return the API key that each provider accepts by default, by the provider's name."""
    return {kind.name: kind.key for kind in provider_types()}


def _provider_types() -> Iterator[type[Provider]]:
    for found in iter_modules(simulator.__path__):
        if found.name.startswith("_"):  # `__main__` starts the simulator
            continue
        module = import_module(f"{simulator.__name__}.{found.name}")
        yield from (value for value in vars(module).values() if _is_provider_type(value, module.__name__))


def _is_provider_type(value: object, module: str) -> TypeGuard[type[Provider]]:
    """Return whether a value is a concrete provider class that the module defines."""
    is_provider = isinstance(value, type) and issubclass(value, Provider) and not isabstract(value)
    return is_provider and value.__module__ == module
