"""A test that is left out in CI fails the run there, so that no missing program goes unnoticed."""

from pathlib import Path

import pytest

from tests.nested import ALONE, BESIDE, run_of_tests

WAYS = {
    "marked": "@pytest.mark.skipif(True, reason='no browser here')\ndef test_it(): ...",
    "inside": "def test_it():\n    pytest.skip('no browser here')",
    "by_a_fixture": "@pytest.fixture\ndef it():\n    pytest.skip('no browser here')\n\ndef test_it(it): ...",
    "whole": "pytest.skip('no browser here', allow_module_level=True)",
    "for_an_import": "pytest.importorskip('no_browser_here')",
}
EXPECTED = "@pytest.mark.xfail\ndef test_it():\n    assert False"


@pytest.mark.parametrize("processes", [ALONE, BESIDE], ids=["alone", "beside each other"])
def test_what_is_skipped_has_failed_in_ci_and_only_there(tmp_path: Path, processes: list[str]) -> None:
    for name, source in {**WAYS, "expected": EXPECTED, "two": "def test_it(): ..."}.items():
        (tmp_path / f"test_{name}.py").write_text(f"import pytest\n\n{source}\n")
    if not processes:
        here = run_of_tests(tmp_path, CI="false")
        assert here.returncode == 0, here.stdout + here.stderr
        assert "1 passed, 5 skipped, 1 xfailed" in here.stdout
    in_ci = run_of_tests(tmp_path, "--continue-on-collection-errors", *processes, CI="true")
    assert in_ci.returncode == pytest.ExitCode.TESTS_FAILED, in_ci.stdout + in_ci.stderr
    assert "1 failed, 1 passed, 1 xfailed, 4 errors" in in_ci.stdout
    for name in WAYS:
        assert f"test_{name}.py" in in_ci.stdout
    assert in_ci.stdout.count("in CI nothing is left out") >= len(WAYS)
    assert in_ci.stdout.count("no browser here") >= 4
