"""A whole Pollcast on a real port, with the simulated providers at its other end, and a clock that does not wait."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx
import orjson
from httpx_sse import EventSource, ServerSentEvent

from proxy.api.times import ApiTimes
from proxy.app import Pollcast
from proxy.core import keys
from proxy.core.settings import ProviderSettings, Settings, load
from proxy.providers.registry import ProviderKind, Registry
from proxy.runner.services import RunnerLimits, RunnerTimes
from proxy.serving.protocol import Timeouts
from proxy.serving.server import Server, listen
from proxy.simulator import Simulator, default_keys
from proxy.store import open_store
from proxy.streams.times import StreamTimes
from proxy.upstream.times import UpstreamTimes
from tests.support.registry import REGISTRY, short
from tests.support.root import ROOT

NO_AUTHORITIES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For clients of plain http: to load the authorities of the machine costs each of them 80 ms."""
MEDIA = ROOT / "proxy" / "simulator" / "media"


class JumpClock:
    """Sleeping takes no time, but time passes: a sleeper wakes a moment later, at the hour it asked for."""

    def __init__(self) -> None:
        self.at = 1_800_000_000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        due = self.at + seconds
        await asyncio.sleep(0.001)  # lets sockets move
        self.at = max(self.at, due)


def events_of(messages: list[ServerSentEvent]) -> list[dict[str, Any]]:
    return [orjson.loads(message.data) for message in messages]


_loaded_settings: dict[tuple[type[ProviderSettings], str], ProviderSettings] = {}


def provider_settings(kind: type[ProviderSettings], **given: Any) -> ProviderSettings:
    """Return a provider's settings, read once for the same values: to read them takes half of a server's start."""
    prefix = str(kind.model_config["env_prefix"])
    environment = {name: value for name, value in os.environ.items() if name.startswith(prefix)}
    key = kind, repr((given, environment))
    if key not in _loaded_settings:
        _loaded_settings[key] = load(kind, **given)
    return _loaded_settings[key]


@dataclass
class Deployment:
    """One server, one store, the pretend providers. `settings` and `provider` are given to the next `start`."""

    folder: Path
    clock: Any = field(default_factory=JumpClock)
    settings: dict[str, Any] = field(default_factory=dict)
    provider: dict[str, Any] = field(default_factory=dict)
    providers: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By the provider's name; wins over `provider`."""
    store_url: str = ""
    """A file in the folder, unless it is given."""
    upstream_times: UpstreamTimes = field(default_factory=UpstreamTimes)
    """Timeouts and intervals of requests to providers and to clients' URLs."""
    stream_times: StreamTimes = field(default_factory=StreamTimes)
    """Timeouts and intervals of event streams."""
    timeouts: Timeouts | None = None
    """Timeouts for clients; None for the server's defaults."""
    runner_times: RunnerTimes = field(default_factory=RunnerTimes)
    """Intervals and time limits of the runner."""
    runner_limits: RunnerLimits = field(default_factory=RunnerLimits)
    """Numbers at which the runner stops recording, counting or claiming."""

    registry: Registry = REGISTRY
    """The providers that are served."""
    api_times: ApiTimes = field(default_factory=ApiTimes)
    """Timeouts and intervals of the API."""

    def __post_init__(self) -> None:
        self.simulator = Simulator(now=self.clock.now, sleep=self.clock.sleep)
        self._stack = AsyncExitStack()
        self.store_url = self.store_url or f"sqlite:///{self.folder}/pollcast.db"
        self.key = ""

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.simulator)
        self.key = await self.new_key("web", 1000)
        try:
            await self.start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        await self._stack.aclose()

    async def new_key(self, account: str, granted: int = 0) -> str:
        key = keys.new_key()
        async with open_store(self.store_url, self.clock) as store:
            await store.create_key(account, keys.digest(key), granted)
        return key

    async def start(self, port: int = 0) -> None:
        listening = listen("127.0.0.1", port)
        self.origin = f"http://127.0.0.1:{listening.getsockname()[1]}"
        values: dict[str, Any] = {
            "store": self.store_url,
            "assets": str(self.folder / "assets"),
            "public_url": self.origin,
            **self.settings,
        }
        settings = load(Settings, **values)
        self.app = Pollcast(
            settings,
            self._provider_settings(),
            self.clock,
            registry=self.registry,
            upstream_times=self.upstream_times,
            runner_times=self.runner_times,
            runner_limits=self.runner_limits,
            stream_times=self.stream_times,
            api_times=self.api_times,
        )
        self._server = Server(self.app, settings, timeouts=self.timeouts)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listening]))
        while not self._server.started and not self._serving.done():
            await asyncio.sleep(0.001)
        if self._serving.done():
            listening.close()
            await self._serving
        headers = {"Authorization": f"Bearer {self.key}"}
        self.http = httpx.AsyncClient(
            base_url=self.origin, headers=headers, verify=NO_AUTHORITIES, trust_env=False, timeout=20
        )

    def _provider_settings(self) -> Mapping[str, ProviderSettings]:
        def one(kind: ProviderKind) -> ProviderSettings:
            usual = {"api_key": default_keys().get(short(kind), "a-key"), "project_id": "demo"}
            given = usual | self.provider | self.providers.get(kind.name, {})
            base_url = given.pop("base_url", self.simulator.origin)
            return provider_settings(kind.settings_type, **given).model_copy(update={"base_url": base_url})

        return {kind.name: one(kind) for kind in self.registry.providers}

    async def stop(self) -> None:
        await self.http.aclose()
        for _ in range(20):  # the server looks only every 0.1 s whether the connections have closed
            if not self._server.server_state.connections:
                break
            await asyncio.sleep(0.001)
        self._server.should_exit = True
        self._serving.cancel()  # wakes the main loop, which looks at `should_exit` every 0.1 s; the stop itself goes on
        await self._serving

    async def restart(self, *, same_port: bool = False) -> None:
        port = int(self.origin.rsplit(":", 1)[1])
        await self.stop()
        await self.start(port if same_port else 0)

    @property
    def connections(self) -> Collection[object]:
        """The connections that are open at the server's end."""
        return self._server.server_state.connections

    # --- what tests do with it ---

    @asynccontextmanager
    async def open(
        self, method: str, path: str, *, last: str | None = None, **options: Any
    ) -> AsyncIterator[httpx.Response]:
        headers = {**options.pop("headers", {}), **({"Last-Event-ID": last} if last is not None else {})}
        async with self.http.stream(method, path, headers=headers, **options) as response:
            yield response

    async def messages(self, method: str, path: str, **options: Any) -> list[ServerSentEvent]:
        """All messages of a stream, until it ends."""
        async with self.open(method, path, **options) as response:
            assert response.status_code == 200, (await response.aread()).decode()
            return [message async for message in EventSource(response).aiter_sse()]

    async def generate(self, model: str, **order: Any) -> list[dict[str, Any]]:
        """Order, and read the stream to its end."""
        return events_of(await self.messages("POST", "/api/generate", json={"model": model, **order}))

    async def submit(self, model: str, **order: Any) -> dict[str, Any]:
        response = await self.http.post("/api/jobs", json={"model": model, **order})
        assert response.status_code == 202, response.text
        job: dict[str, Any] = response.json()
        return job

    async def ended(self, job_id: str) -> dict[str, Any]:
        """The job, once it is over."""
        await self.messages("GET", f"/api/jobs/{job_id}/events")
        found: dict[str, Any] = (await self.http.get(f"/api/jobs/{job_id}")).json()
        return found

    async def balance(self) -> int:
        """The balance, after it was held against the ledger."""
        account = (await self.http.get("/api/account")).json()
        entries = (await self.http.get("/api/account/ledger", params={"limit": 200})).json()["entries"]
        assert sum(entry["tokens"] for entry in entries) == account["tokens"]
        return int(account["tokens"])

    async def asset(self, kind: str = "image") -> str:
        name, media_type = {
            "image": ("image.png", "image/png"),
            "audio": ("audio.mp3", "audio/mpeg"),
            "video": ("video.mp4", "video/mp4"),
        }[kind]
        files = {"file": (name, self.media(kind), media_type)}
        response = await self.http.post("/api/assets", files=files)
        assert response.status_code == 201, response.text
        return str(response.json()["id"])

    @staticmethod
    def media(kind: str) -> bytes:
        suffix = {"image": "png", "audio": "mp3", "video": "mp4"}[kind]
        return next(MEDIA.glob(f"*.{suffix}")).read_bytes()
