"""The wheel, as a new user has it: in its own environment, without a checkout.

It is built and installed from the package index. Where that cannot be reached the test is skipped, except in CI.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import httpx
import pytest

from tests.support.deployment import NO_AUTHORITIES
from tests.support.ports import free_port
from tests.support.root import ROOT

UNREACHABLE = re.compile(r"No matching distribution|Could not find a version|Failed to establish|ConnectionError")

pytestmark = pytest.mark.timeout(300)  # what an index on a slow line takes; the rest is seconds


def run(*command: str | Path, folder: Path, seconds: float = 240) -> subprocess.CompletedProcess[str]:
    # Nothing of the environment that runs the tests may reach the new one.
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return subprocess.run(  # noqa: S603
        [*command], cwd=folder, env=outside, capture_output=True, text=True, timeout=seconds, check=False
    )


def install(*command: str | Path, folder: Path) -> None:
    done = run(*command, folder=folder)
    if done.returncode and UNREACHABLE.search(done.stderr) and not os.environ.get("CI"):
        pytest.skip("the package index cannot be reached from here")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    install(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT, folder=folder)
    return next(folder.glob("pollcast-*.whl"))


@pytest.fixture(scope="module")
def programs(wheel: Path) -> Path:
    """Return the folder of commands in a fresh environment with the wheel and its dependencies."""
    folder = wheel.parent
    assert run(sys.executable, "-m", "venv", folder / "venv", folder=folder).returncode == 0
    install(folder / "venv/bin/python", "-m", "pip", "install", "--quiet", wheel, folder=folder)
    done = run(folder / "venv/bin/python", "-c", "import proxy; print(proxy.__file__)", folder=folder)
    assert Path(done.stdout.strip()).is_relative_to(folder), "it knows the checkout"
    return folder / "venv/bin"


@pytest.fixture
def demo(programs: Path, tmp_path: Path) -> Iterator[tuple[str, str, "subprocess.Popen[str]"]]:
    """A demo that serves from another directory: its address, its key and its process."""
    url = f"http://127.0.0.1:{free_port()}"
    process = subprocess.Popen(  # noqa: S603
        [programs / "pollcast", "serve", "--demo"],
        cwd=tmp_path,
        env={"PATH": os.defpath, "HOME": str(tmp_path), "POLLCAST_PORT": url.rsplit(":", 1)[1]},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        key = next((found[1] for line in process.stdout if (found := re.search(r"Demo key: (\S+)", line))), None)
        assert key is not None, "it did not start"
        yield url, key, process
    finally:
        process.kill()
        process.communicate()


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    tracked = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "proxy").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert tracked == {name for name in ZipFile(wheel).namelist() if name.startswith("proxy/")}


@pytest.mark.wide
def test_the_installed_demo_serves_a_job_and_its_pages(
    demo: tuple[str, str, "subprocess.Popen[str]"], programs: Path, tmp_path: Path
) -> None:
    url, key, process = demo
    order = ("generate", "gaga-1", "Hello", "-o", "out.mp4", "--server", url, "--key", key)
    done = run(programs / "pollcast", *order, folder=tmp_path, seconds=60)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.mp4").read_bytes()[4:8] == b"ftyp"
    with httpx.Client(base_url=url, trust_env=False, verify=NO_AUTHORITIES) as http:
        assert "text/html" in http.get("/").raise_for_status().headers["content-type"]
        assert "Pollcast" in http.get("/docs").raise_for_status().text
        assert http.get("/openapi.json").raise_for_status().json()["openapi"].startswith("3.1")
        assert "export" in http.get("/pollcast.js").raise_for_status().text
        # The page's own parts, as a browser would ask for them.
        parts = re.findall(r'(?:src|href)="(/?[\w./-]+\.(?:js|css))"', http.get("/").text)
        assert parts
        for part in parts:
            http.get("/" + part.lstrip("/")).raise_for_status()
    began = time.monotonic()
    process.terminate()
    process.wait(10)
    assert time.monotonic() - began < 5
