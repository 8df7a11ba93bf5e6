"""The OpenAPI document against a gateway that serves: whatever is sent, the answer is one that it describes.

``SCHEMA=whole`` in the environment leaves nothing out, tries more of what is random, and every dialect with tokens of
both kinds.

The live log of a run that goes on would not end by itself: streams here live for a second, or less, or runs are over at
once.
"""

import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from codegen_api.auth.keys import new_key
from tests.auth.issuer import AUDIENCE, Issuer
from tests.commands import completed
from tests.end_to_end.processes import environment, gateway, sandbox
from tests.leaks import WATCH

CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
]
ISSUER = Issuer()
EVERYTHING = "runs:read runs:write runs:read:all runs:write:all"
KEY, LINE = new_key("schema", EVERYTHING.split())
SHARED = {"api_token": "sandbox-alice", "secret_key": "a key for tests of many characters"}
MODES: dict[str, tuple[str, dict[str, Any]]] = {
    "token": ("sandbox-alice", {}),
    "jwt": (
        ISSUER.token("ann", exp=int(time.time()) + 7200, scope=EVERYTHING),
        {"jwt_issuer": ISSUER.name, "jwt_audience": AUDIENCE, "jwt_key": ISSUER.public_pem, **SHARED},
    ),
    "key": (KEY, {"api_keys": LINE, **SHARED}),
}


@dataclass(frozen=True)
class Surface:
    """A dialect's paths, and how many operations they have. ``more`` are settings.
    ``hurried``: a run at the host is over at once, so that nobody waits for its end. ``mode``: who asks at each push.
    """

    paths: str
    operations: int
    more: dict[str, Any] = field(default_factory=lambda: {"stream_max_age_seconds": 1})
    hurried: bool = False
    mode: str = "token"


SURFACES = {
    "native": Surface("^/(?!v1/)", 18),
    "codegen": Surface("^/v1/", 31),
    "agent_protocol": Surface("^/(agents|assistants|threads|runs|store|info|ok)", 73, {}, hurried=True, mode="jwt"),
    # its streams go on when a turn is over
    "everruns": Surface("^/v1/(agents|sessions)", 28, {"stream_max_age_seconds": 0.1}, hurried=True),
    "agio": Surface("^/api/", 18, {}, hurried=True, mode="jwt"),
    "ai_sdk": Surface("^/ui/", 5, {}, hurried=True),
    "openai": Surface("^/v1/(responses|conversations|chat|models)", 12, {}, hurried=True),
    "mcp": Surface("^/(mcp|[.]well-known)", 2, {}, hurried=True),
}


WHOLE = os.environ.get("SCHEMA") == "whole"
EXAMPLES = 20 if WHOLE else 3
"""Random ones, for each operation; the deterministic ones of coverage are many more."""


def phases(mode: str, dialect: str) -> str:
    """What is tried. What an operation may be sent that is wrong does not depend on who is asking; and where there are
    very many operations it is for the night.
    """
    if WHOLE:
        return "examples,coverage,fuzzing,stateful"
    if mode != SURFACES[dialect].mode:
        return "examples,stateful"
    return "examples,fuzzing,stateful" if SURFACES[dialect].operations > 20 else "examples,coverage,fuzzing,stateful"


NEVER_DONE = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 501]
"""
"""What an honest 501 says is part of what these dialects promise here; any other 5xx is a fault."""

CASES = [
    *((mode, "native") for mode in sorted(MODES)),
    *(
        (mode, dialect)
        for dialect, surface in SURFACES.items()
        if dialect != "native"
        for mode in (("token", "jwt") if WHOLE else (surface.mode,))
    ),
]


@pytest.mark.wire("documentation", "error-shape")
@pytest.mark.parametrize(("mode", "dialect"), CASES)
def test_every_answer_is_one_that_the_document_describes(mode: str, dialect: str, tmp_path: Path) -> None:
    token, settings = MODES[mode]
    WATCH.secret("a token", token)
    surface = SURFACES[dialect]
    settings = {**settings, "upstream_requests_per_minute": 1_000_000, "max_body_mib": 1, "data_dir": str(tmp_path)}
    if dialect in ("native", "agent_protocol", "codegen"):
        (tmp_path / "schemathesis.toml").write_text(NEVER_DONE)
    with (
        sandbox(*(("--speed", "1000") if surface.hurried else ())) as host,
        gateway(host, auth=mode, dialects=dialect, **{**settings, **surface.more}) as server,
    ):
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"]
        options = ["--header", f"Authorization: Bearer {token}", "--checks", ",".join(CHECKS), "--mode", "all"]
        options += ["--include-path-regex", surface.paths, "--max-examples", str(EXAMPLES)]
        bounds = ["--seed", "1", "--request-timeout", "20", "--no-color"]
        done = completed(
            [*command, *options, *bounds, "--phases", phases(mode, dialect)],
            cwd=tmp_path,
            env=environment(),
            timeout=900,
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert f"{surface.operations} selected / " in done.stdout
        assert server.get("/readyz").status_code == 200
