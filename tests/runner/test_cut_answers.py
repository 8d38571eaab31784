"""The answer of a repeatable submit, cut at every byte: the order is bought once, and its job completes."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.runner.test_runner import final_of
from tests.support.deployment import Deployment

RECEIPT = b'{"data": {"video_id": "vid1", "status": "waiting", "output_format": "mp4"}}'
DONE = b'{"data": {"id": "vid1", "status": "completed", "video_url": "https://files.heygen.ai/v.mp4"}}'


def answer(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    return head % len(body) + body


WHOLE = answer(RECEIPT)


class CuttingProvider:
    """HeyGen v3 in a few bytes: the first answer under a key ends after `cut` bytes."""

    def __init__(self) -> None:
        self.cut = 0
        self.bought: Counter[bytes] = Counter()
        self.bodies: dict[bytes, set[bytes]] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"POST"):
            length = re.search(rb"(?i)content-length: (\d+)", head)
            assert length is not None
            self._answer(writer, head, await reader.readexactly(int(length[1])))
        else:
            writer.write(answer(DONE))
        writer.close()

    def _answer(self, writer: asyncio.StreamWriter, head: bytes, body: bytes) -> None:
        named = re.search(rb"(?i)idempotency-key: (\S+)", head)
        assert named is not None
        key = named[1]
        self.bodies.setdefault(key, set()).add(body)
        if self.bought[key]:
            writer.write(WHOLE)
            return
        self.bought[key] += 1
        writer.write(WHOLE[: self.cut])


@asynccontextmanager
async def cutting(deployment: Deployment) -> AsyncIterator[CuttingProvider]:
    """Run the deployment with the cutting provider as HeyGen."""
    provider = CuttingProvider()
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    deployment.providers["HeyGen"] = {"base_url": f"http://127.0.0.1:{port}"}
    async with server, deployment:
        yield provider


async def check_cuts(deployment: Deployment, cuts: range) -> None:
    async with cutting(deployment) as provider:
        for cut in cuts:
            deployment.clock.at += 600  # past the pause of a circuit breaker that the cuts before have opened
            provider.cut = cut
            final = final_of(await deployment.generate("heygen-v3", prompt="Hello", avatar_id="Anna"))
            assert final["status"] == "Completed", (cut, final)
        assert set(provider.bought.values()) == {1}
        assert len(provider.bought) == len(cuts)
        assert {len(bodies) for bodies in provider.bodies.values()} == {1}
        assert await deployment.balance() == 1000 - 20 * len(cuts)


async def test_a_submit_answer_cut_at_some_bytes_buys_once(unstarted: Deployment) -> None:
    await check_cuts(unstarted, range(0, len(WHOLE), len(WHOLE) // 8))


@pytest.mark.wide
async def test_a_submit_answer_cut_at_every_byte_buys_once(unstarted: Deployment) -> None:
    for start in range(0, len(WHOLE), 40):  # an account's thousand tokens are enough for 50 orders
        unstarted.folder = unstarted.folder / str(start)
        unstarted.folder.mkdir()
        unstarted.store_url = f"sqlite:///{unstarted.folder}/pollcast.db"
        await check_cuts(unstarted, range(start, min(start + 40, len(WHOLE))))
