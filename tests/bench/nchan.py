"""nchan, an nginx module in C for streams: its configuration, and the process that publishes to it."""

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import uvloop

from tests.bench import machine
from tests.bench.process import Process, started
from tests.bench.publish import CHUNK, event, obey

MODULES = (Path("/usr/lib/nginx/modules"), Path("/usr/lib64/nginx/modules"), Path("/usr/share/nginx/modules"))
CONFIGURATION = """
load_module {module};
daemon off;
worker_processes 1;
worker_rlimit_nofile {descriptors};
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log warn;
{user}
events {{ worker_connections {descriptors}; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000000;
    keepalive_timeout 3600;
    tcp_nodelay on;
    nchan_max_reserved_memory 512M;
    nchan_message_buffer_length 16;
    nchan_message_timeout 60s;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location ~ ^/publish/(\\w+)$ {{ nchan_publisher; nchan_channel_id $1; }}
        location ~ ^/(\\w+)$ {{
            nchan_subscriber eventsource;
            nchan_channel_id $1;
            nchan_subscriber_first_message newest;
            nchan_eventsource_ping_interval 4;
        }}
    }}
}}
"""


def missing() -> str | None:
    """Return the reason why nchan cannot run here, or None."""
    if _nginx() is None:
        return "nginx is not installed"
    if _module() is None:
        return "nginx has no nchan module (Debian: libnginx-mod-nchan)"
    return None


def _nginx() -> str | None:
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")


def _module() -> Path | None:
    return next((path for folder in MODULES if (path := folder / "ngx_nchan_module.so").exists()), None)


@asynccontextmanager
async def serving(folder: Path, port: int) -> AsyncIterator[tuple[int, Process]]:
    """Run nginx on the server's core, and its publisher on the load's. Yield the worker's id and the publisher."""
    server, load = machine.cores()
    configuration = folder / "nginx.conf"
    text = CONFIGURATION.format(
        module=_module(),
        folder=folder,
        port=port,
        descriptors=machine.allow_descriptors(),
        user="user root;" if machine.is_root() else "",
    )
    configuration.write_text(text)
    async with (
        started(_nginx() or "", "-c", configuration, "-p", folder, core=server, folder=folder, name="nginx") as nginx,
        started(sys.executable, "-m", __name__, str(port), core=load, folder=folder, name="publisher") as publisher,
    ):
        await nginx.listens(port)
        worker = await _worker(nginx.pid)
        machine.pin(worker, server)
        yield worker, publisher


async def _worker(master: int) -> int:
    """Return the worker's process id. nginx listens before its worker has started."""
    async with asyncio.timeout(10):
        while not (found := machine.children(master)):
            await asyncio.sleep(0.01)
    return found[0]


class Posting:
    """Publishes by POST over persistent connections, one for each concurrent event."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._n = 0

    async def open(self, topics: int) -> Sequence[str]:
        self._idle = [await asyncio.open_connection("127.0.0.1", self._port) for _ in range(CHUNK)]
        return [f"/t{topic}" for topic in range(topics)]

    async def publish(self, topics: Sequence[int], burst: int, way: str) -> None:
        del way
        await asyncio.gather(*(self._post(topic) for topic in topics for _ in range(burst)))

    async def _post(self, topic: int) -> None:
        reader, writer = self._idle.pop()
        self._n += 1
        body = orjson.dumps(event(self._n))
        head = b"POST /publish/t%d HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n" % (topic, len(body))
        writer.write(head + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(_length(answer))
        self._idle.append((reader, writer))


def _length(head: bytes) -> int:
    return int(head.lower().partition(b"content-length:")[2].split()[0])


if __name__ == "__main__":
    uvloop.run(obey(Posting(int(sys.argv[1]))))
