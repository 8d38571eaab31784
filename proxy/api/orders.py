"""From a client's JSON to an Order: the one place where an order is read, and refused by field."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field

from proxy.api.body import json_object, validated, whole
from proxy.core.errors import FieldError, InvalidRequest, UnknownModel
from proxy.core.job import Order
from proxy.providers import MODELS
from proxy.providers.base import PART_NAME, Model, Reference, references

MetadataText = Annotated[str, Field(max_length=512)]


class Envelope(BaseModel):
    """What every order has, whatever its model."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: str
    metadata: Annotated[dict[MetadataText, MetadataText], Field(max_length=16)] = Field(default_factory=dict)
    extra: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ParsedOrder:
    """An order that is valid by itself; the media it names are still to be looked at."""

    order: Order
    model: Model
    references: Sequence[Reference]
    fingerprint: bytes
    """Equal for bodies that are equal as parsed JSON."""


def read(body: bytes) -> ParsedOrder:
    """Read an order. Raises BadRequest (not JSON), UnknownModel, or InvalidRequest with the fields at fault."""
    parsed = json_object(body, "An order is a JSON object with a model")
    envelope = validated(Envelope, _present(parsed))
    model = MODELS.get(envelope.model)
    if model is None:
        raise UnknownModel(f"There is no model {envelope.model[:100]!r}. There are: {', '.join(MODELS)}.")
    fields = validated(model.fields, envelope.model_extra or {})
    _check_extra(model, envelope.extra)
    order = Order(model.name, fields.model_dump(exclude_none=True), envelope.metadata, envelope.extra)
    return ParsedOrder(order, model, tuple(references(fields)), sha256(_canonical(parsed)).digest())


def _present(order: Mapping[str, Any]) -> dict[str, Any]:
    """The order without what means absent: `null`, and `""` for `style`."""
    return {name: value for name, value in order.items() if value is not None and (name, value) != ("style", "")}


def _check_extra(model: Model, extra: Mapping[str, Any]) -> None:
    if extra and model.extra == "refused":
        raise _extra_refused("extra", f"{model.name} takes no extra: its request body is the items alone")
    _check_cost(model, extra)
    for name, value in extra.items():
        if model.extra == "scalars" and not isinstance(value, str | int | float):
            raise _extra_refused(f"extra.{name}", "this provider takes multipart: texts, numbers and booleans only")
        if model.extra == "scalars" and not re.fullmatch(PART_NAME, name):
            reason = "this provider takes multipart: names are printable ASCII without blanks, quotes and backslashes"
            raise _extra_refused(f"extra.{name}", reason)


def _check_cost(model: Model, extra: Mapping[str, Any]) -> None:
    """Raises InvalidRequest for names that Pollcast sends itself, and, at any depth, for those that cost more.

    Other spellings are refused as well: some servers read a name in any case (Go's JSON does), or in camel case.
    """
    for name in extra:
        if _folded(name) in _folded_names(model.reserved):
            raise _extra_refused(f"extra.{name}", "Pollcast sends this field itself: use the model's own fields")
    costly = _folded_names(model.costly)
    places = [
        place
        for place, name in _names(extra, "extra")
        if not costly.isdisjoint(map(_folded, re.split(r"[\[\].]+", name)))
    ]
    if places:
        reason = "would raise the provider's cost at an unchanged price"
        raise InvalidRequest(f"{', '.join(places[:5])}: {reason}", [FieldError(place, reason) for place in places])


def _names(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Every name in a JSON value, with its path."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield f"{place}.{name}", name
            yield from _names(inner, f"{place}.{name}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _names(inner, f"{place}.{index}")


def _folded(name: str) -> str:
    """The same for `numImages`, `num_images` and `Num-Images`."""
    return re.sub(r"[\W_]", "", name).casefold()


@cache
def _folded_names(names: frozenset[str]) -> frozenset[str]:
    return frozenset(map(_folded, names))


def _extra_refused(place: str, message: str) -> InvalidRequest:
    return InvalidRequest(f"{place}: {message}", [FieldError(place, message)])


def _canonical(value: Any) -> bytes:
    return orjson.dumps(_unified(value), option=orjson.OPT_SORT_KEYS)


def _unified(value: Any) -> Any:
    """The same for values that are equal, whatever they were written as."""
    if isinstance(value, dict):
        return {name: _unified(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_unified(inner) for inner in value]
    return whole(value)
