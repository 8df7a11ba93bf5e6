"""Redis servers of our own: started by the tests on free ports, killed, stopped, restarted and emptied at will."""

import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import redis

from codegen_api import redis_link
from tests.commands import completed
from tests.end_to_end.processes import program
from tests.leaks import WATCH

STARTING = 20.0
SLOTS = 16_384


def binary() -> str:
    """Where the server is. Without it tests are skipped, but fail where everything has to be there."""
    return shutil.which("redis-server") or shutil.which("valkey-server") or program("redis-server")


@cache
def version() -> int:
    """The major version of the server."""
    said = completed([binary(), "--version"], check=True, timeout=STARTING).stdout
    found = re.search(r"v=([0-9]+)", said)
    assert found is not None
    return int(found[1])


@dataclass
class RedisServer:
    """A server on ``port``, with ``options`` as on its command line. What it stores is gone when its process is.

    ``admin`` are arguments for a client that may do everything, if not everybody may.
    """

    directory: Path
    port: int
    options: Sequence[str] = ()
    clustered: bool = False
    admin: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def url_of(self, user: str, password: str) -> str:
        WATCH.secret("a password of Redis", password)
        return f"redis://{user}:{password}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        assert self.process is None
        mode = ["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"] if self.clustered else []
        # from version 7 on DEBUG is for those who ask for it
        debug = ["--enable-debug-command", "yes"] if version() >= 7 else []
        command = [
            binary(),
            *debug,
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--dir", str(self.directory), *mode, *self.options], stdout=log, stderr=log
            )
        self._wait_for(lambda: self.ask("PING"))
        if self.clustered:
            if b"cluster_slots_assigned:16384" not in self.ask("CLUSTER", "INFO"):
                self.ask("CLUSTER", "ADDSLOTS", *range(SLOTS))
            self._wait_for(lambda: b"cluster_state:ok" in self.ask("CLUSTER", "INFO"))

    def ask(self, *command: Any) -> Any:
        """What it answers to whoever may do everything."""
        with redis.Redis(port=self.port, socket_timeout=STARTING, **self.admin) as client:
            client.response_callbacks.clear()  # as it came
            return client.execute_command(*command)

    def empty(self) -> None:
        """Delete all that is stored."""
        self.ask("FLUSHALL")

    def kill(self) -> None:
        """End its process at once, as ``kill -9`` does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(STARTING)
        self.process = None

    def restart(self) -> None:
        self.kill()
        self.start()

    def stop(self) -> None:
        """Let it answer nothing until it is to go on: its connections stay open."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        if self.process is not None:
            self.kill()
        WATCH.log("log of Redis", (self.directory / "log").read_text())

    def _wait_for(self, answered: Any) -> None:
        deadline = time.monotonic() + STARTING
        while True:
            assert self.process is not None
            assert self.process.poll() is None, (self.directory / "log").read_text()
            assert time.monotonic() < deadline
            try:
                if answered():
                    return
            except (redis.ConnectionError, redis.TimeoutError):
                pass
            time.sleep(0.02)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the ``conftest.py`` of tests that are not about how soon it is noticed that Redis does not answer: with other
    tests beside it, it may take a second.
    """
    monkeypatch.setattr(redis_link, "CALL_SECONDS", 10.0)
    monkeypatch.setattr(redis_link, "CONNECT_SECONDS", 20.0)


@contextmanager
def redis_server(*options: str, clustered: bool = False, **admin: Any) -> Iterator[RedisServer]:
    """A server with these options. ``clustered``: it is a cluster of one, to which all slots belong."""
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:
        server = RedisServer(Path(directory), free_port(), options, clustered, admin)
        server.start()
        try:
            yield server
        finally:
            server.close()


def free_port() -> int:
    """A port that is free, with one 10,000 above it: there a server of a cluster talks to the others."""
    while True:
        with socket.socket() as listening, socket.socket() as bus:
            listening.bind(("127.0.0.1", 0))
            port: int = listening.getsockname()[1]
            try:
                bus.bind(("127.0.0.1", port + 10_000))
            except (OSError, OverflowError):
                continue
            return port
