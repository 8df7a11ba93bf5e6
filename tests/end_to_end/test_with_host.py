"""``--with``: one command that starts a host, makes keys, and says how to begin. With hosts that only say that they are
well, and with real ones.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests import agent_server
from tests.commands import completed
from tests.end_to_end.processes import (
    ROOT,
    SERVER,
    WAIT,
    Server,
    descendants,
    ended,
    environment,
    eventually,
    held_port,
    kill,
    launched,
    line,
    running,
)
from tests.leaks import KEY, WATCH
from tests.upstreams.hosts.langgraph import LangGraph
from tests.upstreams.hosts.opencode import OpenCode
from tests.upstreams.hosts.running import RealHost


@contextmanager
def gateway_with(name: str, folder: Path, *arguments: str, **settings: object) -> Iterator[tuple[Server, list[str]]]:
    """The gateway with a host that it started in ``folder``, and the lines that it printed."""
    with held_port() as port:
        command = [sys.executable, str(ROOT / "run_server.py"), "--port", str(port), "--with", name, *arguments]
        with launched([*command, "--dir", str(folder)], settings) as server:
            printed: list[str] = []
            while not printed or "Last-Event-ID" not in printed[-1]:
                printed.append(line(server.process).rstrip("\n"))
            yield replace(server, url=f"http://127.0.0.1:{port}"), printed


def stop(server: Server) -> None:
    os.kill(server.pid, signal.SIGINT)
    assert server.process.wait(WAIT) == 0


def pids(folder: Path) -> list[int]:
    return [int(str(each["pid"])) for each in agent_server.starts(folder)]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("opencode", "langgraph"):
        agent_server.install(name, tmp_path / "bin")
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path / "bin"), os.environ["PATH"]]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "a folder"
    made.mkdir()
    (made / "langgraph.json").write_text('{"graphs": {"helper": "./graph.py:graph"}}')
    return made


@pytest.mark.usefixtures("programs")
def test_a_key_is_made_at_the_first_start_and_good_at_the_next(folder: Path) -> None:
    with gateway_with("opencode", folder) as (server, printed):
        (key,) = {found for text in printed for found in KEY.findall(text)}
        headers = {"Authorization": f"Bearer {key}"}
        assert server.get("/users/me", headers).status_code == 200
        assert server.get("/users/me", {"Authorization": "Bearer cgk_of-nobody"}).status_code == 401
        stop(server)
    with gateway_with("opencode", folder, "--workers", "2") as (server, printed):
        assert not any(KEY.search(text) for text in printed)
        assert any('"Authorization: Bearer $KEY"' in text for text in printed)
        assert server.get("/users/me", headers).status_code == 200
        host, workers = pids(folder)[-1], descendants(server.pid)
        os.kill(server.pid, signal.SIGKILL)
        eventually(lambda: running(host), lambda alive: not alive)
        for worker in workers:  # which uvicorn does not end then
            kill(worker)
    assert not [pid for pid in pids(folder) if running(pid)]
    kept = folder / ".codegen-api"
    assert {path.name for path in kept.iterdir()} == {".gitignore", "api_keys", "opencode.log", "secret_key"}
    assert {path.stat().st_mode & 0o077 for path in kept.iterdir() if path.name != ".gitignore"} == {0}
    assert key not in (kept / "api_keys").read_text()


@pytest.mark.usefixtures("programs")
def test_a_host_is_started_as_it_should_be_and_learns_no_secret_but_its_own(folder: Path) -> None:
    with gateway_with("opencode", folder, api_token="own-password", secret_key="k" * 32) as (server, _):
        stop(server)
    (started,) = agent_server.starts(folder)
    arguments, variables = started["arguments"], started["environment"]
    assert isinstance(arguments, list)
    assert isinstance(variables, dict)
    assert arguments[:-1] == ["serve", "--hostname", "127.0.0.1", "--port"]
    assert started["folder"] == str(folder)
    assert variables["OPENCODE_SERVER_PASSWORD"] == "own-password"
    assert variables["OPENCODE_DISABLE_AUTOUPDATE"] == "1"
    assert not [name for name in variables if name.startswith("CODEGEN_")]


@pytest.mark.usefixtures("programs")
def test_langgraph_is_started_without_a_password(folder: Path) -> None:
    with gateway_with("langgraph", folder) as (server, _):
        stop(server)
    (started,) = agent_server.starts(folder)
    arguments, variables = started["arguments"], started["environment"]
    assert isinstance(arguments, list)
    assert isinstance(variables, dict)
    expected = ["dev", "--no-browser", "--no-reload", "--host", "127.0.0.1", "--n-jobs-per-worker", "10", "--port"]
    assert arguments[:-1] == expected
    assert "OPENCODE_SERVER_PASSWORD" not in variables


@pytest.mark.parametrize(
    ("arguments", "settings", "path", "said"),
    [
        (["--with", "opencode"], {}, "", "opencode is not on PATH. Install it: npm install -g opencode-ai@1.18.33"),
        (["--with", "langgraph"], {}, "", 'langgraph is not on PATH. Install it: pip install "langgraph-cli[inmem]"'),
        (["--with", "langgraph"], {}, "bin", "has no langgraph.json, which langgraph needs"),
        (["--with", "opencode", "--dir", "nowhere"], {}, "bin", "nowhere is not a folder"),
        (["--with", "opencode"], {"base_url": "http://x"}, "bin", "CODEGEN_BASE_URL: it is set"),
        (["--with", "opencode"], {"upstream": "opencode"}, "bin", "CODEGEN_UPSTREAM: it is set"),
        (["--with", "opencode", "--sandbox"], {}, "bin", "not allowed with argument --with"),
        (["--dir", "."], {}, "bin", "it needs --with"),
        (["--with", "opencode"], {"data_dir": "/proc/none"}, "bin", "CODEGEN_DATA_DIR: /proc/none"),
        (["--with", "opencode"], {}, "dies", "opencode did not start."),
    ],
)
@pytest.mark.usefixtures("programs")
def test_what_cannot_be_started_is_refused_in_a_line_that_says_why(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    settings: dict[str, str],
    path: str,
    said: str,
) -> None:
    (tmp_path / "empty").mkdir()
    if not path:
        monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setenv("FAKE_HOST", path)
    done = ended([*SERVER, *arguments], tmp_path / "empty", settings)
    assert done.returncode == 2, done.stderr
    assert not done.stdout
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "empty" / ".codegen-api" / "api_keys").exists()


@pytest.mark.parametrize("kind", [OpenCode, LangGraph])
def test_a_real_host_does_what_is_printed_and_is_ended_with_the_gateway(
    kind: type[RealHost], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (reason := kind.missing()) is not None:
        pytest.skip(reason)
    host = kind(tmp_path)
    with host.held:
        host.home.mkdir()
        host.prepare()
        for name, value in {"HOME": str(host.home), **host.environment()}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("OPENCODE_SERVER_PASSWORD", raising=False)
        monkeypatch.setenv("PATH", os.pathsep.join([str(Path(str(host.found())).parent), os.environ["PATH"]]))
        folder = host.project if isinstance(host, OpenCode) else host.directory
        with gateway_with(host.name, folder) as (server, printed):
            first, second, third = (text.strip() for text in printed if "curl" in text)
            script = "\n".join([first, second, third])
            done = completed(["/bin/bash", "-c", script], timeout=WAIT, check=True, env=environment())
            stop(server)
        WATCH.secret("a prompt", "Write a haiku about logs")
        assert '"event":"end"' in done.stdout
        assert "event: end" in done.stdout
        command = f"{host.found()}\0"
        listed = [path for path in Path("/proc").glob("[0-9]*/cmdline") if command in read(path)]
        assert not [path for path in listed if str(tmp_path) in read(path.with_name("environ"))]


def read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # gone meanwhile
        return ""
