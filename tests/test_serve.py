"""How the front door serves: what uvicorn is told, and when it says where it is. As a process it is in
tests/end_to_end.
"""

import asyncio
import hashlib
import http.server
import os
import re
import sys
import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn

from codegen_api import front_door
from codegen_api.auth.keys import parse_list
from codegen_api.program import local_hosts, serve
from codegen_api.program.serve import START_SECONDS, _announce, _uvicorn_options
from tests.dialects.site import settings

FORGED = [(b"x-forwarded-for", b"192.0.2.9"), (b"x-forwarded-proto", b"https"), (b"x-forwarded-host", b"evil.example")]


def seen(client: str, **more: Any) -> dict[str, Any]:
    """What an application sees of a request from ``client`` with forged headers, served as the front door serves it."""
    scopes = []

    async def look(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)

    config = uvicorn.Config(look, **{**_uvicorn_options(settings(**more)), "log_config": None})
    config.load()
    scope = {"type": "http", "scheme": "http", "client": (client, 4711), "headers": FORGED}
    asyncio.run(config.loaded_app(scope, None, None))
    (scope,) = scopes
    return scope


@pytest.mark.parametrize(
    ("proxies", "client"),
    [("", "127.0.0.1"), ("", "10.0.0.1"), ("10.0.0.1", "127.0.0.1"), ("10.0.0.0/24,::1", "10.0.1.1")],
)
def test_what_a_stranger_says_was_forwarded_changes_nothing(
    proxies: str, client: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")  # which uvicorn reads by itself
    scope = seen(client, trusted_proxies=proxies)
    assert (scope["client"], scope["scheme"]) == ((client, 4711), "http")


@pytest.mark.parametrize(("proxies", "client"), [("10.0.0.1", "10.0.0.1"), ("::1,10.0.0.0/24", "10.0.0.77")])
def test_what_a_trusted_proxy_says_was_forwarded_is_believed(proxies: str, client: str) -> None:
    scope = seen(client, trusted_proxies=proxies)
    assert (scope["client"], scope["scheme"]) == (("192.0.2.9", 0), "https")


# -- slow starts ------------------------------------------------------------------------------------------------------


def test_a_worker_that_starts_slowly_is_not_taken_for_dead() -> None:
    config = uvicorn.Config("codegen_api:create_app", **{**_uvicorn_options(settings(workers=4)), "log_config": None})
    assert config.timeout_worker_healthcheck == START_SECONDS
    assert START_SECONDS >= 20


def test_where_it_serves_is_said_however_long_the_start_took(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = http.server.HTTPServer(("127.0.0.1", 0), Livez, bind_and_activate=False)
    serving = threading.Thread(target=server.serve_forever, args=(0.01,))
    waits = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if sum(waits) > 40 and not serving.is_alive():
            server.server_activate()
            serving.start()

    with server:
        server.server_bind()
        monkeypatch.setattr("codegen_api.program.serve.time.sleep", sleep)
        _announce(f"http://127.0.0.1:{server.server_port}", [])
        server.shutdown()
        serving.join()
    assert capsys.readouterr().out == f"codegen_api is at http://127.0.0.1:{server.server_port}\n"


def test_the_first_lines_are_written_at_once_so_that_no_log_line_comes_between(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    unbuffered = SimpleNamespace(write=written.append, flush=lambda: None, isatty=lambda: False)
    with http.server.HTTPServer(("127.0.0.1", 0), Livez) as server:
        serving = threading.Thread(target=server.handle_request)
        serving.start()
        monkeypatch.setattr("codegen_api.program.serve.sys.stdout", unbuffered)
        _announce(f"http://127.0.0.1:{server.server_port}", ["  docs     here", "\nTry it:\n"])
        serving.join()
    assert written == [f"codegen_api is at http://127.0.0.1:{server.server_port}\n  docs     here\n\nTry it:\n\n"]


# -- commands ---------------------------------------------------------------------------------------------------------


def test_every_command_is_in_the_help_and_another_word_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    helped = serve._parser().format_help()
    listed = re.findall(r"^  ([a-z, ]+?)  ", helped.partition("commands, ")[2], re.MULTILINE)
    assert sorted(", ".join(listed).split(", ")) == sorted(front_door.COMMANDS)
    for name in front_door.COMMANDS:
        with pytest.raises(SystemExit) as ended:
            front_door.main([name, "--help"])
        assert ended.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: codegen-api {name} ")
    with pytest.raises(SystemExit) as ended:
        front_door.main(["tial", "3"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("tial is none of the commands: tail, create, ")


def test_ctrl_c_ends_a_start_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(argv: Sequence[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("codegen_api.program.serve.main", interrupted)
    with pytest.raises(SystemExit) as ended:
        front_door.main([])
    assert ended.value.code == 130


def test_ctrl_c_does_not_reach_the_host_that_is_started_with_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    code = 'import os, sys; print(\'{"url": "http://group-%s"}\' % os.getpgrp(), flush=True); sys.stdin.read()'
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with local_hosts._child("A host", [sys.executable, "-c", code], os.environ):
        group = os.environ["CODEGEN_BASE_URL"].removeprefix("http://group-")
    assert group != str(os.getpgrp())


def test_a_key_is_made_on_the_command_line_or_refused_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        front_door.main(["keys", "new", "me", "--scopes", "runs:read", "runs:write"])
    assert ended.value.code == 0
    key, line = (each.partition(": ")[2] for each in capsys.readouterr().out.splitlines())
    (entry,) = parse_list(line)
    assert (entry.name, set(entry.scopes)) == ("me", {"runs:read", "runs:write"})
    assert entry.digest == hashlib.sha256(key.encode()).hexdigest()
    with pytest.raises(SystemExit) as ended:
        front_door.main(["keys", "new", "a b", "--scopes", "runs:read"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("a name is 1 to 64 letters, ")


class Livez(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/livez" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...
