"""The worst that one caller can send: what it costs everybody else, and how much memory it takes.

The sandbox, the gateway and the stranger are processes of their own. Others, with a good token, ask meanwhile for
``/livez`` and for a run, and create runs.
"""

import multiprocessing
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

import httpx

from bench.machine import MIB, Server, p50, p99
from bench.report import Figure, Sample
from bench.work import Case, Row, Scale
from tests.end_to_end import processes

SIZE = 24 * MIB
WITHHELD = 10
ITEMS, ITEM_BYTES, SEARCHES = 800, 240 * 1024, 6
RUNS, THREADS = "/agent-runs", "/runs"
HELD_SECONDS = 5.0
"""How long the connections that withhold the end are watched."""


def _filled(begin: bytes, piece: bytes, end: bytes) -> bytes:
    middle = piece * ((SIZE - len(begin) - len(end)) // len(piece))
    return begin + middle[: len(middle) - 1] + end


def _in_metadata(said: bytes) -> bytes:
    return b'{"prompt":"x","metadata":{"a":' + said + b"}}"


def _in_messages(said: bytes) -> bytes:
    return b'{"assistant_id":"agent","input":{"messages":[' + said + b"]}}"


Kind = tuple[str, Callable[[], bytes]]
"""Where it is sent, and what is sent."""

BODIES: Mapping[str, Kind] = {
    "nothing": ("", lambda: b""),
    "lists": (RUNS, lambda: _filled(b'{"prompt":"x","metadata":{"a":[', b"[],", b"]}}")),
    "nested": (RUNS, lambda: _in_metadata(b"[" * (SIZE // 2) + b"]" * (SIZE // 2))),
    "keys": (RUNS, lambda: _in_metadata(b"{" + b",".join(b'"%d":0' % key for key in range(SIZE // 12)) + b"}")),
    "one text": (RUNS, lambda: _filled(b'{"prompt":"', b"hello, \\n", b'n"}')),
    "spaces": (RUNS, lambda: b'{"prompt":"' + b" " * SIZE + b'"}'),
    "long numbers": (RUNS, lambda: _in_metadata(b"[" + b",".join([b"1" * 4000] * (SIZE // 4001)) + b"]")),
    "40,000 messages": (THREADS, lambda: _in_messages(b",".join([b'"x"'] * 40_000))),
    "9,000 messages": (THREADS, lambda: _in_messages(b",".join([b'"x"'] * 9_000))),
    "an image": (
        THREADS,
        lambda: _in_messages(
            b'{"role":"user","content":[{"type":"image_url","image_url":"data:image/png;base64,' + b"A" * SIZE + b'"}]}'
        ),
    ),
}


@dataclass(frozen=True)
class Plan:
    """``times`` bodies of a kind at once, each to the end but for ``withheld`` bytes."""

    url: str
    body: str
    times: int
    withheld: int
    token: str | None


def _cases(scale: Scale) -> list[Case]:
    return [*_from(None), *_from("sandbox-bob")]


def _from(token: str | None) -> Iterator[Case]:
    sender = "with a token" if token else "without"
    for times, withheld in ((1, 0), (4, 0), (40, WITHHELD)):
        for body in BODIES:
            if (body == "nothing") <= (times == 1) and not (withheld and body != "lists"):
                but = f", but for the last {withheld} bytes" if withheld else ""
                yield Case(f"{sender}: {times} x {body}{but}", partial(_round, body, times, withheld, token))
    if token:
        yield Case(f"{sender}: {SEARCHES} x searches", partial(_round, "searches", SEARCHES, 0, token))


def _round(body: str, times: int, withheld: int, token: str | None) -> Sample:
    spawn = multiprocessing.get_context("spawn")
    with (
        processes.sandbox() as host,
        tempfile.TemporaryDirectory() as directory,
        processes.gateway(host, log_level="WARNING", dialects="agent_protocol", data_dir=directory) as gateway,
        ProcessPoolExecutor(1, mp_context=spawn) as pool,
        ExitStack() as stack,
    ):
        client, *others = [
            stack.enter_context(httpx.Client(timeout=120, trust_env=False, headers=headers))
            for headers in ({}, *[processes.ALICE] * 3)
        ]  # before anything is measured: to make one takes a hundred milliseconds
        pool.submit(time.monotonic).result()  # which starts it
        client.get(f"{gateway.url}/agent-runs/12345", headers=processes.ALICE).raise_for_status()
        if body == "searches":
            _keep_items(client, gateway.url, str(token))
        server = Server(0, gateway.pid)
        before = server.memory()
        future = pool.submit(attack, Plan(gateway.url, body, times, withheld, token))
        livez, run, creates = _bystanders(gateway.url, others, future)
        peak = server.peak()
    answers = future.result()
    return {
        "taken": sum(count for status, count in answers.items() if status.startswith("2")),
        "refused": sum(count for status, count in answers.items() if status.startswith("4")),
        "p50": p50(livez),
        "p99": p99(livez),
        "most": max(livez),
        "run": p99(run),
        "failed": sum(count for status, count in creates.items() if status != 201),
        "before": before,
        "peak": peak,
    }


def _keep_items(client: httpx.Client, url: str, token: str) -> None:
    for number in range(ITEMS):
        item = {"namespace": ["n"], "key": str(number), "value": {"text": "x" * ITEM_BYTES}}
        client.put(f"{url}/store/items", json=item, headers={"Authorization": f"Bearer {token}"}).raise_for_status()


def _bystanders(
    url: str, clients: Sequence[httpx.Client], future: "Future[Counter[str]]"
) -> tuple[list[float], list[float], Counter[int]]:
    """How long others waited, and what came of their creates, each with a client of their own, until the stranger is
    done.
    """
    waits: tuple[list[float], list[float]] = ([], [])
    creates: Counter[int] = Counter()
    least = time.monotonic() + 2

    def ask(client: httpx.Client, path: str, took: list[float]) -> None:
        while not future.done() or time.monotonic() < least:
            asked = time.monotonic()
            client.get(url + path).raise_for_status()
            took.append(time.monotonic() - asked)
            time.sleep(0.01)

    def create(client: httpx.Client) -> None:
        while not future.done() or time.monotonic() < least:
            creates[client.post(url + RUNS, json={"prompt": "Say hello"}).status_code] += 1
            time.sleep(0.2)

    paths = ("/livez", "/agent-runs/12345")
    asking = [threading.Thread(target=ask, args=each) for each in zip(clients[:2], paths, waits, strict=True)]
    asking.append(threading.Thread(target=create, args=clients[2:]))
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    return *waits, creates


def attack(plan: Plan) -> Counter[str]:
    """What the stranger was answered, by status."""
    answers: Counter[str] = Counter()
    path, make = BODIES.get(plan.body, BODIES["nothing"])
    body = make()
    if plan.body == "nothing":
        return answers

    def send() -> None:
        answers[_sent(plan, path, body) if path else _searched(plan)] += 1

    threads = [threading.Thread(target=send) for _ in range(plan.times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def _searched(plan: Plan) -> str:
    """All of one's items, in so many answers as it takes."""
    offset, headers = "0", {"Authorization": f"Bearer {plan.token}"}
    with httpx.Client(timeout=120, trust_env=False, headers=headers) as client:
        while True:
            asked = {"namespace_prefix": [], "limit": 1000, "offset": int(offset)}
            answer = client.post(f"{plan.url}/store/items/search", json=asked)
            offset = answer.headers.get("X-Pagination-Next", "")
            if answer.status_code != 200 or not offset:
                return str(answer.status_code)


def _sent(plan: Plan, path: str, body: bytes) -> str:
    address = urlsplit(plan.url)
    shown = f"Authorization: Bearer {plan.token}\r\n" if plan.token else ""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {address.netloc}\r\n{shown}Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((address.hostname or "", address.port or 0), 120) as connection:
        with suppress(ConnectionError):  # it may have heard enough
            connection.sendall(head.encode() + body[: len(body) - plan.withheld])
        if plan.withheld:
            connection.settimeout(HELD_SECONDS)
        try:
            return connection.recv(65536).split()[1].decode()
        except TimeoutError:
            return "nothing"
        except (ConnectionError, IndexError):
            return "cut"


ROWS = (
    Row(
        "strangers",
        "The worst that one caller can send",
        (
            Figure("taken", "2xx"),
            Figure("refused", "4xx"),
            Figure("p50", "`/livez`, p50", "ms", 1e3),
            Figure("p99", "p99", "ms", 1e3),
            Figure("most", "most", "ms", 1e3),
            Figure("run", "another's run, p99", "ms", 1e3),
            Figure("failed", "others' creates refused"),
            Figure("before", "memory before", "MiB", 1 / MIB),
            Figure("peak", "at the peak", "MiB", 1 / MIB),
        ),
        _cases,
        "Bodies of 24 MiB.",
        rounds=1,
        asked=True,
    ),
)
