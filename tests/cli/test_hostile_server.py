"""Tests of the client commands against a hostile server: it cannot write other files or control the terminal."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from proxy.cli.api_client import Client, Refused
from proxy.cli.jobs import _list
from proxy.cli.output import Watch, json_line
from tests.support.site import Handler, Site

CONTROLS = [*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)), *"\u202e\u2066\u2028\u200b\ufeff\U000e0041"]
OUTPUT = {"role": "video", "type": "video/mp4", "url": "https://provider/a.mp4"}


def stream(**fields: Any) -> Handler:
    """A server whose one event has these fields, and whose content is some bytes."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if "/content/" in request.path:
            return web.Response(body=b"bytes")
        event = {"job": "job_1", "n": 1, "status": "Completed", "outputs": [OUTPUT], **fields}
        return web.Response(body=b"id: 1\ndata: " + orjson.dumps(event) + b"\n\n", content_type="text/event-stream")

    return answer


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def deliver(server: Handler, out: Path | None, *, lines: bool = False) -> Site:
    """Watch a job of the server and deliver its outputs."""
    async with Site(server) as site, Client(site.url, "secret") as client:
        watch = Watch(out, lines=lines)
        await watch.follow(client.watch("job_1"))
        await watch.deliver(client)
    return site


@pytest.mark.parametrize(
    "job",
    [
        "../x",
        "..",
        "/etc/x",
        "a/b",
        "a\\b",
        "a\0b",
        "",
        ".x",
        "-x",
        "x\n",
        "CON:",
        "~x",
        "job_1\x9b",
        "x" * 101,
        7,
        None,
    ],
)
async def test_a_job_id_that_is_no_name_writes_nothing(tmp_path: Path, job: object) -> None:
    out = tmp_path / "out" / "in"
    out.mkdir(parents=True)
    with pytest.raises(Refused, match="unreadable event"):
        await deliver(stream(job=job), out)
    assert files_in(tmp_path) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"n": "1"},
        {"status": 1},
        {"progress": "x"},
        {"delta": 1, "offset": 0},
        {"delta": "a", "offset": "0"},
        {"outputs": [1]},
        {"outputs": [{"url": 1, "type": "a/b"}]},
        {"outputs": [{"url": "http://x"}]},
        {"text": []},
    ],
)
async def test_an_event_of_another_form_is_refused(fields: Mapping[str, Any]) -> None:
    with pytest.raises(Refused, match="unreadable event"):
        await deliver(stream(**fields), None)


@pytest.mark.parametrize("media_type", ["../../x", "a/../b", "video/mp4;/../x", "\0", "", "image/png\x1b"])
async def test_a_media_type_cannot_choose_another_file(tmp_path: Path, media_type: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    await deliver(stream(outputs=[{**OUTPUT, "type": media_type}]), out)
    (written,) = files_in(tmp_path)
    assert written.parent == out
    assert written.name.startswith("job_1-0")


async def test_a_symbolic_link_in_the_folder_is_replaced_not_followed(tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    out.mkdir()
    other.write_text("kept")
    for name in ("job_1-0.mp4", f".job_1-0.mp4.{os.getpid()}.part"):
        (out / name).symlink_to(other)
    await deliver(stream(), out)
    assert other.read_text() == "kept"
    assert (out / "job_1-0.mp4").read_bytes() == b"bytes"


async def test_content_from_another_host_is_requested_without_the_key(tmp_path: Path) -> None:
    async with Site(stream()) as elsewhere:

        async def answer(request: web.Request) -> web.StreamResponse:
            if "/content/" in request.path:
                raise web.HTTPFound(f"{elsewhere.url}/content/0")
            return await stream()(request)

        site = await deliver(answer, tmp_path / "out.mp4")
    assert "Authorization" in site.asked[0].headers
    assert [request.headers.get("Authorization") for request in elsewhere.asked] == [None]


@pytest.mark.parametrize("letter", CONTROLS)
def test_json_output_escapes_terminal_control_characters(letter: str) -> None:
    line = json_line({letter: f"a{letter}b"})
    assert line.decode().isprintable()
    assert orjson.loads(line) == {letter: f"a{letter}b"}


@pytest.mark.parametrize("letter", [letter for letter in CONTROLS if letter not in "\n\t"])
async def test_nothing_that_a_server_sends_reaches_the_terminal_raw(
    letter: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"https://provider/{letter}[link=x]"
    for lines in (True, False):
        await deliver(stream(outputs=[{**OUTPUT, "url": url}], detail=letter), None, lines=lines)
        _list(("a",), [{"a": url}], lambda row: [row["a"]], lines=lines)
    out, told = capsys.readouterr()
    assert letter not in out + told
    assert "[link=x]" in out
