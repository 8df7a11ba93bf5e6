"""``codegen-api tail``, ``create``, ``runs``, ``resume`` and ``cancel``."""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

from .client import GatewayClient, LiveLog, Object, Refused, run_path
from .harmless import on_a_line
from .show import JsonLines, Screen

ENDS = {"completed": 0, "failed": 1, "cancelled": 3}
MISUSED, REFUSED, INTERRUPTED = 2, 4, 130
EPILOG = """\
The gateway is that of CODEGEN_URL, and CODEGEN_TOKEN is what you sign in with.
Exit status: 0, the run completed, or what was asked for is done; 1, the run failed; 2, the command makes no sense;
3, the run was cancelled; 4, the gateway refused, or cannot be reached; 130, you stopped it with Ctrl-C."""


def run(argv: Sequence[str]) -> int:
    """Run the command. Returns the exit status."""
    parser = _parser()
    given = parser.parse_args(argv)
    try:
        output = (JsonLines if given.json else Screen)(full=getattr(given, "full", False))
        with closing(_client(given)) as client:
            status: int = given.do(client, given, output)
    except Refused as refused:
        print(on_a_line(str(refused)), file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--url", help="the gateway's address (CODEGEN_URL)")
    common.add_argument("--organization", metavar="ID", help="if you have several")
    common.add_argument("--json", action="store_true", help="write JSON lines, for programs")
    log = argparse.ArgumentParser(add_help=False)
    log.add_argument("--full", action="store_true", help="fold nothing on the terminal")
    parser = argparse.ArgumentParser(prog="codegen-api", description="Runs on the terminal.", epilog=EPILOG)
    commands = parser.add_subparsers(required=True)

    def command(name: str, do: Any, what: str, *more: argparse.ArgumentParser) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name,
            help=what,
            description=f"{what[0].upper()}{what[1:]}.",
            epilog=EPILOG,
            parents=[common, *more],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.set_defaults(do=do)
        return made

    tail = command("tail", _tail, "show a run's log, live, until it ends", log)
    tail.add_argument("run", metavar="RUN_ID")
    tail.add_argument("--after", metavar="POSITION", default="", help="begin behind this entry, or id of an event")
    create = command("create", _create, "start a run", log)
    create.add_argument("prompt", metavar="PROMPT", help="what the agent is to do; - reads it from standard input")
    create.add_argument("--repo", metavar="ID", type=int, help="the repository to work on")
    create.add_argument("--model")
    create.add_argument("--agent-type")
    create.add_argument("--metadata", metavar="JSON", type=_json_object, default={}, help='as in \'{"team": "web"}\'')
    runs = command("runs", _runs, "list runs, newest first")
    runs.add_argument("--status", help="only those with this status")
    runs.add_argument("--limit", metavar="N", type=int, default=20, help="at most so many (20)")
    resume = command("resume", _resume, "send a run another prompt; it goes on under the same id", log)
    resume.add_argument("run", metavar="RUN_ID")
    resume.add_argument("prompt", metavar="PROMPT", help="- reads it from standard input")
    for each in (create, resume):
        each.add_argument("--tail", action="store_true", help="show its log, live, until it ends")
    cancel = command("cancel", _cancel, "stop a run")
    cancel.add_argument("run", metavar="RUN_ID")
    return parser


def _client(given: argparse.Namespace) -> GatewayClient:
    url = (given.url or os.environ.get("CODEGEN_URL") or "").strip()
    token = (os.environ.get("CODEGEN_TOKEN") or "").strip()
    if not url:
        _misused("Which gateway? Set CODEGEN_URL to its address: export CODEGEN_URL=http://127.0.0.1:8000")
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and parts.hostname and not parts.username and parts.port != 0
    except ValueError:
        fits = False
    if not fits or not url.isprintable() or " " in url:
        _misused("CODEGEN_URL is no address of a gateway: it begins with http:// or https://")
    if not token:
        _misused("Who are you? Set CODEGEN_TOKEN to your token: export CODEGEN_TOKEN=...")
    if not token.isascii() or not token.isprintable() or " " in token:
        _misused("CODEGEN_TOKEN is no token: it has signs that none has.")
    return GatewayClient(url, token, given.organization)


def _misused(text: str) -> None:
    print(text, file=sys.stderr)
    raise SystemExit(MISUSED)


def _json_object(text: str) -> Mapping[str, object]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError("not a JSON object")
    return found


def _tail(client: GatewayClient, given: argparse.Namespace, output: Screen, reached: bool = False) -> int:
    log = LiveLog(client, f"{run_path(given.run)}/logs/stream", given.after, output.say)
    try:
        for event in log.events(reached):
            output.event(event)
            if event.name == "failure":
                said = event.data or {}
                raise Refused(f"{said.get('error')} ({said.get('code')})")
            if event.name == "end":
                return ENDS.get(str((event.data or {}).get("run_status")), 1)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        output.say(f"No longer watching; the run goes on. To watch on: {_again(given.run, log.position)}")
        return INTERRUPTED
    except Refused:
        if log.position != given.after:
            output.say(f"To watch on, once you may: {_again(given.run, log.position)}")
        raise
    return 0


def _again(run: str, position: str) -> str:
    """The command that continues behind ``position``."""
    return f"codegen-api tail {shlex.quote(run)}" + (f" --after {shlex.quote(position)}" if position else "")


def _create(client: GatewayClient, given: argparse.Namespace, output: Screen) -> int:
    prompt = _prompt(given)
    # lists of hosts do not show the prompt
    metadata = {"source": "terminal", "prompt": prompt.strip().split("\n")[0][:200], **given.metadata}
    chosen = {"repo_id": given.repo, "model": given.model, "agent_type": given.agent_type}
    wanted = {name: value for name, value in chosen.items() if value is not None}
    made = client.order("agent-runs", {"prompt": prompt, "metadata": metadata, **wanted})
    return _ordered(client, given, output, made, "")


def _resume(client: GatewayClient, given: argparse.Namespace, output: Screen) -> int:
    path, after = run_path(given.run), ""
    if given.tail:
        last = client.ask("GET", f"{path}/logs", limit=1, reverse="true").get("logs") or [{}]
        after = str(last[0].get("position") or "")
    made = client.order(f"{path}/resume", {"prompt": _prompt(given)})
    return _ordered(client, given, output, made, after)


def _ordered(client: GatewayClient, given: argparse.Namespace, output: Screen, made: Object, after: str) -> int:
    if not given.tail:
        output.id(made)
        if not given.json and sys.stdout.isatty():
            output.say(f"To watch it: codegen-api tail {shlex.quote(str(made.get('id')))}")
        return 0
    given.run, given.after = str(made.get("id")), after
    return _tail(client, given, output, reached=True)


def _prompt(given: argparse.Namespace) -> str:
    text: str = sys.stdin.read() if given.prompt == "-" else given.prompt
    return text


def _runs(client: GatewayClient, given: argparse.Namespace, output: Screen) -> int:
    wanted = max(given.limit, 0)
    left, skip = wanted, None
    while left:
        page = client.ask("GET", "agent-runs", limit=min(left, 100), status=given.status, skip=skip)
        items = page.get("items") or []
        for warning in page.get("warnings") or []:
            output.say(str(warning.get("msg")))
        for each in items:
            output.run(each)
        left, skip = left - len(items), page.get("next_skip")
        if skip is None:
            break
    if left == wanted > 0:
        output.say("There are none." if given.status else "No runs yet.")
    return 0


def _cancel(client: GatewayClient, given: argparse.Namespace, output: Screen) -> int:
    run = client.ask("POST", f"{run_path(given.run)}/cancel")
    if given.json:
        output.run(run)
    else:
        output.say(f"Run {run.get('id')} is {run.get('run_status')}.")
    return 0
