"""Streams read by other projects' clients: curl, and npm's eventsource and fetch-event-source."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.support.deployment import Deployment
from tests.support.npm import install, without

PACKAGES = ("eventsource@3", "@microsoft/fetch-event-source@2")
EVENT_SOURCE = """
import { EventSource } from "eventsource";
const source = new EventSource(process.argv[2]);
source.onmessage = ({ data, lastEventId }) => {
  console.log(JSON.stringify([lastEventId, data]));
  if (/"status":"(Completed|Error)"/.test(data)) source.close();
};
"""
FETCH_EVENT_SOURCE = """
globalThis.window = globalThis;
globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };
const { fetchEventSource } = await import("@microsoft/fetch-event-source");
await fetchEventSource(process.argv[2], {
  onmessage: ({ data, id }) => console.log(JSON.stringify([id, data])),
  onerror: () => 50,
});
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages."""
    folder = install(tmp_path_factory.mktemp("node"), *PACKAGES)
    (folder / "eventsource.js").write_text(EVENT_SOURCE)
    (folder / "fetch.js").write_text(FETCH_EVENT_SOURCE)
    return folder


@asynccontextmanager
async def cutting(deployment: Deployment) -> AsyncIterator[str]:
    """An address in front of the server that breaks its first stream inside the second frame's data."""
    cuts = [1]
    tasks: set[asyncio.Task[object]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        there, back = await asyncio.open_connection("127.0.0.1", int(deployment.origin.rpartition(":")[2]))
        forth = asyncio.create_task(copy(reader, back))
        try:
            told = b""
            while data := await there.read(1 << 16):
                told += data
                second = told.find(b'"n":2')
                if cuts and second >= 0:
                    cuts.pop()
                    writer.write(data[: len(data) - (len(told) - second)])
                    await writer.drain()
                    break
                writer.write(data)
        finally:
            forth.cancel()
            await asyncio.gather(forth, return_exceptions=True)
            for end in (writer, back):
                end.close()

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await source.read(1 << 16):
                sink.write(data)

    server = await asyncio.start_server(carry, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert not cuts, "Nothing was cut."
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def read_by(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(25):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return out.decode()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("script", ["eventsource.js", "fetch.js"])
async def test_npm_clients_lose_and_repeat_nothing(unstarted: Deployment, node: Path, script: str) -> None:
    unstarted.settings["heartbeat"] = 0.02
    async with unstarted as deployment, cutting(deployment) as front:
        deployment.simulator.fault("gaia.chat", "slow", seconds=1)
        job = await deployment.submit("gpt-5.4-mini", prompt="A long answer")
        link = job["links"]["events"].replace(deployment.origin, front)
        lines = (await read_by("node", str(node / script), link)).splitlines()
        seen = [(int(number), json.loads(data)) for number, data in map(json.loads, lines)]
        assert [number for number, _ in seen] == list(range(1, len(seen) + 1))
        assert [event["n"] for _, event in seen] == [number for number, _ in seen]
        assert seen[-1][1]["status"] == "Completed"


async def test_curl_reads_a_stream_and_resumes_after_a_cut(unstarted: Deployment) -> None:
    if not shutil.which("curl"):
        without("There is no curl here")
    unstarted.settings["heartbeat"] = 0.02
    async with unstarted as deployment:
        deployment.simulator.fault("gaia.chat", "slow", seconds=1)
        job = await deployment.submit("gpt-5.4-mini", prompt="A long answer")
        async with cutting(deployment) as front:
            link = job["links"]["events"].replace(deployment.origin, front)
            broken = await read_by("curl", "-sN", link)
        rest = await read_by("curl", "-sN", "-H", "Last-Event-ID: 1", job["links"]["events"])
    assert broken.startswith("retry: 2000\ndata: ")
    ids = [row.removeprefix("id: ") for row in (broken + rest).splitlines() if row.startswith("id: ")]
    assert ids == [str(n) for n in range(1, len(ids) + 1)]
    assert '"status":"Completed"' in rest
