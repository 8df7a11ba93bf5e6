"""Stream tickets in processes of their own: their keys, and that no log holds one."""

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.end_to_end.processes import WAIT, Sandbox, Server, gateway, plain_uvicorn

KEY = "a key for tests of many characters"


def minted(server: Server, run: int | str) -> str:
    """The URL of a new ticket, a path."""
    answer = server.request("POST", f"/agent-runs/{run}/logs/stream-ticket")
    assert answer.status_code == 201, answer.text
    return str(answer.json()["url"])


@pytest.mark.wire("logs-hold-no-secrets", "ticket-stream")
@pytest.mark.parametrize("level", ["info", "debug"])
def test_no_line_of_plain_uvicorn_holds_a_ticket(host: Sandbox, level: str) -> None:
    with plain_uvicorn(host, "--log-level", level, secret_key=KEY, log_level=level) as server:
        url = minted(server, 12345)
        assert "event: end\n" in server.get(url, headers={}).text
        assert server.get(url + "x", headers={}).status_code == 401
        assert server.get(url.replace("stream?", "streams?"), headers={}).status_code == 404
        with pytest.raises(InvalidStatus), connect(server.url.replace("http", "ws") + url, proxy=None):
            pass
        server.process.terminate()
        server.process.wait(WAIT)
        printed = server.log.read_text()
    stream = '"GET /agent-runs/12345/logs/stream HTTP/1.1" '
    assert f"{stream}200" in printed  # uvicorn's own line,
    assert f"{stream}401" in printed
    assert "GET /agent-runs/12345/logs/stream 200" in printed  # and ours
    assert '"WebSocket /agent-runs/12345/logs/stream"' in printed
    assert "ticket=" not in printed
    assert url.partition("ticket=")[2][:20] not in printed


@pytest.mark.wire("ticket-not-configured", "ticket-any-instance", "logs-hold-no-secrets")
def test_the_front_door_makes_one_key_for_all_its_workers(host: Sandbox) -> None:
    with gateway(host, "--workers", "2") as server:
        url = minted(server, 12345)
        for _ in range(12):  # each on a connection of its own, so that both workers are met
            assert server.get(url + "&last_event_id=28.end", headers={}).status_code == 204
        log = server.log.read_text()
    assert "ticket=" not in log
    with gateway(host) as another:
        assert another.get(url, headers={}).json()["code"] == "invalid_ticket"


@pytest.mark.wire("ticket-any-instance")
def test_a_ticket_outlives_a_restart_where_the_key_is_set(host: Sandbox) -> None:
    with gateway(host, secret_key=KEY) as server:
        url = minted(server, 12345)
    with gateway(host, secret_key=f"{KEY[::-1]},{KEY}") as server:
        assert server.get(url + "&last_event_id=28.end", headers={}).status_code == 204
