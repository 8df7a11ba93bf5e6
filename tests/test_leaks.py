"""The check that nothing secret is written finds what it is there to find."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from codegen_api.serve import TRY_IT
from tests.end_to_end import processes
from tests.leaks import WATCH, Watch, sandbox_texts

URL = "http://127.0.0.1:8123"


def watching() -> Watch:
    watch = Watch()
    watch.sent({"Authorization": "Bearer sandbox-alice"}, {"prompt": 'Say "hello, world"\nin Äthiopien'})
    watch.secret("a text of a log", "The tests take a while; I start them now.")
    return watch


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("WARNING refused sandbox-alice", "a token ('sandbox-alice')"),
        ("ERROR could not send " + json.dumps('Say "hello, world"\nin Äthiopien'), "a prompt ('hello, world')"),
        ("INFO " + repr({"thought": "The tests take a while; I start them now."}), "a text of a log ('The tests take"),
        ("INFO GET /agent-runs/1/logs/stream?ticket=9f3c1e7 200", "a secret in a URL ('ticket=9f3c1e7')"),
    ],
)
@pytest.mark.parametrize("way", ["log", "output", "answer"])
def test_each_kind_of_secret_is_found_in_each_kind_of_text_and_where_it_is_from(
    line: str, named: str, way: str
) -> None:
    watch = watching()
    text = f"INFO it begins\n{line}\nINFO it ends"
    if way == "answer":
        watch.answer(502, text)
    else:
        getattr(watch, way)("log of a gateway", text)
    (found,) = watch.found()
    assert found.startswith(named)
    assert "test_each_kind_of_secret_is_found" in found
    assert found.endswith(line)


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    watch = watching()
    watch.secret("a prompt", "x")
    watch.secret("a text of a log", "x" * 1000)
    watch.log("log of a gateway", "INFO GET /xxxxxxxxxx 200 3 ms\nINFO settings: api_token=not set")
    watch.answer(401, '{"error": "The token is not valid.", "code": "invalid_token"}')
    watch.answer(200, '{"thought": "The tests take a while; I start them now."}')
    assert watch.found() == []


def test_what_the_front_door_is_to_print_is_let_through_and_nothing_beside_it() -> None:
    said = TRY_IT.format(url=URL)
    assert "sandbox-alice" in said
    announced, altered, logged = watching(), watching(), watching()
    announced.output("output of a gateway", f"codegen_api is at {URL}\n{said}")
    assert announced.found() == []
    altered.output("output of a gateway", said.replace("Documentation", "More"))
    assert len(altered.found()) == 1
    logged.log("log of a gateway", said)
    assert len(logged.found()) == len([line for line in said.splitlines() if "sandbox-alice" in line])


def test_the_sandbox_s_own_words_are_known() -> None:
    texts = list(sandbox_texts())
    for each in ("First I look for the place where the configuration is read.", "Step 10: so far so good."):
        assert each in texts
    assert any("Giving up after 2 attempts" in each for each in texts)
    assert any("failed, as expected before the change" in each for each in texts), "what is filled in late"


@pytest.mark.parametrize(("level", "passes"), [("error", False), ("debug", True)])
def test_a_run_of_the_tests_fails_for_a_secret_in_a_log(tmp_path: Path, level: str, passes: bool) -> None:
    test = tmp_path / "test_it.py"
    test.write_text(f"""\
import logging
from tests.leaks import WATCH

def test_it():
    WATCH.secret("a token", "sk-of-somebody")
    logging.getLogger("codegen_api").{level}("refused sk-of-somebody")
""")
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-c", os.devnull]
    done = subprocess.run(
        [*command, "--rootdir", tmp_path, test],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env=processes.environment(),
        check=False,
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert (done.returncode == 0) is passes, done.stdout
    assert ("a token ('sk-of-somebody') in the log of codegen_api, test_it.py::test_it" in done.stdout) is not passes


@pytest.mark.wire("logs-hold-no-secrets")
def test_what_gateways_write_and_refuse_is_looked_at() -> None:
    headers = {"Authorization": "Bearer a-token-of-nobody", "X-Request-ID": "looked-at"}
    with processes.sandbox() as host, processes.gateway(host) as server:
        assert server.get("/agent-runs", headers).status_code == 401
        processes.eventually(lambda: "looked-at" in server.log.read_text())  # written when the answer is out
    assert WATCH.secrets["a-token-of-nobody"] == "a token"
    assert any("INFO GET /agent-runs 401" in text and "request_id=looked-at" in text for text in WATCH.written)
    assert any('"invalid_token"' in text and '"looked-at"' in text for text in WATCH.written)
