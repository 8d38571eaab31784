"""A client of the simulator: a manual clock, the keys as headers, and one valid order for each provider."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from proxy.simulator import Simulator
from proxy.simulator.files import Sample


@dataclass
class Clock:
    time: float = 1000.0
    slept: list[float] = field(default_factory=list)

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds
        await asyncio.sleep(0)


@dataclass
class Client:
    """HTTP session that sends each provider's key."""

    simulator: Simulator
    session: aiohttp.ClientSession

    def key(self, provider: str) -> dict[str, str]:
        key = self.simulator.keys[provider]
        return {"X-Api-Key": key} if provider == "heygen" else {"Authorization": f"Bearer {key}"}

    async def ask(self, provider: str, method: str, path: str, **options: Any) -> tuple[int, Any]:
        headers = {**self.key(provider), **options.pop("headers", {})}
        async with self.session.request(method, path, headers=headers, **options) as response:
            is_json = response.content_type == "application/json"
            return response.status, await response.json() if is_json else await response.read()

    async def get(self, provider: str, path: str, **options: Any) -> tuple[int, Any]:
        return await self.ask(provider, "GET", path, **options)

    async def post(self, provider: str, path: str, **options: Any) -> tuple[int, Any]:
        return await self.ask(provider, "POST", path, **options)

    async def upload(self, sample: Sample) -> int:
        status, reply = await self.post("gaga", "/v1/assets", data=upload_of(sample.bytes))
        assert status == 200
        return int(reply["id"])

    async def submit(self, provider: str, prompt: str = "Hello, World!") -> tuple[int, Any]:
        """Send a valid order to a provider."""
        path, options = ORDERS[provider](prompt)
        return await self.post(provider, path, **options)

    async def check(self, provider: str, reply: Any) -> tuple[int, Any]:
        """Send the status call for the reply to a submit."""
        return await self.get(provider, CHECKS[provider](reply))


def upload_of(body: bytes, name: str = "picture.png") -> aiohttp.FormData:
    form = aiohttp.FormData()
    form.add_field("file", body, filename=name, content_type="application/octet-stream")
    return form


def speech(prompt: str, **changes: Any) -> dict[str, Any]:
    """Return the body of a gaga-1 generation."""
    chunk = {"duration": 10, "conditions": [{"type": "text", "content": prompt}]}
    return {"model": "gaga-1", "resolution": "720p", "aspectRatio": "16:9", "chunks": [chunk], **changes}


def video_form(prompt: str, **changes: str) -> aiohttp.FormData:
    """Return the form of a Gaia video."""
    fields = {"model": "grok-imagine-video", "prompt": prompt, "seconds": "6", "size": "1280x720", **changes}
    form = aiohttp.FormData(quote_fields=False, default_to_multipart=True)
    for name, value in fields.items():
        form.add_field(name, value)
    return form


def clips(prompt: str, **changes: Any) -> dict[str, Any]:
    """Return the body of a HeyGen video."""
    return {"version": "v1alpha", "ratio": "16:9", "clips": [{"avatar_id": "Anna", "input_text": prompt}], **changes}


ORDERS: dict[str, Any] = {
    "gaga": lambda prompt: ("/v1/generations", {"json": speech(prompt)}),
    "gaia": lambda prompt: ("/v1/videos/async", {"data": video_form(prompt)}),
    "ainow": lambda prompt: ("/api/generate", {"json": {"model": "pika", "prompt": prompt}}),
    "ganai": lambda prompt: ("/create_video/bulk?project_id=p1", {"json": [{"unique_id": "a", "names": prompt}]}),
    "heygen": lambda prompt: ("/v1/video.generate", {"json": clips(prompt)}),
}
CHECKS: dict[str, Any] = {
    "gaga": lambda reply: f"/v1/generations/{reply['id']}",
    "gaia": lambda reply: f"/v1/videos/async/{reply['id']}",
    "ganai": lambda reply: f"/projects/p1/inference/{reply[0]['inference_id']}/video_status",
    "heygen": lambda reply: f"/v1/video_status.get?video_id={reply['data']['video_id']}",
}
POLLED = tuple(CHECKS)
ALL = tuple(ORDERS)


def status_of(document: Any) -> str:
    """Return the status word of a provider's status document."""
    if "data" in document:
        document = document["data"]
    return str(document["gen_status"] if "gen_status" in document else document["status"])
