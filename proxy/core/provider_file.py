"""Reads provider files: one TOML file describes one provider (`provider_tables`).

A fault is one line: file, line, key, and what would be right.
"""

import hashlib
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args, get_origin

from pydantic import ValidationError

from proxy.core import templates
from proxy.core.provider_rules import faults, nearest
from proxy.core.provider_tables import ProviderFile, Table
from proxy.core.settings import BadSetting
from proxy.core.toml_lines import Place, key_lines


class BadFile(BadSetting):
    """A provider file with a fault. The message is one line, with file, line, key, and what would be right."""


@dataclass(frozen=True, slots=True)
class _Source:
    """The text of a file, for messages: its name, and the line of each key."""

    name: str
    lines: Mapping[Place, int]

    def line(self, place: Place) -> int:
        """Return the line of the nearest key around a place, which may be missing."""
        while place not in self.lines:
            place = place[:-1]
        return self.lines[place]

    def fault(self, place: Place, message: str) -> BadFile:
        """Return the one line that describes a fault."""
        key = ".".join(map(str, place))
        return BadFile(f"{self.name}, line {self.line(place)}: {f'{key}: ' if key else ''}{message}")


@dataclass(frozen=True, slots=True)
class FileText:
    """The text of a provider file, under the name that messages give it."""

    name: str
    text: str

    @classmethod
    def at(cls, path: Path) -> "FileText":
        """Read a file. Raises BadFile."""
        try:
            return cls(path.name, path.read_text("utf-8"))
        except OSError as error:
            raise BadFile(f"{path.name}, line 1: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            raise BadFile(f"{path.name}, line {line}: is not in UTF-8") from None


@dataclass(frozen=True, slots=True)
class ReadFile:
    """A provider file as it was read."""

    file: ProviderFile
    digest: str
    """SHA-256 of the texts."""
    texts: tuple[FileText, ...]
    """Its text, and the text of the file that it extends. They suffice to read it again."""


def read(source: FileText, bundled: Callable[[str], FileText | None]) -> ReadFile:
    """Read a provider file. `bundled` finds the one that it extends. Raises BadFile."""
    document, found = _parse(source)
    texts: tuple[FileText, ...] = (source,)
    if (extends := document.get("extends")) is not None:
        base = bundled(extends) if isinstance(extends, str) else None
        if base is None:
            raise found.fault(("extends",), "must be the name of a provider whose file comes with Pollcast")
        texts = (source, base)
        document = _extend(_parse(base)[0], document)
    document = _add_shared_fields(document)
    try:
        file = ProviderFile.model_validate(document)
    except ValidationError as error:
        raise _first_fault(found, error) from None
    for place, message in faults(file, document):
        raise found.fault(place, message)
    return ReadFile(file, hashlib.sha256("\0".join(text.text for text in texts).encode()).hexdigest(), texts)


def fault(source: FileText, place: Place, message: str) -> BadFile:
    """Return the fault of a file that is valid by itself, such as a name that another provider has."""
    return _Source(source.name, key_lines(source.text)).fault(place, message)


def _parse(source: FileText) -> tuple[dict[str, Any], _Source]:
    try:
        document = tomllib.loads(source.text)
    except tomllib.TOMLDecodeError as error:
        said = re.fullmatch(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", str(error))
        line = said[2] if said and said[2] else source.text.count("\n") + 1
        raise BadFile(f"{source.name}, line {line}: is not TOML: {said[1] if said else error}") from None
    return document, _Source(source.name, key_lines(source.text))


def _extend(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return a file with its own keys over those of another.

    Under the other's name its models are added. Under a name of its own it has its own models only. Examples are the
    evidence of one file, so they are not inherited.
    """
    both: dict[str, Any] = templates.merge(base, own)
    if own.get("name", base["name"]) == base["name"] and isinstance(own.get("model", []), list):
        both["model"] = [*own.get("model", []), *base["model"]]
    both["example"] = own.get("example", [])
    return both


def _add_shared_fields(document: dict[str, Any]) -> dict[str, Any]:
    """Return a file in which each model has the definitions of the fields that it uses."""
    shared, models = document.get("fields"), document.get("model")
    if not isinstance(models, list):
        return document
    return document | {"model": [_add_fields(model, shared if isinstance(shared, dict) else {}) for model in models]}


def _add_fields(model: Any, shared: Mapping[str, Any]) -> Any:
    if not isinstance(model, dict) or not isinstance(model.get("use", []), list):
        return model
    own = model.get("fields", {})
    used = {name: shared[name] for name in model.get("use", []) if isinstance(name, str) and name in shared}
    return model | {"fields": templates.merge(used, own)}


_TYPE_MESSAGES: Final = {
    "model_type": "must be a table",
    "dict_type": "must be a table",
    "list_type": "must be a list",
    "string_type": "must be a text",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "date_type": "must be a date such as 2026-11-20, without quotes",
}
"""Messages for values of a wrong type, in TOML's words."""


def _first_fault(source: _Source, error: ValidationError) -> BadFile:
    """Return the fault that stands first in the file. An unknown key comes before a missing one: it may be that one."""
    faults = [(_place_of(detail["loc"]), detail) for detail in error.errors()]
    place, detail = min(faults, key=lambda fault: (fault[1]["type"] == "missing", source.line(fault[0])))
    kind, message = detail["type"], detail["msg"]
    if kind == "extra_forbidden":
        message = f"is not a key here. {nearest(str(place[-1]), _known_keys(place[:-1]))}"
    elif kind == "missing":
        message = "is required, and missing"
    else:
        plain = message.removeprefix("Value error, ").replace("Input should be", "must be", 1)
        message = _TYPE_MESSAGES.get(kind, plain)
    return source.fault(place, message)


def _place_of(loc: Sequence[int | str]) -> Place:
    """Return pydantic's place of an error without its own words, such as `[key]`."""
    return tuple(part for part in loc if part != "[key]")


def _known_keys(place: Place) -> list[str]:
    """Return the keys that a table of the file may have."""
    table: Any = ProviderFile
    named = False  # true after a table of tables, whose keys are names
    for part in place:
        if named or isinstance(part, int):
            named = False
            continue
        field = table.model_fields.get(part)
        annotation = field.annotation if field else None
        table, named = _table_in(annotation), get_origin(annotation) is dict
        if table is None:
            return []
    return list(table.model_fields)


def _table_in(annotation: Any) -> Any:
    """Return the table that an annotation holds, in whichever list, union or dictionary."""
    if isinstance(annotation, type) and issubclass(annotation, Table):
        return annotation
    return next(filter(None, map(_table_in, get_args(annotation))), None)
