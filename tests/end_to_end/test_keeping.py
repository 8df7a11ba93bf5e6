"""The front door where a dialect keeps conversations: where, for how long, and who comes in without credentials."""

import signal
from pathlib import Path

from codegen_api.program.serve import LET_IN
from tests.end_to_end.processes import ALICE, SERVER, STARTING, Sandbox, Server, gateway, launched, line
from tests.leaks import WATCH

NOBODY: dict[str, str] = {}


def begin(server: Server, thread: str, headers: dict[str, str] = ALICE) -> int:
    return server.request("POST", "/threads", json={"thread_id": thread}, headers=headers).status_code


def stop(server: Server) -> None:
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(STARTING) == 0


def announced(server: Server, wanted: str) -> None:
    """It is among the first lines that are printed."""
    printed = [line(server.process).strip()]
    while printed[-1] != wanted:
        assert len(printed) < 8, printed
        printed.append(line(server.process).strip())


def databases(server: Server) -> list[Path]:
    return list(server.log.parent.glob("codegen-api-*/conversations.sqlite"))


def test_in_the_sandbox_anybody_may_try_it_and_nothing_stays() -> None:
    with gateway(None, "--sandbox", "--workers", "2") as server:
        announced(server, LET_IN.format(who="sandbox-alice"))
        assert begin(server, "t", NOBODY) == 200
        seen = {server.get("/threads/t", headers=NOBODY).json()["thread_id"] for _ in range(20)}  # by both workers
        assert seen == {"t"}
        assert server.get("/threads/t", headers={"x-api-key": "sandbox-alice"}).status_code == 200
        assert server.get("/threads/t", headers={"x-api-key": "sandbox-bob"}).status_code == 404
        assert server.get("/users/me", headers=NOBODY).status_code == 401
        (database,) = databases(server)
        assert "requests without credentials are accepted" in server.log.read_text()
        stop(server)
        assert not database.parent.exists()


def test_the_sandbox_keeps_conversations_where_it_is_told_to(tmp_path: Path) -> None:
    with gateway(None, "--sandbox", data_dir=tmp_path / "kept") as server:
        assert begin(server, "t") == 200
        assert databases(server) == []
        stop(server)
    assert (tmp_path / "kept" / "conversations.sqlite").exists()


def test_conversations_are_there_again_after_a_restart(host: Sandbox, tmp_path: Path) -> None:
    for again in (False, True):
        with gateway(host, dialects="agent_protocol", data_dir=tmp_path) as server:
            assert begin(server, "t") == (409 if again else 200)
            assert server.get("/threads/t", headers=NOBODY).status_code == 401  # nobody was asked to let them in
            stop(server)


def test_a_demo_token_that_is_a_secret_is_announced_and_not_named(host: Sandbox, tmp_path: Path) -> None:
    token = "sandbox-bob"
    with gateway(host, dialects="agent_protocol", data_dir=tmp_path, demo_token=token) as server:
        announced(server, LET_IN.format(who="the user of CODEGEN_DEMO_TOKEN"))
        assert begin(server, "t", NOBODY) == 200
        stop(server)
        assert token not in server.log.read_text()


def test_who_keeps_nothing_needs_no_directory_and_lets_nobody_in(host: Sandbox) -> None:
    with gateway(host, demo_token="sandbox-bob") as server:
        assert server.get("/threads/t", headers=NOBODY).status_code == 404
        assert server.get("/users/me", headers=NOBODY).status_code == 401
        assert "without credentials" not in server.log.read_text()
        assert not list(server.log.parent.rglob("*.sqlite"))


def test_a_database_that_cannot_be_had_ends_the_start_and_its_password_is_told_to_nobody() -> None:
    password = "hunter2-0123456789"
    WATCH.secret("a password", password)
    url = f"postgresql://gateway:{password}@127.0.0.1:1/none"
    with launched(SERVER, {"dialects": "agent_protocol", "database_url": url}) as server:
        assert server.process.wait(STARTING) != 0
        said = server.log.read_text()
        assert "What the gateway has to remember cannot be read or written just now." in said
        assert password not in said
