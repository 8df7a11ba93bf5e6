"""Smoke checks against a running gateway, over HTTP and from outside: ``python validate_server.py``.

Knows nothing of the gateway but its contract, docs/wire.md, and the settings, for the token. What it prints holds no
token, no prompt and no text of a log. Exits with 1 when a check failed or nobody answers, and with 2 when it was told
something that makes no sense.
"""

import argparse
import asyncio
import json
import math
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx

import codegen_api
from codegen_api.environment import SettingsError
from codegen_api.settings import read_settings
from codegen_api.validate.checks import CHECKS, Check
from codegen_api.validate.life import Findings
from codegen_api.validate.remote import Failed, Object, Options, Remote, Skipped, described

__all__ = ["main"]

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_ORIGIN = "http://localhost:3000"
ANSWER_SECONDS = 45.0
"""How long an ordinary check may take: the gateway itself waits half a minute for its host."""

VISIBLE = r"[\x21-\x7e]+"
NAME_WIDTH = max(len(check.name) for check in CHECKS)
DIRECT = {"all://localhost": None, "all://127.0.0.1": None, "all://[::1]": None}
"""Hosts that are asked without a proxy, whatever the environment says."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a check went. ``outcome`` is ``ok``, ``skipped`` or ``FAILED``."""

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
    """Run the checks and print how they went; the exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    options = Options(
        url=arguments.url,
        token=_token(parser, arguments.token),
        organization=arguments.organization,
        origin=arguments.origin,
        stream_seconds=arguments.timeout,
        metadata=arguments.metadata,
    )
    checks = [check for check in CHECKS if arguments.create or not check.creates]
    results: list[Result] = []

    def report(result: Result) -> None:
        results.append(result)
        if not arguments.json:
            print(result.row(), flush=True)

    try:
        asyncio.run(_run(checks, options, report))
    except KeyboardInterrupt:
        return 130
    except _Unreachable as unreachable:
        if not arguments.json:
            print(unreachable, file=sys.stderr)
            return 1
        report(Result("reachable", "FAILED", str(unreachable), 0))
    failed = sum(result.outcome == "FAILED" for result in results)
    if arguments.json:
        print(json.dumps({"url": options.url, "ok": not failed, "checks": [result.to_json() for result in results]}))
    else:
        skipped = sum(result.outcome == "skipped" for result in results)
        print(f"\n{options.url}: {len(results) - failed - skipped} ok, {skipped} skipped, {failed} failed")
        if not arguments.create:
            print("With --create a run is started, watched to its end and resumed; it costs what runs cost.")
    return 1 if failed else 0


# -- running ----------------------------------------------------------------------------------------------------------


class _Unreachable(Exception):
    """There is nobody to check."""


async def _run(checks: Sequence[Check], options: Options, report: Callable[[Result], None]) -> None:
    """Run the checks one after the other."""
    transports = dict.fromkeys(DIRECT)
    async with httpx.AsyncClient(timeout=ANSWER_SECONDS, mounts=transports) as client:
        remote, found = Remote(client, options), Findings()
        await _reach(remote)
        outcomes: dict[str, str] = {}
        for check in checks:
            started = time.monotonic()
            outcome, detail = await _outcome(check, remote, found, outcomes)
            outcomes[check.name] = outcome
            report(Result(check.name, outcome, detail, round((time.monotonic() - started) * 1000)))


async def _reach(remote: Remote) -> None:
    url = remote.options.url
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            answer = await remote.ask("GET", "/health", token=None)
    except (httpx.TransportError, TimeoutError) as error:
        raise _Unreachable(f"Nobody answers at {url}: {_reason(error)}") from error
    if answer.status_code != 200 or answer.headers.get("Content-Type", "").startswith("text/html"):
        raise _Unreachable(
            f"What answers at {url} is no gateway, or not its whole address: /health gave {described(answer)}"
        )


def _reason(error: BaseException) -> str:
    """What the system said: that of the library is often only that it did not work."""
    inner: BaseException | None = error
    while inner is not None and not (isinstance(inner, OSError) and inner.strerror):
        inner = inner.__cause__ or inner.__context__
    return str((inner is not None and inner.strerror) or error or type(error).__name__)


async def _outcome(check: Check, remote: Remote, found: Findings, outcomes: dict[str, str]) -> tuple[str, str]:
    """How a check goes, and what it saw. One that goes wrong never keeps the others from being made."""
    seconds = ANSWER_SECONDS + (remote.options.stream_seconds if check.creates else 0)
    try:
        _expect_possible(check, found, outcomes)
        async with asyncio.timeout(seconds):
            return "ok", await check.run(remote, found)
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
    except Exception as error:  # the last line of defence; the text could quote anything
        return "FAILED", f"the answer is so odd that the check itself broke ({type(error).__name__})"


def _expect_possible(check: Check, found: Findings, outcomes: dict[str, str]) -> None:
    if found.gone:
        raise Skipped("nobody answers any more")
    if found.cause and not check.open:
        raise Skipped(found.cause)
    for name in check.needs:
        if outcomes[name] != "ok":
            raise Skipped(f"{name!r} {'failed' if outcomes[name] == 'FAILED' else 'was skipped'}")


# -- the command line -------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="validate_server.py", description="Smoke checks against a running gateway.")
    parser.add_argument("url", nargs="?", default=DEFAULT_URL, type=_url, help=f"where it is ({DEFAULT_URL})")
    parser.add_argument("--token", help="a token of the host; better given as CODEGEN_API_TOKEN")
    parser.add_argument(
        "--organization", type=_header, help="the organization to ask for, for tokens that open more than one"
    )
    parser.add_argument("--create", action="store_true", help="start a run, watch it to its end, and resume it")
    parser.add_argument("--metadata", type=_object, help="metadata of that run, as JSON")
    parser.add_argument("--timeout", type=_seconds, default=120.0, help="how long its log may take to end (120 s)")
    parser.add_argument(
        "--origin", default=DEFAULT_ORIGIN, type=_header, help=f"a page that may call it ({DEFAULT_ORIGIN})"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--version", action="version", version=f"codegen-gateway {codegen_api.__version__}")
    return parser


def _token(parser: argparse.ArgumentParser, given: str | None) -> str:
    if given is None:
        try:
            secret = read_settings().api_token
        except SettingsError as error:
            parser.error(str(error))
        given = secret.get_secret_value() if secret else ""
    if not given:
        parser.error("there is no token: set CODEGEN_API_TOKEN or give --token")
    if not re.fullmatch(VISIBLE, given):
        parser.error("the token is none: it may hold visible ASCII characters only")
    return given


def _url(text: str) -> str:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        raise argparse.ArgumentTypeError("it is no URL") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise argparse.ArgumentTypeError("it must begin with http:// or https:// and name a host")
    if url.userinfo or url.query or url.fragment:
        raise argparse.ArgumentTypeError("it must hold no credentials, no query and no fragment")
    return text.rstrip("/")


def _header(text: str) -> str:
    if not re.fullmatch(VISIBLE, text):
        raise argparse.ArgumentTypeError("it may hold visible ASCII characters only")
    return text


def _object(text: str) -> Object:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("it is no JSON object")
    return value


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError("it is no number of seconds")
    return value
