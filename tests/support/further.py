"""A further provider in a copy of a checkout: Gaga's adapter, simulator file and test file under another name."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

FILES: Final = ("proxy/providers/gaga.py", "proxy/simulator/gaga.py", "tests/providers/test_gaga.py")
RENAMED: Final = (
    ("gaga", "further"),
    ("Gaga", "Further"),
    ("GAGA", "FURTHER"),
    ("avatar-h1", "further-h1"),
    ('"/v1/', '"/further/v1/'),  # the simulated providers share one port
)
PLACES: Final = (
    "from proxy.providers.registry import installed_registry; installed_registry().models['further-1']",
    "from proxy.simulator import default_keys; default_keys()['further']",
    "from tests.support.examples import small_order; small_order('further-1')",
)
"""A statement for each place that has to find the provider by itself. It fails where a shared line is missing."""
ASK: Final = """
import sys
missing = 0
for statement in sys.argv[1:]:
    try:
        exec(statement)
    except Exception:
        missing += 1
print(missing)
"""


def copy_checkout(root: Path, folder: Path) -> Path:
    """Copy a checkout into a folder and add the files of the further provider. Return the copy's root."""
    copy = folder / "checkout"
    for name in ("proxy", "tests"):
        shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "server.py", "README.md"):
        shutil.copy(root / name, copy / name)
    for name in FILES:
        text = (root / name).read_text()
        for old, new in RENAMED:
            text = text.replace(old, new)
        (copy / name.replace("gaga", "further")).write_text(text)
    return copy


def run_in(copy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a copy of a checkout."""
    return subprocess.run(  # noqa: S603
        [sys.executable, *arguments],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        check=False,
    )


def places_without_it(copy: Path) -> int:
    """Return the number of places that do not find the further provider by themselves."""
    done = run_in(copy, "-c", ASK, *PLACES)
    return int(done.stdout) if done.returncode == 0 else len(PLACES)


def lines_that_name_a_provider(root: Path) -> list[str]:
    """Return the imports of single providers in files that all providers share."""
    names = {path.stem for path in (root / "proxy" / "simulator").glob("*.py")}
    names &= {path.stem for path in (root / "proxy" / "providers").glob("*.py")}
    names -= {"__init__", "registry"}
    imports = re.compile(rf"^\s*(?:from|import) (?:proxy\.\w+|tests\.providers)?\.(?:test_)?(?:{'|'.join(names)})\b")
    shared = [*(root / "proxy").rglob("*.py"), *(root / "tests" / "support").glob("*.py"), root / "tests/conftest.py"]
    return [
        f"{path.relative_to(root)}: {line}"
        for path in shared
        if path.stem not in names
        for line in path.read_text().splitlines()
        if imports.match(line)
    ]
