"""Provider files of an installation: its folder, its settings, names that are taken, and a whole order."""

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from proxy.core.clock import SystemClock
from proxy.core.job import Order
from proxy.core.provider_file import BadFile, FileText, read
from proxy.core.settings import BadSetting, Settings, load
from proxy.providers.declared import DeclaredKind
from proxy.providers.declared_examples import examine
from proxy.providers.declared_files import BUNDLED, bundled, read_folder
from proxy.providers.declared_models import unpriced_fields
from proxy.providers.registry import Registry, installed_registry
from tests.support.deployment import Deployment
from tests.support.literal import Literal, ended, said
from tests.support.provider_file import ACME, Brought, parse, short
from tests.support.site import Site

MINE = '\n[[model]]\nname = "mine"\nkind = "video"\nprice = 7\ntypical_seconds = [1, 9]\nuse = ["prompt"]\n'


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """A folder of files that come with Pollcast: acme alone."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    (folder / "acme.toml").write_text(ACME.read_text())
    return folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The operator's folder."""
    monkeypatch.chdir(tmp_path)  # a folder without .env
    own = tmp_path / "own"
    own.mkdir()
    return own


def names(kinds: list[DeclaredKind]) -> list[str]:
    return [model.name for kind in kinds for model in kind.models]


def test_files_of_the_folder_are_added_to_those_that_come_with_pollcast(folder: Path, shipped: Path) -> None:
    (folder / "short.toml").write_text(short())
    assert names(read_folder(str(folder), shipped=shipped)) == ["acme/one", "acme/one-lite", "short/one"]
    assert names(read_folder("", shipped=shipped)) == ["acme/one", "acme/one-lite"]


def test_an_extension_of_the_same_name_replaces_the_file(folder: Path, shipped: Path) -> None:
    (folder / "more.toml").write_text(f'extends = "acme"{MINE}')
    (kind,) = read_folder(str(folder), shipped=shipped)
    assert names([kind]) == ["acme/mine", "acme/one", "acme/one-lite"]
    assert kind.settings_type.model_config["env_prefix"] == "ACME_"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"a.toml": short(), "b.toml": short()},
            r"^b\.toml, line 1: name: is taken: there is another provider 'short'$",
        ),
        ({"a.toml": short().replace("short", "gaga")}, r"^a\.toml, line 1: name: is taken: there is another provider"),
        ({"a.toml": short().replace('"short"', '"acme"')}, r'^a\.toml, line 1: name: is taken: .* extends = "acme"'),
    ],
)
def test_a_taken_name_is_one_line(folder: Path, shipped: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (folder / name).write_text(text)
    with pytest.raises(BadFile, match=message):
        read_folder(str(folder), {"gaga"}, shipped)


def test_a_missing_folder_names_its_setting() -> None:
    with pytest.raises(BadSetting, match=r"^POLLCAST_PROVIDERS: there is no folder /nowhere$"):
        read_folder("/nowhere")


def test_the_registry_reads_the_folder_of_the_settings(folder: Path) -> None:
    (folder / "short.toml").write_text(short())
    registry = installed_registry(load(Settings, providers=str(folder)))
    assert registry.provider_of("short/one").name == "short"
    (folder / "gaga.toml").write_text(short().replace('"short"', '"gaga"'))
    with pytest.raises(BadFile, match=r"^gaga\.toml, line 1: name: is taken"):
        installed_registry(load(Settings, providers=str(folder)))


def test_settings_have_the_prefix_and_the_files_defaults(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del folder
    monkeypatch.setenv("SHORT_TWO_API_KEY", "abc")
    monkeypatch.setenv("SHORT_TWO_POLL_INTERVAL", "7s")
    text = short(limits='deadline = "20m"\nconcurrency = 3').replace('"short"', '"short-two"')
    settings = load(DeclaredKind(parse(text)).settings_type)
    assert (settings.key, settings.poll_interval, settings.deadline, settings.concurrency) == ("abc", 7, 1200, 3)
    assert settings.base_url == "https://api.short.example"


def test_only_the_chosen_models_are_offered() -> None:
    kind = DeclaredKind(parse(ACME.read_text()))
    registry = Registry((kind,), ["acme/one-*"])
    assert ([*registry.offered], [*registry.models]) == (["acme/one-lite"], ["acme/one", "acme/one-lite"])
    assert [*Registry((kind,), ["*"]).offered] == [*registry.models]
    with pytest.raises(
        BadSetting, match=r"^POLLCAST_MODELS: there is no model 'acme/two'; there are acme/one, acme/one-lite$"
    ):
        Registry((kind,), ["acme/one", "acme/two"])


def test_fields_that_the_price_ignores_are_reported() -> None:
    acme = parse(ACME.read_text()).file
    assert [unpriced_fields(acme, model) for model in acme.model] == [[], []]
    fields = "n = { type = 'integer', min = 1 }, size = { type = 'text' }, mood = { type = 'text' }"
    model = f"name = 'one'\nkind = 'video'\nprice = 5\ntypical_seconds = [1, 9]\nfields = {{ {fields} }}"
    file = parse(short(model=model, submit='path = "/jobs"\nid = "id"\nextra = ["fps", "hue"]')).file
    assert unpriced_fields(file, file.model[0]) == ["n", "size", "extra.fps"]


def test_the_files_that_come_with_pollcast_have_no_fault() -> None:
    assert [kind.name for kind in read_folder("")] == sorted(file.stem for file in BUNDLED.glob("*.toml"))


async def test_an_order_of_a_file_runs_to_its_end(unstarted: Deployment) -> None:
    async with Literal() as upstream:
        upstream.on("POST", "/v1/videos/text2video", said({"code": 0, "data": {"task_id": "t1"}}))
        working = said({"code": 0, "data": {"task_status": "processing", "percent": 50}})
        result = {"videos": [{"id": "v1", "url": "https://cdn.example.com/v.mp4"}]}
        done = said({"code": 0, "data": {"task_status": "succeed", "task_result": result}})
        upstream.on("GET", "/v1/videos/text2video/t1", working, done)
        unstarted.registry = Registry((DeclaredKind(parse(ACME.read_text())),))
        unstarted.provider = {"base_url": upstream.origin, "api_key": "a-key"}
        async with unstarted as deployment:
            final = ended(await deployment.generate("acme/one", prompt="Hello", duration=10))
            refused = await deployment.http.post(
                "/api/jobs", json={"model": "acme/one", "prompt": "x", "extra": {"n": 2}}
            )
            document = (await deployment.http.get("/openapi.json")).json()
            tokens = (await deployment.http.get("/api/account")).json()["tokens"]
    assert (final["status"], final["url"]) == ("Completed", "https://cdn.example.com/v.mp4")
    assert (tokens, refused.status_code) == (960, 422)
    assert "Allowed: camera" in refused.json()["message"]
    job = json.loads(upstream.once("POST", "/v1/videos/text2video").body)["external_id"]
    assert job.startswith("job_")
    named = [name for name in document["components"]["schemas"] if "acme" in name]
    assert named == ["order-acme.one", "order-acme.one-lite"]  # a schema's name has no slash


# --- examples ---

FILES = [ACME, *sorted(BUNDLED.glob("*.toml"))]


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
async def test_examples_are_read_as_their_author_expects(file: Path) -> None:
    assert await examine(DeclaredKind(read(FileText.at(file), bundled))) == []


@pytest.mark.parametrize(
    ("example", "difference"),
    [
        ('step = "submit"\nanswer = \'{"id": 5}\'\nexpect = { id = "6" }', "expect.id (submit): expected '6'"),
        ('step = "submit"\nhttp = 429\nexpect = { resend = true }', "expect.resend (submit): expected True"),
        ('step = "poll"\nanswer = \'{"status": "working"}\'\nexpect = { state = "done" }', "it is 'running'"),
        ('step = "poll"\nanswer = \'{"status": "new"}\'\nexpect = { unknown = "old" }', "it is 'new'"),
        ('step = "poll"\nanswer = \'{"status": "broken"}\'\nexpect = { continues = true }', "it is False"),
        ('step = "poll"\nhttp = 404\nanswer = "{}"\nexpect = { error = "upstream_failed" }', "it is None"),
        (
            'step = "request"\norder = { prompt = "A" }\nexpect = { body = \'{"prompt": "B"}\' }',
            "it is {'prompt': 'A'}",
        ),
    ],
)
async def test_a_difference_from_an_example_is_one_line(example: str, difference: str) -> None:
    text = f'{short()}\n[[example]]\nsource = "https://short.example"\ndate = 2026-11-20\n{example}'
    (line,) = await examine(DeclaredKind(parse(text)))
    assert line.startswith("example.0.expect.")
    assert difference in line


# --- fields ---


@pytest.mark.parametrize(
    ("field", "given", "sent"),
    [
        ("type = 'number', choices = { '0.5' = 'half', '1' = 'full' }", 0.5, "half"),
        ("type = 'number', choices = { '0.5' = 'half', '1' = 'full' }, default = 1.0", None, "full"),
        ("type = 'number', min = 0, max = 2.5", 2.5, 2.5),
        ("type = 'number'", 2, 2),
        ("type = 'boolean', as_text = true", True, "true"),
        ("type = 'boolean', choices = { true = 'on', false = 'off' }", False, "off"),
        ("type = 'text', many = true, max_items = 2", ["a", "b"], ["a", "b"]),
        ("type = 'integer', many = true, as_text = true", [1, 2], ["1", "2"]),
        ("type = 'text', pattern = '^[a-z]+$'", "abc", "abc"),
        ("type = 'text', shape = { text = '{value}' }", "abc", {"text": "abc"}),
    ],
)
async def test_a_value_is_sent_as_its_field_says(field: str, given: object, sent: object) -> None:
    model = f"name = 'one'\nkind = 'video'\nprice = 5\ntypical_seconds = [1, 9]\nfields = {{ f = {{ {field} }} }}"
    kind = DeclaredKind(parse(short(model=model)))
    fields = kind.models[0].fields.model_validate({"f": given}).model_dump(exclude_none=True)
    settings = kind.settings_type(base_url="https://api.short.example")
    provider = kind(settings, SystemClock(), "http://127.0.0.1:8000")
    request = await provider.prepare(Order("short/one", fields), Brought())
    assert request.json == {"f": sent}


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("type = 'number', min = 0, max = 2.5", 2.6),
        ("type = 'number', choices = [0.5, 1]", 0.6),
        ("type = 'integer', choices = [1, 2]", True),
        ("type = 'integer'", 1.5),
        ("type = 'integer'", True),
        ("type = 'boolean'", 1),
        ("type = 'text', max_length = 2", "abc"),
        ("type = 'text', pattern = '^[a-z]+$'", "ABC"),
        ("type = 'text', many = true, max_items = 2", ["a", "b", "c"]),
        ("type = 'media'", 5),
    ],
)
def test_a_value_outside_its_field_is_refused(field: str, given: object) -> None:
    model = f"name = 'one'\nkind = 'video'\nprice = 5\ntypical_seconds = [1, 9]\nfields = {{ f = {{ {field} }} }}"
    with pytest.raises(ValueError, match="validation error"):
        DeclaredKind(parse(short(model=model))).models[0].fields.model_validate({"f": given})


# --- a lost answer ---


async def test_a_lost_order_with_inline_media_is_found_by_its_key(unstarted: Deployment) -> None:
    ordered: list[dict[str, Any]] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.method == "POST":
            ordered.append(await request.json())
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if request.path.endswith(ordered[0]["external_id"]):
            return web.json_response({"code": 0, "data": {"task_id": "t1"}})
        result = {"videos": [{"url": "https://cdn.example.com/v.mp4"}]}
        return web.json_response({"code": 0, "data": {"task_status": "succeed", "task_result": result}})

    async with Site(answer) as site:
        unstarted.registry = Registry((DeclaredKind(parse(ACME.read_text())),))
        unstarted.provider = {"base_url": site.url, "api_key": "a-key"}
        async with unstarted as deployment:
            asset = await deployment.asset("image")
            final = ended(await deployment.generate("acme/one", prompt="Hello", image=asset))
    assert (final["status"], len(ordered)) == ("Completed", 1)
