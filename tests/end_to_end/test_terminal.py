"""``codegen-api tail`` and the like, as processes: on a real terminal and in a pipe, through whatever breaks on the way
and whatever agents write.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from codegen_api.front_door import main
from tests.commands import completed
from tests.end_to_end.conftest import BRISK
from tests.end_to_end.processes import ROOT, WAIT, Sandbox, Server, environment, eventually, gateway
from tests.end_to_end.terminals import COLOUR, COLUMNS, Terminal, terminal
from tests.leaks import WATCH

COMMAND = [sys.executable, str(ROOT / "run_server.py")]
SETTINGS: dict[str, Any] = {**BRISK, "upstream_requests_per_minute": 60_000, "drain_seconds": 0.5}


@pytest.fixture(scope="module")
def server(swift: Sandbox) -> Iterator[Server]:
    with gateway(swift, **SETTINGS) as server:
        yield server


def surroundings(server: Server | str, **more: str) -> dict[str, str]:
    url = server if isinstance(server, str) else server.url
    named = {"CODEGEN_URL": url, "CODEGEN_TOKEN": "sandbox-alice", "TERM": "xterm-256color", "COLUMNS": "", **more}
    return {name: value for name, value in {**environment(), **named}.items() if value}


def ran(server: Server | str, *arguments: str, given: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    """A command whose output is read by a program."""
    done = completed([*COMMAND, *arguments], input=given, timeout=WAIT, env=surroundings(server, **more))
    assert "Traceback" not in done.stderr
    return done


def on_a_terminal(server: Server, *arguments: str, **more: str) -> AbstractContextManager[Terminal]:
    return terminal([*COMMAND, *arguments], surroundings(server, **more))


def positions(printed: str) -> list[int]:
    """The numbers of the entries, in the order in which they were printed."""
    return [int(number) for number in re.findall(r"^ *(\d+) [A-Z][a-z]+ ", printed, re.MULTILINE)]


def said(kind: str, **fields: object) -> dict[str, object]:
    nothing = dict.fromkeys(("thought", "observation", "tool_input", "tool_output"))
    return {**nothing, "message_type": kind, **fields}


# -- a run, from the start to the end ---------------------------------------------------------------------------------


def test_a_run_is_started_and_watched_by_a_program(server: Server) -> None:
    prompt = "Write a haiku about terminals"
    WATCH.secret("a prompt", prompt)
    done = ran(server, "create", prompt, "--tail")
    assert done.returncode == 0, done.stderr
    assert positions(done.stdout) == list(range(1, 13))
    assert "- [ ]" not in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert "\n   12 Answer   I did what you asked:\n" in done.stdout
    assert done.stderr.splitlines()[-1].startswith("· completed, 12 entries  https://")
    listed = ran(server, "runs", "--limit", "1")
    assert re.fullmatch(rf"\d+  completed  +\d+ s  {prompt}\n", listed.stdout)
    run = listed.stdout.split()[0]
    more = ran(server, "resume", run, "-", "--tail", given="Now one about pipes\n")
    assert more.returncode == 0
    assert [each for each in positions(more.stdout) if each > 12] == list(range(13, 25))


def test_an_empty_list_is_said_beside_what_scripts_read(server: Server) -> None:
    empty = ran(server, "runs", "--status", "cancelled", "--organization", "401")
    assert (empty.returncode, empty.stdout, empty.stderr) == (0, "", "· There are none.\n")
    mistyped = ran(server, "runs", "--status", "fialed")
    assert mistyped.stderr.startswith("· no run was found with this status; the gateway's words are pending, ")


def test_a_command_says_nothing_but_what_a_script_needs(server: Server) -> None:
    run = ran(server, "create", "Say nothing", "--metadata", '{"scenario": "endless"}')
    assert run.stderr == ""
    assert run.stdout.strip().isdigit()
    cancelled = ran(server, "cancel", run.stdout.strip())
    assert (cancelled.returncode, cancelled.stdout) == (0, "")
    assert cancelled.stderr == f"· Run {run.stdout.strip()} is cancelled.\n"
    assert ran(server, "tail", run.stdout.strip()).returncode == 3


def test_json_has_what_the_gateway_said(server: Server) -> None:
    done = ran(server, "tail", "12345", "--json", "--after", "26")
    assert done.returncode == 0
    events = [json.loads(line) for line in done.stdout.splitlines()]
    log = [event["data"]["position"] for event in events if event["event"] == "log"]
    assert log == [27, 28]
    assert (events[0]["event"], events[-1]["event"], events[-1]["id"]) == ("status", "end", "28.end")
    assert done.stderr == ""
    (run,) = (json.loads(line) for line in ran(server, "runs", "--json", "--limit", "1").stdout.splitlines())
    assert {"id", "run_status", "ended"} <= set(run)
    assert json.loads(ran(server, "create", "As JSON", "--json").stdout)["id"] > run["id"]


# -- what breaks ------------------------------------------------------------------------------------------------------


@pytest.mark.wire("position-continues")
@pytest.mark.parametrize("mode", [[], ["--json"]])
def test_nothing_is_lost_or_doubled_when_the_gateway_is_killed_and_comes_back(swift: Sandbox, mode: list[str]) -> None:
    run = swift.seed(count=3)
    with gateway(swift, **SETTINGS) as server, on_a_terminal(server, "tail", str(run), *mode) as shown:
        third = '"position":3' if mode else "    3 "
        shown.until(lambda text: third in COLOUR.sub("", text))
        server.process.kill()
        server.process.wait(20)
        shown.until(lambda text: "The connection is lost, trying again." in text)
        swift.append(run, "four", "five")
        with gateway(swift, "--port", server.url.rpartition(":")[2], **SETTINGS):
            fifth = third.replace("3", "5")
            shown.until(lambda text: fifth in COLOUR.sub("", text))
            assert shown.text.count("Live again.") == 1
            swift.append(run, "six", status="COMPLETE")
            assert shown.over() == 0
    bare = COLOUR.sub("", shown.text).replace("\r\n", "\n")
    if mode:
        events = [json.loads(line) for line in bare.splitlines() if line.startswith("{")]
        assert [event["data"]["position"] for event in events if event["event"] == "log"] == [1, 2, 3, 4, 5, 6]
        assert [event["id"] for event in events if event["event"] == "end"] == ["6.end"]
    else:
        assert positions(bare) == [1, 2, 3, 4, 5, 6]
        assert "· completed, 6 entries" in bare


def test_what_the_host_does_meanwhile_is_said(swift: Sandbox, server: Server) -> None:
    run = swift.seed(count=2)
    with on_a_terminal(server, "tail", str(run)) as shown:
        shown.until(lambda text: "    2 " in COLOUR.sub("", text))
        swift.fault("429", retry_after=2, times=3)
        shown.until(lambda text: "Waiting for the host's limit" in text)
        swift.heal()
        shown.until(lambda text: "Live again." in text)
        swift.patch(run, status="ERROR")
        assert shown.over() == 1
    assert "Traceback" not in shown.text


def test_an_interrupt_ends_it_quietly_and_says_how_to_watch_on(swift: Sandbox, server: Server) -> None:
    run = swift.seed(count=3)
    with on_a_terminal(server, "tail", str(run)) as shown:
        shown.until(lambda text: "    3 " in COLOUR.sub("", text))
        shown.type("\x03")
        assert shown.over() == 130
    last = COLOUR.sub("", shown.text).splitlines()[-1]
    assert last.startswith(f"· No longer watching; the run goes on. To watch on: codegen-api tail {run} --after ")
    swift.append(run, "four", status="COMPLETE")
    again = shlex.split(last.partition("codegen-api ")[2])
    after = int(re.split("[-~]", again[-1])[0])  # the third, unless it came in the very moment in which it was shown
    assert after in (2, 3)
    assert positions(ran(server, *again).stdout) == list(range(after + 1, 5))


def test_who_reads_only_the_beginning_is_not_scolded(server: Server) -> None:
    process = subprocess.Popen(
        [*COMMAND, "tail", "12345"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=surroundings(server)
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    _, complaint = process.communicate(timeout=WAIT)
    assert process.returncode == 0
    assert b"rror" not in complaint


NOBODY = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("arguments", "more", "status", "complaint"),
    [
        (["tail", "1"], {"CODEGEN_URL": ""}, 2, "Which gateway? Set CODEGEN_URL to its address"),
        (["runs"], {"CODEGEN_URL": "gateway.example"}, 2, "CODEGEN_URL is no address"),
        (["runs"], {"CODEGEN_TOKEN": ""}, 2, "Who are you? Set CODEGEN_TOKEN"),
        (["runs"], {"CODEGEN_TOKEN": "sk-\u20ac"}, 2, "CODEGEN_TOKEN is no token"),
        (["tail"], {}, 2, "usage: codegen-api tail"),
        (["create", "x", "--metadata", "[]"], {}, 2, "not a JSON object"),
        (["runs"], {"CODEGEN_TOKEN": "sk-not-known-here"}, 4, "(401 invalid_token) Is CODEGEN_TOKEN the right one?"),
        (["tail", "1"], {"CODEGEN_TOKEN": "sk-not-known-here"}, 4, "(401 invalid_token)"),
        (["tail", "99"], {}, 4, "(404 not_found)"),
        (["create", ""], {}, 4, "(422 validation_error)"),
        (["tail", "1"], {"CODEGEN_URL": NOBODY}, 4, f"Nobody answers at {NOBODY}: "),
        (["create", "x"], {"CODEGEN_URL": NOBODY}, 4, f"Nobody answers at {NOBODY}: "),
        (["runs", "--url", NOBODY], {}, 4, f"Nobody answers at {NOBODY}: "),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    server: Server,
    arguments: list[str],
    more: dict[str, str],
    status: int,
    complaint: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in {"CODEGEN_URL": server.url, "CODEGEN_TOKEN": "sandbox-alice", **more}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as left:
        main(arguments)
    out, err = capsys.readouterr()
    assert (left.value.code, out) == (status, "")
    assert complaint in err
    assert status == 2 or err.count("\n") == 1
    assert "sk-" not in err


def test_what_is_no_gateway_is_not_taken_for_one(swift: Sandbox) -> None:
    for arguments in (["runs"], ["tail", "1"], ["create", "x"]):
        done = ran(f"{swift.url}/_sandbox", *arguments)
        assert done.returncode == 4
        assert done.stderr.startswith(f"What answers at {swift.url}/_sandbox is no gateway")


# -- hostile texts ----------------------------------------------------------------------------------------------------

HOSTILE = (
    "\x1b[31mred\x1b[2J\x1b[10;10H \x1b]0;a title\x07 \x1b]8;;https://evil.example\x1b\\here\x1b]8;;\x1b\\"
    " \x1b]52;c;ZXZpbA==\x07 \x1bP+q544e\x1b\\ \x1bc \x1b[6n \x9b31m \x9d0;x\x9c \u202egnp.exe\u2066 \u200f"
    " \x00\x07\x08\x0b\x0c\x0e\x7f over\rwritten \x1b"
    " &#x202e; &#27;[31m &#13; [here](https://evil.example) <b>html</b> ![pic](https://evil.example/x.png)"
)


def hostile_run(host: Sandbox) -> int:
    texts = [HOSTILE, "> " * 10_000 + "deep", "- " * 10_000, "*_" * 20_000, "[" * 20_000, "word " * 1_000_000]
    deep = json.loads("[" * 90 + "]" * 90)
    entries = [
        *(said("FINAL_ANSWER", observation=text) for text in texts),
        *(said(kind, thought=HOSTILE) for kind in ("PLAN_EVALUATION", "ERROR", "USER_MESSAGE", HOSTILE)),
        said("ACTION", tool_name=HOSTILE, tool_input={"command": HOSTILE, HOSTILE: [HOSTILE]}, tool_output=HOSTILE),
        said("ACTION", tool_name={"a": 1}, tool_input=[None, {}], tool_output={"exit_code": HOSTILE}, thought=7),
        said("ACTION", tool_name="edit", tool_input={"path": HOSTILE, "old": HOSTILE, "new": 1}, tool_calls=5),
        said("ACTION", tool_name="deep", tool_output=deep, tool_calls=[[], "x"], data="x", parts={"a": 1}),
        said("FINAL_ANSWER", observation=f"# Fine\n\n{HOSTILE}\n\n| a |\n|---|\n| `x` |\n\n```sh\n{HOSTILE}"),
    ]  # fmt: skip
    pulls: list[object] = [{"id": 1, "title": HOSTILE, "url": HOSTILE}, {"url": 7}]
    return host.seed(
        entries=entries,
        status="ERROR",
        metadata={"prompt": HOSTILE},
        summary=HOSTILE,
        result=HOSTILE,
        github_pull_requests=pulls,
    )


def assert_harmless(written: str) -> None:
    """Nothing that a terminal obeys but ends of lines and colours, and nothing that turns the direction of text."""
    bare = COLOUR.sub("", written).replace("\r\n", "\n")
    obeyed = re.findall("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", bare)
    assert obeyed == []


@pytest.mark.parametrize("mode", [[], ["--full"], ["--json"]])
def test_hostile_texts_do_nothing_on_a_terminal(swift: Sandbox, server: Server, mode: list[str]) -> None:
    run = hostile_run(swift)
    with on_a_terminal(server, "tail", str(run), *mode) as shown:
        assert shown.over() == 1
    assert_harmless(shown.text)
    if mode == ["--json"]:
        assert shown.text.isascii()
        events = [json.loads(line) for line in shown.text.splitlines() if line.startswith("{")]
        assert HOSTILE in [event["data"].get("observation") for event in events if event["event"] == "log"]
        return
    bare = COLOUR.sub("", shown.text).replace("\r\n", "\n")
    assert positions(bare) == list(range(1, 16))
    assert "over\u240dwritten" in bare
    assert "Fine" in bare
    if mode:
        assert bare.count("word") == 1_000_000
    else:
        assert len(bare) < 200_000
        assert "5,000,000 characters in all: --full shows them" in bare
        assert max(map(len, bare.split("\n"))) <= COLUMNS


def test_hostile_texts_do_nothing_in_a_list_or_a_pipe(swift: Sandbox, server: Server) -> None:
    run = hostile_run(swift)
    with on_a_terminal(server, "runs", "--limit", "3") as shown:
        assert shown.over() == 0
    assert_harmless(shown.text)
    assert "over\u240dwritten" in shown.text or "red" in shown.text
    done = ran(server, "tail", str(run))
    assert done.returncode == 1
    assert_harmless(done.stdout + done.stderr)
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stdout.count("word") == 1_000_000
    refused = ran(server, "tail", HOSTILE.replace("\x00", ""))
    assert refused.returncode == 4
    assert_harmless(refused.stderr)


def test_there_are_colours_on_a_terminal_unless_somebody_wants_none(server: Server) -> None:
    for more, expected in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
        with on_a_terminal(server, "tail", "12345", **more) as shown:
            assert shown.over() == 0
        assert ("\x1b[" in shown.text) is expected


def test_a_stop_while_the_gateway_is_away_is_quiet_too(swift: Sandbox) -> None:
    run = swift.seed(count=1)
    with gateway(swift, **SETTINGS) as server, on_a_terminal(server, "tail", str(run)) as shown:
        shown.until(lambda text: "    1 " in COLOUR.sub("", text))
        server.process.kill()
        shown.until(lambda text: "The connection is lost" in text)
        os.kill(shown.process.pid, signal.SIGINT)
        assert shown.over() == 130
    assert "Traceback" not in shown.text
    assert eventually(lambda: shown.process.poll() is not None)
