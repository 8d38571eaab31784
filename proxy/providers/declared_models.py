"""Models and settings of a provider file: their fields as pydantic types, their prices, their note on media."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, StringConstraints, create_model
from pydantic_settings import SettingsConfigDict

from proxy.core.job import Kind
from proxy.core.provider_rules import choice_key, choice_values
from proxy.core.provider_tables import FieldTable, ModelTable, Price, ProviderFile
from proxy.core.settings import ProviderSettings
from proxy.providers.base import MediaTransfer, Model
from proxy.providers.fields import COUNTS, DURATIONS, PRIORITIES, QUALITIES, Fields, Media, Text, field_error

COSTLY: Final = COUNTS | DURATIONS | QUALITIES | PRIORITIES
"""Names by which a request may cost the operator more."""
_TYPES: Final[Mapping[str, Any]] = {"text": Text, "integer": int, "number": float, "boolean": bool}


def settings_type(file: ProviderFile) -> type[ProviderSettings]:
    """Return the type of a provider's settings, with the file's defaults."""
    defaults = {name: getattr(file.limits, name) for name in ("deadline", "concurrency", "rate", "poll_interval")}
    namespace = {
        "__doc__": f"Settings of {file.title}.",
        "__module__": __name__,
        "model_config": SettingsConfigDict(env_prefix=f"{file.name.replace('-', '_')}_".upper()),
        "__annotations__": {name: ProviderSettings.__annotations__[name] for name in ("base_url", *defaults)},
        "base_url": file.base_url,
        **{name: Field(default=default, gt=0) for name, default in defaults.items()},
    }
    return type(f"{file.name.title().replace('-', '')}Settings", (ProviderSettings,), namespace)


def make_model(file: ProviderFile, table: ModelTable) -> Model:
    """Return a model of a file, as clients can order it."""
    tokens, units = _units(table.price)
    ours, inline = file.submit.idempotency, _transfer(table) == "inline"
    extra = _extra(file, table)
    return Model(
        f"{file.name}/{table.name}",
        table.kind,
        tokens,
        _fields_type(file, table),
        reserved=frozenset(),
        typical_seconds=(table.typical_seconds[0], table.typical_seconds[1]),
        note=table.note or file.note,
        allowed_extra=frozenset(extra),
        costly=COSTLY - frozenset(extra),
        media=_transfer(table),
        units=units,
        one_result=table.price.per not in COUNTS,
        repeatable=ours is not None and ours.repeats and not inline and file.submit.encoding == "json",
        can_lookup=file.lookup is not None,
        retired_on=table.retired_on.isoformat() if table.retired_on else None,
    )


def unpriced_fields(file: ProviderFile, table: ModelTable) -> list[str]:
    """Return the names, also those of `extra`, that may raise the provider's cost and do not change the price."""
    priced = {table.price.per, *table.price.by}
    fields = [
        name
        for name, field in table.fields.items()
        if name not in priced and not COSTLY.isdisjoint({name, field.name}) and len(choice_values(field)) != 1
    ]
    return fields + [f"extra.{name}" for name in _extra(file, table) if name in COSTLY]


def _extra(file: ProviderFile, table: ModelTable) -> Sequence[str]:
    return file.submit.extra if table.extra is None else table.extra


def _transfer(table: ModelTable) -> MediaTransfer:
    forms = {field.send for field in table.fields.values() if field.type == "media"}
    if forms & {"data", "base64", "part"}:
        return "inline"
    return "uploaded" if "upload" in forms else "linked"


# --- fields ---


def _fields_type(file: ProviderFile, table: ModelTable) -> type[Fields]:
    definitions: dict[str, Any] = {name: _definition(field) for name, field in table.fields.items()}
    name = "".join(filter(str.isalnum, f"{file.name}_{table.name}".title()))
    made: type[Fields] = create_model(f"{name}Fields", __base__=Fields, __module__=__name__, **definitions)
    return made


def _definition(field: FieldTable) -> tuple[Any, Any]:
    """Return a field's type and its default, for pydantic."""
    value: Any = _value_type(field)
    if field.many:
        value = Annotated[list[value], Field(min_length=1, max_length=field.max_items)]
    description = field.note or None
    if field.required:
        return value, Field(description=description)
    if field.default is not None:
        # The choice itself, because 1.0 equals the choice 1 and is not a key of its table.
        default = next((choice for choice in choice_values(field) if choice == field.default), field.default)
        return value, Field(default=default, description=description)
    return value | None, Field(default=None, description=description)


def _value_type(field: FieldTable) -> Any:
    if field.type == "media":
        kinds = frozenset(map(Kind, field.kinds))
        return Annotated[str, StringConstraints(min_length=1, max_length=2048), Media(kinds)]
    if choices := choice_values(field):
        named: Any = Literal[tuple(choices)]
        return named if field.type in {"text", "boolean"} else Annotated[named, BeforeValidator(_check_number)]
    if field.type == "text":
        return Annotated[Text, StringConstraints(max_length=field.max_length, pattern=field.pattern)]
    whole = field.type == "integer"
    low, high = (int(limit) if whole and limit is not None else limit for limit in (field.min, field.max))
    return Annotated[_TYPES[field.type], Field(ge=low, le=high)] if field.type != "boolean" else bool


def _check_number(value: Any) -> Any:
    """Refuse a boolean, which to Python equals 0 or 1."""
    if isinstance(value, bool):
        raise field_error("", "must be a number")
    return value


# --- prices ---


def _units(price: Price) -> tuple[int, Callable[[Mapping[str, Any]], int]]:
    """Return the tokens of one unit, and the number of units of an order of these fields."""
    if price.by:
        prices = list(_table_values(price.table))
        unit = math.gcd(*prices) or 1
        return unit, lambda fields: _in_table(price, fields) // unit
    if price.per:
        name = price.per
        return price.tokens or 0, lambda fields: max(math.ceil(fields[name]), 1)
    return price.tokens or 0, lambda _: 1


def _table_values(table: Any) -> Iterator[int]:
    if isinstance(table, dict):
        for inner in table.values():
            yield from _table_values(inner)
    else:
        yield table


def _in_table(price: Price, fields: Mapping[str, Any]) -> int:
    found: Any = price.table
    for name in price.by:
        found = found[choice_key(fields[name])]
    return int(found)
