"""What the README says is what the code does."""

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from proxy.core import errors
from proxy.core.settings import Settings
from proxy.providers import MODELS, PROVIDERS
from proxy.simulator import PROMPT_FAULTS
from tests.support.deployment import Deployment
from tests.support.root import ROOT

README = (ROOT / "README.md").read_text()
ENVIRONMENT = (ROOT / ".env.example").read_text()
METRIC = re.compile(r"^\| `(pollcast_\w+)`(?: \((.*?)\))? \|", re.MULTILINE)


def rows(text: str) -> list[list[str]]:
    """The cells of every table row in a stretch of the page."""
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:2] == "| "]


def section(title: str) -> str:
    return re.split(r"\n## ", README.split(f"\n## {title}\n")[1])[0]


def test_every_model_is_listed_with_its_provider_kind_and_price() -> None:
    by_provider = {model.name: kind.name for kind in PROVIDERS for model in kind.models}
    listed = [(row[0].strip("`"), row[1], row[2], row[3]) for row in rows(section("Models"))[1:] if row[0][0] == "`"]
    assert listed == [
        (model.name, by_provider[model.name], str(model.kind), str(model.tokens)) for model in MODELS.values()
    ]


def test_every_field_of_every_model_is_named_and_required_ones_are_bold() -> None:
    for row in rows(section("Models"))[1:]:
        name = row[0].strip("`")
        if name not in MODELS or row[4].startswith("as "):
            continue
        for field, info in MODELS[name].fields.model_fields.items():
            assert re.search(rf"\b{field}\b", row[4]), (name, field)
            if info.is_required():
                assert f"**{field}**" in row[4], (name, field)


def test_every_setting_is_listed_with_its_default() -> None:
    text = section("Settings")
    for name, info in Settings.model_fields.items():
        setting = f"POLLCAST_{name.upper()}"
        assert f"`{setting}`" in text
        if isinstance(info.default, str | int) and info.default:
            assert f"`{info.default}`" in text, setting


def test_every_providers_pace_is_listed_as_it_is() -> None:
    table = {row[0]: row[1:] for row in rows(section("Settings")) if ": " in row[0] or row[0] == ""}
    for index, kind in enumerate(PROVIDERS):
        for name in ("poll_interval", "deadline", "concurrency", "rate"):
            row = next(cells for title, cells in table.items() if title.startswith(f"`{name.upper()}`"))
            assert float(row[index]) == kind.settings_type.model_fields[name].default, (kind.name, name)


def test_the_example_environment_names_only_settings_that_exist() -> None:
    prefixes = {str(kind.settings_type.model_config["env_prefix"]): kind.settings_type for kind in PROVIDERS}
    for name in re.findall(r"^(\w+)=", ENVIRONMENT, re.MULTILINE):
        kind = prefixes.get(name.split("_")[0] + "_", Settings)
        assert name.split("_", 1)[1].lower() in kind.model_fields, name


def test_every_word_of_the_simulator_is_explained() -> None:
    assert {row[0].strip("`"): row[1] for row in rows(section("The simulator"))[2:]} == dict(PROMPT_FAULTS)


def test_every_error_code_is_explained() -> None:
    def leaves(kind: type[errors.PollcastError]) -> set[str]:
        return {kind.code} | {code for sub in kind.__subclasses__() for code in leaves(sub)}

    for code in leaves(errors.PollcastError):
        assert f"`{code}`" in section("Errors"), code


async def test_every_metric_is_listed_with_its_labels(unstarted: Deployment, tmp_path: Path) -> None:
    unstarted.settings["trace"] = str(tmp_path / "trace")
    async with unstarted as deployment:
        await deployment.generate("gaga-1", prompt="Hello")
        told = (await deployment.http.get("/metrics")).text
    families = {family.name: family for family in text_string_to_metric_families(told)}
    found = {
        name: {label for sample in family.samples for label in sample.labels} - {"le"}
        for name, family in families.items()
        if not name.endswith("_created")
    }
    listed = {name: set(re.findall("`([a-z]+)`", labels)) for name, labels in METRIC.findall(section("Operations"))}
    assert listed.keys() == found.keys()
    assert all(listed[name] == labels for name, labels in found.items() if families[name].samples)


async def test_every_endpoint_is_listed_and_exists(deployment: Deployment) -> None:
    listed = {
        path
        for row in rows(section("Endpoints"))
        for path in re.findall(r"/(?:api|healthz|readyz|metrics|openapi|docs|pollcast)[^`, ]*|(?<= )/(?=`)", row[0])
    }
    served = {
        re.sub(r"\{(\w+)(:int)?\}", lambda found: "{n}" if found[1] == "n" else "{id}", route.path)
        for route in deployment.app.routes
    }
    parts = {path for path in served if path.startswith("/playground/")}
    assert listed | {"/api/jobs/{id}/content/{n}"} | parts == served
