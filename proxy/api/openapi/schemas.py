"""The schemas of the document: answers and events from `shapes`, orders from the models that validate them."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, models_json_schema

from proxy.api.body import LinkRequest
from proxy.api.catalogue import without_nulls
from proxy.api.openapi import shapes
from proxy.api.openapi.parts import Json, ref
from proxy.api.orders import Envelope
from proxy.providers import MODELS
from proxy.providers.base import PART_NAME, Model

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
"""Keywords that say which fields of an order go together. They hold for each order, since each has a `model`."""


class _Untitled(GenerateJsonSchema):
    """Without a title for each field: beside `created_at`, "Created At" says nothing."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Never."""
        del schema
        return False


def _without_booleans(schema: Any) -> Any:
    """The schema with each boolean sub-schema as an object that means the same, which every generator reads."""
    if isinstance(schema, list):
        return [_without_booleans(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    properties = schema.get("properties")
    if isinstance(properties, dict):
        plain = {name: inner if inner is not False else {"not": {}} for name, inner in properties.items()}
        schema = schema | {"properties": plain}
    return {name: _without_booleans(inner) for name, inner in schema.items()}


def schemas() -> Json:
    """Every schema, by name."""
    asked: dict[type[BaseModel], None] = dict.fromkeys([Envelope, *(model.fields for model in MODELS.values())])
    roots: list[tuple[type[BaseModel], JsonSchemaMode]] = [(kind, "validation") for kind in (*_ROOTS, *asked)]
    names, made = models_json_schema(roots, ref_template="#/components/schemas/{model}", schema_generator=_Untitled)
    found: Json = _without_booleans(without_nulls(made["$defs"]))
    own = {kind: found.pop(_name(names[kind, "validation"])) for kind in asked}
    orders = {
        f"order-{model.name}": _order(model, own[model.fields], own[Envelope]["properties"])
        for model in MODELS.values()
    }
    made_of: Json = {
        "Order": _any_order(orders),
        **orders,
        "Message": _message(ref(shapes.Event), ["message"], required=["data", "id"]),
        "MarkMessage": _message(ref(shapes.Mark), ["message"], required=["data", "id"]),
        # The two named events are marks in the stream: they carry no event of a job, and `reset` no position.
        "AccountMessage": _message(
            {"anyOf": [ref(shapes.Event), {"type": "object"}]}, ["message", "ready", "reset"], required=["data"]
        ),
        **found,
    }
    written: Json = _defaults_in_words(made_of)
    return written


def _defaults_in_words(schema: Any) -> Any:
    """The schema with each default in its description: openapi-typescript makes a field with a default required."""
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
        "description": "What is asked of a model: its own fields, flat, beside the common ones. Null means absent.",
        "oneOf": [ref(name) for name in orders],
        "discriminator": {"propertyName": "model", "mapping": mapping},
    }


def _order(model: Model, fields: Json, envelope: Json) -> Json:
    extra = _extra(model, envelope["extra"])
    rules = {name: schema for name, schema in fields.items() if name in _RULES}
    return {
        **{name: schema for name, schema in fields.items() if name not in _RULES},
        # Beside `properties`, openapi-python-client takes a `oneOf` for the whole order, and leaves the fields out.
        **({"dependentSchemas": {"model": rules}} if rules else {}),
        "title": model.name,
        "description": model.note or f"Makes {model.kind}.",
        "required": ["model", *fields.get("required", ())],
        "properties": {
            "model": {"const": model.name},
            **fields["properties"],
            "metadata": envelope["metadata"] | {"description": "Echoed in the job and its final event."},
            **({"extra": extra} if extra else {}),
        },
    }


def _extra(model: Model, schema: Json) -> Json | None:
    if model.extra == "refused":
        return None
    names: Json = {"not": {"enum": sorted(model.reserved | model.costly)}}
    scalars: Json = {}
    if model.extra == "scalars":
        names["pattern"] = PART_NAME
        scalars = {"additionalProperties": {"type": ["string", "number", "boolean"]}}
    description = "Merged into the provider's request: what is not named here, and does not raise the provider's cost."
    return schema | scalars | {"propertyNames": names, "description": description}


def _message(data: Json, names: Sequence[str], *, required: Sequence[str]) -> Json:
    return {
        "type": "object",
        "description": "One frame of a stream, as a parser of server-sent events gives it.",
        "required": list(required),
        "properties": {
            "data": {"type": "string", "contentMediaType": "application/json", "contentSchema": data},
            "id": {"type": "string", "pattern": "^[0-9]+$"},
            "event": {"enum": list(names), "default": "message"},
            "retry": {"type": "integer", "description": "Milliseconds to wait before coming back."},
        },
    }
