"""A gateway that is killed (SIGKILL) while messages wait for the turns before them, and started again with the same
database: each is said to the host once, in order, or its run says that nobody knows. For users of the deployment's own
that goes on by itself; for others when they ask for anything in their thread.

``ROUNDS`` (2) in the environment says how often, and ``SEED`` repeats the moments of a run that failed.
"""

import asyncio
import os
import random
import time
from pathlib import Path
from typing import Any

import httpx

from codegen_api.auth.keys import new_key
from tests.end_to_end.processes import ALICE, WAIT, Sandbox, Server, eventually, gateway, kill, sandbox
from tests.end_to_end.sdk import QUICK, run, says
from tests.end_to_end.test_turn_kills import SETTINGS, SETTLED, everything
from tests.leaks import WATCH

ROUNDS = int(os.environ.get("ROUNDS", "2"))
SEED = int(os.environ.get("SEED", time.time_ns() % 10**6))
QUEUES, EACH = 4, 4
LONGEST = 3.0
"""Seconds, at most, until a gateway is killed. In that time a queue is about half done."""


def texts(thread: str) -> list[str]:
    return [f"Carry stone {number} of {thread}" for number in range(EACH)]


def client_of(server: Server, headers: dict[str, str]) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, headers=headers, timeout=2 * WAIT, trust_env=False)


async def ask(client: httpx.AsyncClient, thread: str) -> None:
    for text in texts(thread):
        body = {"assistant_id": "agent", "input": says(text), "metadata": QUICK}
        answer = await client.post(f"/threads/{thread}/runs", json=body)
        assert answer.status_code == 200, answer.text


async def look(client: httpx.AsyncClient, thread: str, since: float) -> list[Any]:
    """The runs of a thread, the oldest first, when none of them waits or is under way any more."""
    while True:
        answer = await client.get(f"/threads/{thread}/runs?limit=100")
        assert answer.status_code == 200, answer.text
        runs: list[Any] = answer.json()[::-1]
        if not any(each["status"] in ("pending", "running") for each in runs):
            return runs
        assert time.monotonic() < since + SETTLED + EACH * WAIT, f"{thread} is under way for ever"
        await asyncio.sleep(0.5)


def test_what_waits_is_said_once_and_in_order_however_often_the_gateway_is_killed(tmp_path: Path) -> None:
    print(f"SEED={SEED}")
    chance = random.Random(SEED)
    key, line = new_key("robot", ["runs:read", "runs:write"])
    WATCH.secret("a token", key)
    robot = {"Authorization": f"Bearer {key}"}
    mine = [[f"mine-{number}-{each}" for each in range(QUEUES)] for number in range(ROUNDS)]
    robots = [[f"robot-{number}-{each}" for each in range(QUEUES)] for number in range(ROUNDS)]

    async def one_round(server: Server, number: int) -> None:
        async with client_of(server, ALICE) as alice, client_of(server, robot) as machine:
            queues = [*(ask(alice, each) for each in mine[number]), *(ask(machine, each) for each in robots[number])]
            await asyncio.gather(*queues)
            await asyncio.sleep(chance.uniform(0, LONGEST))
        kill(server.pid)

    async def check(server: Server, host: Sandbox, killed: float) -> None:
        async with client_of(server, ALICE) as alice, client_of(server, robot) as machine:
            threads = [(alice, each) for round_ in mine for each in round_]
            threads += [(machine, each) for round_ in robots for each in round_]
            found = await asyncio.gather(*(look(client, thread, killed) for client, thread in threads))
        heard = await asyncio.to_thread(everything, host)
        lost = 0
        for (_, thread), runs in zip(threads, found, strict=True):
            assert [each["input"]["messages"][0]["content"] for each in runs] == texts(thread)
            said = [text for text in heard if text.endswith(f" of {thread}")]
            assert said == [text for text in texts(thread) if text in said], f"{thread}: twice, or out of order"
            for each, text in zip(runs, texts(thread), strict=True):
                assert each["status"] == ("success" if text in said else "error"), (thread, each)
                assert text in said or each["error_message"] == "outcome_unknown"
            lost += EACH - len(said)
        assert lost <= ROUNDS, "a moment is very short in which nobody can know"

    def by_itself(host: Sandbox) -> None:
        """What waits for users of the deployment is begun, though nobody asks."""
        all_ = {text for round_ in robots for thread in round_ for text in texts(thread)}
        eventually(lambda: len(all_ - set(everything(host))), lambda left: left <= ROUNDS, within=SETTLED + EACH * WAIT)

    with sandbox() as host:
        users = {"auth": "token,key", "api_token": "sandbox-bob", "secret_key": "a key for tests of many characters"}
        settings = {**SETTINGS, **users, "api_keys": line, "data_dir": str(tmp_path)}
        for number in range(ROUNDS):
            with gateway(host, **settings) as server:
                run(one_round(server, number))
        with gateway(host, **settings) as server:
            killed = time.monotonic()
            by_itself(host)
            run(check(server, host, killed), within=2 * SETTLED + EACH * WAIT)
            assert " ERROR " not in server.log.read_text()
