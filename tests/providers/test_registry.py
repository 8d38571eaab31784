"""The registry: found adapters and entry points, the catalogue's order, and refused collisions."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic_settings import SettingsConfigDict

from proxy.core.clock import Clock
from proxy.core.settings import ProviderSettings
from proxy.providers.base import Provider
from proxy.providers.gaga import Gaga, GagaSettings
from proxy.providers.gaia import Gaia
from proxy.providers.registry import BadRegistry, Registry, installed_registry
from tests.cli.test_cli import command
from tests.support.deployment import Deployment
from tests.support.root import blocks, page

Installed = Callable[[str, str], None]


class FurtherSettings(GagaSettings):
    model_config = SettingsConfigDict(env_prefix="FURTHER_")


class Further(Gaga):
    """Gaga under another name."""

    name = "Further"
    models = (
        replace(Gaga.models[0], name="further-1"),
        replace(Gaga.models[1], name="further-2"),
        replace(Gaga.models[2], name="further-3"),
    )
    settings_type = FurtherSettings
    position = 100


class Declared:
    """A provider that is an object, as several of one adapter class are."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.models = (replace(Gaga.models[0], name=f"{name}-1"),)
        self.settings_type = type(name, (GagaSettings,), {"model_config": {"env_prefix": f"{name.upper()}_"}})
        self.position = 100
        self.version = ""

    def __call__(self, settings: ProviderSettings, clock: Clock, public_url: str, *times: object) -> Provider:
        del times
        return Gaga(settings, clock, public_url)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installed:
    """Install a module with the guide's adapter, and an entry point with this value."""

    def install(module: str, value: str) -> None:
        folder = tmp_path / "site"
        (folder / f"{module}-1.0.dist-info").mkdir(parents=True)
        (folder / f"{module}-1.0.dist-info" / "METADATA").write_text(f"Name: {module}\nVersion: 1.0\n")
        (folder / f"{module}-1.0.dist-info" / "entry_points.txt").write_text(f"[pollcast.providers]\nx = {value}\n")
        (folder / f"{module}.py").write_text(blocks(page("adding-a-provider"), "python")[0])
        monkeypatch.syspath_prepend(folder)
        monkeypatch.delitem(sys.modules, module, raising=False)

    return install


def test_it_has_each_adapter_once_in_the_catalogues_order() -> None:
    first = ["Gaga", "Gaia", "AI-Now", "Gan.ai", "HeyGen"]
    assert [kind.name for kind in installed_registry().providers if kind.name in first] == first


def test_providers_of_one_position_are_sorted_by_name() -> None:
    registry = Registry((Declared("zoo"), Further, Declared("ant"), Gaga))
    assert [kind.name for kind in registry.providers] == ["Gaga", "Further", "ant", "zoo"]
    assert [*registry.models][-2:] == ["ant-1", "zoo-1"]


def test_a_model_leads_to_its_provider() -> None:
    registry = Registry((Gaga, Gaia, Further))
    assert registry.provider_of("further-2") is Further
    assert registry.models["further-2"] is Further.models[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "Gaga"}, "Two providers are named Gaga: "),
        ({"settings_type": GagaSettings}, "Two providers have settings with the prefix GAGA_: "),
        ({"models": Gaga.models}, "Two providers have a model gaga-1: "),
    ],
)
def test_a_collision_is_refused_and_names_both(changes: dict[str, object], message: str) -> None:
    second: Any = type("Second", (Further,), changes)
    with pytest.raises(BadRegistry) as caught:
        Registry((Gaga, second))
    text = str(caught.value)
    assert text.startswith(message)
    assert "Gaga (proxy.providers.gaga.Gaga)" in text
    assert "Second)" in text
    assert "\n" not in text


def test_an_entry_point_adds_a_provider(installed: Installed) -> None:
    installed("acme_adapter", "acme_adapter:Acme")
    registry = installed_registry()
    assert registry.providers[-1].name == "Acme"
    assert registry.provider_of("acme-video").name == "Acme"


@pytest.mark.parametrize("value", ["acme_adapter:Nothing", "no_such_module:Acme"])
def test_an_entry_point_that_cannot_be_loaded_is_named(installed: Installed, value: str) -> None:
    installed("acme_adapter", value)
    with pytest.raises(BadRegistry, match=rf"^Entry point x \({value}\) of pollcast.providers cannot be loaded: "):
        installed_registry()


def test_an_entry_point_that_is_no_provider_is_refused(installed: Installed) -> None:
    installed("acme_adapter", "acme_adapter:AcmeFields")
    with pytest.raises(BadRegistry, match="is not a provider"):
        installed_registry()


def test_a_collision_ends_a_command_with_one_line(installed: Installed, tmp_path: Path) -> None:
    installed("acme_adapter", "proxy.providers.gaga:Gaga")
    done = command("check", PYTHONPATH=str(tmp_path / "site"))
    assert done.returncode == 1
    assert done.stderr.startswith("Error: Two providers are named Gaga: ")
    assert len(done.stderr.splitlines()) == 1


async def test_a_provider_that_is_an_object_serves_its_models(unstarted: Deployment) -> None:
    unstarted.registry = Registry((Declared("gaga"),))
    async with unstarted as deployment:
        listed = (await deployment.http.get("/api/models")).json()["models"]
        events = await deployment.generate("gaga-1", prompt="Hello")
        refused = await deployment.http.post("/api/jobs", json={"model": "suno", "prompt": "Hello"})
    assert [(model["id"], model["provider"], model["available"]) for model in listed] == [("gaga-1", "Gaga", True)]
    assert events[-1]["status"] == "Completed"
    assert refused.json()["message"].endswith("Available models: gaga-1.")
