"""From a client's JSON to an Order: the one place where an order is read, and refused by field."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any, Final

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from proxy.errors import BadRequest, FieldError, InvalidRequest, UnknownModel
from proxy.job import Order
from proxy.providers import MODELS
from proxy.providers.base import Model, Reference, references

MetadataText = Annotated[str, Field(max_length=512)]


class Envelope(BaseModel):
    """What every order has, whatever its model."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: str
    metadata: Annotated[dict[MetadataText, MetadataText], Field(max_length=16)] = Field(default_factory=dict)
    extra: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reading:
    """An order that is valid by itself; the media it names are still to be looked at."""

    order: Order
    model: Model
    references: Sequence[Reference]
    fingerprint: bytes
    """Equal for bodies that are equal as parsed JSON."""


def read(body: bytes) -> Reading:
    """Read an order. Raises BadRequest (not JSON), UnknownModel, or InvalidRequest with the fields at fault."""
    parsed = _json(body)
    envelope = _validated(Envelope, _present(parsed))
    model = MODELS.get(envelope.model)
    if model is None:
        raise UnknownModel(f"There is no model {envelope.model[:100]!r}. There are: {', '.join(MODELS)}.")
    fields = _validated(model.fields, envelope.model_extra or {})
    _check_extra(model, envelope.extra)
    order = Order(model.name, fields.model_dump(exclude_none=True), envelope.metadata, envelope.extra)
    return Reading(order, model, tuple(references(fields)), sha256(_canonical(parsed)).digest())


def _json(body: bytes) -> dict[str, Any]:
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"The body is not JSON: {error}.") from None
    if _too_deep(parsed):
        raise BadRequest(f"The body is nested more than {_DEEPEST} levels deep.")
    if not isinstance(parsed, dict):
        raise InvalidRequest(f"An order is a JSON object with a model, not {_JSON_NAMES.get(type(parsed), 'null')}.")
    return parsed


def _too_deep(parsed: Any) -> bool:
    level = [parsed]
    for _ in range(_DEEPEST):
        level = [inner for value in level for inner in _inside(value)]
        if not level:
            return False
    return True


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


_DEEPEST: Final = 100
"""Levels of nesting: more than any order needs, less than orjson can write and Python can walk."""

_JSON_NAMES: Final = {list: "an array", str: "a text", int: "a number", float: "a number", bool: "a boolean"}


def _present(order: Mapping[str, Any]) -> dict[str, Any]:
    """The order without what means absent: `null`, and `""` for `style`."""
    return {name: value for name, value in order.items() if value is not None and (name, value) != ("style", "")}


def _validated(kind: type[Any], values: Mapping[str, Any]) -> Any:
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        faults = [_fault(details) for details in error.errors(include_url=False)]
    raise InvalidRequest("; ".join(f"{fault.field}: {fault.message}" for fault in faults[:5]), faults) from None


def _fault(details: Any) -> FieldError:
    named = details.get("ctx", {}).get("field", "") if details["type"] == "order" else ""
    place = ".".join(str(part) for part in (*details["loc"], named) if part != "")
    message = details["msg"]
    if details["type"] == "extra_forbidden":
        message = "this model has no such field"
    return FieldError(place, message)


def _check_extra(model: Model, extra: Mapping[str, Any]) -> None:
    if extra and model.extra == "refused":
        raise _extra_refused("extra", f"{model.name} takes no extra: its request body is the items alone")
    for name, value in extra.items():
        if name in model.sends:
            raise _extra_refused(f"extra.{name}", "Pollcast sends this field itself: use the model's own fields")
        if model.extra == "scalars" and not isinstance(value, str | int | float):
            raise _extra_refused(f"extra.{name}", "this provider takes multipart: texts, numbers and booleans only")


def _extra_refused(place: str, message: str) -> InvalidRequest:
    return InvalidRequest(f"{place}: {message}", [FieldError(place, message)])


def _canonical(value: Any) -> bytes:
    return orjson.dumps(_unified(value), option=orjson.OPT_SORT_KEYS)


def _unified(value: Any) -> Any:
    """JSON knows one kind of number: 1 and 1.0 are equal."""
    if isinstance(value, dict):
        return {name: _unified(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_unified(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53 else value
