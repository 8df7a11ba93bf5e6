"""Clients of the front door that differ from browsers and scripts: Java's, one of HTTP/1.0, and nobody for its log."""

import fcntl
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.commands import completed
from tests.end_to_end import processes
from tests.end_to_end.processes import ALICE, ROOT, WAIT, Sandbox, Server, environment, held_port

JAVA = shutil.which("java")
OFFER = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAEAAEAAAAIAAAABAAMAAABk"}
CALLS = """\
import java.net.URI;
import java.net.http.*;

public class Calls {
    public static void main(String[] urls) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (String url : urls) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(url))
                .header("Authorization", "Bearer sandbox-alice").header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString("{\\"prompt\\":\\"Say hello\\"}")).build();
            System.out.println(client.send(request, HttpResponse.BodyHandlers.ofString()).statusCode());
        }
    }
}
"""


@pytest.mark.wire("upgrade-passed-over")
def test_a_body_that_comes_with_an_offer_to_upgrade_arrives(server: Server) -> None:
    answer = server.request("POST", "/agent-runs", json={"prompt": "Say hello"}, headers={**ALICE, **OFFER})
    assert answer.status_code == 201
    assert server.get("/users/me", headers={**ALICE, **OFFER}).status_code == 200


if JAVA is not None:  # CI's machine has none, and there nothing is left out

    @pytest.mark.wire("upgrade-passed-over")
    def test_java_s_own_client_can_post(server: Server, tmp_path: Path) -> None:
        source = tmp_path / "Calls.java"
        source.write_text(CALLS)
        urls = [f"{server.url}/agent-runs"] * 2
        done = completed([JAVA or "", source, *urls], timeout=WAIT, check=True, env=environment())
        assert done.stdout.split() == ["201", "201"]


@pytest.mark.wire("http10-unchunked")
def test_a_live_log_over_http_1_0_ends_with_its_connection(server: Server) -> None:
    url = httpx.URL(server.url)
    with socket.create_connection((url.host, url.port or 0), WAIT) as connection, connection.makefile("rb") as answer:
        asked = (
            "GET /agent-runs/12345/logs/stream HTTP/1.0\r\nAuthorization: {Authorization}\r\nLast-Event-ID: 27\r\n\r\n"
        )
        connection.sendall(asked.format(**ALICE).encode())
        head, _, body = answer.read().partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    assert body.startswith(b"retry: 2000\nevent: status\n")
    assert b"\nevent: end\n" in body


def test_a_log_that_nobody_reads_stops_neither_the_work_nor_the_end(host: Sandbox) -> None:
    unread, log = os.pipe()
    fcntl.fcntl(log, fcntl.F_SETPIPE_SZ, 4096)
    with held_port() as port:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "run_server.py"), "--port", str(port)],
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment(base_url=host.url, org_id=323),
        )
        try:
            url = processes.line(process).split()[-1]
            with processes.new_client() as client:
                for _ in range(100):  # each of which is told in some 100 bytes
                    assert client.get(f"{url}/livez").status_code == 200
                assert client.get(f"{url}/agent-runs/12345", headers=ALICE).status_code == 200
            process.terminate()
            assert process.wait(WAIT) == 0
        finally:
            process.kill()
            process.wait(WAIT)
            assert process.stdout is not None
            process.stdout.close()
            os.close(log)
            os.close(unread)
