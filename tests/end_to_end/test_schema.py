"""The OpenAPI document against a gateway that serves: whatever is sent, the answer is one that it describes.

The live log of a run that goes on would not end by itself: streams here live for a second.
"""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from codegen_api.auth.keys import new_key
from tests.auth.issuer import AUDIENCE, Issuer
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


PATHS = {"native": ("^/(?!v1/)", 14), "codegen": ("^/v1/", 12)}
"""A dialect's paths, and how many operations they have."""


@pytest.mark.wire("documentation", "error-shape")
@pytest.mark.parametrize(
    ("mode", "dialect"), [*((mode, "native") for mode in sorted(MODES)), ("token", "codegen"), ("jwt", "codegen")]
)
def test_every_answer_is_one_that_the_document_describes(mode: str, dialect: str, tmp_path: Path) -> None:
    token, settings = MODES[mode]
    WATCH.secret("a token", token)
    brief = {"stream_max_age_seconds": 1, "upstream_requests_per_minute": 1_000_000, "max_body_mib": 1}
    paths, selected = PATHS[dialect]
    with sandbox() as host, gateway(host, auth=mode, dialects=dialect, **brief, **settings) as server:
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"]
        options = ["--header", f"Authorization: Bearer {token}", "--checks", ",".join(CHECKS), "--mode", "all"]
        options += ["--include-path-regex", paths]
        bounds = ["--max-examples", "20", "--seed", "1", "--request-timeout", "20", "--no-color"]
        done = subprocess.run(
            [*command, *options, *bounds, "--phases", "examples,coverage,fuzzing,stateful"],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert f"{selected} selected / " in done.stdout
        assert server.get("/readyz").status_code == 200
