"""Packages of npm for tests: a folder with them, or the reason why there is none on this machine."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest


def without(what: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"{what}, and CI is set: these tests must run.")
    pytest.skip(f"{what}.")


def install(folder: Path, *packages: str, seconds: float = 100) -> Path:
    """The folder, whose modules may import the packages; they have to be there within that time."""
    if not (shutil.which("node") and shutil.which("npm")):
        without("There is no node or npm here")
    (folder / "package.json").write_text('{"type": "module", "private": true}')
    command = ["npm", "install", "--silent", "--no-audit", "--no-fund", *packages]
    if subprocess.run(command, cwd=folder, check=False, timeout=seconds).returncode:  # noqa: S603
        without("npm cannot install its packages here")
    return folder
