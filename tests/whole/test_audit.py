"""The audit of known vulnerabilities (`tests/audit.py`)."""

import pytest

from tests import audit
from tests.audit import declared, needed

BAD = {"name": "AIOHTTP", "version": "3.14.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3.14.9"]}]}
HOPELESS = {"name": "yarl", "version": "1.20", "vulns": [{"id": "PYSEC-2", "fix_versions": []}]}
FINE = {"name": "click", "version": "8.2", "vulns": []}
TOOL = {"name": "pytest", "version": "9", "vulns": [{"id": "PYSEC-3", "fix_versions": ["9.1"]}]}
UNKNOWN = {"name": "click", "skip_reason": "not found"}


def test_the_audited_packages_are_those_that_run() -> None:
    names = needed(declared())
    assert {"aiohttp", "yarl", "starlette", "anyio", "pydantic-core"} <= names
    assert not {"pytest", "ruff", "mypy"} & names


@pytest.mark.parametrize(
    ("report", "status", "said"),
    [
        ([BAD, FINE], 1, "PYSEC-1, fixed in 3.14.9"),
        ([HOPELESS], 0, "PYSEC-2, fixed in no version"),
        ([FINE, TOOL], 0, "1 packages, 0 known vulnerabilities"),
        ([UNKNOWN], 0, "nothing was audited"),
        (None, 0, "nothing was audited"),
    ],
)
def test_a_vulnerability_with_a_fix_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], report: audit.Report, status: int, said: str
) -> None:
    monkeypatch.setattr(audit, "advisories", lambda: report)
    assert audit.main() == status
    assert said in capsys.readouterr().out
