"""The GitHub workflow: its jobs go beside each other, all of them count, each ends, and scripts say what they do."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORKFLOW = (ROOT / ".github/workflows/ci.yml").read_text()
LAST = "required-checks-pass"
_, *PARTS = re.split(r"^  ([\w-]+):$", WORKFLOW.partition("\njobs:\n")[2], flags=re.MULTILINE)
JOBS = dict(zip(PARTS[::2], PARTS[1::2], strict=True))


def test_every_job_counts_and_waits_for_no_other() -> None:
    assert len(JOBS) > 5
    needs = {name: re.findall(r"^    needs: \[(.*)\]$", job, re.MULTILINE) for name, job in JOBS.items()}
    assert needs == {name: [] for name in JOBS} | {LAST: [", ".join(name for name in JOBS if name != LAST)]}


def test_every_job_has_a_time_within_which_it_ends() -> None:
    times = {name: re.findall(r"^    timeout-minutes: (\d+)$", job, re.MULTILINE) for name, job in JOBS.items()}
    assert {name: len(each) for name, each in times.items()} == dict.fromkeys(JOBS, 1)
    assert all(int(each) <= 40 for (each,) in times.values())


def test_what_it_runs_are_the_scripts_that_everybody_can_run() -> None:
    run = set(re.findall(r"(?:run|command): (scripts/\w+|\.ci/run)", WORKFLOW))
    checks = {".ci/run", "scripts/audit", "scripts/check", "scripts/lock", "scripts/manifests", "scripts/test"}
    assert run == {*checks, "scripts/install_test_hosts"}
    assert all((ROOT / each).is_file() for each in run)
    assert "pytest" not in WORKFLOW


def test_actions_are_pinned_by_commit() -> None:
    used = re.findall(r"uses: (.*)", WORKFLOW)
    assert used
    assert [each for each in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", each)] == []
