"""Request smuggling: random sequences of requests, where every answer must belong to its own request."""

import asyncio
import random
import re
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.deployment import Deployment
from tests.support.fronts import keepalive_nginx, upgrading_nginx

Front = Callable[[Path, str], AbstractContextManager[str]]

SEEDS = (1, 2, 3, 4, 5)
SEQUENCES = 4000
"""Number of sequences for each seed and front: 20,000 for each front."""
CONNECTIONS = 24
"""Number of concurrent connections. Behind a proxy, their requests share connections to the server."""

OFFERS = (
    b"Connection: upgrade\r\nUpgrade: h2c\r\n",
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n",
    b"Upgrade: h2c\r\n",
    b"Connection: foo, Upgrade\r\nUpgrade:\t websocket\r\nSec-WebSocket-Key: x\r\n",
    b"Connection: upgrade\r\nUpgrade: foo, h2c\r\n",
    b"Connection: upgrade\r\nUpgrade: TLS/1.0\r\nUpgrade: h2c\r\n",
)
TRAPS = (
    b"\r\nUpgrade: h2c\r\n",
    b"\r\nupgrade:h2c\r\nUPGRADE: \th2c",
    b"\r\n\r\n",
    b"0\r\n\r\n",
    b"GET /api/ping HTTP/1.1\r\nHost: x\r\nX-Request-Id: smuggled\r\n\r\n",
    b"\r\n0\r\n\r\nDELETE /api/jobs/x HTTP/1.1\r\nHost: x\r\nX-Request-Id: smuggled\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: 9\r\n",
    b"{}",
    b"x",
)


@dataclass(frozen=True, slots=True)
class SentRequest:
    """One request, and the possible statuses of its answer."""

    id: str
    method: str
    sent: bytes
    statuses: tuple[int, ...]


def random_request(chance: random.Random, key: str, name: str, *, last: bool) -> SentRequest:
    method, path, statuses, keyed = chance.choice(
        [
            ("GET", "/api/ping", (200,), False),
            ("HEAD", "/healthz", (200,), False),
            ("GET", "/nothing", (404,), False),
            ("PUT", "/api/jobs", (405,), False),
            ("POST", "/api/jobs", (401,), False),  # answered before its body is read
            ("POST", "/api/assets", (401,), False),
            ("POST", "/api/links", (400, 422), True),
            ("POST", "/api/assets", (400, 415, 422), True),
        ]
    )
    fields = [b"Host: x\r\n", f"X-Request-Id: {name}\r\n".encode()]
    fields += [f"Authorization: Bearer {key}\r\n".encode()] if keyed else []
    fields += [chance.choice(OFFERS)] if chance.random() < 0.5 else []
    fields += [b"Connection: close\r\n"] if last else []
    framing, body = _body(chance)
    fields += [framing]
    chance.shuffle(fields)
    return SentRequest(
        name, method, f"{method} {path} HTTP/1.1\r\n".encode() + b"".join(fields) + b"\r\n" + body, statuses
    )


def _body(chance: random.Random) -> tuple[bytes, bytes]:
    body = b"".join(chance.choices(TRAPS, k=chance.choice((0, 1, 3, 10, 1000 if chance.random() < 0.1 else 5))))
    if not body:
        return chance.choice(((b"", b""), (b"Content-Length: 0\r\n", b"")))
    if chance.random() < 0.6:
        return b"Content-Length: %d\r\n" % len(body), body
    chunks = b""
    while body:
        size = chance.choice((1, 3, 20, 5000))
        extension = chance.choice((b"", b"", b";a=b", b';upgrade="h2c"'))
        chunks += b"%x%s\r\n%s\r\n" % (len(body[:size]), extension, body[:size])
        body = body[size:]
    trailer = chance.choice((b"", b"", b"Upgrade: h2c\r\n", b"Authorization: Bearer x\r\nX-Request-Id: trailer\r\n"))
    return b"Transfer-Encoding: chunked\r\n", chunks + b"0\r\n" + trailer + b"\r\n"


def pieces(chance: random.Random, data: bytes) -> list[bytes]:
    """Split bytes at random places."""
    cuts = sorted(chance.randrange(len(data)) for _ in range(chance.choice((0, 1, 2, 6))))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


async def exchange(port: int, chance: random.Random, sequence: list[SentRequest]) -> bytes:
    """Send a sequence in pieces, and return all bytes of the answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        answer = asyncio.create_task(reader.read())
        for piece in pieces(chance, b"".join(one.sent for one in sequence)):
            if writer.is_closing():
                break
            writer.write(piece)
            await asyncio.sleep(chance.choice((0, 0, 0.001)))
        return await answer
    finally:
        writer.close()


def answers(data: bytes, sequence: list[SentRequest]) -> list[tuple[int, str]]:
    """Return status and request id of each answer. No bytes may follow the last one."""
    found = []
    for one in sequence:
        if not data:
            break
        head, _, data = data.partition(b"\r\n\r\n")
        status = int(re.match(rb"HTTP/1\.1 (\d{3}) ", head)[1])  # type: ignore[index]
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        found.append((status, fields.get(b"x-request-id", b"").decode()))
        if one.method == "HEAD":
            continue
        if b"chunked" in fields.get(b"transfer-encoding", b""):
            data = data.partition(b"0\r\n\r\n")[2]
        else:
            data = data[int(fields[b"content-length"]) :]
    assert not data, data
    return found


async def one_sequence(port: int, key: str, seed: int, number: int) -> bool:
    """Run one sequence, and return True if all its requests were answered. Each answer must belong to its request."""
    chance = random.Random(f"{seed}/{number}")
    size = chance.randint(1, 6)
    sequence = [random_request(chance, key, f"{seed}-{number}-{n}", last=n == size - 1) for n in range(size)]
    found = answers(await exchange(port, chance, sequence), sequence)
    for (status, name), one in zip(found, sequence, strict=False):
        assert (name, status in one.statuses) == (one.id, True), (seed, number, found, sequence)
    return len(found) == size


async def run_sequences(deployment: Deployment, origin: str, seed: int, sequences: int) -> float:
    """Run many sequences, and return the share in which all requests were answered."""
    port, numbers, whole = int(origin.rsplit(":", 1)[1]), iter(range(sequences)), 0

    async def working() -> None:
        nonlocal whole
        for number in numbers:
            async with asyncio.timeout(30):
                complete = await one_sequence(port, deployment.key, seed, number)
            whole += complete

    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(working())
    sys.stdout.write(f"seed {seed}: {sequences} sequences, {whole} answered to the end\n")
    return whole / sequences


def directly(_: Path, origin: str) -> AbstractContextManager[str]:
    return nullcontext(origin)


each_front = pytest.mark.parametrize(
    "front", [directly, keepalive_nginx, upgrading_nginx], ids=lambda front: front.__name__
)


async def check_answers(deployment: Deployment, front: Front, seed: int, sequences: int) -> None:
    with front(deployment.folder / "front", deployment.origin) as origin:
        share = await run_sequences(deployment, origin, seed, sequences)
    # A proxy may end a connection after an early answer; the server itself answers all.
    assert share == 1 if front is directly else share > 0.8


@each_front
async def test_every_answer_belongs_to_its_own_request(deployment: Deployment, front: Front) -> None:
    await check_answers(deployment, front, 0, 150)


@pytest.mark.wide
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", SEEDS)
@each_front
async def test_every_answer_of_many_sequences_belongs_to_its_own_request(
    deployment: Deployment, front: Front, seed: int
) -> None:
    await check_answers(deployment, front, seed, SEQUENCES)
