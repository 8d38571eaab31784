"""Parses a client's JSON into an Order and validates it. Errors name the invalid fields."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import Annotated, Any, Final

import orjson
from pydantic import BaseModel, ConfigDict, Field

from proxy.api.body import json_object, normalize_number, validate
from proxy.core.errors import FieldError, InvalidRequest, UnknownModel
from proxy.core.job import Order
from proxy.providers.base import Model
from proxy.providers.fields import PART_NAME, Reference, references

_MAX_MODEL_NAME: Final = 100
"""Maximum number of a model name's characters that an error message repeats."""
_MAX_SHOWN_NAMES: Final = 5
"""Maximum number of refused names in an error message. `errors` in the response has all of them."""

MetadataText = Annotated[str, Field(max_length=512)]


class Envelope(BaseModel):
    """The fields that every order has, whatever its model."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: str
    metadata: Annotated[dict[MetadataText, MetadataText], Field(max_length=16)] = Field(default_factory=dict)
    extra: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ParsedOrder:
    """A valid order. The media that it references are not checked yet."""

    order: Order
    model: Model
    references: Sequence[Reference]
    fingerprint: bytes
    """Hash of the body, equal for bodies that are equal as parsed JSON."""


def parse(body: bytes, models: Mapping[str, Model]) -> ParsedOrder:
    """Parse and validate an order of one of the models, which are by name.

    Raises BadRequest (not JSON), UnknownModel, or InvalidRequest with the invalid fields.
    """
    parsed = json_object(body, "Send an order as a JSON object with a model")
    envelope = validate(Envelope, _present(parsed))
    model = models.get(envelope.model)
    if model is None:
        name = envelope.model[:_MAX_MODEL_NAME]
        raise UnknownModel(f"There is no model {name!r}. Available models: {', '.join(models)}.")
    fields = validate(model.fields, envelope.model_extra or {})
    _check_extra(model, envelope.extra)
    order = Order(model.name, fields.model_dump(exclude_none=True), envelope.metadata, envelope.extra)
    return ParsedOrder(order, model, tuple(references(fields)), sha256(_canonical(parsed)).digest())


def _present(order: Mapping[str, Any]) -> dict[str, Any]:
    """Return the order without values that mean absent: null, and an empty `style`."""
    return {name: value for name, value in order.items() if value is not None and (name, value) != ("style", "")}


def _check_extra(model: Model, extra: Mapping[str, Any]) -> None:
    if extra and model.extra == "refused":
        raise _extra_error("extra", f"{model.name} does not support extra: its request is a list of items only")
    for name in extra:
        if model.allowed_extra is not None and name not in model.allowed_extra:
            allowed = ", ".join(sorted(model.allowed_extra)) or "none"
            raise _extra_error(f"extra.{name}", f"is not a parameter that {model.name} passes on. Allowed: {allowed}")
    _check_cost(model, extra)
    for name, value in extra.items():
        if model.extra == "scalars" and not isinstance(value, str | int | float):
            rule = "must be a string, number or boolean, because this provider takes multipart requests"
            raise _extra_error(f"extra.{name}", rule)
        if model.extra == "scalars" and not re.fullmatch(PART_NAME, name):
            rule = "the name must be printable ASCII without spaces, quotes and backslashes (multipart)"
            raise _extra_error(f"extra.{name}", rule)


def _check_cost(model: Model, extra: Mapping[str, Any]) -> None:
    """Raise InvalidRequest for names that Pollcast sends itself and, at any depth, for names that raise the cost.

    Other spellings are refused too, because some servers ignore case (Go's JSON decoder) or accept camel case.
    """
    for name in extra:
        if _fold(name) in _fold_all(model.reserved):
            raise _extra_error(f"extra.{name}", "Pollcast sets this field; use the model's own fields instead")
    costly = _fold_all(model.costly)
    places = [
        place
        for place, name in _names(extra, "extra")
        if not costly.isdisjoint(map(_fold, re.split(r"[\[\].]+", name)))
    ]
    if places:
        reason = "would raise the provider's cost at an unchanged price"
        shown = ", ".join(places[:_MAX_SHOWN_NAMES])
        raise InvalidRequest(f"{shown}: {reason}", [FieldError(place, reason) for place in places])


def _names(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Yield the path and name of every field in a JSON value."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield f"{place}.{name}", name
            yield from _names(inner, f"{place}.{name}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _names(inner, f"{place}.{index}")


def _fold(name: str) -> str:
    """Return a form that is equal for `numImages`, `num_images` and `Num-Images`."""
    return re.sub(r"[\W_]", "", name).casefold()


@cache
def _fold_all(names: frozenset[str]) -> frozenset[str]:
    return frozenset(map(_fold, names))


def _extra_error(place: str, message: str) -> InvalidRequest:
    return InvalidRequest(f"{place}: {message}", [FieldError(place, message)])


def _canonical(value: Any) -> bytes:
    return orjson.dumps(_normalize(value), option=orjson.OPT_SORT_KEYS)


def _normalize(value: Any) -> Any:
    """Return a form that is equal for equal JSON values, such as 2 and 2.0."""
    if isinstance(value, dict):
        return {name: _normalize(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_normalize(inner) for inner in value]
    return normalize_number(value)
