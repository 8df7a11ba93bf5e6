"""Ten minutes of everything that goes wrong: ``python -m bench.soak`` writes SOAK.md.

Three gateways share a Redis and read the sandbox, all processes of their own. Runs grow and end; viewers come, leave
and come back to any gateway. Meanwhile gateways are killed and stopped, Redis is killed, stopped, emptied and paused,
and the host fails. The first gateway is stopped at times and never killed, so that its memory can be watched.
"""

import argparse
import asyncio
import random
import signal
import statistics
import time
from collections import Counter, defaultdict
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import redis

from bench.machine import MIB, described, load, memory
from bench.sizing import TEXT
from tests.end_to_end.processes import Sandbox, Server, entry, eventually, gateway, sandbox
from tests.end_to_end.viewing import Broken, Viewer
from tests.redis_faults import away, back
from tests.redis_servers import RedisServer, redis_server

CHANCE = random.Random()  # noqa: S311 - anybody may guess it
PATIENCE = 120.0  # seconds in which each viewer has to have all of a run that has ended
MOST_CONNECTIONS = 28  # of a gateway to Redis: 16 calls, 8 long calls, and those that listen or are about to close
SETTINGS: dict[str, Any] = {
    "upstream_requests_per_minute": 100_000,
    "upstream_read_interval_seconds": 1,
    "streams_per_caller": 1000,
    "memory_mib": 8,  # which is full within minutes, so that memory that grows later is a leak
    "secret_key": "one-secret-for-all-instances-here",
}


@dataclass
class Soak:
    host: Sandbox
    redis: RedisServer
    stack: ExitStack
    seconds: float
    began: float = field(default_factory=time.monotonic)
    started: dict[str, Server] = field(default_factory=dict)
    alive: list[str] = field(default_factory=list)
    memory: dict[str, list[tuple[float, int]]] = field(default_factory=partial(defaultdict, list))
    connections: dict[str, list[int]] = field(default_factory=partial(defaultdict, list))
    done: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.began

    def went_wrong(self, what: str) -> None:
        self.wrong.append(f"{self.elapsed:.0f} s: {what}")
        print(self.wrong[-1], flush=True)

    def start(self) -> None:
        name = f"gateway-{len(self.started) + 1}"
        settings = {**SETTINGS, "redis_url": f"{self.redis.url}?client_name={name}"}
        self.started[name] = self.stack.enter_context(gateway(self.host, **settings))
        self.alive.append(name)

    async def run(self) -> None:
        """One run from its beginning to its end, and all who watch it."""
        run = await asyncio.to_thread(self.host.seed, entries=[])
        viewers = [Viewer("", run, rate=CHANCE.choice([None] * 9 + [8192.0])) for _ in range(CHANCE.randint(2, 8))]
        length, number = CHANCE.randint(20, 150), 0
        watching = [asyncio.create_task(self.watch(each, CHANCE.uniform(0, length * 0.2))) for each in viewers]
        while self.elapsed < self.seconds and number < length:
            number += 1
            # what a tool says comes four entries later
            amend = [{"position": number - 4, "fields": {"tool_output": {"exit_code": 0}}}] if number > 4 else []
            new = entry(f"{number} of {run} {TEXT}", tool_output=None)
            await asyncio.to_thread(self.host.patch, run, append=[new], amend=amend)
            await asyncio.sleep(CHANCE.uniform(0, 0.8))
        await asyncio.to_thread(self.host.patch, run, status="COMPLETE")
        log = None
        while log is None:
            with suppress(httpx.HTTPError):  # a fault may be on
                log = await asyncio.to_thread(self.host.log, run)
        results = await asyncio.gather(*(asyncio.wait_for(it, PATIENCE) for it in watching), return_exceptions=True)
        for viewer, error in zip(viewers, results, strict=True):
            logs, ends = len(viewer.of("log")), len(viewer.of("end"))
            if error or viewer.entries != log or logs != len(log) or ends != 1:
                old = [it["position"] for it, mine in zip(log, viewer.entries, strict=False) if mine != it]
                self.went_wrong(f"{viewer.url}, {run}: {logs} of {len(log)}, {old} differ, {ends} ends, {error!r}")
            for event in viewer.of("resync") + viewer.of("failure"):
                self.went_wrong(f"{viewer.url}, {run}: {event.name} {event.data}")
            amended = len(viewer.of("log.amended"))
            self.done.update({"viewers": 1, "entries delivered": logs, "changes delivered": amended})
        self.done.update({"runs": 1, "entries": number, "changes": max(0, number - 4)})

    async def watch(self, viewer: Viewer, later: float) -> None:
        """Come, leave and come back, anywhere, until the end was told."""
        await asyncio.sleep(later)
        while not viewer.of("end"):
            viewer.url = self.started[CHANCE.choice(self.alive)].url
            try:
                async with asyncio.timeout(CHANCE.expovariate(1 / 15) + 2):
                    connection = await viewer.connect()
                    self.done[f"streams: answers {connection.status}"] += 1
                    if connection.status == 200:
                        async for event in connection.events():
                            viewer.take(event)
            except TimeoutError:
                self.done["streams: left by the viewer"] += 1
            except (Broken, OSError):
                self.done["streams: cut, or nobody there"] += 1
            finally:
                if viewer.connection is not None:
                    with suppress(OSError):  # it is closed already where there was no answer
                        CHANCE.choice([viewer.connection.close, viewer.connection.reset])()
            await asyncio.sleep(CHANCE.uniform(0.1, 3))

    async def fault(self) -> None:
        await asyncio.sleep(CHANCE.uniform(3, 8))
        if self.elapsed > self.seconds - 20:  # the rest is for viewers to see the ends
            return
        how = CHANCE.choice(["kill", "stop", "host", "killed", "stopped", "emptied", "paused"])
        print(f"{self.elapsed:.0f} s: {how}", flush=True)
        if how == "kill":
            self.started[self.alive.pop(CHANCE.randint(1, 2))].process.kill()
            await asyncio.sleep(CHANCE.uniform(0, 6))
            await asyncio.to_thread(self.start)
            self.done["fault: gateway killed (-9), another started"] += 1
        elif how == "stop":
            process = self.started[CHANCE.choice(self.alive)].process
            process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(CHANCE.uniform(1, 9))  # the lease is five seconds
            process.send_signal(signal.SIGCONT)
            self.done["fault: gateway stopped (SIGSTOP) for 1 to 9 s"] += 1
        elif how == "host":
            await asyncio.to_thread(self.host.fault, CHANCE.choice(["reset", "500"]), "logs", times=20)
            self.done["fault: host fails 20 reads"] += 1
        else:
            await asyncio.to_thread(away, self.redis, how)
            if how in ("killed", "stopped"):
                await asyncio.sleep(CHANCE.uniform(1, 6))
                await asyncio.to_thread(back, self.redis, how)
            self.done[f"fault: Redis {how}"] += 1
        for name in self.alive:  # until all is well again
            await asyncio.to_thread(eventually, partial(self.started[name].health, "redis"), "connected".__eq__)

    def look(self) -> None:
        time.sleep(1)
        for name in self.alive:
            self.memory[name].append((self.elapsed, memory(self.started[name].pid, "VmRSS")))
        with suppress(redis.RedisError), redis.Redis(port=self.redis.port, socket_timeout=0.5) as client:
            self.memory["Redis"].append((self.elapsed, client.info("memory")["used_memory"]))
            names = Counter(each["name"] for each in client.client_list())
            for name in self.alive:
                self.connections[name].append(names[name])
                if names[name] > MOST_CONNECTIONS:
                    self.went_wrong(f"{name} has {names[name]} connections to Redis")

    async def everything(self, runs: int) -> None:
        async def again(act: Any) -> None:
            while self.elapsed < self.seconds:
                try:
                    await act()
                except Exception as error:
                    self.went_wrong(repr(error))

        looking = partial(asyncio.to_thread, self.look)
        await asyncio.gather(again(self.fault), again(looking), *(again(self.run) for _ in range(runs)))


def report(soak: Soak) -> str:
    moments = [soak.seconds * part for part in (0.1, 0.25, 0.5, 0.75, 1)]

    def row(name: str) -> str:
        near = [[took / MIB for when, took in soak.memory[name] if moment - 10 <= when <= moment] for moment in moments]
        them = soak.connections[name]
        spread = [min(them), f"{statistics.median(them):g}", max(them)] if them else ["-"] * 3
        cells = [f"{statistics.median(each):.1f}" if each else "-" for each in near]
        return "| " + " | ".join([name, *cells, *map(str, spread)]) + " |"

    return f"""# Soak

`python -m bench.soak --seconds {soak.seconds:g}`, {time.strftime("%B %Y")}. {described()}.
At the end {load():.1f} processes wanted a processor. [README](README.md#soak) says what this is.

| | |
|---|---:|
{chr(10).join(f"| {what} | {count:,} |" for what, count in sorted(soak.done.items()))}

What ran at the end: memory in MiB (resident; of Redis: in use; medians of ten seconds), and connections to Redis in
each second in which that answered.

| | {"".join(f"{each:g} s | " for each in moments)}min | median | max |
|---|{"---:|" * 8}
{chr(10).join(row(name) for name in [*soak.alive, "Redis"])}

What went wrong:

{chr(10).join(f"- {each}" for each in soak.wrong or ["nothing"])}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--runs", type=int, default=20, help="at a time")
    parser.add_argument("--report", type=Path, default=Path(__file__).with_name("SOAK.md"))
    given = parser.parse_args()
    with ExitStack() as stack:
        soak = Soak(stack.enter_context(sandbox()), stack.enter_context(redis_server()), stack, given.seconds)
        for _ in range(3):
            soak.start()
        soak.began = time.monotonic()
        asyncio.run(soak.everything(given.runs))
        for name, server in soak.started.items():
            for line in server.log.read_text().splitlines():
                if any(bad in line for bad in ("Traceback", " ERROR ", " CRITICAL ")):
                    soak.went_wrong(f"{name} logged: {line[:300]}")
    given.report.write_text(report(soak))
    raise SystemExit(bool(soak.wrong))


if __name__ == "__main__":
    main()
