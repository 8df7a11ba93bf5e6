"""The libraries that people read server-sent events with, in front of a proxy that resets connections at every kind of
place in a frame, and of a gateway whose streams end by age: nothing is lost, doubled or out of order.

With ``SSE_CLIENTS=every`` (as ``scripts/nightly`` has it) all of them read 5,000 entries; else four read some hundred.
"""

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.end_to_end.breaking import BETWEEN, HALF_A_HEAD, NO_ANSWER, PLACES, Breaking, breaking
from tests.end_to_end.processes import ROOT, WAIT, Sandbox, Server, entry, eventually, gateway, program

IN_JAVASCRIPT = (
    "eventsource",
    "@microsoft/fetch-event-source",
    "event-source-polyfill",
    "reconnecting-eventsource",
    "eventsource-parser",
    "launchdarkly-eventsource",
)
IN_PYTHON = ("httpx-sse", "sseclient-py", "aiohttp-sse-client2", "requests-sse")
USED_MOST = ("eventsource", "@microsoft/fetch-event-source", "httpx-sse", "sseclient-py")

EVERY = os.environ.get("SSE_CLIENTS") == "every"
CLIENTS = (*IN_JAVASCRIPT, *IN_PYTHON) if EVERY else USED_MOST
LOG, APART, PORTIONS = (5000, 60, 20) if EVERY else (300, 12, 2)
"""How many entries there are at last, how many come between two cuts, and in how many portions the last ones come."""

PORTION = 20
HERE = Path(__file__).parent
JAVASCRIPT = ROOT / "tests" / "javascript"

LOSES = {"@microsoft/fetch-event-source": BETWEEN}
"""Who loses an entry where: docs/clients.md says what to do about it."""


@pytest.fixture(scope="module")
def site(host: Sandbox) -> Iterator[Server]:
    settings = {"upstream_requests_per_minute": 6000, "stream_max_age_seconds": 1, "follower_linger_seconds": 60}
    with gateway(host, **settings) as server:
        yield server


class Reading:
    """A client at work, behind a proxy of its own."""

    def __init__(self, client: str, proxy: Breaking, run: int, directory: Path) -> None:
        self.client = client
        self.proxy = proxy
        name = client.replace("/", "-")
        self._printed, self._errors = directory / f"{name}.out", directory / f"{name}.err"
        if client in IN_JAVASCRIPT:
            if not (JAVASCRIPT / "node_modules" / "eventsource").is_dir():
                pytest.skip("the clients in JavaScript are not there: npm ci --prefix tests/javascript")
            command = [program("node"), str(JAVASCRIPT / "sse_clients.mjs")]
        else:
            command = [os.environ.get("SSE_PYTHON", sys.executable), str(HERE / "sse_clients.py")]
        url = f"{proxy.url}/agent-runs/{run}/logs/stream"
        with self._printed.open("wb") as output, self._errors.open("wb") as errors:
            self.process = subprocess.Popen([*command, client, url, "sandbox-alice"], stdout=output, stderr=errors)

    def positions(self) -> list[int]:
        assert self.process.poll() in (None, 0), f"{self.client}: {self._errors.read_text()[-3000:]}"
        return [int(line) for line in self._printed.read_text().split("\n")[:-1]]

    def has_come_back(self, before: int) -> bool:
        """Whether more of its streams have ended than ``before``, and it reads."""
        return bool(self.positions()) and self.proxy.ended > before

    def leave(self) -> None:
        self.process.kill()
        self.process.wait(WAIT)

    def end(self) -> list[int]:
        """What it has read, when it has come to the end."""
        try:
            self.process.wait(2 * WAIT)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self.client} has not ended: {self.positions()[-3:]}, {self.proxy.cuts[-3:]}")
        return self.positions()


@pytest.mark.wire("stream-frames", "position-continues", "stream-age")
def test_what_people_read_streams_with_gets_every_entry_once_and_in_order(
    host: Sandbox, site: Server, tmp_path: Path
) -> None:
    run = host.seed(status="ACTIVE")
    text = entry("Ich prüfe das Tor und schreibe auf, was ich sehe.")
    begun = LOG - PORTIONS * PORTION
    for start in range(0, begun, 500):
        host.patch(run, append=[text] * min(500, begun - start))
    with ExitStack() as stack:
        readings = []
        for client in CLIENTS:
            proxy = stack.enter_context(breaking(site.url, itertools.repeat(APART)))
            readings.append(Reading(client, proxy, run, tmp_path))
            stack.callback(readings[-1].leave)
        for reading in readings:
            eventually(reading.positions, lambda positions: positions[-1:] >= [begun - 1], within=4 * WAIT)
        for _ in range(PORTIONS):
            ended = [reading.proxy.ended for reading in readings]
            for reading, before in zip(readings, ended, strict=True):  # its stream has been too old once more
                eventually(partial(reading.has_come_back, before))
            host.patch(run, append=[text] * PORTION)
        host.patch(run, status="COMPLETE")
        told = {}
        for reading in readings:
            positions, cuts = reading.end(), reading.proxy.cuts
            assert {place for place, _ in cuts} >= {*PLACES, NO_ANSWER, HALF_A_HEAD}, reading.client
            expected = {n for place, n in cuts if place == LOSES.get(reading.client)}
            lost, doubled = set(range(1, LOG + 1)) - set(positions), len(positions) - len(set(positions))
            told[reading.client] = (sorted(lost ^ expected), doubled, positions == sorted(positions))
            print(reading.client, len(cuts), "cuts", reading.proxy.ended, "ends", len(lost), "lost", doubled, "doubled")
    assert told == dict.fromkeys(CLIENTS, ([], 0, True))
