"""JSON Schema of a provider file, for editors. The docstrings below the keys are their descriptions."""

import ast
import inspect
from typing import Any

from proxy.core import provider_tables
from proxy.core.provider_tables import ProviderFile


def json_schema() -> dict[str, Any]:
    """Return the schema of a provider file. It knows what a single key may hold, not the rules over several keys."""
    schema = ProviderFile.model_json_schema()
    # A model changes single keys of a shared field, and a file that extends another needs nothing else.
    schema["$defs"]["FieldTable"].pop("required")
    schema |= {"if": {"not": {"required": ["extends"]}}, "then": {"required": schema.pop("required")}}
    tables = {"ProviderFile": schema, **schema["$defs"]}
    for table, keys in key_descriptions().items():
        for key, description in keys.items():
            tables[table]["properties"][key]["description"] = description
    return schema


def key_descriptions() -> dict[str, dict[str, str]]:
    """Return the description of each key that has one, by the name of its table."""
    module = ast.parse(inspect.getsource(provider_tables))
    classes = [node for node in module.body if isinstance(node, ast.ClassDef)]
    return {node.name: found for node in classes if (found := _descriptions(node))}


def _descriptions(table: ast.ClassDef) -> dict[str, str]:
    found = {}
    for key, text in zip(table.body, table.body[1:], strict=False):
        if isinstance(key, ast.AnnAssign) and isinstance(key.target, ast.Name) and isinstance(text, ast.Expr):
            value = text.value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                found[key.target.id] = " ".join(value.value.split())
    return found
