"""The recipe for several nodes (`proxy/deploy/compose.yaml`), and a rolling upgrade of real processes.

The tests use no container. Each node is a process on its own address, and the recipe's nginx resolves one name to all.
"""

import asyncio
import shlex
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
import yaml  # type: ignore[import-untyped]

from proxy.core.settings import Settings
from proxy.simulator import Simulator
from proxy.store.redis.store import RedisStore
from tests.chaos import kills
from tests.chaos.clients import Client, connected
from tests.chaos.ear import Ear
from tests.chaos.kills import Server
from tests.chaos.orders import Order
from tests.chaos.verdict import Event, Verdict, end_of
from tests.cli.test_cli import command
from tests.support.fronts import needed, running
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.root import ROOT

DEPLOY = ROOT / "proxy/deploy"
RECIPE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
ADDRESSES = ("127.0.0.1", "127.0.0.2")
JOBS = 12


class Names(asyncio.DatagramProtocol):
    """A name server that resolves every name to the addresses of all nodes."""

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        """Keep the transport for replies."""
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Reply to a query for addresses."""
        head = data[:2] + b"\x81\x80" + data[4:6] + bytes([0, len(ADDRESSES)]) + bytes(4)
        found = [b"\xc0\x0c\0\1\0\1" + bytes(4) + b"\0\4" + socket.inet_aton(address) for address in ADDRESSES]
        self._transport.sendto(head + data[12:] + b"".join(found), addr)


@asynccontextmanager
async def name_server() -> AsyncIterator[int]:
    """Run the name server and yield its port."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Names, local_addr=("127.0.0.1", 0))
    yield transport.get_extra_info("sockname")[1]
    transport.close()


@contextmanager
def front(folder: Path, names: int, nodes: int) -> Iterator[str]:
    """Run the recipe's nginx with the ports and paths of this test, and yield its origin."""
    port, text = free_port(), (DEPLOY / "nginx.conf").read_text()
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    changes = {
        "listen 80;": f"listen 127.0.0.1:{port};",
        "resolver 127.0.0.11 ": f"resolver 127.0.0.1:{names} ",
        "nodes:8000": f"nodes:{nodes}",
        "http {": f"http {{ {temporary}",
        "worker_rlimit_nofile 131072;": f"daemon off; pid {folder}/nginx.pid;",
        "65536": "512",
        "worker_processes auto": "worker_processes 1",
    }
    for original, changed in changes.items():
        assert text.count(original) == 1, original
        text = text.replace(original, changed)
    (folder / "nginx.conf").write_text(text)
    log = folder / "nginx.log"
    with running([needed("nginx"), "-p", str(folder), "-e", str(log), "-c", f"{folder}/nginx.conf"], log, [str(port)]):
        yield f"http://127.0.0.1:{port}"


@dataclass(frozen=True, slots=True)
class Site:
    """The recipe's nodes behind its nginx, and a client that reaches them only through it."""

    nodes: list[Server]
    client: Client
    simulator: Simulator
    verdict: Verdict


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(RedisServer(tmp_path))
        simulator = await stack.enter_async_context(Simulator(speed=4))
        verdict, port, nodes = Verdict(Ear(simulator)), free_port(), []
        (key, *_) = await kills.new_keys(redis.url)
        for host in ADDRESSES:
            settings = {"POLLCAST_HOST": host, "POLLCAST_PORT": str(port), "POLLCAST_LEASE": "30"}
            node = Server(tmp_path, simulator.origin, redis.url, name=host, settings=settings)
            node.origin = f"http://{host}:{port}"
            stack.callback(node.stop)
            node.start()
            await node.serves()
            nodes.append(node)
        origin = stack.enter_context(front(tmp_path, await stack.enter_async_context(name_server()), port))
        client = Client(await stack.enter_async_context(connected(origin, key)), verdict, Random(7))
        yield Site(nodes, client, simulator, verdict)


def _truth(order: Order, events: Sequence[Event], *, bought: bool) -> str | None:
    """Return an error if the job did not end as usual, because no node was killed."""
    ended = end_of(events[-1])
    return None if bought and ended == order.end else f"ended as {ended}, although its node had time to release it"


@pytest.mark.timeout(120)
async def test_streams_miss_no_event_during_a_rolling_upgrade(site: Site) -> None:
    tokens = [f"order-{number:06}" for number in range(JOBS)]
    bodies = [{"model": "gaga-1", "prompt": f"{token} [slow] A lake"} for token in tokens]
    orders = [
        Order(token, body, None, by_generate=number % 2 == 0, watched=True, cancels=False)
        for number, (token, body) in enumerate(zip(tokens, bodies, strict=True))
    ]
    async with asyncio.timeout(90), asyncio.TaskGroup() as tasks:
        for order in orders:
            tasks.create_task(site.client.carry_out(order))
        while any(len(order.seen) < 3 for order in orders):  # it has its ticket
            await asyncio.sleep(0.01)
        for node in site.nodes:
            assert not any(order.over for order in orders)
            await asyncio.to_thread(node.stop)
            node.start()
            await node.serves()
    await site.verdict.inspect(site.client, _truth)
    assert not site.verdict.findings, site.verdict.evidence()
    assert site.verdict.ends["Completed"] == JOBS
    assert site.simulator.submits["gaga"] == JOBS
    streams = [node.log.read_text().count("stream ended") for node in site.nodes]
    assert min(streams) > 0
    assert sum(streams) > JOBS  # some were cut off and reconnected


async def test_the_redis_of_the_recipe_has_durable_settings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    program, *options = RECIPE["services"]["redis"]["command"]
    assert program == "redis-server"
    with RedisServer(tmp_path, *options) as server:
        async with RedisStore(server.url, serves=True) as store:
            await store.ping()
    assert not caplog.messages


def test_the_nodes_of_the_recipe_have_equal_and_existing_settings() -> None:
    first, second = (RECIPE["services"][name] for name in ("node-1", "node-2"))
    assert first == second
    for name in first["environment"]:
        assert name.removeprefix("POLLCAST_").lower() in Settings.model_fields
    assert first["environment"]["POLLCAST_STORE"].startswith("redis://redis:")
    assert first["networks"]["default"]["aliases"] == ["nodes"]
    assert (DEPLOY.parent.parent / first["build"]["dockerfile"]).exists()
    assert "keys" in command("--help").stdout


def test_the_commands_of_the_recipe_name_existing_services() -> None:
    lines = [line[2:].strip() for line in (DEPLOY / "compose.yaml").read_text().splitlines() if line.startswith("#   ")]
    named = [word for line in lines for word in shlex.split(line) if word.startswith("node-")]
    assert named
    assert set(named) <= RECIPE["services"].keys()
