"""Templates of requests: literal values with placeholders such as `{prompt}`.

A text that is one placeholder alone takes the type of its value. A key without a value is left out, and so is a table
or list with nothing left in it. An item of a list is left out if it has placeholders and none of them has a value. A
placeholder alone in a list, whose value is a list, adds all its items.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote

_PLACEHOLDER: Final = re.compile(r"\{(\+?)([A-Za-z_][A-Za-z0-9_]*)\}")
_FROM_FILE: Final = frozenset({"model", "path"})
ABSENT: Final = object()
"""The value of a placeholder that has none."""


def check_text(text: str) -> str:
    """Return a text whose braces are all placeholders. Raises ValueError."""
    if re.search(r"[{}]", _PLACEHOLDER.sub("", text)):
        raise ValueError(f"must have braces only around a name, such as {{prompt}}, not {text!r}")
    return text


def placeholders(template: object) -> Iterator[str]:
    """Yield the names in a template, at any depth."""
    if isinstance(template, str):
        for found in _PLACEHOLDER.finditer(template):
            yield found[2]
    elif isinstance(template, Mapping):
        for inner in template.values():
            yield from placeholders(inner)
    elif isinstance(template, list):
        for inner in template:
            yield from placeholders(inner)


def lone(template: object) -> str | None:
    """Return the name of a text that is one placeholder alone."""
    found = _PLACEHOLDER.fullmatch(template) if isinstance(template, str) else None
    return found[2] if found else None


def fill_path(template: str, values: Mapping[str, object]) -> str:
    """Return a path with its values escaped. Raises KeyError.

    `{+name}` keeps the slashes of a value (RFC 6570). So do `{model}` and `{path}`, which come from the file itself.
    """

    def escaped(found: "re.Match[str]") -> str:
        keeps_slashes = found[1] or found[2] in _FROM_FILE
        return quote(str(values[found[2]]), safe="/" if keeps_slashes else "")

    return _PLACEHOLDER.sub(escaped, template)


def fill_text(template: str, values: Mapping[str, object]) -> str:
    """Return a text with its values as they are. Raises KeyError."""
    return _PLACEHOLDER.sub(lambda found: str(values[found[2]]), template)


def fill(template: Any, values: Mapping[str, object]) -> Any:
    """Return a template with its values; `ABSENT` if nothing is left of it."""
    if isinstance(template, str):
        return _fill_text(template, values)
    if isinstance(template, Mapping):
        table = {name: value for name, inner in template.items() if (value := fill(inner, values)) is not ABSENT}
        return table if table or not template else ABSENT
    if isinstance(template, list):
        items = list(_fill_items(template, values))
        return items if items or not template else ABSENT
    return template


def _fill_text(template: str, values: Mapping[str, object]) -> object:
    if (name := lone(template)) is not None:
        return values.get(name, ABSENT)
    if any(name not in values for name in placeholders(template)):
        return ABSENT
    return fill_text(template, values)


def _fill_items(template: list[Any], values: Mapping[str, object]) -> Iterator[object]:
    for inner in template:
        names = set(placeholders(inner))
        if names and names.isdisjoint(values):
            continue
        value = fill(inner, values)
        if lone(inner) and isinstance(value, list):
            yield from value
        elif value is not ABSENT:
            yield value


def merge(base: Any, over: Any) -> Any:
    """Return two templates as one: tables key by key, and everything else from `over`."""
    if not (isinstance(base, Mapping) and isinstance(over, Mapping)):
        return over
    return {**base, **{name: merge(base.get(name), value) for name, value in over.items()}}
