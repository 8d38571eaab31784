"""The client commands, as a user runs them, also over a bad connection."""

import asyncio
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from proxy.cli.api_client import Client, Lost, Refused
from proxy.cli.output import paths
from proxy.core.text import replace_unprintable
from tests.cli.test_cli import SERVER
from tests.support.deployment import MEDIA, Deployment
from tests.support.edge import edge
from tests.support.fronts import certificate
from tests.support.ports import free_port
from tests.support.site import Site


@dataclass(frozen=True)
class Done:
    """Standard output, standard error and exit status of a command."""

    out: str
    told: str
    status: int

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self.out.splitlines()]


@asynccontextmanager
async def start_command(
    deployment: Deployment, *arguments: str, **environment: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        SERVER,
        *arguments,
        env=os.environ | {"POLLCAST_SERVER": deployment.origin, "POLLCAST_KEY": deployment.key} | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()


async def command(deployment: Deployment, *arguments: str, **environment: str) -> Done:
    async with start_command(deployment, *arguments, **environment) as process:
        out, told = await process.communicate()
        assert "Traceback" not in told.decode()
        return Done(out.decode(), told.decode(), process.returncode or 0)


def names(folder: Path, pattern: str) -> list[str]:
    return [place.name for place in folder.glob(pattern)]


async def order_of(deployment: Deployment) -> dict[str, Any]:
    """The one order that there is."""
    (job,) = (await deployment.http.get("/api/jobs")).json()["jobs"]
    order: dict[str, Any] = job["order"]
    return order


# --- output ---


async def test_a_reader_that_has_enough_is_no_error(deployment: Deployment) -> None:
    readable, writable = os.pipe()
    os.close(readable)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        SERVER,
        "models",
        "--json",
        env=os.environ | {"POLLCAST_SERVER": deployment.origin},
        stdout=writable,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(writable)
    _, told = await process.communicate()
    assert (process.returncode, told) == (1, b"")


async def test_a_job_s_url_is_printed_alone(deployment: Deployment) -> None:
    done = await command(deployment, "generate", "gaga-1", "Hello")
    assert done.status == 0
    assert done.out.startswith("http")
    assert (await deployment.http.get(done.out.strip())).content == deployment.media("video")
    assert "Processing: Pending" in done.told


async def test_a_text_is_printed_as_text(deployment: Deployment) -> None:
    done = await command(deployment, "generate", "gpt-5.4-mini", "Why stream?")
    (job,) = (await deployment.http.get("/api/jobs")).json()["jobs"]
    assert done.out == (await deployment.http.get(job["url"])).text + "\n"


async def test_events_are_printed_as_json_lines(deployment: Deployment) -> None:
    done = await command(deployment, "generate", "suno", "A song", "--json")
    assert done.lines == await events_of_the_job(deployment)
    assert done.lines[-1]["status"] == "Completed"
    assert not done.told


async def events_of_the_job(deployment: Deployment) -> list[dict[str, Any]]:
    (job,) = (await deployment.http.get("/api/jobs")).json()["jobs"]
    return [message.json() for message in await deployment.messages("GET", f"/api/jobs/{job['id']}/events")]


async def test_a_file_is_written_and_its_name_printed(deployment: Deployment, tmp_path: Path) -> None:
    done = await command(deployment, "generate", "gaga-1", "Hello", "-o", "out.mp4")
    assert done.out == "out.mp4\n"
    assert (tmp_path / "out.mp4").read_bytes() == deployment.media("video")


async def test_several_files_are_numbered(deployment: Deployment, tmp_path: Path) -> None:
    done = await command(deployment, "generate", "gpt-image-2", "A cat [b64]", "--field", "n=2", "-o", "cat.png")
    assert done.out == "cat-1.png\ncat-2.png\n"
    assert (tmp_path / "cat-2.png").read_bytes() == deployment.media("image")


def test_files_for_a_directory_are_named_by_job_number_and_type(tmp_path: Path) -> None:
    outputs = [(0, {"type": "video/mp4"}), (2, {"type": "text/plain; charset=utf-8"})]
    assert paths(tmp_path, "job_1", outputs) == [tmp_path / "job_1-0.mp4", tmp_path / "job_1-2.txt"]


async def test_an_incomplete_download_leaves_no_file(deployment: Deployment, tmp_path: Path) -> None:
    deployment.simulator.fault("media.get", "cut")
    done = await command(deployment, "generate", "gaga-1", "Hello", "-o", "out.mp4")
    assert done.status == 1
    assert not names(tmp_path, "*out.mp4*")


async def test_the_key_is_not_shown_to_the_host_of_a_file(deployment: Deployment) -> None:
    await command(deployment, "generate", "gaga-1", "Hello", "-o", "out.mp4")
    files = [asked for asked in deployment.simulator.requests if asked.operation == "media.get"]
    assert files
    assert not any("Authorization" in asked.headers for asked in files)


def test_printed_text_does_not_move_the_cursor() -> None:
    assert replace_unprintable("a\x1b[2J\x07b\n") == "a\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}b\n"


async def test_jobs_and_models_are_listed(deployment: Deployment) -> None:
    job = await deployment.submit("suno", prompt="A song")
    await deployment.ended(job["id"])
    assert job["id"] in (await command(deployment, "jobs")).out
    assert [found["id"] for found in (await command(deployment, "jobs", "--model", "suno", "--json")).lines] == [
        job["id"]
    ]
    assert not (await command(deployment, "jobs", "--status", "Canceled", "--json")).out
    models = (await command(deployment, "models", "--json", POLLCAST_KEY="")).lines
    assert "gaga-1" in [model["id"] for model in models]


async def test_a_listing_that_no_terminal_bounds_has_a_line_for_each_job(deployment: Deployment) -> None:
    job = await deployment.submit("grok-imagine-video", prompt="[stuck]")
    _, line = (await command(deployment, "jobs")).out.splitlines()
    assert job["id"] in line
    assert line.split()[-1] == "30"


# --- arguments ---


async def test_files_are_brought_in_where_the_model_has_a_place_for_them(deployment: Deployment) -> None:
    image, audio = str(MEDIA / "image.png"), str(MEDIA / "audio.mp3")
    done = await command(deployment, "generate", "avatar-h1", "Smile", "--image", image, "--audio", audio)
    assert done.status == 0, done.told
    order = await order_of(deployment)
    assert (order["prompt"], order["image"][:6], order["audio"][:6]) == ("Smile", "asset_", "asset_")


async def test_several_images_are_sent_as_a_list_and_asset_ids_unchanged(deployment: Deployment) -> None:
    asset = await deployment.asset("image")
    arguments = ("--image", asset, "--image", str(MEDIA / "image.png"))
    assert (await command(deployment, "generate", "grok-imagine-video", "Rain", *arguments)).status == 0
    assert (await order_of(deployment))["images"][0] == asset


async def test_a_field_is_converted_to_the_model_s_type(deployment: Deployment) -> None:
    done = await command(
        deployment, "generate", "pika", "A lake", "--field", "style=4", "--field", 'metadata={"order": "4711"}'
    )
    assert done.status == 0, done.told
    order = await order_of(deployment)
    assert (order["style"], order["metadata"]) == ("4", {"order": "4711"})


# --- exit status ---


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("suno", "[fail]"), 1, "upstream_failed"),
        (("gaga-1", "[cancel]"), 3, "Canceled"),
        (("no-such-model", "Hello"), 2, "unknown_model"),
        (("suno",), 2, "invalid_request"),
        (("suno", "A song", "--image", "missing.png"), 2, "suno takes no image"),
        (("gaga-1", "Hello", "--image", "missing.png"), 2, "is not a file, a URL or an asset id"),
        (("suno", "A song", "--field", "style"), 2, "name=value"),
    ],
)
async def test_the_exit_status_matches_the_outcome(
    deployment: Deployment, arguments: tuple[str, ...], status: int, said: str
) -> None:
    done = await command(deployment, "generate", *arguments)
    assert (done.status, done.out) == (status, "")
    assert said in done.told


@pytest.mark.parametrize(
    ("environment", "status", "said"),
    [
        ({"POLLCAST_KEY": ""}, 2, "POLLCAST_KEY"),
        ({"POLLCAST_KEY": "pollcast_wrong"}, 1, "unauthorized"),
        ({"POLLCAST_SERVER": "cast.example.com"}, 2, "POLLCAST_SERVER"),
    ],
)
async def test_an_invalid_server_or_key_is_reported(
    deployment: Deployment, environment: dict[str, str], status: int, said: str
) -> None:
    done = await command(deployment, "generate", "suno", "A song", **environment)
    assert (done.status, said in done.told) == (status, True), done.told
    assert "pollcast_wrong" not in done.told


async def test_an_interrupted_command_leaves_the_job_running_and_prints_how_to_resume(deployment: Deployment) -> None:
    async with start_command(deployment, "generate", "gaga-1", "[slow] Hello", "--json") as process:
        assert process.stdout is not None
        job = orjson.loads(await process.stdout.readline())["job"]
        process.send_signal(signal.SIGINT)
        _, told = await process.communicate()
        assert process.returncode == 130
    back, cancel = told.decode().splitlines()[-2:]
    assert back.endswith(f"pollcast watch {job}")
    assert "Traceback" not in told.decode()
    done = await command(deployment, "watch", job, "--json")
    assert [event["n"] for event in done.lines] == list(range(1, len(done.lines) + 1))
    assert done.lines[-1]["status"] == "Completed"
    over = await asyncio.create_subprocess_exec(
        "sh",
        "-c",
        cancel.removeprefix("Cancel it with: "),
        env=os.environ | {"POLLCAST_KEY": deployment.key},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    answer, _ = await over.communicate()
    assert orjson.loads(answer)["code"] == "conflict"


@pytest.mark.parametrize("line", ["machine 127.0.0.1 login me password mine", "default login me password mine", "{"])
async def test_a_netrc_changes_nothing(deployment: Deployment, tmp_path: Path, line: str) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text(f"{line}\n")
    netrc.chmod(0o600)
    done = await command(deployment, "jobs", "--json", HOME=str(tmp_path), NETRC=str(netrc))
    assert (done.status, done.told) == (0, "")


async def test_the_environment_s_proxy_is_used_with_the_password_in_its_url(monkeypatch: pytest.MonkeyPatch) -> None:
    async def proxy(_: web.Request) -> web.StreamResponse:
        return web.json_response({"models": []})

    async with Site(proxy) as site:
        monkeypatch.setenv("http_proxy", f"http://me:mine@127.0.0.1:{site.port}")
        monkeypatch.setenv("no_proxy", "direct.invalid")
        async with Client("http://cast.invalid", "key") as client:
            assert await client.models() == []
        async with Client("http://direct.invalid", "key") as client:
            with pytest.raises(Lost, match="cannot be resolved"):
                await client.models()
    (asked,) = site.asked
    assert asked.headers["Proxy-Authorization"] == "Basic bWU6bWluZQ=="
    assert asked.headers["Host"] == "cast.invalid"


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "cp1252"},
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
async def test_letters_that_the_output_cannot_show_end_no_command(
    deployment: Deployment, environment: dict[str, str]
) -> None:
    done = await command(deployment, "generate", "gaga-1", "\u6f22 \u00fc", "-o", "\u6f22.mp4", **environment)
    assert done.status == 0, done.told
    assert done.out.endswith(".mp4\n")
    listed = await command(deployment, "models", **environment)
    assert (listed.status, listed.told) == (0, "")


async def test_bytes_that_are_no_text_are_refused_in_one_line(deployment: Deployment) -> None:
    done = await command(deployment, "generate", "suno", os.fsdecode(b"A \xff song"))
    assert done.status == 2
    assert "is not valid UTF-8" in done.told


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (("models",), {"POLLCAST_SERVER": "http://me:mine@127.0.0.1:9"}),
        (("jobs",), {"POLLCAST_KEY": "two\nlines"}),
        (("generate", "suno", "A song", "--idempotency-key", "two\nlines"), {}),
    ],
)
async def test_an_argument_that_no_request_can_carry_is_a_usage_error(
    deployment: Deployment, arguments: tuple[str, ...], environment: dict[str, str]
) -> None:
    assert (await command(deployment, *arguments, **environment)).status == 2


# --- on a bad line ---


class Line:
    """TCP proxy in front of a server that closes a connection after `after` bytes, `cuts` times."""

    def __init__(self, deployment: Deployment, *, after: int, cuts: int) -> None:
        self._world, self._after, self.cuts = deployment, after, cuts
        self._carrying: set[asyncio.Task[object]] = set()

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for carrying in self._carrying:
            carrying.cancel()
        await asyncio.gather(*self._carrying, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        carrying = asyncio.current_task()
        assert carrying is not None
        self._carrying.add(carrying)
        there, back = await asyncio.open_connection("127.0.0.1", int(self._world.origin.rpartition(":")[2]))
        forth = asyncio.create_task(self._copy(reader, back))
        try:
            with suppress(ConnectionError):
                await self._copy(there, writer, bounded=True)
        finally:
            forth.cancel()
            await asyncio.gather(forth, return_exceptions=True)
            for end in (writer, back):
                end.close()

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, bounded: bool = False) -> None:
        carried = 0
        while data := await source.read(1 << 16):
            streamed = b"event-stream" in data or carried
            if bounded and streamed and self.cuts and carried + len(data) > self._after:
                self.cuts -= 1
                sink.write(data[: self._after - carried])
                return
            carried += len(data) if streamed else 0
            sink.write(data)


async def at_once(_: float) -> None:
    """Sleep for no time."""


@pytest.mark.parametrize("after", [0, 300, 700, 1000])
async def test_a_broken_connection_loses_no_event_and_creates_no_second_job(deployment: Deployment, after: int) -> None:
    line, lost = Line(deployment, after=after, cuts=2), list[str]()
    async with line as server, Client(server, deployment.key, on_lost=lost.append, sleep=at_once) as client:
        events = [event async for event in client.generate({"model": "gaga-1", "prompt": "Hello"}, "mine")]
    assert lost
    assert events == await events_of_the_job(deployment)


async def test_a_server_that_stays_away_is_given_up() -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async with Client("http://127.0.0.1:9", "key", sleep=sleep) as client:
        with pytest.raises(Lost, match="cannot be reached"):
            async for _ in client.watch("job_1"):
                pass
    assert waits == sorted(waits)
    assert max(waits) == 15
    assert 250 < sum(waits) <= 300


async def test_no_page_of_an_edge_ends_a_paid_order(deployment: Deployment, tmp_path: Path) -> None:
    statuses = [200, 401, 403, 404, 408, 425, 429, 500, 502, 503, 504, 520, 524, 530, 599]
    async with edge(deployment) as front, Client(front.url, deployment.key, sleep=at_once) as client:
        front.statuses = {"/api/generate": list(statuses)}
        front.lost = {"/api/generate"}
        events = [event async for event in client.generate({"model": "gaga-1", "prompt": "Hello"}, "mine")]
        job = events[0]["job"]
        front.statuses = {f"/api/jobs/{job}/events": list(statuses), f"/api/jobs/{job}/content/0": [520, 403, 408]}
        assert [event async for event in client.watch(job)] == events
        await client.save(job, 0, tmp_path / "out.mp4")
    assert events == await events_of_the_job(deployment)
    assert (tmp_path / "out.mp4").read_bytes() == deployment.media("video")


async def test_plain_calls_are_repeated_when_an_edge_answers(deployment: Deployment) -> None:
    async with edge(deployment) as front, Client(front.url, deployment.key, sleep=at_once) as client:
        paths = ("/api/models", "/api/jobs", "/api/assets")
        front.statuses = {path: [200, 404, 520] for path in paths}
        assert await client.models()
        assert [job async for job in client.jobs(1)] == []
        assert (await client.upload(MEDIA / "image.png")).startswith("asset_")
        assert len(front.answered) == 9


async def test_a_final_refusal_of_a_gateway_is_reported_with_its_status(deployment: Deployment) -> None:
    async with edge(deployment) as front, Client(front.url, deployment.key, sleep=at_once) as client:
        front.statuses = {"/api/assets": [413]}
        with pytest.raises(Refused, match="413"):
            await client.upload(MEDIA / "image.png")


async def test_the_reason_for_an_unreachable_server_is_in_plain_words(tmp_path: Path) -> None:
    made, key = certificate(tmp_path)
    secured = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    secured.load_cert_chain(made, key)

    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.close()

    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        writer.write(b"220 mail.example.com ESMTP\r\n")
        writer.close()

    async def circle(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound(request.path)

    async def away(_: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("ftp://example.com/")

    async with AsyncExitStack() as stack:

        async def port(answer: Any, **options: Any) -> int:
            server = await stack.enter_async_context(await asyncio.start_server(answer, "127.0.0.1", 0, **options))
            return int(server.sockets[0].getsockname()[1])

        reasons = {
            "http://nothing.invalid": "the host name cannot be resolved",
            f"http://127.0.0.1:{free_port()}": "the connection was refused",
            f"https://127.0.0.1:{await port(leave, ssl=secured)}": "TLS certificate is not trusted",
            f"https://127.0.0.1:{await port(babble)}": "TLS handshake failed",
            f"http://127.0.0.1:{await port(leave)}": "closed the connection without a response",
            f"http://127.0.0.1:{await port(babble)}": "not valid HTTP",
            (await stack.enter_async_context(Site(circle))).url: "too many redirects",
            (await stack.enter_async_context(Site(away))).url: "not an http or https URL",
        }
        for server, reason in reasons.items():
            async with Client(server, "key") as client:
                with pytest.raises(Lost) as lost:
                    await client.models()
            assert reason in str(lost.value)


async def test_a_busy_server_is_retried_after_its_retry_after(deployment: Deployment) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def busy(request: web.Request) -> web.StreamResponse:
        if not waits:
            return web.json_response({"message": "Later."}, status=503, headers={"Retry-After": "7"})
        assert request.headers["Idempotency-Key"] == "mine"
        raise web.HTTPTemporaryRedirect(f"{deployment.origin}{request.path}")

    async with Site(busy) as site, Client(site.url, deployment.key, sleep=sleep) as client:
        with pytest.raises(Exception, match="Send your key"):  # which is not sent to another origin
            async for _ in client.generate({"model": "suno", "prompt": "A song"}, "mine"):
                pass
    assert waits == [7]
