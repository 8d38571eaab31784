"""Parses and validates JSON bodies. Errors name every invalid field.

Also has the models of the bodies that are not orders. `/openapi.json` describes them by the same models.
"""

import codecs
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Final, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from proxy.core.errors import BadRequest, FieldError, InvalidRequest

Record = TypeVar("Record", bound=BaseModel)

_MAX_DEPTH: Final = 100
"""Maximum nesting depth: more than any body needs, less than orjson can write and Python can recurse into."""
_MAX_EXACT: Final = 1 << 53
"""Whole floats from here on may be rounded, so they are not read as integers."""
_MAX_SHOWN_ERRORS: Final = 5
"""Maximum number of field errors in an error message. `errors` in the response has all of them."""
_TYPE_NAMES: Final = {list: "an array", str: "a string", int: "a number", float: "a number", bool: "a boolean"}


def json_object(body: bytes, expected: str) -> dict[str, Any]:
    """Parse the body as a JSON object. Raises BadRequest and InvalidRequest.

    `expected` begins the error message: it says what the client should send.
    """
    try:
        parsed = orjson.loads(body.removeprefix(codecs.BOM_UTF8))
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"The request body is not valid JSON: {error}.") from None
    if _is_too_deep(parsed):
        raise BadRequest(f"The request body is nested more than {_MAX_DEPTH} levels deep.")
    if not isinstance(parsed, dict):
        raise InvalidRequest(f"{expected}, not {_TYPE_NAMES.get(type(parsed), 'null')}.")
    return parsed


def _is_too_deep(parsed: Any) -> bool:
    level = [parsed]
    for _ in range(_MAX_DEPTH):
        level = [child for value in level for child in _children(value)]
        if not level:
            return False
    return True


def _children(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def validate(kind: type[Record], values: Mapping[str, Any]) -> Record:
    """Return the values as a record of that kind. Raises InvalidRequest with all invalid fields."""
    try:
        return kind.model_validate({name: normalize_number(value) for name, value in values.items()})
    except ValidationError as error:
        faults = [_field_error(details) for details in error.errors(include_url=False)]
    raise invalid_fields(faults) from None


def invalid_fields(faults: Sequence[FieldError]) -> InvalidRequest:
    """Return the error for these fields, the first of which its message repeats."""
    shown = "; ".join(f"{fault.field}: {fault.message}" for fault in faults[:_MAX_SHOWN_ERRORS])
    return InvalidRequest(shown, faults)


def normalize_number(value: Any) -> Any:
    """Return a whole float as an integer, because 2.0 is an integer in JSON and JSON Schema."""
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) < _MAX_EXACT
    return int(value) if is_whole else value


def _field_error(details: Any) -> FieldError:
    named = details.get("ctx", {}).get("field", "") if details["type"] == "order" else ""
    place = ".".join(str(part) for part in (*details["loc"], named) if part != "")
    return FieldError(place, _message(details))


def _message(details: Any) -> str:
    if details["type"] == "extra_forbidden":
        return "unknown field"
    if details["type"] == "string_pattern_mismatch" and details["ctx"]["pattern"] == r"\S":
        return "must not be blank"
    message: str = details["msg"]
    return message


class AssetUrl(BaseModel):
    """The body that adds an asset from a URL."""

    model_config = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True)

    url: Annotated[str, Field(max_length=2048)]
    """A public https URL."""


class LinkRequest(BaseModel):
    """The path that a Link opens, and its lifetime."""

    model_config = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True)

    path: Annotated[str, Field(max_length=8000)]
    """An events, content or asset path of your account. Its query is signed too."""
    ttl: Annotated[int, Field(ge=1, le=7 * 86400)] = 3600
    """Lifetime of the Link, in seconds."""
