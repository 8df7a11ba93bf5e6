"""Runs of tests inside a test, under what holds for all tests here."""

import os
import subprocess
import sys
from pathlib import Path

from tests.commands import completed
from tests.end_to_end.processes import environment

ALONE: list[str] = []
BESIDE = ["-n", "2", "--dist", "loadfile"]
"""Of two files, each is run by a process of its own."""


def run_of_tests(directory: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """That of all tests in ``directory``, whatever this run was asked for, and wherever it is."""
    kept = {name: value for name, value in environment().items() if not name.startswith("PYTEST_") and name != "CI"}
    kept["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # loading all that is installed takes seconds
    plugins = ["-p", "xdist", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *plugins, "-c", os.devnull, "--rootdir", str(directory), "-ra"]
    return completed([*command, *arguments, directory], timeout=180, cwd=directory, env={**kept, **variables})
