"""Secrets never leak while providers fail in every way and repeat them in their errors.

The simulated providers are indiscreet on purpose: each of their errors, and each unknown status word, repeats the key
of the request.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import cycle, product
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.simulator import Kind, Simulator
from proxy.simulator.provider import Provider
from proxy.upstream.times import UpstreamTimes
from tests.cli.test_cli import command, serving
from tests.support.deployment import NO_AUTHORITIES, Deployment
from tests.support.examples import AUDIO, IMAGE, PROMPT, examples_of, filled
from tests.support.ports import free_port
from tests.support.registry import REGISTRY, short

KEYS = {name: f"planted-{name}-provider-key" for name in map(short, REGISTRY.providers)}
METRICS = "planted-metrics-token"
SIGNING = "planted-signing-secret"
WRONG = "pollcast_planted-wrong-client-key"
EXAMPLES = {short(kind): examples_of(kind) for kind in REGISTRY.providers}
PAGES = ("/", "/docs", "/openapi.json", "/pollcast.js", "/healthz", "/readyz", "/api/ping", "/api/models", "/nowhere")
BRIEF = UpstreamTimes(
    connect=0.2, read_silence=0.2, upload_silence=0.2, submit_silence=0.2, stream_silence=0.2, fetch_silence=0.2
)

pytestmark = pytest.mark.timeout(180)  # every fault of every operation, one after the other


@dataclass
class Told:
    """A client that collects all texts it receives, by their audience."""

    deployment: Deployment
    own: list[str] = field(default_factory=list)
    """Texts for the account itself."""
    others: list[str] = field(default_factory=list)
    """Texts for everyone else."""

    async def ask(self, method: str, path: str, key: str | None = None, **options: Any) -> str:
        """Ask as the account, or with another key ("" for none), and read for as long as something comes."""
        headers = options.pop("headers", {}) | (
            {} if key is None else {"Authorization": f"Bearer {key}" if key else ""}
        )
        said = ""
        try:
            async with self.deployment.http.stream(method, path, headers=headers, **options) as response:
                said = f"{response.status_code} {response.headers}\n"
                async for chunk in response.aiter_raw():
                    said += chunk.decode(errors="replace")
        except httpx.TransportError as error:  # broken off, as it should be
            said += repr(error)
        (self.own if key is None else self.others).append(said)
        return said

    @property
    def signatures(self) -> set[str]:
        return set(re.findall(r"signature=([\w.~-]+)", "".join(self.own)))


@pytest.fixture(autouse=True)
def indiscreet(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Provider.message

    def repeated(provider: Provider, status: int, message: str) -> str:
        return f"{plain(provider, status, message)}: your key is {KEYS[provider.name]}"

    monkeypatch.setattr(Provider, "message", repeated)


@pytest.fixture
async def told(unstarted: Deployment, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Told]:
    caplog.set_level(logging.DEBUG)
    deployment = unstarted
    deployment.upstream_times = BRIEF
    deployment.settings = {
        "metrics": METRICS,
        "secret": SIGNING,
        "results": "relay",
        "trace": str(deployment.folder / "traces"),
    }
    deployment.provider = {"deadline": 120, "rate": 10_000}
    deployment.providers = {kind.name: {"api_key": KEYS[short(kind)]} for kind in REGISTRY.providers}
    deployment.simulator.keys.update(KEYS)
    async with deployment:
        await grant(deployment, "web", 1_000_000)
        yield Told(deployment)


async def grant(deployment: Deployment, account: str, granted: int) -> None:
    deployment.key = await deployment.new_key(account, granted)
    deployment.http.headers["Authorization"] = f"Bearer {deployment.key}"


async def orders_of(deployment: Deployment, provider: str) -> list[dict[str, Any]]:
    files = {IMAGE: await deployment.asset("image"), AUDIO: await deployment.asset("audio")}
    return [filled(order, files | {PROMPT: "Hello"}) for order in EXAMPLES[provider].every_call]


async def drive(told: Told, order: dict[str, Any]) -> None:
    """Order a job, watch it and read its outputs; then order it again and cancel it."""
    stream = await told.ask("POST", "/api/generate", json=order)
    found = re.search(r'"job":"(\w+)"', stream)
    if found is not None:
        await told.ask("GET", f"/api/jobs/{found[1]}")
        await told.ask("GET", f"/api/jobs/{found[1]}/content")
    if examples_of(REGISTRY.provider_of(order["model"])).cancels:
        await cancel(told, order)


async def cancel(told: Told, order: dict[str, Any]) -> None:
    """Order a job and cancel it as soon as its provider has taken it."""
    found = re.search(r'"id":"(job_\w+)"', await told.ask("POST", "/api/jobs", json=order))
    if found is not None:
        await told.ask("GET", f"/api/jobs/{found[1]}?after=1&wait=10")
        await told.ask("POST", f"/api/jobs/{found[1]}/cancel")
        await told.ask("GET", f"/api/jobs/{found[1]}/events")


async def look_around(told: Told) -> str:
    """Every page, and the account's own lists; gives what the metrics say."""
    for page in PAGES:
        await told.ask("GET", page, key="")
    for path in ("/api/jobs?limit=200", "/api/account", "/api/account/ledger?limit=200"):
        await told.ask("GET", path)
    return await told.ask("GET", "/metrics", key=METRICS)


def logged(caplog: pytest.LogCaptureFixture) -> str:
    """The server's log, including its libraries.

    Not what the tests' own client and the providers log; nor uvicorn's access log, which `serve` switches off: pytest
    listens to it all the same. That it is off is seen below, in a real process.
    """
    others = ("httpx", "httpcore", "aiohttp.access", "uvicorn.access")
    records = [record for record in caplog.get_records("setup") + caplog.records if not record.name.startswith(others)]
    return "\n".join(map(caplog.handler.format, records))


def assert_kept(told: Told, logs: str) -> None:
    """Assert that the texts contain no secret, and signatures only for their account."""
    traces = "".join(file.read_text() for file in (told.deployment.folder / "traces").iterdir())
    assert '"method":"POST"' in traces
    everyone = "".join([*told.others, logs, traces])
    for secret in (*KEYS.values(), METRICS, SIGNING, told.deployment.key, WRONG):
        assert secret not in everyone
        assert secret not in "".join(told.own)
    assert told.signatures
    for signature in told.signatures:
        assert signature not in everyone


@pytest.mark.parametrize("provider", EXAMPLES)
async def test_each_fault_of_a_provider_once_brings_out_no_secret(
    told: Told, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    """Each fault meets one operation, in turn."""
    operations = cycle(operations_of(told.deployment, provider))
    await suffer(told, caplog, monkeypatch, provider, [(kind, next(operations)) for kind in Kind])


@pytest.mark.wide
@pytest.mark.parametrize("provider", EXAMPLES)
async def test_no_fault_of_a_provider_brings_out_a_secret(
    told: Told, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    """Each fault meets each operation."""
    operations = operations_of(told.deployment, provider)
    met = await suffer(told, caplog, monkeypatch, provider, list(product(Kind, operations)))
    assert set(operations) - met <= EXAMPLES[provider].unused | {"media.get"}  # a check may report the results


def operations_of(deployment: Deployment, provider: str) -> list[str]:
    """The names of the operations of a provider, and of the reading of its results."""
    named = (each.name for each in deployment.simulator.operations)
    return sorted({name for name in named if name.startswith((provider, "media.get"))})


async def suffer(
    told: Told,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    provider: str,
    faults: list[tuple[Kind, str]],
) -> set[str]:
    """Place all orders of a provider under each fault, and look for secrets; return the operations that failed."""
    deployment = told.deployment
    monkeypatch.setattr("proxy.simulator.delivery.UNDOCUMENTED", f"Thinking of {KEYS[provider]}")
    orders = await orders_of(deployment, provider)
    met = set()
    for kind, operation in faults:
        fault = deployment.simulator.fault(operation, kind, times=2, seconds=1, size=1 << 16)
        await asyncio.gather(*(drive(told, order) for order in orders))
        met |= {operation} if fault.hit_count else set()
        deployment.simulator.clear_faults()
        deployment.clock.at += 60  # the circuit breaker closes again
    metrics = await look_around(told)
    assert "pollcast_submits_total" in metrics
    assert "your key is [key]" in "".join(told.own), "no provider was indiscreet"
    assert_kept(told, logged(caplog))
    return met


async def test_no_refusal_reveals_a_secret(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    deployment = told.deployment
    job = await deployment.submit("gaga-1", prompt="Hello")
    await deployment.ended(job["id"])
    stranger = await deployment.new_key("stranger", 10)
    link = (await told.ask("POST", "/api/links", json={"path": f"/api/jobs/{job['id']}/events", "ttl": 60})).split('"')
    url = next(part for part in link if "signature=" in part).removeprefix(deployment.origin)
    assert (await told.ask("GET", url, headers={"Authorization": ""})).startswith("200")
    asset = await told.ask("POST", "/api/assets", files={"file": ("a.png", deployment.media("image"), "image/png")})
    own = [f"/api/jobs/{job['id']}{rest}" for rest in ("", "/events", "/content", "/content/7")]
    own += re.findall(r"/api/assets/asset_\w+", asset)
    for path in own:
        assert (await told.ask("GET", path, key=stranger)).startswith("404")
        assert (await told.ask("GET", path, key=WRONG)).startswith("401")
        assert (await told.ask("GET", path, key="")).startswith("401")
        await told.ask("DELETE", path, key=stranger)
    # A Link that was altered, opens another path, or is sent by another method; keys where they do not belong.
    for altered in (url[:-2], url + "x", url.replace("/events", "/content"), url.replace("expires=", "expires=9")):
        assert (await told.ask("GET", altered, headers={"Authorization": ""})).startswith("40")
    assert (await told.ask("POST", url, headers={"Authorization": ""})).startswith("40")
    assert (await told.ask("GET", f"/api/jobs?key={deployment.key}", key="")).startswith("401")
    bad: tuple[Any, ...] = ({}, {"model": "none"}, {"model": "gaga-1"}, {"model": "gaga-1", "prompt": "x", "n": 1})
    for order in bad:
        assert (await told.ask("POST", "/api/jobs", json=order)).startswith("4")
    assert (await told.ask("POST", "/api/jobs", content=b"{")).startswith("400")
    assert (await told.ask("GET", "/metrics", key=WRONG)).startswith("401")
    for provider in EXAMPLES:
        for order in await orders_of(deployment, provider):
            assert (await told.ask("POST", "/api/jobs?dry_run=1", json=order)).startswith("200")
    assert_kept(told, logged(caplog))


async def test_cancels_restarts_and_refused_keys_reveal_no_secret(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    deployment = told.deployment
    canceled = await deployment.submit("gaga-1", prompt="[stuck]")
    await told.ask("POST", f"/api/jobs/{canceled['id']}/cancel")
    await told.ask("GET", f"/api/jobs/{canceled['id']}/events")
    deployment.simulator.fault("heygen.check", "slow", times=3, seconds=30)
    running = await deployment.submit(**EXAMPLES["heygen"].every_call[0])
    await deployment.restart()
    await told.ask("GET", f"/api/jobs/{running['id']}/events")
    deployment.simulator.keys.update(dict.fromkeys(KEYS, "another"))
    await deployment.restart()
    for provider in EXAMPLES:
        for order in await orders_of(deployment, provider):
            await drive(told, order)
    await look_around(told)
    assert_kept(told, logged(caplog))


async def test_output_of_the_server_and_commands_contains_no_secret(tmp_path: Path) -> None:
    """The real thing: what `serve`, `check`, `doctor` and `generate` write to their terminals."""
    port, log = str(free_port()), tmp_path / "log"
    url = f"http://127.0.0.1:{port}"
    async with Simulator(keys={**KEYS, "gaia": "another"}) as simulator:
        environment = {f"{short.upper()}_API_KEY": key for short, key in KEYS.items()}
        environment |= {f"{short.upper()}_BASE_URL": simulator.origin for short in KEYS}
        environment |= {"POLLCAST_PORT": port, "POLLCAST_SECRET": SIGNING, "POLLCAST_METRICS": METRICS}
        environment |= {"PYTHONASYNCIODEBUG": "1", "GAGA_POLL_INTERVAL": "0.1"}

        async def said(*arguments: str) -> str:
            done = await asyncio.to_thread(command, *arguments, **environment)
            return done.stdout + done.stderr

        key = (await said("keys", "create", "--name", "web", "--tokens", "500")).strip()
        checked = await said("check")
        assert "[key]" in checked
        with serving(log=log, **environment):
            where = ("--server", url, "--key", key)
            texts = [checked, await said("keys", "list"), await said("doctor", url, "--key", key, "--idle", "0")]
            texts += [
                await said("generate", model, "Hello [reject]", *where) for model in ("gaga-1", "suno", "gpt-image-2")
            ]
            texts += [await said("generate", "suno", "Hello", "--server", url, "--key", WRONG)]
            async with httpx.AsyncClient(base_url=url, trust_env=False, verify=NO_AUTHORITIES) as http:
                order = {"model": "suno", "prompt": "Hello"}
                job = (await http.post("/api/jobs", json=order, headers={"Authorization": f"Bearer {key}"})).json()
                assert "Completed" in (await http.get(job["links"]["events"])).text
        everything = "".join(texts) + log.read_text()
    assert " listens on " in everything
    for secret in (*KEYS.values(), SIGNING, METRICS, key, WRONG):
        assert secret not in everything
    assert not re.search(r"signature=(?!\*\*\*)", everything)
