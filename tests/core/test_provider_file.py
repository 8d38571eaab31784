"""Provider files: each fault is one line, with the file, the line, the key and what would be right."""

import re
import tomllib
from datetime import date
from typing import Any

import pytest
from jsonschema_rs import validator_for

from proxy.core.json_path import JsonPath
from proxy.core.provider_file import BadFile, FileText, read
from proxy.core.provider_schema import json_schema
from proxy.core.templates import ABSENT, fill, fill_path
from proxy.core.toml_lines import key_lines
from tests.support.provider_file import ACME, TABLES, parse, short

MODEL = 'name = "one"\nkind = "video"\nprice = 5\ntypical_seconds = [1, 9]\n'
FIELDS = MODEL + "fields."
JOBS = 'path = "/j"\nid = "id"\n'
WORD = 'path = "/j"\nstatus = "s"\n'
TOP = TABLES["top"]


def fault(text: str) -> str:
    """The one line of a file's fault."""
    with pytest.raises(BadFile) as refused:
        parse(text)
    message = str(refused.value)
    assert "\n" not in message
    assert re.match(r"short\.toml, line [0-9]+: ", message), message
    return message.removeprefix("short.toml, ")


def lines_of(text: str, part: str) -> list[str]:
    """The lines that have `part`."""
    return [f"line {n}" for n, line in enumerate(text.splitlines(), 1) if part in line]


def test_the_example_has_every_table_and_no_fault() -> None:
    file = parse(ACME.read_text()).file
    assert (file.name, [model.name for model in file.model]) == ("acme", ["one", "one-lite"])
    assert all(getattr(file, name) is not None for name in type(file).model_fields if name != "extends")


def test_a_model_changes_single_keys_of_a_shared_field() -> None:
    lite = parse(ACME.read_text()).file.model[1]
    assert (lite.fields["duration"].choices, lite.fields["duration"].default) == ([5, 8], 5)


FAULTS: list[tuple[dict[str, str], str, str, str]] = [
    # the tables that differ, a text of the faulty line, the key, and a part of what would be right
    ({"top": TOP.replace('"Short"', "5")}, "title = 5", "title", "must be a text"),
    ({"top": TOP.rpartition("\n")[0]}, "name", "checked", "is required, and missing"),
    ({"poll": WORD + 'word = { a = "done" }'}, "word =", "poll.word", "Did you mean words?"),
    ({"polls": ""}, "[polls]", "polls", "Did you mean poll?"),
    ({"poll": WORD + 'words = { a = "over" }'}, "words", "poll.words.a", "must be 'queued'"),
    ({"poll": WORD + 'words = { a = "running" }'}, "words", "poll.words", "means done"),
    ({"poll": WORD + 'words = { a = "done", A = "failed" }'}, "words", "poll.words.A", "in other letters"),
    ({"poll": 'path = "/j"\nstatus = "s"'}, "[poll]", "poll.words", "go together"),
    ({"poll": WORD + 'present = "done"\nwords = { a = "done" }'}, "present", "poll.present", "goes without words"),
    ({"poll": 'path = "/j"'}, "[poll]", "poll", "must have status (with words or present) or http"),
    ({"poll": 'path = "/j"\nhttp = { ok = "done" }'}, "http", "poll.http.ok", "must be an HTTP status"),
    ({"poll": 'path = "/j"\nstatus = "a | b"\nwords = { a = "done" }'}, "status", "poll.status.0", "path of names"),
    ({"result": 'output = "length(@)"'}, "output", "result.output.0", "such as data.videos[].url"),
    ({"result": 'output = "a[?b]"'}, "output", "result.output.0", "such as data.videos[].url"),
    ({"result": "keyed = true"}, "[[model]]", "model.0", "no path to its outputs"),
    ({"submit": 'path = "jobs"\nid = "id"'}, "path", "submit.path", "begins with one slash"),
    ({"submit": 'path = "/../jobs"\nid = "id"'}, "path", "submit.path", "begins with one slash"),
    ({"submit": 'path = "https://evil.example/"\nid = "id"'}, "path", "submit.path", "begins with one slash"),
    ({"submit": 'path = "/{prompt}"\nid = "id"'}, "path", "submit.path", "has no value there"),
    ({"submit": JOBS + 'body = { a = "{promt}" }'}, "body", "submit.body", "Did you mean prompt?"),
    ({"submit": JOBS + "body = { a = 1 }"}, "fields", "model.0.fields.prompt", "is sent nowhere"),
    ({"submit": JOBS + 'body = { a = "{% if %}" }'}, "body", "submit.body", "braces only around a name"),
    ({"poll": WORD.replace("/j", "/j/{url}") + 'words = { a = "done" }'}, "path", "poll.path", "Allowed: id, model"),
    ({"auth": 'header = "X-Key"\nquery = "key"'}, "[auth]", "auth", "either header or query"),
    ({"auth": 'header = "X-Key"\nvalue = "abc"'}, "value", "auth.value", "must be {key}"),
    ({"auth": 'header = "X-Key"\nvalue = "{key} {home}"'}, "value", "auth.value", "must be {key}"),
    ({"submit": JOBS + 'headers = { Authorization = "x" }'}, "headers", "submit.headers", "[auth] only"),
    ({"submit": JOBS + 'headers = { X-Api-Key = "x" }'}, "headers", "submit.headers", "[auth] only"),
    ({"submit": 'path = "/j?key=1"\nid = "id"'}, "path", "submit.path", "[auth] only"),
    ({"submit": JOBS + 'body = { p = "{prompt}", k = "{key}" }'}, "body", "submit.body.k", "[auth] only"),
    ({"callback": 'field = "f"\nnote = "sk-0123456789abcdef0123"'}, "note", "callback.note", "[auth] only"),
    ({"upload": 'path = "/u"\nid = "id"\nform = { a = "{image}" }'}, "form", "upload.form", "upload loop"),
    ({"upload": 'path = "/u"\nid = "id"\nvalue = "x"'}, "value", "upload.value", "must have {id}"),
    ({"lookup": 'path = "/l/{job}"\nid = "id"'}, "[lookup]", "lookup", "needs submit.idempotency"),
    ({"result": 'output = "url"\nhttp_failure = [422]'}, "http_failure", "result.http_failure", "result.path only"),
    ({"errors": 'rules = [\n{ http = 429, means = "busy" },\n]'}, "http = 429", "errors.rules.0", 'paid = "no"'),
    ({"errors": 'rules = [\n{ code = 1, means = "gone" },\n]'}, "code = 1", "errors.rules.0.code", "needs errors.code"),
    ({"errors": 'rules = [\n{ means = "gone" },\n]'}, "means", "errors.rules.0", "must have http, code or both"),
    ({"model": MODEL + 'use = ["prompt"]'}, "use", "model.0.use.0", "is not in [fields]"),
    ({"model": MODEL + 'path = "x/{id"'}, "path", "model.0.path", "without placeholders"),
    ({"model": MODEL + 'id = "{prompt}"'}, "id =", "model.0.id", "without placeholders"),
    ({"submit": JOBS + 'headers = { X-A = "{prompt}" }'}, "headers", "submit.headers", "without placeholders"),
    ({"model": FIELDS + "a = { type = 'text', many = true, default = 'x' }"}, "fields.", "a.default", "goes without"),
    ({"model": FIELDS + "a = { type = 'integer', choices = { b = 'c' } }"}, "fields.", "a.choices", "of values"),
    ({"model": MODEL + 'path = "/x"'}, 'path = "/x"', "model.0.path", "without a slash"),
    ({"model": FIELDS + "model = { type = 'text' }"}, "fields.", "model.0.fields.model", "not model"),
    ({"model": FIELDS + "a = { type = 'text', send = 'url' }"}, "fields", "model.0.fields.a.send", "media"),
    ({"model": FIELDS + "a = { type = 'media', send = 'upload' }"}, "fields", "fields.a.send", "no [upload]"),
    ({"model": FIELDS + "a = { type = 'media', send = 'part' }"}, "fields", "fields.a.send", "multipart"),
    ({"model": FIELDS + "a = { type = 'integer', default = 'x' }"}, "fields", "fields.a.default", "integer"),
    ({"model": FIELDS + "a = { type = 'text', choices = ['x'], default = 'y' }"}, "fields", "a.default", "choices"),
    ({"model": FIELDS + "a = { type = 'text', pattern = '(?=x)' }"}, "fields", "a.pattern", "regular expression"),
    ({"model": FIELDS + "a = { type = 'text', shape = '{other}' }"}, "fields", "a.shape", "not {other}"),
    ({"model": MODEL.replace("5", "{ tokens = 2, per = 'd' }")}, "price", "model.0.price", "must be one value"),
    ({"model": MODEL.replace("5", "{ by = ['d'] }")}, "price", "model.0.price", "must have a table"),
    ({"model": MODEL.replace("5", "true")}, "price", "model.0.price", "must be a whole number"),
    ({"model": MODEL.replace("[1, 9]", "[9, 1]")}, "typical", "model.0.typical_seconds", "smaller one first"),
    ({"model": MODEL + "[[model]]\n" + MODEL}, 'name = "one"', "model.0.name", "is taken"),
    ({"model": MODEL + '[[example]]\nstep = "poll"\nsource = "x"\ndate = 2026-11-20\nmodel = "two"\nexpect = {}'},
     'model = "two"', "example.0.model", "must be the name of a model"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("tables", "line", "key", "right"), FAULTS, ids=[f"{key}-{right}" for _, _, key, right in FAULTS]
)
def test_a_fault_names_file_line_key_and_what_is_right(tables: dict[str, str], line: str, key: str, right: str) -> None:
    text = short(**tables)
    message = fault(text)
    head, _, rest = message.partition(": ")
    assert key in rest.partition(": ")[0], message
    assert right in rest, message
    assert head in lines_of(text, line), message


@pytest.mark.parametrize("name", ["a", "Short", "https", "pollcast", "all", "x" * 32, "a_b"])
def test_some_names_are_refused(name: str) -> None:
    assert "line 1: name: must be 2 to 31" in fault(short().replace('name = "short"', f'name = "{name}"', 1))


@pytest.mark.parametrize(
    "url",
    [
        "http://api.example.com",
        "https://127.0.0.1",
        "https://[::1]",
        "https://10.0.0.1:8443",
        "https://localhost",
        "https://metadata.google.internal",
        "https://user:secret@api.example.com",
        "https://2130706433",
        "file:///etc/passwd",
        "https://api.example.com/?x=1",
    ],
)
def test_a_file_names_public_https_origins_only(url: str) -> None:
    assert "base_url: must be a public https origin" in fault(short().replace("https://api.short.example", url))
    assert "hosts.0: must be a public https origin" in fault(f'hosts = ["{url}"]\n{short()}')


def test_toml_faults_have_their_line() -> None:
    assert fault("name = 'a'\nname = 'b'\n").startswith("line 2: is not TOML: Cannot overwrite a value")
    assert fault("a = 1\nb = [1,").startswith("line 2: is not TOML")


def test_a_file_in_another_encoding_is_one_line(tmp_path: Any) -> None:
    file = tmp_path / "odd.toml"
    file.write_bytes(b"a = 1\nb = '\xe4'\n")
    with pytest.raises(BadFile, match=r"^odd\.toml, line 2: is not in UTF-8$"):
        FileText.at(file)
    with pytest.raises(BadFile, match=r"^missing\.toml, line 1: cannot be read: No such file or directory$"):
        FileText.at(tmp_path / "missing.toml")


# --- extending ---


def extended(text: str) -> Any:
    return read(
        FileText("mine.toml", text), lambda name: FileText("acme.toml", ACME.read_text()) if name == "acme" else None
    )


MORE = """
extends = "acme"
[limits]
rate = 2
[[model]]
name = "mine"
path = "mine"
kind = "video"
price = 7
typical_seconds = [1, 9]
use = ["prompt"]
"""


def test_an_extension_adds_its_models_to_the_provider() -> None:
    found = extended(MORE)
    assert [model.name for model in found.file.model] == ["mine", "one", "one-lite"]
    assert (found.file.extends, found.file.limits.rate, found.file.limits.concurrency) == ("acme", 2, 8)
    assert found.file.example == []


def test_an_extension_with_its_own_name_has_only_its_models() -> None:
    found = extended('name = "mine"' + MORE)
    assert (found.file.name, [model.name for model in found.file.model]) == ("mine", ["mine"])


def test_a_file_is_read_again_from_its_texts() -> None:
    found = extended(MORE)
    own, base = found.texts
    again = read(own, lambda _: base)
    assert (again.digest, again.file) == (found.digest, found.file)
    assert read(own, lambda _: FileText("acme.toml", base.text + "\n")).digest != found.digest


def test_faults_of_an_extension_are_named_in_it() -> None:
    with pytest.raises(BadFile, match=r"^mine\.toml, line 6: model\.0\.name: is taken"):
        extended(MORE.replace('"mine"', '"one"', 1))
    with pytest.raises(BadFile, match=r"^mine\.toml, line 1: extends: must be the name of a provider"):
        extended('extends = "other"')


# --- paths, templates and lines ---


@pytest.mark.parametrize("path", ["a", "a.b", "a[0].b", "a[].b", "a[*].b[].c", '"a-b".c', "[1].a", "@"])
def test_a_path_finds_what_it_builds(path: str) -> None:
    walked = JsonPath(path)
    found = walked.find(walked.build("x"))
    while isinstance(found, list):
        (found,) = found
    assert found == "x"


@pytest.mark.parametrize(
    "path", ["", "a b", "a[1:2]", "a.*", "{a: b}", "`1`", "a || b", "a[?b=='c']", "keys(a)", "&a", "!a"]
)
def test_a_path_only_walks(path: str) -> None:
    with pytest.raises(ValueError, match="must be a path of names, indexes and lists"):
        JsonPath(path)


@pytest.mark.parametrize(
    ("template", "values", "filled"),
    [
        ("{a}", {"a": 5}, 5),
        ("no {a}", {"a": 5}, "no 5"),
        ("no {a}", {}, ABSENT),
        ({"b": {"c": "{a}"}, "d": 1}, {}, {"d": 1}),
        ({"b": {"c": "{a}"}}, {}, ABSENT),
        ([{"t": "x", "u": "{a}"}, {"t": "y"}], {}, [{"t": "y"}]),
        ([{"t": "x", "u": "{a}", "v": "{b}"}], {"b": 1}, [{"t": "x", "v": 1}]),
        (["{a}", "z"], {"a": [1, 2]}, [1, 2, "z"]),
        ({"a": {}, "b": []}, {}, {"a": {}, "b": []}),
    ],
)
def test_a_template_leaves_out_what_is_absent(template: Any, values: dict[str, Any], filled: Any) -> None:
    assert fill(template, values) == filled


def test_a_path_keeps_only_the_slashes_it_may() -> None:
    values = {"id": "a/b?c", "model": "x/y"}
    assert fill_path("/{model}/{id}/{+id}", values) == "/x/y/a%2Fb%3Fc/a/b%3Fc"


def test_every_key_of_a_document_has_its_line() -> None:
    text = ACME.read_text()
    lines, rows = key_lines(text), text.splitlines()
    for place in _places(tomllib.loads(text)):
        last = next(part for part in reversed(place) if isinstance(part, str))
        assert last in rows[lines[place] - 1] or isinstance(place[-1], int), place


def _places(value: Any, place: tuple[str | int, ...] = ()) -> Any:
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*place, key)
        yield from _places(inner, (*place, key))


# --- the schema for editors ---


def plain(value: Any) -> Any:
    """A document as JSON has it."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return value.isoformat() if isinstance(value, date) else value


SCHEMA = validator_for(json_schema())


@pytest.mark.parametrize("text", [ACME.read_text(), short(), MORE], ids=["acme", "short", "extension"])
def test_the_schema_accepts_a_file_without_faults(text: str) -> None:
    assert [error.message for error in SCHEMA.iter_errors(plain(tomllib.loads(text)))] == []


@pytest.mark.parametrize(
    "text", [short(polls=""), short(auth='headers = "X-Key"'), short(limits='rate = "x"'), "title = 5"]
)
def test_the_schema_refuses_wrong_keys_and_types(text: str) -> None:
    assert not SCHEMA.is_valid(plain(tomllib.loads(text)))


def test_the_schema_describes_keys() -> None:
    keys = json_schema()["$defs"]["Poll"]["properties"]
    assert keys["words"]["description"] == "What each word means, in the order in which a job has them."
