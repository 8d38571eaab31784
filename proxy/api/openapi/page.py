"""The document as one page to be read: plain HTML without a script, made here, that asks no other host for anything."""

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from hashlib import sha256
from html import escape
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import orjson

from proxy.api.openapi import document
from proxy.api.openapi.parts import Json

_STYLE: Final = Path(__file__).with_name("page.css").read_text()
_STYLE_HASH: Final = b64encode(sha256(_STYLE.encode()).digest()).decode()

HEADERS: Final[Mapping[str, str]] = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
"""What the page is served with: nothing runs in it, nothing is loaded by it, nobody frames it."""


@cache
def page(server: str) -> bytes:
    """The page of an installation whose base URL is `server`."""
    whole = document(server)
    components = whole["components"]
    everywhere = _everywhere(whole)
    parts = [
        f"<h1>{escape(whole['info']['title'])}</h1>",
        "<p><a href='docs/api'>Reference pages</a>: models, settings, operating, and more.</p>",
        *_paragraphs(whole["info"]["description"]),
        f"<p>It is at <code>{escape(server)}</code>; for programs, as <a href='/openapi.json'>OpenAPI 3.1</a>.</p>",
        f"<nav>{''.join(_contents(whole))}</nav>",
        "<p>Every call may also answer:</p>",
        _table(_answer(status, answer) for status, answer in everywhere.items()),
    ]
    for tag in whole["tags"]:
        parts.append(f"<h2 id='{tag['name']}'>{tag['name'].capitalize()}</h2><p>{escape(tag['description'])}</p>")
        parts += [_operation(*found, components, everywhere) for found in _tagged(whole, tag["name"])]
    parts.append("<h2 id='schemas'>Schemas</h2>")
    parts += [_schema(name, schema) for name, schema in components["schemas"].items()]
    head = (
        "<meta charset=utf-8><meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{escape(whole['info']['title'])}: the API</title><style>{_STYLE}</style>"
    )
    body = "\n".join(parts)
    return f"<!DOCTYPE html>\n<html lang=en><head>{head}</head>\n<body><main>\n{body}\n</main></body></html>\n".encode()


def _everywhere(whole: Json) -> Json:
    """The refusals that all operations have."""
    operations = [operation for path in whole["paths"].values() for operation in path.values()]
    first = operations[0]["responses"]
    return {
        status: answer
        for status, answer in first.items()
        if all(operation["responses"].get(status) == answer for operation in operations)
    }


def _tagged(whole: Json, tag: str) -> Iterable[tuple[str, str, Json]]:
    for path, operations in whole["paths"].items():
        for method, operation in operations.items():
            if tag in operation["tags"]:
                yield method, path, operation


def _contents(whole: Json) -> Iterable[str]:
    for tag in whole["tags"]:
        yield f"<a href='#{tag['name']}'>{tag['name'].capitalize()}</a><ul>"
        for method, path, operation in _tagged(whole, tag["name"]):
            yield f"<li><a href='#{operation['operationId']}'>{_signature(method, path)}</a></li>"
        yield "</ul>"
    yield "<a href='#schemas'>Schemas</a>"


def _signature(method: str, path: str) -> str:
    return f"<span class=method>{method}</span><code>{escape(path)}</code>"


def _operation(method: str, path: str, operation: Json, components: Json, everywhere: Json) -> str:
    body = operation.get("requestBody", {})
    parts = [
        f"<h3 id='{operation['operationId']}'>{_signature(method, path)}</h3>",
        f"<p>{_inline(operation['summary'])}. <span class=quiet>{_caller(operation['security'])}</span></p>",
        *_paragraphs(operation.get("description", "")),
        *_parameters(operation.get("parameters", ()), components["parameters"]),
    ]
    if body:
        parts.append(f"<h4>Body</h4><p>{_content(body['content'])} {_inline(body.get('description', ''))}</p>")
    parts.append("<h4>Answers</h4>")
    own = {status: answer for status, answer in operation["responses"].items() if status not in everywhere}
    parts.append(_table(_answer(status, answer) for status, answer in own.items()))
    return "\n".join(parts + _examples(operation))


def _caller(security: Sequence[Json]) -> str:
    schemes = {name for scheme in security for name in scheme}
    return {0: "Open to anyone.", 1: "With a key.", 2: "With a key or a Link."}[len(schemes)]


def _parameters(references: Sequence[Json], known: Json) -> Iterable[str]:
    if references:
        found = [known[reference["$ref"].rpartition("/")[2]] for reference in references]
        yield "<h4>Parameters</h4>"
        yield _table(
            (f"<code>{one['name']}</code>", one["in"], _type(one["schema"]), _inline(one["description"]))
            for one in found
        )


def _answer(status: str, answer: Json) -> Sequence[str]:
    # An error is always the same JSON; its codes are in the text.
    content = _content(answer.get("content", {})) if int(status) < 400 else ""
    return f"{status} {HTTPStatus(int(status)).phrase}", f"{_inline(answer['description'])} {content}"


def _content(content: Json) -> str:
    """The media types that one schema goes with, and that schema."""
    by_type: dict[str, list[str]] = {}
    for media_type, body in content.items():
        by_type.setdefault(_type(body.get("schema", {})), []).append(f"<code>{media_type}</code>")
    return "; ".join(f"{', '.join(types)}: {shown}" for shown, types in by_type.items())


def _examples(operation: Json) -> list[str]:
    # They scroll sideways, and can be focused so that the keyboard can scroll them, too.
    bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
    contents = [content for body in bodies for content in body.get("content", {}).values()]
    return [
        f"<pre tabindex=0>{escape(_shown(content['example']))}</pre>" for content in contents if "example" in content
    ]


def _shown(example: Any) -> str:
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
    """What holds over several fields, in words."""
    variants = [variant for variant in schema.get("oneOf", ()) if "properties" in schema]
    named = [required for variant in variants for required in variant.get("required", ())[:1]]
    if named and len(named) == len(variants):
        yield f"Either {' or '.join(f'<code>{name}</code>' for name in named)}, with the fields that go with it."


def _type(schema: Any) -> str:
    """A schema in words, as HTML."""
    match schema:
        case {"$ref": reference}:
            name = escape(reference.rpartition("/")[2])
            return f"<a href='#schema-{name}'>{name}</a>"
        case {"contentSchema": inner}:
            return f"text that holds JSON: {_type(inner)}"
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
    "string": "text",
    "integer": "whole number",
    "boolean": "true or false",
    "object": "object",
    "null": "null",
}


def _bounds(schema: Json) -> str:
    said = [f"{word} {escape(orjson.dumps(schema[name]).decode())}" for name, word in _BOUNDS.items() if name in schema]
    said += ["RFC 3339"] if schema.get("format") == "date-time" else []
    return f" ({', '.join(said)})" if said else ""


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
    lines = (f"<tr><th scope=row>{row[0]}</th>{''.join(f'<td>{cell}</td>' for cell in row[1:])}</tr>" for row in rows)
    return f"<table>\n{chr(10).join(lines)}\n</table>"


def _paragraphs(text: str) -> list[str]:
    return [f"<p>{_inline(paragraph)}</p>" for paragraph in text.split("\n\n") if paragraph]


def _inline(text: str) -> str:
    """Text with its `code` marked."""
    pieces = escape(text, quote=False).split("`")
    return "".join(f"<code>{piece}</code>" if index % 2 else piece for index, piece in enumerate(pieces))
