"""From a request's bytes to a checked JSON object: what is wrong with it is told by field.

The objects that are not orders stand here; `/openapi.json` describes them by the same models.
"""

import codecs
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from proxy.core.errors import BadRequest, FieldError, InvalidRequest

Read = TypeVar("Read", bound=BaseModel)

_DEEPEST: Final = 100
"""Levels of nesting: more than any body needs, less than orjson can write and Python can walk."""

_NAMES: Final = {list: "an array", str: "a text", int: "a number", float: "a number", bool: "a boolean"}


def json_object(body: bytes, what: str) -> dict[str, Any]:
    """The body as a JSON object; `what` says what it ought to be. Raises BadRequest and InvalidRequest."""
    try:
        parsed = orjson.loads(body.removeprefix(codecs.BOM_UTF8))
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"The body is not JSON: {error}.") from None
    if _too_deep(parsed):
        raise BadRequest(f"The body is nested more than {_DEEPEST} levels deep.")
    if not isinstance(parsed, dict):
        raise InvalidRequest(f"{what}, not {_NAMES.get(type(parsed), 'null')}.")
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


def validated(kind: type[Read], values: Mapping[str, Any]) -> Read:
    """The values as a record of that kind. Raises InvalidRequest with every field at fault."""
    try:
        return kind.model_validate({name: whole(value) for name, value in values.items()})
    except ValidationError as error:
        faults = [_fault(details) for details in error.errors(include_url=False)]
    raise InvalidRequest("; ".join(f"{fault.field}: {fault.message}" for fault in faults[:5]), faults) from None


def whole(value: Any) -> Any:
    """To JSON (and JSON Schema), 2.0 is a whole number too; above 2 to the 53rd, nobody knows which was meant."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53 else value


def _fault(details: Any) -> FieldError:
    named = details.get("ctx", {}).get("field", "") if details["type"] == "order" else ""
    place = ".".join(str(part) for part in (*details["loc"], named) if part != "")
    return FieldError(place, _said(details))


def _said(details: Any) -> str:
    if details["type"] == "extra_forbidden":
        return "there is no such field"
    if details["type"] == "string_pattern_mismatch" and details["ctx"]["pattern"] == r"\S":
        return "must not be blank"
    message: str = details["msg"]
    return message


class AssetPlace(BaseModel):
    """An asset that is fetched from where it is."""

    model_config = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True)

    url: Annotated[str, Field(max_length=2048)]
    """A public https URL."""


class LinkWish(BaseModel):
    """What a Link is asked for."""

    model_config = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True)

    path: Annotated[str, Field(max_length=8000)]
    """An `events`, `content` or asset path of the own account; its query is signed with it."""
    ttl: Annotated[int, Field(ge=1, le=7 * 86400)] = 3600
    """Seconds."""
