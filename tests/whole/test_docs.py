"""The README and the pages of `proxy/docs/` agree with the code."""

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxy.core.provider_file import FileText, read
from proxy.core.settings import Settings
from proxy.providers.declared import DeclaredKind
from proxy.providers.declared_examples import examine
from proxy.providers.registry import Registry, prefix_of
from tests import docs
from tests.support.deployment import Deployment
from tests.support.registry import REGISTRY
from tests.support.root import ROOT, page

ENVIRONMENT = (ROOT / ".env.example").read_text()
METRIC = re.compile(r"^\| `(pollcast_\w+)` \| \w+ \| (.*?)\| ", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#:]*)(?:#([^)]*))?\)")
each_page = pytest.mark.parametrize("path", docs.PAGES, ids=lambda path: path.name)


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@each_page
def test_the_tables_are_those_that_the_code_gives(path: Path) -> None:
    assert path.read_text() == docs.rendered(path.read_text()), "run python -m tests.docs"


def test_every_table_of_the_command_is_on_a_page() -> None:
    used = {found[2] for path in docs.PAGES for found in docs.BLOCK.finditer(path.read_text())}
    assert used == docs.TABLES.keys()


@each_page
def test_each_link_to_a_file_or_a_heading_leads_there(path: Path) -> None:
    for file, heading in LINK.findall(re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)):
        target = path.parent / file if file else path
        assert target.exists(), file
        assert not heading or heading in anchors(target), (file, heading)


def test_no_setting_is_without_a_description() -> None:
    assert not re.findall(r"^\| `[A-Z_<>]+` \|.*\| \|$", page("settings"), re.MULTILINE)


async def test_the_guides_provider_file_has_no_fault() -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", page("provider-files"), re.DOTALL)
    kind = DeclaredKind(read(FileText("short.toml", text), lambda _: None))
    assert await examine(kind) == []
    assert [*Registry((kind,)).models] == ["short/one"]


def test_no_key_of_a_provider_file_is_without_a_description() -> None:
    assert not re.findall(r"^\| `[a-z]\S*` \|.*\| \|$", page("provider-files"), re.MULTILINE)


def test_the_readme_has_at_most_200_lines() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def test_the_example_environment_names_only_settings_that_exist() -> None:
    prefixes = {prefix_of(kind): kind.settings_type for kind in REGISTRY.providers}
    for name in re.findall(r"^(\w+)=", ENVIRONMENT, re.MULTILINE):
        kind = prefixes.get(name.split("_")[0] + "_", Settings)
        assert name.split("_", 1)[1].lower() in kind.model_fields, name


async def test_every_metric_is_listed_with_its_labels(unstarted: Deployment, tmp_path: Path) -> None:
    unstarted.settings["trace"] = str(tmp_path / "trace")
    async with unstarted as deployment:
        await deployment.generate("gaga-1", prompt="Hello")
        scrape = (await deployment.http.get("/metrics")).text
    families = {
        family.name: family for family in text_string_to_metric_families(scrape) if not family.name.endswith("_created")
    }
    listed = {
        name.removesuffix("_total"): set(re.findall("`([a-z]+)`", labels))
        for name, labels in METRIC.findall(docs.metrics())
    }
    assert listed.keys() == families.keys()
    for name, family in families.items():
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        assert not family.samples or listed[name] == labels, name


async def test_the_operating_page_names_only_metrics_that_exist() -> None:
    known = {name for name, _ in METRIC.findall(docs.metrics())}
    assert set(re.findall(r"`(pollcast_\w+)`", page("operating"))) <= known
