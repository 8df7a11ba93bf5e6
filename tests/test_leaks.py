"""The check that nothing secret is written finds what it is there to find."""

import json
import re
from pathlib import Path

import pytest

from codegen_api.program.local_hosts import SANDBOX_LINES, SANDBOX_TOKEN, TRY_IT
from tests.end_to_end import processes
from tests.leaks import WATCH, Watch, sandbox_texts
from tests.nested import ALONE, BESIDE, run_of_tests

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
    watch.secret("a prompt", "Fix it")
    watch.secret("a token", "nobody")
    watch.log("log of a gateway", "WARNING nobody can sign in. Fix it.")
    watch.secret("a text of a log", "x" * 1000)
    watch.log("log of a gateway", "INFO GET /xxxxxxxxxx 200 3 ms\nINFO settings: api_token=not set")
    watch.answer(401, '{"error": "The token is not valid.", "code": "invalid_token"}')
    watch.answer(200, '{"thought": "The tests take a while; I start them now."}')
    assert watch.found() == []


def test_what_the_front_door_is_to_print_is_let_through_and_nothing_beside_it() -> None:
    said = "\n".join([SANDBOX_LINES.format(host=URL), TRY_IT.format(url=URL, token=SANDBOX_TOKEN)])
    assert "sandbox-alice" in said
    announced, altered, logged = watching(), watching(), watching()
    announced.output("output of a gateway", f"codegen_api is at {URL}\n{said}")
    assert announced.found() == []
    altered.output("output of a gateway", said.replace("tokens ", "more "))
    assert len(altered.found()) == 1
    logged.log("log of a gateway", said)
    assert len(logged.found()) == len([line for line in said.splitlines() if "sandbox-alice" in line])


def test_the_sandbox_s_own_words_are_known() -> None:
    texts = list(sandbox_texts())
    for each in ("First I look for the place where the configuration is read.", "Step 10: so far so good."):
        assert each in texts
    assert any("Giving up after 2 attempts" in each for each in texts)
    assert any("failed, as expected before the change" in each for each in texts), "what is filled in late"


def test_what_one_process_knows_is_found_in_what_another_wrote() -> None:
    first, second = watching(), Watch()
    second.log("log of a gateway", "WARNING refused sandbox-alice \ud800")
    second.take_over(first.handed_over())
    (found,) = second.found()
    first.take_over(second.handed_over())
    assert first.found() == [found]
    assert "a token ('sandbox-alice') in the log of a gateway" in found
    assert test_what_one_process_knows_is_found_in_what_another_wrote.__name__ in found


ASKS = """
def test_asks():
    from tests.leaks import WATCH
    WATCH.secret("a token", "sk-of-somebody")
"""
WRITES = """
def test_writes():
    import logging
    logging.getLogger("codegen_api").{level}("refused sk-of-somebody")
"""


@pytest.mark.parametrize(("level", "passes"), [("error", False), ("debug", True)])
@pytest.mark.parametrize("processes", [ALONE, BESIDE], ids=["alone", "beside each other"])
def test_a_run_of_the_tests_fails_for_a_secret_in_a_log(
    tmp_path: Path, processes: list[str], level: str, passes: bool
) -> None:
    (tmp_path / "test_asks.py").write_text(ASKS)
    (tmp_path / "test_writes.py").write_text(WRITES.format(level=level))
    done = run_of_tests(tmp_path, "-v", *processes)
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    assert len(set(re.findall(r"^\[gw[01]\]", done.stdout, re.MULTILINE))) == (2 if processes else 0)
    assert (done.returncode == 0) is passes, done.stdout
    found = "a token ('sk-of-somebody') in the log of codegen_api, test_writes.py::test_writes"
    assert (found in done.stdout) is not passes


def test_a_run_of_the_tests_fails_for_a_process_that_hands_over_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_asks.py").write_text(ASKS)
    (tmp_path / "test_writes.py").write_text(WRITES.format(level="debug"))
    (tmp_path / "conftest.py").write_text("""\
import os

def pytest_sessionfinish():
    if os.environ.get("PYTEST_XDIST_WORKER") == "gw1":
        os._exit(0)
""")
    done = run_of_tests(tmp_path, *BESIDE)
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    assert "Nobody knows what gw1 has written" in done.stdout
    assert done.returncode == pytest.ExitCode.INTERNAL_ERROR


@pytest.mark.wire("logs-hold-no-secrets")
def test_what_gateways_write_and_refuse_is_looked_at() -> None:
    headers = {"Authorization": "Bearer a-token-of-nobody", "X-Request-ID": "looked-at"}
    with processes.sandbox() as host, processes.gateway(host) as server:
        assert server.get("/agent-runs", headers).status_code == 401
        processes.eventually(lambda: "GET /agent-runs 401" in server.log.read_text())  # written when the answer is out
    assert WATCH.secrets["a-token-of-nobody"] == "a token"
    assert any("INFO GET /agent-runs 401" in text and "request_id=looked-at" in text for text in WATCH.written)
    assert any('"invalid_token"' in text and '"looked-at"' in text for text in WATCH.written)
