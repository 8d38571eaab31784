"""The schemas of the OpenAPI document.

Responses and events come from `shapes`, orders from the models that validate them.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import orjson
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, models_json_schema

from proxy.api.body import LinkRequest
from proxy.api.catalogue import without_nulls
from proxy.api.openapi import shapes
from proxy.api.openapi.parts import Json, ref
from proxy.api.orders import Envelope
from proxy.providers.base import Model
from proxy.providers.fields import PART_NAME

_ROOTS: Final[tuple[type[BaseModel], ...]] = (
    shapes.Account,
    shapes.Asset,
    shapes.Catalogue,
    shapes.DryRun,
    shapes.Error,
    shapes.Event,
    shapes.Health,
    shapes.Job,
    shapes.JobList,
    shapes.Ledger,
    shapes.Link,
    shapes.Mark,
    LinkRequest,
)


_RULES: Final = frozenset({"oneOf", "anyOf", "allOf", "if", "then", "else"})
"""Keywords of rules for several fields of an order. They apply to every order, because every order has a `model`."""


class _Untitled(GenerateJsonSchema):
    """Generates schemas without field titles, because a title like "Created At" only repeats `created_at`."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Return False for every field."""
        del schema
        return False


def _without_booleans(schema: Any) -> Any:
    """Return the schema with boolean subschemas as equivalent objects, which all generators can read."""
    if isinstance(schema, list):
        return [_without_booleans(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    properties = schema.get("properties")
    if isinstance(properties, dict):
        plain = {name: inner if inner is not False else {"not": {}} for name, inner in properties.items()}
        schema = schema | {"properties": plain}
    return {name: _without_booleans(inner) for name, inner in schema.items()}


def schemas(models: Collection[Model]) -> Json:
    """Return all schemas, by name, with one of an order for each model."""
    order_models: dict[type[BaseModel], None] = dict.fromkeys([Envelope, *(model.fields for model in models)])
    roots: list[tuple[type[BaseModel], JsonSchemaMode]] = [(kind, "validation") for kind in (*_ROOTS, *order_models)]
    names, generated = models_json_schema(
        roots, ref_template="#/components/schemas/{model}", schema_generator=_Untitled
    )
    found: Json = _without_booleans(without_nulls(generated["$defs"]))
    own = {kind: found.pop(_name(names[kind, "validation"])) for kind in order_models}
    orders = {
        # Names of schemas have no slash (OpenAPI 3.1, section 4.8.7), unlike `fal/veo3`.
        f"order-{model.name.replace('/', '.')}": _order(model, own[model.fields], own[Envelope]["properties"])
        for model in models
    }
    all_schemas: Json = {
        "Order": _any_order(orders),
        **orders,
        "Message": _message(ref(shapes.Event), ["message"], required=["data", "id"]),
        "MarkMessage": _message(ref(shapes.Mark), ["message"], required=["data", "id"]),
        # The events `ready` and `reset` carry no event of a job, and `reset` has no id.
        "AccountMessage": _message(
            {"anyOf": [ref(shapes.Event), {"type": "object"}]}, ["message", "ready", "reset"], required=["data"]
        ),
        **found,
    }
    described: Json = _defaults_in_words(all_schemas)
    return described


def _defaults_in_words(schema: Any) -> Any:
    """Move defaults into the descriptions, because openapi-typescript makes fields with defaults required."""
    if isinstance(schema, list):
        return [_defaults_in_words(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {name: _defaults_in_words(inner) for name, inner in schema.items() if name != "default"}
    if "default" not in schema:
        return plain
    default = f"Default: `{orjson.dumps(schema['default']).decode()}`."
    return plain | {"description": " ".join(filter(None, [plain.get("description"), default]))}


def _name(reference: Mapping[str, Any]) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


def _any_order(orders: Mapping[str, Json]) -> Json:
    mapping = {order["title"]: ref(name)["$ref"] for name, order in orders.items()}
    return {
        "description": "An order: the fields of its model, and the common fields. Null means absent.",
        "oneOf": [ref(name) for name in orders],
        "discriminator": {"propertyName": "model", "mapping": mapping},
    }


def _order(model: Model, fields: Json, envelope: Json) -> Json:
    extra = _extra(model, envelope["extra"])
    rules = {name: schema for name, schema in fields.items() if name in _RULES}
    return {
        **{name: schema for name, schema in fields.items() if name not in _RULES},
        # A `oneOf` next to `properties` makes openapi-python-client drop the properties.
        **({"dependentSchemas": {"model": rules}} if rules else {}),
        "title": model.name,
        "description": model.note or f"Makes {model.kind}.",
        "required": ["model", *fields.get("required", ())],
        "properties": {
            "model": {"const": model.name},
            **fields["properties"],
            "metadata": envelope["metadata"]
            | {"description": "Your own data. Returned in the job and its final event."},
            **({"extra": extra} if extra else {}),
        },
    }


def _extra(model: Model, schema: Json) -> Json | None:
    if model.extra == "refused" or model.allowed_extra == frozenset():
        return None
    names: Json = {"not": {"enum": sorted(model.reserved | model.costly)}}
    if model.allowed_extra is not None:
        names = {"enum": sorted(model.allowed_extra)}
    scalars: Json = {}
    if model.extra == "scalars":
        names["pattern"] = PART_NAME
        scalars = {"additionalProperties": {"type": ["string", "number", "boolean"]}}
    description = (
        "Further fields of the provider's request. Fields that Pollcast sets, or that raise the cost, are refused."
    )
    return schema | scalars | {"propertyNames": names, "description": description}


def _message(data: Json, names: Sequence[str], *, required: Sequence[str]) -> Json:
    return {
        "type": "object",
        "description": "One event of a stream, as parsers of server-sent events return it.",
        "required": list(required),
        "properties": {
            "data": {"type": "string", "contentMediaType": "application/json", "contentSchema": data},
            "id": {"type": "string", "pattern": "^[0-9]+$"},
            "event": {"enum": list(names), "default": "message"},
            "retry": {"type": "integer", "description": "Milliseconds to wait before reconnecting."},
        },
    }
