"""Tests of `check`: it reports failures, pays for nothing and leaves nothing behind."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from proxy.cli.check import CheckResult, CheckState, check_all
from proxy.core.clock import SystemClock
from proxy.core.settings import Settings, load
from proxy.providers.registry import ProviderKind
from proxy.simulator import Simulator, default_keys
from tests.cli.test_cli import command
from tests.support.registry import REGISTRY, provider_named, short
from tests.support.site import Site

FIRST = REGISTRY.providers[0]
each_provider = pytest.mark.parametrize("kind", REGISTRY.providers, ids=lambda kind: kind.name)


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator() as running:
        yield running


def right_key(kind: ProviderKind) -> str:
    return default_keys()[short(kind)]


async def findings(kind: ProviderKind, settings: Settings | None = None, **given: Any) -> dict[str, CheckResult]:
    """Return the results by subject, for one provider and the server's settings."""
    own = load(kind.settings_type, **given)
    results = check_all(settings or load(Settings), [(kind, own)], SystemClock())
    return {found.subject: found async for found in results}


async def finding(kind: ProviderKind, **given: Any) -> CheckResult:
    return (await findings(kind, **given))[kind.name]


# --- providers ---


@each_provider
async def test_a_key_that_works_is_ok_and_nothing_is_ordered(kind: ProviderKind, simulator: Simulator) -> None:
    found = await finding(kind, base_url=simulator.origin, api_key=right_key(kind))
    assert found.state is CheckState.OK, str(found)
    assert not simulator.submits
    assert simulator.calls.total() == 1


@each_provider
async def test_a_refused_key_is_reported(kind: ProviderKind, simulator: Simulator) -> None:
    found = await finding(kind, base_url=simulator.origin, api_key="sk-wrong")
    assert found.state is CheckState.REFUSED, str(found)
    assert "sk-wrong" not in str(found)
    assert not found.works


@each_provider
async def test_without_a_key_no_request_is_sent(kind: ProviderKind, simulator: Simulator) -> None:
    found = await finding(kind, base_url=simulator.origin)
    assert (found.state, found.works, str(found)) == (CheckState.NO_KEY, True, f"{kind.name:11} no key")
    assert not simulator.calls


@each_provider
async def test_an_unreachable_provider_is_reported(kind: ProviderKind) -> None:
    found = await finding(kind, base_url="http://127.0.0.1:9", api_key="sk-one")
    assert found.state is CheckState.FAILED
    assert "cannot be reached" in found.remark


@each_provider
@pytest.mark.parametrize("status", [404, 502])
async def test_a_page_of_some_other_server_proves_nothing(kind: ProviderKind, status: int) -> None:
    async def page(_: web.Request) -> web.Response:
        return web.Response(status=status, text="<h1>Welcome to nginx!</h1>", content_type="text/html")

    async with Site(page) as site:
        found = await finding(kind, base_url=site.url, api_key="sk-one")
    assert found.state is CheckState.FAILED


async def test_heygen_refuses_a_key_with_http_200_too() -> None:
    async def refusal(_: web.Request) -> web.Response:
        return web.json_response({"code": 400112, "message": "Unauthorized"})

    async with Site(refusal) as site:
        found = await finding(provider_named("HeyGen"), base_url=site.url, api_key="sk-one")
    assert found.state is CheckState.REFUSED


async def test_heygens_key_is_proven_by_its_own_user(simulator: Simulator) -> None:
    heygen = provider_named("HeyGen")
    found = await finding(heygen, base_url=simulator.origin, api_key=right_key(heygen))
    assert found.state is CheckState.OK
    assert simulator.calls == {"heygen3.me": 1}


async def test_models_that_gaia_does_not_list_are_named(simulator: Simulator) -> None:
    simulator.gaia.listed_models = ["gpt-image-2", "image2", "gpt-5.4-mini"]
    gaia = provider_named("Gaia")
    found = await finding(gaia, base_url=simulator.origin, api_key=right_key(gaia))
    assert (found.state, found.remark) == (CheckState.OK, "it does not list grok-imagine-video")


# --- the rest ---


async def test_store_and_assets_are_tried_and_nothing_is_left(tmp_path: Path) -> None:
    found = await findings(FIRST, load(Settings, assets=str(tmp_path / "assets")))
    assert (found["store"].state, found["assets"].state) == (CheckState.OK, CheckState.OK)
    assert not [place for place in (tmp_path / "assets").rglob("*") if place.is_file()]


@pytest.mark.parametrize(
    ("subject", "given"),
    [("store", {"store": "sqlite:////dev/null/pollcast.db"}), ("assets", {"assets": "/dev/null/assets"})],
)
async def test_storage_that_cannot_be_opened_is_reported(subject: str, given: dict[str, str]) -> None:
    found = await findings(FIRST, load(Settings, **given))
    assert (found[subject].state, found[subject].works) == (CheckState.FAILED, False)


async def test_a_public_url_that_only_this_machine_opens_is_a_warning() -> None:
    near = (await findings(FIRST))["public URL"]
    far = (await findings(FIRST, load(Settings, public_url="https://cast.example.com")))["public URL"]
    assert (near.state, near.works) == (CheckState.WARNING, True)
    assert "POLLCAST_PUBLIC_URL" in near.remark
    assert far.state is CheckState.OK


async def test_an_unknown_setting_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLLCAST_MAXJOBS", "5")
    found = (await findings(FIRST))["settings"]
    assert found.state is CheckState.WARNING
    assert found.remark == "POLLCAST_MAXJOBS is not a setting; the nearest is POLLCAST_MAX_JOBS"


async def test_a_secret_that_can_be_guessed_is_a_warning() -> None:
    short = await findings(FIRST, load(Settings, secret="0123456789abcdef,short"))
    assert short["secret"].state is CheckState.WARNING
    assert "short:" not in str(short["secret"])
    assert "secret" not in await findings(FIRST, load(Settings, secret="0123456789abcdef"))


# --- as a command ---


def test_check_prints_a_line_per_subject_and_exits_with_0_on_success() -> None:
    done = command("check")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        *("public URL", "store", "assets"),
        *(kind.name for kind in REGISTRY.providers),
    ]
    assert "HeyGen      no key" in lines


def test_the_command_exits_with_1_when_something_does_not_work() -> None:
    done = command("check", GAGA_API_KEY="sk-one", GAGA_BASE_URL="http://127.0.0.1:9")
    assert done.returncode == 1
    assert "Gaga        failed" in done.stdout
    assert not done.stderr


def test_a_bad_setting_is_one_line_of_the_command_too() -> None:
    done = command("check", POLLCAST_TOKENS='{"gagaa": 5}')
    assert done.returncode == 1
    assert done.stderr.startswith("Error: POLLCAST_TOKENS: ")
