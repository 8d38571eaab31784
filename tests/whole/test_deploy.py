"""The commands and recipes of `proxy/docs/operating.md` are run, word for word."""

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from proxy.core.settings import Settings
from tests.cli.test_cli import command, serving
from tests.support.deployment import NO_AUTHORITIES
from tests.support.ports import free_port
from tests.support.root import ROOT, blocks, page

DEPLOY = ROOT / "proxy/deploy"


def block(name: str) -> str:
    """Return the shell block of the page on operating whose first line is that comment."""
    return next(block for block in blocks(page("operating"), "sh") if block.startswith(f"# {name}\n"))


def shell(script: str) -> str:
    """Run it as an operator would, whose `python` is the one of Pollcast's environment."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(  # noqa: S603
        ["/bin/sh", "-eu", "-c", script],
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_backup_of_a_running_server_restores_jobs_ledger_and_files(tmp_path: Path) -> None:
    port = str(free_port())
    with serving("--demo", log=tmp_path / "log", POLLCAST_PORT=port):
        key = re.search(r"Demo key: (\S+)", (tmp_path / "log").read_text())
        assert key is not None
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", trust_env=False, verify=NO_AUTHORITIES, timeout=20
        ) as http:
            http.headers["Authorization"] = f"Bearer {key[1]}"
            order = {"model": "gpt-5.4-mini", "prompt": "Hello"}
            assert "Completed" in http.post("/api/generate", json=order).text
            asset = http.post("/api/assets", files={"file": ("a.mp4", b"\0\0\0\x18ftypmp42" + bytes(64), "video/mp4")})
            assert asset.status_code == 201
            running = http.post("/api/jobs", json={"model": "gaga-1", "prompt": "[stuck]"}).json()["id"]
            # The demo keeps its own store; the recipe is for the usual one.
            script = block("back up").replace("var/", "var/demo/").replace("var/demo/backup", "var/backup")
            assert "integrity ok" in shell(script)
            before = http.get("/api/account/ledger").json()["entries"]
            assert http.post("/api/jobs", json={"model": "suno", "prompt": "Too late"}).status_code == 202
    shutil.rmtree(tmp_path / "var/demo/assets")
    shell(block("restore").replace("var/", "var/demo/").replace("var/demo/backup", "var/backup"))
    with (
        serving("--demo", log=tmp_path / "log2", POLLCAST_PORT=port),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, verify=NO_AUTHORITIES, timeout=20) as http,
    ):
        http.headers["Authorization"] = f"Bearer {key[1]}"
        jobs = http.get("/api/jobs").json()["jobs"]
        assert running in {job["id"] for job in jobs}
        assert [job["model"] for job in jobs] == ["gaga-1", "gpt-5.4-mini"]
        assert before == [entry for entry in http.get("/api/account/ledger").json()["entries"] if entry in before]
        assert http.get(f"/api/assets/{asset.json()['id']}/content").status_code == 200


def test_a_back_up_holds_no_key_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    key = command("keys", "create", "--name", "web", "--tokens", "5").stdout.strip()
    (tmp_path / "var/assets").mkdir()
    shell(block("back up"))
    copy = next((tmp_path / "var/backup").rglob("pollcast.db"))
    assert copy.stat().st_mode & 0o077 == 0
    with closing(sqlite3.connect(copy)) as database:
        dump = "\n".join(database.iterdump())
    assert "web" in dump
    assert key not in dump


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed here")
def test_systemd_takes_every_line_of_the_unit(tmp_path: Path) -> None:
    program = shutil.which("true")
    unit = tmp_path / "pollcast.service"
    unit.write_text((DEPLOY / "pollcast.service").read_text().replace("/opt/pollcast/bin/pollcast", str(program)))
    done = subprocess.run(  # noqa: S603
        ["systemd-analyze", "verify", unit],  # noqa: S607
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, [line for line in done.stderr.splitlines() if "pollcast" in line]) == (0, [])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed here")
def test_the_unit_s_exposure_is_the_documented_one() -> None:
    stated = re.search(r"rates its exposure ([\d.]+),", page("operating"))
    assert stated is not None
    done = subprocess.run(  # noqa: S603
        ["systemd-analyze", "security", "--offline=true", DEPLOY / "pollcast.service"],  # noqa: S607
        env=os.environ | {"SYSTEMD_PAGER": ""},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    rated = re.search(r"Overall exposure level for pollcast.service: ([\d.]+)", done.stdout)
    assert rated is not None, done.stderr
    assert float(rated[1]) <= float(stated[1])


def test_unit_and_container_use_existing_commands_and_settings() -> None:
    unit, container = (DEPLOY / "pollcast.service").read_text(), (DEPLOY / "Containerfile").read_text()
    assert "serve" in command("--help").stdout
    assert "ExecStart=/opt/pollcast/bin/pollcast serve\n" in unit
    assert 'CMD ["pollcast", "serve"]\n' in container
    for name in re.findall(r"POLLCAST_(\w+)=", container):
        assert name.lower() in Settings.model_fields


def test_the_container_s_health_check_reports_a_dead_server(tmp_path: Path) -> None:
    text = (DEPLOY / "Containerfile").read_text()
    check = re.search(r'CMD \["python", "-c", "(import os.*)"\]', text)
    assert check is not None
    script = check[1].replace('\\"', '"')
    port = str(free_port())

    def healthy() -> bool:
        environment = os.environ | {"POLLCAST_PORT": port}
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=False)  # noqa: S603
        return done.returncode == 0

    with serving(log=tmp_path / "log", POLLCAST_PORT=port):
        assert healthy()
    assert not healthy()
