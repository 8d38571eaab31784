"""Permissions of files: folders are 700 and files 600, no matter which command creates them."""

import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from proxy.core import files
from proxy.core.errors import Unavailable
from proxy.store.sqlite.store import SqliteStore
from proxy.telemetry.trace import Exchange, Traces
from tests.support.deployment import NO_AUTHORITIES, Deployment
from tests.support.ports import free_port
from tests.support.root import ROOT

SERVER = [sys.executable, str(ROOT / "server.py")]


def wide(folder: Path) -> list[str]:
    """Return the files below a folder that users other than the owner can open."""
    found = [folder / name for name in folder.iterdir()]
    found += [path for place in found if place.is_dir() for path in place.rglob("*")]
    return [f"{path.relative_to(folder)} {path.stat().st_mode:o}" for path in found if path.stat().st_mode & 0o077]


def command(folder: Path, *words: str) -> str:
    done = subprocess.run(  # noqa: S603
        [*SERVER, *words], cwd=folder, umask=0, capture_output=True, text=True, check=False, timeout=60
    )
    return done.stdout.strip()


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[str]:
    port = str(free_port())
    process = subprocess.Popen(  # noqa: S603
        [*SERVER, "serve", *options],
        cwd=folder,
        umask=0,
        env=os.environ | {"POLLCAST_PORT": port, "POLLCAST_TRACE": "var/trace/demo"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        until = time.monotonic() + 60
        while not answers(url):
            assert time.monotonic() < until
            time.sleep(0.02)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=60)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", trust_env=False, verify=NO_AUTHORITIES).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.timeout(90)
@pytest.mark.parametrize("first", [["keys", "list"], ["check"], ["trace", "job_1"]])
def test_files_of_a_first_command_are_private_to_the_operator(tmp_path: Path, first: list[str]) -> None:
    (tmp_path / ".env").write_text("POLLCAST_TRACE=var/a/b\n")
    (tmp_path / ".env").chmod(0o600)
    command(tmp_path, *first)
    assert wide(tmp_path) == []
    assert (tmp_path / "var").is_dir()


@pytest.mark.timeout(90)
@pytest.mark.parametrize("options", [[], ["--demo"]])
def test_files_of_a_first_server_are_private_to_the_operator(tmp_path: Path, options: list[str]) -> None:
    with serving(tmp_path, *options) as url:
        if not options:
            headers = {"Authorization": f"Bearer {command(tmp_path, 'keys', 'create', '--name', 'web')}"}
            upload = {"file": ("image.png", Deployment.media("image"), "image/png")}
            answer = httpx.post(
                f"{url}/api/assets", files=upload, headers=headers, trust_env=False, verify=NO_AUTHORITIES
            )
            assert answer.status_code == 201
        assert wide(tmp_path) == []
    assert wide(tmp_path) == []


async def test_a_store_that_was_open_to_others_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "pollcast.db"
    async with SqliteStore(path, exclusive=True):
        pass
    path.chmod(0o666)
    async with SqliteStore(path, exclusive=True):
        assert wide(tmp_path) == []


async def test_a_lock_file_that_is_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("kept")
    (tmp_path / "pollcast.db.lock").symlink_to(other)
    with pytest.raises(Unavailable, match="cannot be opened"):
        async with SqliteStore(tmp_path / "pollcast.db", exclusive=True):
            pass
    assert other.read_text() == "kept"


def test_a_trace_that_is_a_symbolic_link_is_not_written(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("kept")
    (tmp_path / "job_1.jsonl").symlink_to(other)
    Traces(str(tmp_path)).of("job_1").record(Exchange(0, 0, "GET", "/", {}, "sent"), [])
    assert other.read_text() == "kept"


def test_folders_above_a_new_one_are_private_too(tmp_path: Path) -> None:
    files.make_private_folder(tmp_path / "a" / "b" / "c")
    assert wide(tmp_path) == []


async def test_a_folder_that_was_open_to_others_is_reported_and_left(
    unstarted: Deployment, caplog: pytest.LogCaptureFixture
) -> None:
    shared = unstarted.folder / "assets"
    shared.mkdir()
    shared.chmod(0o755)
    async with unstarted:
        assert f"POLLCAST_ASSETS: other users may open the folder {shared} (mode 755)" in caplog.text
    assert stat.S_IMODE(shared.stat().st_mode) == 0o755
