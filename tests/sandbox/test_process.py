"""The sandbox as a program, over real sockets: its life and death, and faults that cut connections."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.leaks import WATCH

ROOT = Path(__file__).parents[2]
WAIT = 60.0
"""Seconds after which anything here has failed."""

ALICE = {"authorization": "Bearer sandbox-alice"}
LOGS = "/v1/alpha/organizations/323/agent/run/12345/logs"


def start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "codegen_api.sandbox", "--port", "0", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )


def line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], WAIT)
    assert ready, "the sandbox said nothing"
    return process.stdout.readline().decode()


@contextmanager
def sandbox(*arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    with start("--announce", "--die-with-stdin", "--limits", "off", *arguments) as process:
        try:
            yield process, json.loads(line(process))["url"]
        finally:
            process.kill()
            process.wait(WAIT)
            assert process.stderr is not None
            if not process.stderr.closed:  # else the test itself has read it
                WATCH.log("log of the sandbox", process.stderr.read().decode())


@pytest.mark.parametrize("path", [LOGS, "/_sandbox", "/_sandbox/runs"])
@pytest.mark.parametrize(
    "name", ["evil.example", "evil.example:8900", "127.0.0.1.evil.example", "localhost.", "10.0.0.1", ""]
)
def test_a_page_that_makes_its_name_lead_here_is_refused(url: str, path: str, name: str) -> None:
    for asked, status in ((name, 400), ("LOCALHOST:1", 200), ("[::1]", 200)):
        method = "POST" if path.endswith("runs") else "GET"
        answer = httpx.request(method, url + path, headers={**ALICE, "host": asked}, json={}, timeout=WAIT)
        assert (answer.status_code == 400) == (status == 400), answer.text


def test_an_open_sandbox_answers_to_any_name() -> None:
    with sandbox("--open") as (_, url):
        assert httpx.get(url + LOGS, headers={**ALICE, "host": "sandbox.example"}, timeout=WAIT).status_code == 200


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with sandbox("--speed", "20") as (_, url):
        yield url


def arm(url: str, kind: str, **more: object) -> None:
    httpx.post(f"{url}/_sandbox/faults", json={"kind": kind, "times": 1, **more}, timeout=WAIT).raise_for_status()


def test_it_announces_its_url_once_it_answers(url: str) -> None:
    assert url.startswith("http://127.0.0.1:")
    assert httpx.get(f"{url}/v1/users/me", headers=ALICE, timeout=WAIT).json()["github_username"] == "alice"


def test_a_reset_comes_without_a_byte(url: str) -> None:
    arm(url, "reset")
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=WAIT) as connection:
        connection.sendall(f"GET {LOGS} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


def test_half_a_body_is_announced_whole(url: str) -> None:
    arm(url, "half_body")
    with httpx.Client(timeout=WAIT) as client, client.stream("GET", f"{url}{LOGS}", headers=ALICE) as answer:
        assert answer.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError, match="closed connection"):
            answer.read()


def test_a_hanging_request_is_left_alone_until_the_client_leaves(url: str) -> None:
    arm(url, "hang")
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(f"{url}{LOGS}", headers=ALICE, timeout=httpx.Timeout(WAIT, read=0.2))
    assert httpx.get(f"{url}{LOGS}", headers=ALICE, timeout=WAIT).status_code == 200


def test_a_hanging_request_is_cut_after_its_time(url: str) -> None:
    arm(url, "hang", seconds=0.1)
    with pytest.raises(httpx.ReadError):
        httpx.get(f"{url}{LOGS}", headers=ALICE, timeout=WAIT)


def test_latency_is_added_to_the_real_answer(url: str) -> None:
    arm(url, "latency", seconds=0.3)
    answer = httpx.get(f"{url}{LOGS}", headers=ALICE, timeout=WAIT)
    assert answer.elapsed.total_seconds() >= 0.3
    assert answer.json()["total_logs"] == 28


def test_a_connection_outlives_a_fault_that_is_only_an_answer(url: str) -> None:
    with httpx.Client(timeout=WAIT, headers=ALICE) as client:
        for kind in ("500", "empty", "odd_json", "status", "429"):
            arm(url, kind, status=204)
            client.post(f"{url}/v1/organizations/323/agent/run", json={"prompt": "x" * 100_000})
        assert client.get(f"{url}{LOGS}").status_code == 200


def test_it_dies_with_its_standard_input() -> None:
    with sandbox() as (process, _):
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(WAIT) == 0


def test_it_leaves_ctrl_c_to_its_parent() -> None:
    with sandbox() as (process, url):
        for _ in range(3):
            process.send_signal(signal.SIGINT)
            assert httpx.get(f"{url}/v1/users/me", headers=ALICE, timeout=WAIT).status_code == 200
        assert process.poll() is None


def test_it_stops_at_once_on_sigterm_though_a_request_hangs() -> None:
    with sandbox() as (process, url):
        arm(url, "hang")
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=WAIT) as connection:
            connection.sendall(f"GET {LOGS} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            process.terminate()
            assert process.wait(10) == -signal.SIGTERM


def test_announcing_is_all_it_says_on_its_output() -> None:
    with sandbox() as (process, url):
        httpx.get(f"{url}/v1/users/me", headers=ALICE, timeout=WAIT)
        process.terminate()
        output, errors = process.communicate(timeout=WAIT)
        assert output == errors == b""


def test_it_greets_a_person_with_its_url_and_tokens() -> None:
    with start() as process:
        greeting = line(process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=WAIT)
    assert (process.returncode, errors) == (0, b"")
    assert "http://127.0.0.1:" in greeting
    assert "sandbox-alice" in greeting
    assert "sandbox-bob" in greeting


def test_it_listens_beyond_loopback_only_when_told_to() -> None:
    with start("--host", "0.0.0.0") as process:
        output, errors = process.communicate(timeout=WAIT)
    assert process.returncode == 2
    assert output == b""
    assert b"--open" in errors
    with sandbox("--host", "0.0.0.0", "--open") as (_, url):
        assert httpx.get(f"{url}/v1/users/me", headers=ALICE, timeout=WAIT).status_code == 200


def test_it_says_so_when_its_port_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with start("--port", str(port)) as process:
            _, errors = process.communicate(timeout=WAIT)
    assert process.returncode == 1
    assert str(port).encode() in errors
    assert b"Traceback" not in errors


@pytest.mark.parametrize("arguments", [["--speed", "0"], ["--speed", "x"], ["--limits", "none"], ["--port", "p"]])
def test_arguments_that_make_no_sense_are_refused(arguments: list[str]) -> None:
    with start(*arguments) as process:
        _, errors = process.communicate(timeout=WAIT)
    assert process.returncode == 2
    assert arguments[0].encode() in errors


def test_the_sandbox_imports_nothing_of_the_gateway() -> None:
    code = "import sys, codegen_api; b = set(sys.modules); import codegen_api.sandbox.__main__; "
    code += "print([m for m in set(sys.modules) - b if m.startswith('codegen_api') and '.sandbox' not in m])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=WAIT, check=True, env=os.environ
    )
    assert done.stdout.strip() == b"[]"
