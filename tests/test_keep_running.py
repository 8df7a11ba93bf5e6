"""A program between a gateway and the host that was started for it: it starts, restarts and ends that host."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from codegen_api.program import keep_running
from tests import agent_server
from tests.end_to_end.processes import WAIT, eventually, held_port, kill, line, running

Keeper = subprocess.Popen[bytes]


@contextmanager
def keeping(folder: Path, how: str = "", within: float = WAIT, program: str = "fake") -> Iterator[tuple[Keeper, str]]:
    """One that keeps a fake host running, and the host's URL."""
    agent_server.install("fake", folder)
    with held_port() as port:
        url = f"http://127.0.0.1:{port}"
        options = ["--name", "fake", "--url", url, "--ready", "/ok", "--listed", "/models", "--within", str(within)]
        keeper = [sys.executable, "-I", keep_running.__file__, *options, "--log", str(folder / "log"), "--"]
        with subprocess.Popen(
            [*keeper, str(folder / program), "--port", str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=folder,
            env={**os.environ, "FAKE_HOST": how, "OPENCODE_SERVER_PASSWORD": "a password of tests"},
        ) as process:
            try:
                yield process, url
            finally:
                process.kill()
                for started in agent_server.starts(folder):
                    kill(int(str(started["pid"])))
                    kill(int(str(started.get("child", started["pid"]))))


def test_a_host_is_announced_when_it_answers_though_its_first_request_hangs(tmp_path: Path) -> None:
    with keeping(tmp_path) as (keeper, url):
        assert json.loads(line(keeper)) == {"url": url}
    assert (tmp_path / "log").read_text() == "the fake host begins\n"
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("how", "program", "said"),
    [
        ("dies", "fake", "fake ended with status 1. Its last lines:\nthe fake host begins\nthere is no such model\n"),
        ("hangs", "fake", "fake did not answer /ok within 1 s. Its last lines:\nthe fake host begins\n"),
        ("drips", "fake", "fake did not answer /ok within 4 s. Its last lines:\nthe fake host begins\n"),
        ("", "none", "fake ended with status 127. Its last lines:\n"),
    ],
)
def test_a_host_that_does_not_start_is_told_with_its_last_words(
    tmp_path: Path, how: str, program: str, said: str
) -> None:
    with keeping(tmp_path, how, {"hangs": 1, "drips": 4}.get(how, WAIT), program) as (keeper, _):
        assert keeper.wait(WAIT) == 1
        assert keeper.stdout is not None
        assert keeper.stderr is not None
        assert keeper.stdout.read() == b""
        assert keeper.stderr.read().decode().startswith(said)
    assert not [each for each in agent_server.starts(tmp_path) if running(int(str(each["pid"])))]


def test_a_host_that_dies_is_started_again_with_the_same_port_and_password(tmp_path: Path) -> None:
    with keeping(tmp_path) as (keeper, url):
        line(keeper)
        with suppress(httpx.TransportError):
            httpx.get(f"{url}/die", timeout=WAIT, trust_env=False)
        first, second = eventually(lambda: agent_server.starts(tmp_path), lambda starts: len(starts) == 2)
        assert {**first, "pid": 0} == {**second, "pid": 0}
        assert keeper.stderr is not None
        said = keeper.stderr.readline().decode()
    assert said == f"fake was ended by SIGKILL. It is started again in 1 s; its output: {tmp_path / 'log'}\n"


@pytest.mark.parametrize("end", ["input", "terminate"])
def test_nothing_of_a_host_is_left_however_stubborn_it_is(tmp_path: Path, end: str) -> None:
    with keeping(tmp_path, "is stubborn") as (keeper, _):
        line(keeper)
        for number in (signal.SIGINT, signal.SIGHUP):  # which a terminal sends to everybody
            os.kill(keeper.pid, number)
        (started,) = agent_server.starts(tmp_path)
        assert running(int(str(started["child"])))
        if end == "terminate":
            keeper.terminate()
        else:
            assert keeper.stdin is not None
            keeper.stdin.close()
        assert keeper.wait(WAIT) == 0
        assert not running(int(str(started["pid"])))
        eventually(lambda: running(int(str(started["child"]))), lambda alive: not alive)


def test_a_start_that_nobody_waits_for_any_more_is_broken_off(tmp_path: Path) -> None:
    with keeping(tmp_path, "hangs") as (keeper, _):
        (started,) = eventually(lambda: agent_server.starts(tmp_path))
        assert keeper.stdin is not None
        keeper.stdin.close()
        assert keeper.wait(WAIT) == 0
        assert not running(int(str(started["pid"])))
