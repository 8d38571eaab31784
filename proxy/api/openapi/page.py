"""Renders the OpenAPI document as an HTML page, without scripts and without resources from other hosts."""

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from html import escape
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import orjson

from proxy.api.openapi import MAX_DOCUMENTS, document
from proxy.api.openapi.parts import Json
from proxy.providers.registry import Registry

_STYLE: Final = Path(__file__).with_name("page.css").read_text()
_STYLE_HASH: Final = b64encode(sha256(_STYLE.encode()).digest()).decode()

HEADERS: Final[Mapping[str, str]] = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
"""Headers of the page's response. No script runs, nothing is loaded, and the page cannot be framed."""


@lru_cache(maxsize=MAX_DOCUMENTS)
def page(server: str, registry: Registry) -> bytes:
    """Return the page of an installation with the base URL `server` and the providers of `registry`."""
    whole = document(server, registry)
    components = whole["components"]
    common = _common_responses(whole)
    parts = [
        f"<h1>{escape(whole['info']['title'])}</h1>",
        "<p><a href='docs/api'>Reference pages</a>: models, settings, operating, and more.</p>",
        *_paragraphs(whole["info"]["description"]),
        f"<p>Base URL: <code>{escape(server)}</code>. <a href='/openapi.json'>OpenAPI 3.1 document</a></p>",
        f"<nav>{''.join(_contents(whole))}</nav>",
        "<p>Every operation can also return:</p>",
        _table(_response_row(status, response) for status, response in common.items()),
    ]
    for tag in whole["tags"]:
        parts.append(f"<h2 id='{tag['name']}'>{tag['name'].capitalize()}</h2><p>{escape(tag['description'])}</p>")
        parts += [_operation(*found, components, common) for found in _operations_of(whole, tag["name"])]
    parts.append("<h2 id='schemas'>Schemas</h2>")
    parts += [_schema(name, schema) for name, schema in components["schemas"].items()]
    return html_page(f"{whole['info']['title']}: the API", "\n".join(parts)).encode()


def html_page(title: str, content: str) -> str:
    """Return an HTML page in the style that HEADERS allows."""
    head = (
        "<meta charset=utf-8><meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{_STYLE}</style>"
    )
    return f"<!DOCTYPE html>\n<html lang=en><head>{head}</head>\n<body><main>\n{content}\n</main></body></html>\n"


def _common_responses(whole: Json) -> Json:
    """Return the responses that all operations have."""
    operations = [operation for path in whole["paths"].values() for operation in path.values()]
    first = operations[0]["responses"]
    return {
        status: response
        for status, response in first.items()
        if all(operation["responses"].get(status) == response for operation in operations)
    }


def _operations_of(whole: Json, tag: str) -> Iterable[tuple[str, str, Json]]:
    for path, operations in whole["paths"].items():
        for method, operation in operations.items():
            if tag in operation["tags"]:
                yield method, path, operation


def _contents(whole: Json) -> Iterable[str]:
    for tag in whole["tags"]:
        yield f"<a href='#{tag['name']}'>{tag['name'].capitalize()}</a><ul>"
        for method, path, operation in _operations_of(whole, tag["name"]):
            yield f"<li><a href='#{operation['operationId']}'>{_signature(method, path)}</a></li>"
        yield "</ul>"
    yield "<a href='#schemas'>Schemas</a>"


def _signature(method: str, path: str) -> str:
    return f"<span class=method>{method}</span><code>{escape(path)}</code>"


def _operation(method: str, path: str, operation: Json, components: Json, common: Json) -> str:
    body = operation.get("requestBody", {})
    parts = [
        f"<h3 id='{operation['operationId']}'>{_signature(method, path)}</h3>",
        f"<p>{_inline(operation['summary'])}. <span class=quiet>{_authentication(operation['security'])}</span></p>",
        *_paragraphs(operation.get("description", "")),
        *_parameters(operation.get("parameters", ()), components["parameters"]),
    ]
    if body:
        parts.append(f"<h4>Body</h4><p>{_content(body['content'])} {_inline(body.get('description', ''))}</p>")
    parts.append("<h4>Responses</h4>")
    own = {status: response for status, response in operation["responses"].items() if status not in common}
    parts.append(_table(_response_row(status, response) for status, response in own.items()))
    return "\n".join(parts + _examples(operation))


def _authentication(security: Sequence[Json]) -> str:
    schemes = {name for scheme in security for name in scheme}
    return {0: "No key needed.", 1: "Requires a key.", 2: "Requires a key or a Link."}[len(schemes)]


def _parameters(references: Sequence[Json], known: Json) -> Iterable[str]:
    if references:
        found = [known[reference["$ref"].rpartition("/")[2]] for reference in references]
        yield "<h4>Parameters</h4>"
        yield _table(
            (f"<code>{one['name']}</code>", one["in"], _type(one["schema"]), _inline(one["description"]))
            for one in found
        )


def _response_row(status: str, response: Json) -> Sequence[str]:
    # All errors have the same schema, so only their descriptions, which have the codes, are shown.
    content = _content(response.get("content", {})) if int(status) < 400 else ""
    return f"{status} {HTTPStatus(int(status)).phrase}", f"{_inline(response['description'])} {content}"


def _content(content: Json) -> str:
    """Return the schemas of a body, each with its media types."""
    by_type: dict[str, list[str]] = {}
    for media_type, body in content.items():
        by_type.setdefault(_type(body.get("schema", {})), []).append(f"<code>{media_type}</code>")
    return "; ".join(f"{', '.join(types)}: {shown}" for shown, types in by_type.items())


def _examples(operation: Json) -> list[str]:
    # The examples scroll sideways. They can be focused, so that the keyboard can scroll them.
    bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
    contents = [content for body in bodies for content in body.get("content", {}).values()]
    return [
        f"<pre tabindex=0>{escape(_example_text(content['example']))}</pre>"
        for content in contents
        if "example" in content
    ]


def _example_text(example: Any) -> str:
    return example if isinstance(example, str) else orjson.dumps(example).decode()


# --- schemas ---


def _schema(name: str, schema: Json) -> str:
    fields = [
        (
            f"<code>{escape(field)}</code>",
            _type(described) + ("" if field in schema.get("required", ()) else " <span class=quiet>optional</span>"),
            _inline(described.get("description", "")),
        )
        for field, described in schema.get("properties", {}).items()
    ]
    about = [f"<p>{_inline(schema['description'])}</p>"] if "description" in schema else []
    rules = [f"<p>{rule}</p>" for rule in _rules(schema)]
    table = [_table(fields)] if fields else [f"<p>{_type(schema)}</p>"]
    return "\n".join([f"<h3 id='schema-{name}'><code>{name}</code></h3>", *about, *table, *rules])


def _rules(schema: Json) -> Iterable[str]:
    """Describe the rules for several fields."""
    variants = [variant for variant in schema.get("oneOf", ()) if "properties" in schema]
    named = [required for variant in variants for required in variant.get("required", ())[:1]]
    if named and len(named) == len(variants):
        yield f"Either {' or '.join(f'<code>{name}</code>' for name in named)}, with its related fields."


def _type(schema: Any) -> str:
    """Describe a schema's type, as HTML."""
    match schema:
        case {"$ref": reference}:
            name = escape(reference.rpartition("/")[2])
            return f"<a href='#schema-{name}'>{name}</a>"
        case {"contentSchema": inner}:
            return f"JSON text: {_type(inner)}"
        case {"const": value}:
            return f"<code>{escape(str(value))}</code>"
        case {"enum": values}:
            return " or ".join(f"<code>{escape(str(value))}</code>" for value in values)
        case {"oneOf": options} | {"anyOf": options}:
            return " or ".join(_type(option) for option in options)
        case {"type": "array", "items": items}:
            return f"list of {_type(items)}{_bounds(schema)}"
        case {"type": [*types]}:
            return " or ".join(_TYPES.get(one, one) for one in types)
        case {"type": "object", "additionalProperties": dict(values)}:
            return f"object of {_type(values)}{_bounds(schema)}"
        case {"type": one}:
            return f"{_TYPES.get(one, one)}{_bounds(schema)}"
    return "bytes"


_TYPES: Final = {
    "string": "string",
    "integer": "integer",
    "boolean": "boolean",
    "object": "object",
    "null": "null",
}


def _bounds(schema: Json) -> str:
    parts = [
        f"{word} {escape(orjson.dumps(schema[name]).decode())}" for name, word in _BOUNDS.items() if name in schema
    ]
    parts += ["RFC 3339"] if schema.get("format") == "date-time" else []
    return f" ({', '.join(parts)})" if parts else ""


_BOUNDS: Final = {
    "minimum": "from",
    "exclusiveMinimum": "above",
    "maximum": "to",
    "exclusiveMaximum": "below",
    "minLength": "length from",
    "maxLength": "length to",
    "minItems": "at least",
    "maxItems": "at most",
    "maxProperties": "at most",
    "default": "default",
}

# --- HTML ---


def _table(rows: Iterable[Sequence[str]]) -> str:
    html_rows = (
        f"<tr><th scope=row>{row[0]}</th>{''.join(f'<td>{cell}</td>' for cell in row[1:])}</tr>" for row in rows
    )
    return f"<table>\n{chr(10).join(html_rows)}\n</table>"


def _paragraphs(text: str) -> list[str]:
    return [f"<p>{_inline(paragraph)}</p>" for paragraph in text.split("\n\n") if paragraph]


def _inline(text: str) -> str:
    """Return escaped text with its `code` marked up."""
    pieces = escape(text, quote=False).split("`")
    return "".join(f"<code>{piece}</code>" if index % 2 else piece for index, piece in enumerate(pieces))
