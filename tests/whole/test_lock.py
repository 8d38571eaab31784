"""The lock files: every version that is installed, with its hashes, for every Python and system."""

import re
import tomllib
from typing import Any, Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.root import ROOT

PROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS: Final[dict[str, list[str]]] = PROJECT["project"]["optional-dependencies"]
RUNS: Final = [*PROJECT["project"]["dependencies"], *EXTRAS["redis"], *PROJECT["dependency-groups"]["build"]]
LOCKS: Final = {
    ".requirements.lock": RUNS,
    ".requirements-dev.lock": [*RUNS, *EXTRAS["dev"], *PROJECT["build-system"]["requires"]],
}
SYSTEMS: Final = (
    {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": "x86_64"},
    {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": "aarch64"},
    {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix", "platform_machine": "arm64"},
    {"sys_platform": "win32", "platform_system": "Windows", "os_name": "nt", "platform_machine": "AMD64"},
)
ENVIRONMENTS: Final = [
    {**system, "python_version": python, "python_full_version": f"{python}.4", "extra": ""}
    for system in SYSTEMS
    for python in ("3.11", "3.12", "3.13")
]
HASH: Final = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def locked(name: str) -> list[tuple[Requirement, int]]:
    """Each entry of a lock file, and how many hashes it has."""
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
    entries = re.split(r"\n(?=\S)", "\n".join(lines).strip())
    return [(Requirement(entry.partition(" \\")[0]), len(HASH.findall(entry))) for entry in entries]


def applies(requirement: Requirement, environment: dict[str, str]) -> bool:
    return requirement.marker is None or requirement.marker.evaluate(environment)


def missing(name: str, environment: dict[str, str]) -> list[str]:
    """The requirements of the project that a lock file does not satisfy in an environment."""
    versions = {
        canonicalize_name(entry.name): str(entry.specifier).removeprefix("==")
        for entry, _ in locked(name)
        if applies(entry, environment)
    }
    needed = [each for each in map(Requirement, LOCKS[name]) if applies(each, environment)]
    return [
        str(each)
        for each in needed
        if not each.specifier.contains(versions.get(canonicalize_name(each.name), "0"), prereleases=True)
    ]


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_file_satisfies_the_project_everywhere(name: str) -> None:
    assert {str(environment): found for environment in ENVIRONMENTS if (found := missing(name, environment))} == {}


@pytest.mark.parametrize("name", LOCKS)
def test_every_entry_is_one_version_with_hashes(name: str) -> None:
    assert [str(entry) for entry, hashes in locked(name) if not hashes] == []
    assert [str(entry) for entry, _ in locked(name) if not re.fullmatch(r"==[^*,]+", str(entry.specifier))] == []
    assert [str(entry) for entry, _ in locked(name) if entry.url] == []


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_file_names_no_place_to_fetch_from(name: str) -> None:
    text = HASH.sub("", (ROOT / name).read_text())
    assert re.findall(r"://|(?<!\S)-[a-z]\b|--[a-z-]+|(?:^|[\s=])/\S*", text) == []


def test_tests_run_with_the_versions_that_are_served() -> None:
    serving, testing = ({str(entry) for entry, _ in locked(name)} for name in LOCKS)
    assert serving <= testing


@pytest.mark.parametrize("name", ["Makefile", "proxy/deploy/Containerfile"])
def test_every_installed_package_is_checked_by_its_hashes(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "--require-hashes -r .requirements.lock" in text
    assert "--no-deps --no-build-isolation" in text
