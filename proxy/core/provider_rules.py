"""Rules over several keys of a provider file: names, placeholders, prices, secrets."""

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Final

from pydantic import StringConstraints, TypeAdapter
from pydantic_core import SchemaError

from proxy.core import templates
from proxy.core.provider_tables import (
    SECRET_HEADER,
    Auth,
    Errors,
    FieldTable,
    Keep,
    ModelTable,
    ProviderFile,
    Scalar,
    Upload,
)
from proxy.core.toml_lines import Place

NAME: Final = re.compile(r"[a-z][a-z0-9-]{1,30}")
"""Names of providers."""
_TAKEN_NAMES: Final = frozenset({"http", "https", "all", "no", "pollcast"})
_TAKEN_FIELDS: Final = frozenset({"model", "metadata", "extra", "fields", "id", "path", "job", "key", "value", "type"})

_Faults = Iterator[tuple[Place, str]]
"""Places of faults, each with what would be right."""

_SECRET: Final = re.compile(
    r"\b(?:sk|pk|rk|r8|key)[-_][A-Za-z0-9_-]{16,}|\bAIza[A-Za-z0-9_-]{30,}|\beyJ[A-Za-z0-9_-]{16,}\."
    r"|\b[Bb]earer [A-Za-z0-9_.-]{16,}"
)
"""Texts in the form of a key or a token."""
_SECRET_PARAMETER: Final = re.compile(r"[?&](?:api[-_]?key|key|access[-_]?token|token|secret)=", re.IGNORECASE)
_SCHEME: Final = re.compile(r"[A-Za-z]{0,16} ?")
_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "text": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "media": (),
}
_KEY_TYPES: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("kinds", "send", "pass_urls"), ("media",)),
    **dict.fromkeys(("min", "max"), ("integer", "number")),
    **dict.fromkeys(("max_length", "pattern"), ("text",)),
    "as_text": ("integer", "number", "boolean"),
    **dict.fromkeys(("default", "choices"), ("text", "integer", "number", "boolean")),
}
"""The types of the fields that may have a key."""


def nearest(name: str, known: Sequence[str]) -> str:
    """Return the hint for a name that is not among the known ones."""
    near = get_close_matches(name, known, 1)
    return f"Did you mean {near[0]}?" if near else f"Allowed: {', '.join(known) or 'nothing'}."


def faults(file: ProviderFile, document: Mapping[str, Any]) -> _Faults:
    """Yield the faults of a file that no single key shows. `document` is the file before it was read into tables."""
    yield from _secret_faults((), document)
    yield from _name_faults(file)
    yield from _auth_faults(file.auth)
    yield from _model_faults(file)
    yield from _body_faults(file)
    yield from _step_faults(file)
    yield from _state_faults(file)
    yield from _error_faults(file.errors)
    yield from _example_faults(file)


def _name_faults(file: ProviderFile) -> _Faults:
    if not NAME.fullmatch(file.name) or file.name in _TAKEN_NAMES:
        rule = "must be 2 to 31 of a to z, 0 to 9 and -, beginning with a letter"
        yield ("name",), f"{rule}, and none of {', '.join(sorted(_TAKEN_NAMES))}"


def _secret_faults(place: Place, value: object) -> _Faults:
    """Yield each text outside `[auth]` that has the key's placeholder or looks like a key."""
    if isinstance(value, str):
        looks = _SECRET.search(value) or (place[0] != "example" and _SECRET_PARAMETER.search(value))
        if looks or (place[0] != "auth" and "{key}" in value):
            yield place, "has a secret or its placeholder; keys come from the settings, and {key} stands in [auth] only"
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _secret_faults((*place, str(name)), inner)
    elif isinstance(value, list):
        for n, inner in enumerate(value):
            yield from _secret_faults((*place, n), inner)


def _auth_faults(auth: Auth) -> _Faults:
    if (auth.header is None) == (auth.query is None):
        yield ("auth",), "must have either header or query"
    if auth.value.count("{key}") != 1 or not _SCHEME.fullmatch(auth.value.replace("{key}", "")):
        yield ("auth", "value"), "must be {key}, with at most one word before it, such as Bearer {key}"
    if auth.query and (auth.jwt or auth.value != "{key}"):
        yield ("auth", "query"), "goes without jwt and value"


def _model_faults(file: ProviderFile) -> _Faults:
    names = [model.name for model in file.model]
    for name, field in file.fields.items():
        yield from _field_faults(("fields", name), name, field, file)
    for n, model in enumerate(file.model):
        place: Place = ("model", n)
        if model.name in names[n + 1 :]:
            yield (*place, "name"), f"is taken: the provider has another model {model.name!r}"
        for i, used in enumerate(model.use):
            if used not in file.fields:
                yield (*place, "use", i), f"is not in [fields]. {nearest(used, list(file.fields))}"
        for name, field in model.fields.items():
            yield from _field_faults((*place, "fields", name), name, field, file)
        yield from _price_faults((*place, "price"), model)
        low, high = model.typical_seconds
        if not 0 < low <= high:
            yield (*place, "typical_seconds"), "must be two numbers of seconds, the smaller one first"
        if not re.fullmatch(r"([A-Za-z0-9_.~:@-]+(/|$))*", model.path):
            yield (*place, "path"), "must be a text for {path}, without a slash before it and without placeholders"
        if "{" in model.id:
            yield (*place, "id"), "must be the provider's name of the model, without placeholders"


def _field_faults(place: Place, name: str, field: FieldTable, file: ProviderFile) -> _Faults:
    if name in _TAKEN_FIELDS:
        yield place, f"has a name that means something else in orders and templates: not {name}"
    for key in sorted(field.model_fields_set & _KEY_TYPES.keys()):
        if field.type not in _KEY_TYPES[key]:
            yield (*place, key), f"goes with the types {', '.join(_KEY_TYPES[key])}, not with {field.type}"
    if field.type == "media" and field.send == "upload" and file.upload is None:
        yield (*place, "send"), "is upload, but the file has no [upload]"
    if field.type == "media" and field.send == "part" and file.submit.encoding != "multipart":
        yield (*place, "send"), 'is part, but [submit] has no encoding = "multipart"'
    if field.default is not None and (field.required or field.many):
        yield (*place, "default"), "goes without required and many"
    yield from _value_faults(place, field)
    for inner in templates.placeholders(field.shape):
        if inner not in {"value", "type"}:
            yield (*place, "shape"), f"may have the placeholders {{value}} and {{type}} only, not {{{inner}}}"
        if inner == "type" and (field.type != "media" or field.send not in {"data", "base64"} or field.pass_urls):
            yield (*place, "shape"), "may have {type} only where the bytes are sent (data or base64, without pass_urls)"


def _value_faults(place: Place, field: FieldTable) -> _Faults:
    choices = choice_values(field)
    if field.choices is not None and len(choices) != len(field.choices or [None]):
        yield (*place, "choices"), f"must be a list or table of values of the type {field.type}"
    values = [("default", field.default)] if field.default is not None else []
    values += [("choices", value) for value in choices]
    for key, value in values:
        if not isinstance(value, _TYPES[field.type]) or (isinstance(value, bool) and field.type != "boolean"):
            yield (*place, key), f"must fit the type {field.type}, unlike {value!r}"
    if field.default is not None and choices and field.default not in choices:
        yield (*place, "default"), "must be one of the choices"
    if field.pattern is not None:
        try:
            TypeAdapter(Annotated[str, StringConstraints(pattern=field.pattern)])
        except SchemaError:
            yield (*place, "pattern"), "must be a regular expression without look-around and back-references"


def choice_values(field: FieldTable) -> list[Scalar]:
    """Return the permitted values of a field. Keys of a table are texts, so those of numbers are read as such."""
    if not isinstance(field.choices, dict):
        return field.choices or []
    if field.type in {"integer", "number"}:
        numbers = [re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", key) for key in field.choices]
        return [float(found[0]) if found[1] else int(found[0]) for found in numbers if found]
    if field.type == "boolean":
        return [key == "true" for key in field.choices if key in {"true", "false"}]
    return list(field.choices)


def _price_faults(place: Place, model: ModelTable) -> _Faults:
    price = model.price
    if price.by and not price.table:
        yield place, "with by must have a table, such as { 720p = 20, 1080p = 40 }"
    if not price.by and (price.tokens is None or price.table):
        yield place, "must be a number, or { tokens, per }, or { by, table }"
    for name in (*price.by, *([price.per] if price.per else [])):
        field = model.fields.get(name)
        if field is None or field.many or not (field.required or field.default is not None):
            yield place, f"depends on {name}, which must be one value of the model that is required or has a default"
        elif price.per and field.type not in {"integer", "number"}:
            yield place, f"is per {name}, which must be a number"
        elif price.by and not field.choices:
            yield place, f"is by {name}, which must have choices"
        elif price.per and (field.min is None or field.min < 0) and not field.choices:
            yield place, f"is per {name}, which must have a min that is not negative"
    if price.by and all(name in model.fields for name in price.by):
        yield from _price_table_faults((*place, "table"), price.table, [model.fields[name] for name in price.by])


def _price_table_faults(place: Place, table: object, fields: Sequence[FieldTable]) -> _Faults:
    if not fields:
        if not isinstance(table, int) or isinstance(table, bool) or table < 0:
            yield place, "must be a whole number of tokens"
        return
    needed = {choice_key(value) for value in choice_values(fields[0])}
    if not isinstance(table, dict) or set(table) != needed:
        yield place, f"must have a price for each of {', '.join(sorted(needed))}, and no other"
        return
    for name, inner in table.items():
        yield from _price_table_faults((*place, name), inner, fields[1:])


def choice_key(value: object) -> str:
    """Return a field's value as the key of a table."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def body_of(file: ProviderFile, model: ModelTable) -> Any:
    """Return the template of a model's request."""
    return templates.merge(file.submit.body, model.body) if model.body else file.submit.body


def _body_faults(file: ProviderFile) -> _Faults:
    place: Place = ("submit", "body")
    body = file.submit.body
    if not isinstance(body, dict) and body != "{fields}":
        yield place, 'must be a table, or "{fields}"'
    known = {"fields", "model", *file.fields, *(name for model in file.model for name in model.fields)}
    for name in templates.placeholders(body):
        if name not in known:
            yield place, f"has {{{name}}}, which is no model's field. {nearest(name, sorted(known))}"
    for n, model in enumerate(file.model):
        names = set(templates.placeholders(body_of(file, model)))
        for name in names - known:
            yield ("model", n, "body"), f"has {{{name}}}, which is not a field of the model"
        for name in () if "fields" in names else sorted(model.fields.keys() - names):
            yield ("model", n, "fields", name), f"is sent nowhere: the body has no {{{name}}}"
    extra_in = file.submit.extra_in
    inner = body.get(extra_in, {}) if isinstance(body, dict) and extra_in else body
    if extra_in and not (isinstance(inner, dict) or inner == "{fields}"):
        yield ("submit", "extra_in"), "must be the name of a table of the body"
    for name in {*file.submit.extra, *(name for model in file.model for name in model.extra or [])}:
        if isinstance(inner, dict) and name in inner:
            yield ("submit", "extra"), f"has {name}, which the body has already"


def _step_faults(file: ProviderFile) -> _Faults:
    """Yield the faults of the requests: placeholders without a value, and tables that need another."""
    submitted = {"id", "model", "path", *file.submit.keep}
    polled = submitted | set(file.poll.keep)
    yield from _path_faults(("submit", "path"), [file.submit.path], {"model", "path"}, urls=False)
    yield from _path_faults(("poll", "path"), file.poll.path, submitted)
    yield from _path_faults(("result", "path"), file.result.path, polled)
    if file.cancel:
        yield from _path_faults(("cancel", "path"), file.cancel.path, submitted)
    if file.upload:
        yield from _path_faults(("upload", "path"), [file.upload.path], set(), urls=False)
    if file.lookup:
        yield from _path_faults(("lookup", "path"), [file.lookup.path], {"job", "model", "path"}, urls=False)
    if file.auth.check:
        yield from _path_faults(("auth", "check"), [file.auth.check], set(), urls=False)
    yield from _keep_faults(("submit", "keep"), file.submit.keep)
    yield from _keep_faults(("poll", "keep"), file.poll.keep)
    yield from _idempotency_faults(file)
    if file.upload is not None:
        yield from _upload_faults(file.upload)
    if file.result.http_failure and not file.result.path:
        yield ("result", "http_failure"), "goes with result.path only"
    for n, host in enumerate(file.hosts):
        if host.count("/") > 2:
            yield ("hosts", n), "must be an origin without a path"


def _keep_faults(place: Place, keep: Keep) -> _Faults:
    for name in sorted({"id", "model", "path", "job"} & keep.keys()):
        yield (*place, name), f"has a name that placeholders have for something else: not {name}"


def _path_faults(place: Place, paths: Sequence[str], known: set[str], *, urls: bool = True) -> _Faults:
    for path in paths:
        for name in templates.placeholders(path):
            if name not in known:
                yield place, f"has {{{name}}}, which has no value there. Allowed: {', '.join(sorted(known)) or 'none'}"
        if (alone := templates.lone(path)) and (not urls or alone in {"model", "path"}):
            yield place, "must begin with a slash, because only a URL from an answer may stand alone"


def _idempotency_faults(file: ProviderFile) -> _Faults:
    ours = file.submit.idempotency
    if ours is not None and (ours.header is None) == (ours.field is None):
        yield ("submit", "idempotency"), "must have either header or field"
    header = ours.header if ours and ours.header else ""
    if SECRET_HEADER.search(header) and "idempotency" not in header.lower():
        yield ("submit", "idempotency", "header"), "is a header for secrets"
    if ours is not None and ours.field and isinstance(file.submit.body, dict) and ours.field in file.submit.body:
        yield ("submit", "idempotency", "field"), "is in the body already"
    if ours is not None and ours.field and file.submit.encoding == "multipart":
        yield ("submit", "idempotency", "field"), "goes with JSON only"
    if file.lookup is not None and ours is None:
        yield ("lookup",), "needs submit.idempotency, which sends the key that is looked up"
    if file.lookup is not None and "job" not in templates.placeholders(file.lookup.path):
        yield ("lookup", "path"), "must have {job}, the key of the order"


def _upload_faults(upload: Upload) -> _Faults:
    for name in templates.placeholders(upload.form):
        if name not in {"name", "type"}:
            yield (
                ("upload", "form"),
                f"has {{{name}}}: an upload loop. Allowed: {{name}} and {{type}} of the file",
            )
    if templates.lone(upload.value) != "id" and set(templates.placeholders(upload.value)) != {"id"}:
        yield ("upload", "value"), "must have {id}, and no other placeholder"


def _word_faults(words: Mapping[str, str]) -> _Faults:
    found: dict[str, str] = {}
    for word, state in words.items():
        if found.setdefault(re.sub(r"[\W_]+", "", word).lower(), state) != state:
            yield ("poll", "words", word), "means something else than the same word in other letters"


def _state_faults(file: ProviderFile) -> _Faults:
    poll, result = file.poll, file.result
    if not poll.status and not poll.http:
        yield ("poll",), "must have status (with words or present) or http"
    if bool(poll.status) != (bool(poll.words) or poll.present is not None):
        yield ("poll", "words"), "and status go together, or present and status"
    if poll.words and poll.present is not None:
        yield ("poll", "present"), "goes without words"
    yield from _word_faults(poll.words)
    if "done" not in {*poll.words.values(), *poll.http.values(), poll.absent, poll.present}:
        yield ("poll", "words"), "must have a word that means done"
    for status in poll.http:
        if not re.fullmatch("[1-5][0-9][0-9]", status):
            yield ("poll", "http", status), "must be an HTTP status such as 202"
    outputs = (*result.output, *result.video, *result.image, *result.audio, *result.text, *result.base64)
    for n, model in enumerate(file.model):
        if not outputs and not model.output:
            yield ("model", n), "has no path to its outputs: give result.output or the model's output"


def _error_faults(errors: Errors) -> _Faults:
    for n, rule in enumerate(errors.rules):
        place: Place = ("errors", "rules", n)
        if not rule.http and not rule.code:
            yield place, "must have http, code or both"
        if rule.code and not errors.code:
            yield (*place, "code"), "needs errors.code, the paths of the provider's code"
        if rule.means == "busy" and rule.paid != "no":
            yield place, 'means busy, so the order is sent again: that needs paid = "no"'
    if errors.success and not errors.code:
        yield ("errors", "success"), "needs errors.code, the paths of the provider's code"


def _example_faults(file: ProviderFile) -> _Faults:
    names = [model.name for model in file.model]
    for n, example in enumerate(file.example):
        if example.model is not None and example.model not in names:
            yield ("example", n, "model"), f"must be the name of a model. {nearest(example.model, names)}"
        needed = {"result": file.result.path, "cancel": file.cancel, "upload": file.upload, "lookup": file.lookup}
        if example.step in needed and not needed[example.step]:
            yield ("example", n, "step"), f"is {example.step}, for which the file has no table"
