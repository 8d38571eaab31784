"""Writes the tables of the README and of `proxy/docs/` that repeat code, such as settings, errors and models.

    python -m tests.docs            rewrite the tables in the pages
    python -m tests.docs --check    list the pages that differ, and exit with 1 if there is one

A table is between `<!-- table: NAME -->` and `<!-- end -->`. `tests/whole/test_docs.py` compares the pages with this
command's output, so run it after a change of the code.
"""

import ast
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from inspect import getsource
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from proxy.api.openapi import document
from proxy.core import provider_tables, settings
from proxy.core.errors import JobError, PollcastError, RequestError
from proxy.core.provider_schema import key_descriptions
from proxy.core.settings import ClientSettings, ProviderSettings, Settings
from proxy.providers.base import Model
from proxy.providers.fields import COUNTS, DURATIONS, PRIORITIES, QUALITIES
from proxy.providers.registry import prefix_of
from proxy.simulator import PROMPT_FAULTS
from tests.support.registry import REGISTRY

ROOT: Final = Path(__file__).parent.parent
PAGES: Final = (ROOT / "README.md", *sorted((ROOT / "proxy" / "docs").glob("*.md")))
BLOCK: Final = re.compile(r"(<!-- table: ([a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
CALLERS: Final = {(): "", ("key",): "key", ("key", "link"): "key or Link"}
METRIC_TYPES: Final = {
    "counter": "counter",
    "Counter": "counter",
    "total": "counter",
    "gauge": "gauge",
    "histogram": "histogram",
    "plain": "histogram",
}
"""The type of metric that each function of the package defines."""
EXTRA_GROUPS: Final = {"counts": COUNTS, "durations": DURATIONS, "qualities": QUALITIES, "priorities": PRIORITIES}
"""Groups of names that most models refuse in `extra`."""


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table. A `|` inside a cell is escaped."""
    lines = [titles, ["---"] * len(titles), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"|{'|'.join(f' {cell} ' if cell else ' ' for cell in line)}|\n" for line in lines)


def code(value: object) -> str:
    """Return a value as Markdown code; nothing for an empty one."""
    return f"`{value}`" if str(value) else ""


def names(values: Iterable[str]) -> str:
    """Return sorted names as code, separated by commas."""
    return ", ".join(f"`{value}`" for value in sorted(values))


def summary(text: str | None) -> str:
    """Return the first paragraph of a docstring on one line."""
    return " ".join((text or "").strip().split("\n\n")[0].split())


# --- the API ---


def endpoints() -> str:
    """Return every operation of the OpenAPI document."""
    found = document("", REGISTRY)["paths"]
    return table(
        ["call", "credential", "does"],
        (
            (f"`{method.upper()} {path}`", caller(operation), does(operation))
            for path, operations in found.items()
            for method, operation in operations.items()
        ),
    )


def caller(operation: Mapping[str, Any]) -> str:
    """Return the credentials that an operation accepts."""
    return CALLERS[tuple(sorted(scheme for option in operation["security"] for scheme in option))]


def does(operation: Mapping[str, Any]) -> str:
    """Return an operation's summary, description and query parameters."""
    known = document("", REGISTRY)["components"]["parameters"]
    found = [known[each["$ref"].rpartition("/")[2]] for each in operation.get("parameters", ())]
    query = [f"`{each['name']}`" for each in found if each["in"] == "query"]
    parts = [operation["summary"].rstrip(".") + ".", operation.get("description", "")]
    return " ".join(filter(None, [*parts, f"Query: {', '.join(query)}." if query else ""])).replace("\n", " ")


def leaves(kind: type[PollcastError]) -> Iterator[type[PollcastError]]:
    """Yield the classes of an error tree that have a code of their own, in the order of their definition."""
    for each in kind.__subclasses__():
        if "code" in vars(each) or "status" in vars(each):
            yield each
        yield from leaves(each)


def request_errors() -> str:
    """Return the errors that answer a request, ordered by HTTP status."""
    rows = sorted(leaves(RequestError), key=lambda kind: kind.status)
    return table(
        ["HTTP", "`code`", "meaning"], ((str(kind.status), code(kind.code), summary(kind.__doc__)) for kind in rows)
    )


def job_errors() -> str:
    """Return the errors that end a job."""
    return table(["`code`", "meaning"], ((code(kind.code), summary(kind.__doc__)) for kind in leaves(JobError)))


# --- settings ---


@cache
def field_docs(kind: type[BaseModel]) -> Mapping[str, str]:
    """Return the docstrings below a class's fields, by field; with those of its base classes in the settings module."""
    inherited = [field_docs(base) for base in kind.__bases__ if base.__module__ == settings.__name__]
    docs = {name: text for each in inherited for name, text in each.items()}
    (body,) = (node.body for node in ast.parse(getsource(kind)).body if isinstance(node, ast.ClassDef))
    for field, below in pairwise(body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                docs[name] = summary(text)
    return docs


def default(info: FieldInfo) -> str:
    """Return a field's default as code."""
    value = info.get_default(call_default_factory=True)
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value in (None, "", [], {}) else code(value)


def setting_rows(kind: type[BaseModel], prefix: str) -> Iterator[Sequence[str]]:
    """Yield name, default and description of each setting."""
    for name, info in kind.model_fields.items():
        yield code(f"{prefix}{name}".upper()), default(info), field_docs(kind).get(name, "")


def installation_settings() -> str:
    """Return all `POLLCAST_*` settings of a server."""
    return table(["setting", "default", "description"], setting_rows(Settings, "pollcast_"))


def client_settings() -> str:
    """Return the settings of the client commands."""
    return table(["setting", "default", "description"], setting_rows(ClientSettings, "pollcast_"))


def provider_settings() -> str:
    """Return the settings that each provider has."""
    rows = setting_rows(ProviderSettings, "")
    return table(["setting", "description"], ((name.replace("`", "`<PROVIDER>_", 1), text) for name, _, text in rows))


def provider_defaults() -> str:
    """Return a row for each provider with its prefix and defaults."""
    shown = ("base_url", "poll_interval", "deadline", "concurrency", "rate")
    rows = []
    for provider in REGISTRY.providers:
        kind = provider.settings_type
        own = [name for name in kind.model_fields if name not in ProviderSettings.model_fields]
        values = [default(kind.model_fields[name]) for name in shown]
        further = "; ".join(f"`{name.upper()}`: {field_docs(kind).get(name, '')}".rstrip(": ") for name in own)
        rows.append([provider.name, code(prefix_of(provider)), *values, further])
    return table(["provider", "prefix", *(code(name.upper()) for name in shown), "further"], rows)


# --- models ---


def provider_names() -> str:
    """Return a row for each provider with its models."""
    return table(
        ["provider", "models"],
        ((kind.name, ", ".join(code(model.name) for model in kind.models)) for kind in REGISTRY.providers),
    )


def model_rows() -> str:
    """Return a row for each model: price, kind and fields."""
    return table(["model", "provider", "kind", "tokens", "fields", "note"], map(model_row, REGISTRY.models.values()))


def model_row(model: Model) -> Sequence[str]:
    """Return a model's row."""
    provider = REGISTRY.provider_of(model.name).name
    return code(model.name), provider, str(model.kind), str(model.tokens), fields(model), model.note


def fields(model: Model) -> str:
    """Return a model's fields with their defaults. Required ones, also those with an alternative, are bold."""
    schema = model.fields.model_json_schema()
    alternatives = [*required_in(schema)]
    shown = []
    for name, described in schema["properties"].items():
        value = described.get("default")
        text = f"`{name}`" if value in (None, False) else f"`{name}={str(value).lower() if value is True else value}`"
        shown.append(f"**{text}**" if name in alternatives else text)
    return ", ".join(shown)


def required_in(schema: Mapping[str, Any]) -> Iterator[str]:
    """Yield the fields that a schema or one of its alternatives requires."""
    yield from schema.get("required", ())
    for key in ("oneOf", "allOf", "anyOf"):
        for option in schema.get(key, ()):
            yield from required_in(option)


def styles() -> str:
    """Return the styles of each model that has some."""
    return table(
        ["model", "`style`"],
        (
            (code(model.name), ", ".join(f"`{value}` ({name})" for value, name in model.styles.items()))
            for model in REGISTRY.models.values()
            if model.styles
        ),
    )


def extra_groups() -> str:
    """Return the groups of names that most models refuse in `extra`."""
    return table(["group", "names"], ((group, names(words)) for group, words in EXTRA_GROUPS.items()))


def refused_extra() -> str:
    """Return the names that each model refuses in `extra`, by the groups of `extra_groups`."""
    by_names: dict[str, list[str]] = {}
    for model in REGISTRY.models.values():
        by_names.setdefault(refused_names(model), []).append(code(model.name))
    return table(["models", "refused in `extra`"], ((", ".join(models), text) for text, models in by_names.items()))


def refused_names(model: Model) -> str:
    """Return the groups and names that a model refuses."""
    if model.extra == "refused":
        return "everything"
    groups = [group for group, words in EXTRA_GROUPS.items() if words <= model.costly]
    others = model.costly.difference(*(EXTRA_GROUPS[group] for group in groups))
    return ", ".join(filter(None, [*groups, names(others)]))


# --- metrics and prompt words ---


def metrics() -> str:
    """Return every metric that the package defines."""
    found = sorted(row for path in sorted((ROOT / "proxy").rglob("*.py")) for row in metrics_in(path))
    return table(["metric", "type", "labels", "meaning"], found)


def metrics_in(path: Path) -> Iterator[tuple[str, ...]]:
    """Yield the metrics that a module defines: calls of a metric function with a literal name."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=maker), args=[ast.Constant(value=str(name)), text, *rest]):
                if maker in METRIC_TYPES:
                    yield metric(METRIC_TYPES[maker], name, literal(text, tree), rest)


def metric(kind: str, name: str, text: str, rest: Sequence[ast.expr]) -> tuple[str, ...]:
    """Return the row of a metric: name, type, labels and meaning."""
    prefix = "" if name.startswith("pollcast_") else "pollcast_"
    ending = "_total" if kind == "counter" else ""
    if rest and isinstance(rest[0], ast.Tuple):  # of `gauge` and `total`; the others take each label as an argument
        rest = rest[0].elts
    labels = [str(each.value) for each in rest if isinstance(each, ast.Constant)]
    return code(f"{prefix}{name}{ending}"), kind, ", ".join(map(code, labels)), text


def literal(node: ast.expr, tree: ast.Module) -> str:
    """Return a text: a literal, or the last literal assigned to that variable above it."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    above = [
        each
        for each in ast.walk(tree)
        if isinstance(each, ast.Assign)
        and isinstance(each.value, ast.Constant)
        and each.lineno < node.lineno
        and ast.unparse(each.targets[0]) == ast.unparse(node)
    ]
    return str(ast.literal_eval(max(above, key=lambda each: each.lineno).value))


def prompt_words() -> str:
    """Return the words that make the simulator fail."""
    return table(["word", "effect"], ((code(word), text) for word, text in PROMPT_FAULTS.items()))


# --- provider files ---

FILE_TABLES: Final[Mapping[str, type[BaseModel]]] = {
    "": provider_tables.ProviderFile,
    "auth": provider_tables.Auth,
    "auth.jwt": provider_tables.Jwt,
    "limits": provider_tables.Limits,
    "fields.NAME": provider_tables.FieldTable,
    "submit": provider_tables.Submit,
    "submit.idempotency": provider_tables.Idempotency,
    "poll": provider_tables.Poll,
    "result": provider_tables.Result,
    "cancel": provider_tables.Cancel,
    "upload": provider_tables.Upload,
    "lookup": provider_tables.Lookup,
    "callback": provider_tables.Callback,
    "errors": provider_tables.Errors,
    "errors.rules[]": provider_tables.ErrorRule,
    "model[]": provider_tables.ModelTable,
    "model[].price": provider_tables.Price,
    "example[]": provider_tables.Example,
    "example[].expect": provider_tables.Expect,
}
"""The tables of a provider file, by their names in the file."""


def provider_file_keys() -> str:
    """Return every key of a provider file, by table."""
    described = key_descriptions()
    rows = (
        (code(f"{place}.{key}" if place else key), file_default(info), described.get(kind.__name__, {}).get(key, ""))
        for place, kind in FILE_TABLES.items()
        for key, info in kind.model_fields.items()
        if not (place == "" and isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel))
    )
    return table(["key", "default", "meaning"], rows)


def file_default(info: FieldInfo) -> str:
    """Return the default of a key: `required`, nothing for an empty one, or the value as TOML writes it."""
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True)
    if value in (None, "", [], {}) or isinstance(value, BaseModel):
        return ""
    return code(json.dumps(value))


TABLES: Final[Mapping[str, Callable[[], str]]] = {
    "endpoints": endpoints,
    "request errors": request_errors,
    "job errors": job_errors,
    "settings": installation_settings,
    "client settings": client_settings,
    "provider settings": provider_settings,
    "providers": provider_defaults,
    "provider names": provider_names,
    "models": model_rows,
    "styles": styles,
    "extra groups": extra_groups,
    "refused extra": refused_extra,
    "metrics": metrics,
    "prompt words": prompt_words,
    "provider file keys": provider_file_keys,
}


def rendered(page: str) -> str:
    """Return a page with its tables as the code has them now."""
    return BLOCK.sub(lambda found: found[1] + TABLES[found[2]]() + found[3], page)


def main() -> int:
    """Rewrite the pages, or with `--check` only compare them. Return 1 if a page differed under `--check`."""
    check = sys.argv[1:] == ["--check"]
    changed = [path for path in PAGES if rendered(path.read_text()) != path.read_text()]
    for path in changed:
        sys.stdout.write(f"{'differs' if check else 'rewritten'}: {path.relative_to(ROOT)}\n")
        if not check:
            path.write_text(rendered(path.read_text()))
    return int(check and bool(changed))


if __name__ == "__main__":
    sys.exit(main())
