"""Known vulnerabilities of the packages that Pollcast needs to run.

`make check` runs it. A vulnerability that a newer version fixes is an error. One without a fix is only reported. Where
no advisories can be read (no network, a mirror without them), that is reported, and nothing fails.
"""

import contextlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any, Final

import click

PROJECT: Final = Path(__file__).parent.parent / "pyproject.toml"

Report = list[dict[str, Any]]


def declared() -> list[str]:
    """Return the requirements of the project itself."""
    project = tomllib.loads(PROJECT.read_text())["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["redis"]]


def needed(requirements: Iterable[str], known: set[str] | None = None) -> set[str]:
    """Return the names of these requirements and of all their dependencies."""
    known = set() if known is None else known
    for requirement in requirements:
        name = normal(re.split(r"[^A-Za-z0-9._-]", requirement)[0])
        if name in known or "extra ==" in requirement:
            continue
        known.add(name)
        with contextlib.suppress(PackageNotFoundError):  # for another system or Python
            needed(requires(name) or (), known)
    return known


def normal(name: str) -> str:
    """Return a package's name in the normal form of PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def advisories() -> Report | None:
    """Return the findings of pip-audit for each installed package, or None if it reaches no advisories."""
    command = [sys.executable, "-m", "pip_audit", "--skip-editable", "--progress-spinner=off", "--format=json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)  # noqa: S603
    try:
        found: Report = json.loads(done.stdout)["dependencies"]
    except (json.JSONDecodeError, KeyError):
        return None
    return found


def vulnerable(report: Report, names: set[str]) -> Iterator[tuple[str, bool]]:
    """Yield a line for each vulnerability, and True if a version fixes it."""
    for package in report:
        for found in package.get("vulns", ()) if normal(package["name"]) in names else ():
            cure = ", ".join(found["fix_versions"])
            yield f"{package['name']} {package['version']}: {found['id']}, fixed in {cure or 'no version'}", bool(cure)


def main() -> int:
    """Print the known vulnerabilities. Return the exit status."""
    report = advisories() or []
    names = needed(declared())
    asked = [package for package in report if "vulns" in package and normal(package["name"]) in names]
    if not asked:
        click.echo("audit: no advisory can be read from here; nothing was audited")
        return 0
    found = list(vulnerable(asked, names))
    for line, _ in found:
        click.echo(f"audit: {line}")
    click.echo(f"audit: {len(asked)} packages, {len(found)} known vulnerabilities")
    return 1 if any(cured for _, cured in found) else 0


if __name__ == "__main__":
    sys.exit(main())
