"""Smoke checks against a running gateway, over HTTP and from outside: ``python validate_server.py``.

Uses only the gateway's contract, docs/wire.md, and its settings, for the token. The output contains no token, prompt or
text of a log. Exits with 1 if a check failed or the gateway cannot be reached, and with 2 for invalid arguments.

``checks`` has the table of checks, ``lifecycle`` those that need a run, and ``client`` what holds for every answer.
This module runs them and prints the results. ``examination`` is the doctor's part instead: it examines the way from a
user to the gateway, from the user's end.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx

from .checks import CHECKS, Check
from .client import ANSWER_SECONDS, Client, Failed, Skipped, connect, described, reason
from .examination import examine
from .lifecycle import Findings
from .options import Object, Options, read_options

__all__ = ["doctor", "main"]

NAME_WIDTH = max(len(check.name) for check in CHECKS)


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a check. ``outcome`` is ``ok``, ``skipped`` or ``FAILED``."""

    name: str
    outcome: str
    detail: str
    milliseconds: int

    def to_json(self) -> Object:
        verdict = {"skipped": True} if self.outcome == "skipped" else {"ok": self.outcome == "ok"}
        return {"name": self.name, **verdict, "detail": self.detail, "milliseconds": self.milliseconds}

    def row(self) -> str:
        return f"{self.name:<{NAME_WIDTH}}  {self.outcome:<7}  {self.milliseconds:>6} ms  {self.detail}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the checks and print their results. Returns the exit status."""
    options = read_options(argv)
    if options.through:
        return _diagnose(options)
    checks = [check for check in CHECKS if options.create or not check.creates]
    results: list[Result] = []

    def report(result: Result) -> None:
        results.append(result)
        if not options.json:
            print(result.row(), flush=True)

    try:
        asyncio.run(_run(checks, options, report))
    except KeyboardInterrupt:
        return 130
    except Failed as unreachable:
        if not options.json:
            print(unreachable, file=sys.stderr)
            return 1
        report(Result("reachable", "FAILED", str(unreachable), 0))
    outcomes = [result.outcome for result in results]
    failed = outcomes.count("FAILED")
    if options.json:
        print(json.dumps({"url": options.url, "ok": not failed, "checks": [result.to_json() for result in results]}))
    else:
        print(f"\n{options.url}: {outcomes.count('ok')} ok, {outcomes.count('skipped')} skipped, {failed} failed")
        if not options.create:
            print("With --create a run is started, watched to its end and resumed; it costs what runs cost.")
    return 1 if failed else 0


def doctor(argv: Sequence[str] | None = None) -> int:
    """Run ``codegen-api doctor``. Returns the exit status."""
    return _diagnose(read_options(argv, doctor=True))


def _diagnose(options: Options) -> int:
    """Print what is wrong on the way to ``options.url``. Returns the exit status."""
    try:
        diagnosis = asyncio.run(examine(options))
    except KeyboardInterrupt:
        return 130
    print(json.dumps(diagnosis.to_json(options.url)) if options.json else diagnosis.to_text(options.url))
    return diagnosis.status


async def _run(checks: Sequence[Check], options: Options, report: Callable[[Result], None]) -> None:
    async with connect(options) as http:
        client, found = Client(http, options), Findings()
        await _reach(client)
        outcomes: dict[str, str] = {}
        for check in checks:
            started = time.monotonic()
            outcome, detail = await _outcome(check, client, found, outcomes)
            outcomes[check.name] = outcome
            report(Result(check.name, outcome, detail, round((time.monotonic() - started) * 1000)))


async def _reach(client: Client) -> None:
    url = client.options.url
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            answer = await client.ask("GET", "/health", token=None)
    except (httpx.TransportError, TimeoutError) as error:
        raise Failed(f"Nobody answers at {url}: {reason(error)}") from error
    if answer.status_code != 200 or answer.headers.get("Content-Type", "").startswith("text/html"):
        raise Failed(f"What answers at {url} is no gateway, or not its whole address: /health gave {described(answer)}")


async def _outcome(check: Check, client: Client, found: Findings, outcomes: dict[str, str]) -> tuple[str, str]:
    """Run a check. Returns its outcome, and what it saw. A check that breaks does not stop the others."""
    seconds = ANSWER_SECONDS + (client.options.timeout if check.creates else 0)
    try:
        if found.gone:
            raise Skipped("nobody answers any more")
        if found.cause and not check.open:
            raise Skipped(found.cause)
        for name in check.needs:
            if outcomes[name] != "ok":
                raise Skipped(f"{name!r} {'failed' if outcomes[name] == 'FAILED' else 'was skipped'}")
        async with asyncio.timeout(seconds):
            return "ok", await check.run(client, found)
    except Skipped as skipped:
        return "skipped", str(skipped)
    except Failed as failed:
        return "FAILED", str(failed)
    except TimeoutError:
        return "FAILED", f"not done within {seconds:g} s"
    except httpx.ConnectError:
        found.gone = True
        return "FAILED", "nobody answers any more"
    except httpx.HTTPError as error:
        return "FAILED", f"the connection failed ({type(error).__name__})"
    except Exception as error:  # an answer may break a check in any way; the text could quote anything
        return "FAILED", f"the answer is so odd that the check itself broke ({type(error).__name__})"
