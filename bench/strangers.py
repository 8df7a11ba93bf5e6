"""Large bodies from somebody who may not even ask: what they cost everybody else, and how much memory they take.

``python -m bench.strangers`` starts a sandbox, a gateway, and a stranger, each in a process of its own, and asks
meanwhile for ``/livez`` and, with a good token, for a run. It prints a table. ``--token sandbox-bob`` lets him in.
"""

import argparse
import multiprocessing
import socket
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from bench.viewers import MIB, memory, p99
from tests.end_to_end import processes

SIZE = 24 * MIB
WITHHELD = 10
HELD_SECONDS = 5.0
"""How long the connections that withhold the end are watched."""


def _filled(begin: bytes, piece: bytes, end: bytes) -> bytes:
    middle = piece * ((SIZE - len(begin) - len(end)) // len(piece))
    return begin + middle[: len(middle) - 1] + end


BODIES: Mapping[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "lists": lambda: _filled(b'{"prompt":"x","metadata":{"a":[', b"[],", b"]}}"),
    "nested": lambda: b'{"prompt":"x","metadata":{"a":' + b"[" * (SIZE // 2) + b"]" * (SIZE // 2) + b"}}",
    "keys": lambda: b'{"prompt":"x","metadata":{' + b",".join(b'"%d":0' % key for key in range(SIZE // 12)) + b"}}",
    "one text": lambda: _filled(b'{"prompt":"', b"hello, \\n", b'n"}'),
}


@dataclass(frozen=True)
class Plan:
    """``times`` bodies of a kind at once, each to the end but for ``withheld`` bytes."""

    url: str
    body: str
    times: int
    withheld: int
    token: str | None


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--token", help="what the stranger shows")
    given = parser.parse_args(argv)
    print("| what comes | answers | `/livez`: median, p99, max | another's run: p99, max | memory: before, peak |")
    print("|---|---|---|---|---|")
    for times, withheld in ((1, 0), (4, 0), (40, WITHHELD)):
        for body in BODIES:
            if (body == "nothing") <= (times == 1) and not (withheld and body != "lists"):
                _round(body, times, withheld, given.token)


def _round(body: str, times: int, withheld: int, token: str | None) -> None:
    spawn = multiprocessing.get_context("spawn")
    with (
        processes.sandbox() as host,
        processes.gateway(host, log_level="WARNING") as gateway,
        ProcessPoolExecutor(1, mp_context=spawn) as pool,
        httpx.Client(timeout=120, trust_env=False) as client,
    ):
        pool.submit(time.monotonic).result()  # which starts it
        client.get(f"{gateway.url}/agent-runs/12345", headers=processes.ALICE).raise_for_status()
        idle = memory(gateway.pid, "VmRSS")
        future = pool.submit(attack, Plan(gateway.url, body, times, withheld, token))
        livez, run = _bystanders(gateway.url, future)
        peak = memory(gateway.pid, "VmHWM")
    came = f"{times} x {body}" + (f", but for the last {withheld} bytes" if withheld else "")
    said = ", ".join(f"{count} x {status}" for status, count in sorted(future.result().items())) or "-"
    print(
        f"| {came} | {said} | {_ms(statistics.median(livez))}, {_ms(p99(livez))}, {_ms(max(livez))}"
        f" | {_ms(p99(run))}, {_ms(max(run))} | {idle / MIB:.0f}, {peak / MIB:.0f} MiB |",
        flush=True,
    )


def _bystanders(url: str, future: "Future[Counter[str]]") -> tuple[list[float], list[float]]:
    """How long others waited, each on a connection of their own, until the stranger is done."""
    waits: tuple[list[float], list[float]] = ([], [])
    least = time.monotonic() + 2

    def ask(path: str, took: list[float]) -> None:
        with httpx.Client(timeout=120, trust_env=False, headers=processes.ALICE) as client:
            while not future.done() or time.monotonic() < least:
                asked = time.monotonic()
                client.get(url + path).raise_for_status()
                took.append(time.monotonic() - asked)
                time.sleep(0.01)

    asking = [
        threading.Thread(target=ask, args=each) for each in zip(("/livez", "/agent-runs/12345"), waits, strict=True)
    ]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    return waits


def attack(plan: Plan) -> Counter[str]:
    """What the stranger was answered, by status."""
    body = BODIES[plan.body]()
    answers: Counter[str] = Counter()
    if not body:
        return answers

    def send() -> None:
        answers[_sent(plan, body)] += 1

    threads = [threading.Thread(target=send) for _ in range(plan.times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def _sent(plan: Plan, body: bytes) -> str:
    address = urlsplit(plan.url)
    shown = f"Authorization: Bearer {plan.token}\r\n" if plan.token else ""
    head = (
        f"POST /agent-runs HTTP/1.1\r\nHost: {address.netloc}\r\n{shown}Content-Type: application/json\r\n"
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


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


if __name__ == "__main__":
    main()
