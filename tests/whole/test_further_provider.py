"""A further provider is an adapter, a simulator file and a test file, and touches no shared line."""

import re
from pathlib import Path

import pytest

from tests import prose
from tests.support.further import FILES, copy_checkout, lines_that_name_a_provider, places_without_it, run_in
from tests.support.root import ROOT

pytestmark = pytest.mark.timeout(120)  # a whole run of pytest in another process


def test_a_copy_of_an_adapter_is_in_the_catalogue_and_completes_orders(tmp_path: Path) -> None:
    copy = copy_checkout(ROOT, tmp_path)
    chosen = "further and (catalogue or completes_with_a_url or submitted_once or failure_has)"
    done = run_in(copy, "-m", "pytest", "-p", "no:cacheprovider", "tests/providers/test_contract.py", "-k", chosen)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\b12 passed", done.stdout), done.stdout


@pytest.mark.wide
def test_a_copy_of_an_adapter_passes_its_own_tests(tmp_path: Path) -> None:
    copy = copy_checkout(ROOT, tmp_path)
    done = run_in(copy, "-m", "pytest", "-p", "no:cacheprovider", "tests/providers/test_further.py")
    assert done.returncode == 0, done.stdout + done.stderr


SHARED_TESTS = (
    *(
        "tests/api/test_dry_run.py",
        "tests/api/test_orders.py",
        "tests/cli/test_check.py",
        "tests/core/test_settings.py",
    ),
    *("tests/providers/test_registry.py", "tests/simulator/test_simulator.py", "tests/simulator/test_words.py"),
)


@pytest.mark.wide
@pytest.mark.timeout(600)
def test_the_shared_tests_pass_with_a_copy_of_an_adapter(tmp_path: Path) -> None:
    copy = copy_checkout(ROOT, tmp_path)
    done = run_in(copy, "-m", "pytest", "-p", "no:cacheprovider", *SHARED_TESTS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_further_provider_touches_no_shared_line() -> None:
    assert prose.shared_lines(ROOT) == 0


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_not_found_counts_as_a_shared_line(tmp_path: Path, file: str) -> None:
    copy = copy_checkout(ROOT, tmp_path)
    (copy / file.replace("gaga", "further")).unlink()
    assert places_without_it(copy) > 0


def test_an_import_of_one_provider_in_shared_code_counts(tmp_path: Path) -> None:
    copy = copy_checkout(ROOT, tmp_path)
    app = copy / "proxy" / "app.py"
    app.write_text(app.read_text() + "\nfrom proxy.providers.gaga import Gaga\n")
    assert lines_that_name_a_provider(copy) == ["proxy/app.py: from proxy.providers.gaga import Gaga"]
