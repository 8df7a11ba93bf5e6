"""Keeps a program running until standard input ends: ``--with`` puts it between the gateway and its host.

A separate program, which imports nothing of the package. Its standard input is a pipe that the kernel closes however
the gateway ends; it then stops the host with every process of its group. It prints ``{"url": ...}`` once the host
answers, and starts a host that ends later again, with the same command and environment.
"""

import argparse
import base64
import contextlib
import http.client
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from typing import BinaryIO

LOOK_SECONDS = 0.2
STOP_SECONDS = 5.0
"""Seconds a program may take to end after SIGTERM."""
STEADY_SECONDS = 60.0
"""A program that ran this long is started again after a second; else each start waits twice as long as the last."""
LONGEST_DELAY = 60
LOG_BYTES = 16 * 1024 * 1024
"""A longer log is truncated."""
LAST_LINES = 10

PASSWORD = "OPENCODE_SERVER_PASSWORD"  # noqa: S105 - the name of a variable
"""The variable with the password for HTTP Basic. The program gets it, too."""


def main() -> int:
    """Run the program until standard input ends; 1 if it could not be started."""
    options = _options()
    # a terminal sends these to all its processes, but the gateway may need its host while it drains; not SIG_IGN, which
    # the program would inherit
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGTERM, _end_input)
    announced, failures = False, 0
    with open(options.log, "ab", buffering=0, opener=partial(os.open, mode=0o600)) as log:
        os.ftruncate(log.fileno(), 0)
        while True:
            began = time.monotonic()
            with _running(options.command, log) as program:
                problem = _wait_until_ready(program, options)
                if not announced:
                    if problem:
                        _say(f"{options.name} {problem}. {_last_lines(options.log)}")
                        return 1
                    announced = True
                    print(json.dumps({"url": options.url}), flush=True)
                while not problem and program.poll() is None:
                    if _input_ended(LOOK_SECONDS):
                        return 0
                    if os.fstat(log.fileno()).st_size > LOG_BYTES:
                        os.ftruncate(log.fileno(), 0)
            failures = 0 if time.monotonic() - began > STEADY_SECONDS else failures
            delay = min(2**failures, LONGEST_DELAY)
            failures += 1
            problem = problem or _how_ended(program)
            _say(f"{options.name} {problem}. It is started again in {delay} s; its output: {options.log}")
            if _input_ended(delay):
                return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Keep a program running until standard input ends.")
    parser.add_argument("--name", required=True, help="what messages call it")
    parser.add_argument("--url", required=True, help="where it serves, which is announced")
    parser.add_argument("--ready", required=True, help="the path that answers with 200 when it is ready")
    parser.add_argument("--listed", help="a path whose list, `data`, is empty until it has loaded what it needs")
    parser.add_argument("--within", type=float, default=60.0, help="seconds that a start may take")
    parser.add_argument("--log", required=True, help="the file for its output")
    parser.add_argument("command", nargs="+")
    return parser.parse_args()


@contextlib.contextmanager
def _running(command: list[str], log: BinaryIO) -> Iterator["subprocess.Popen[bytes]"]:
    program = subprocess.Popen(  # noqa: S603 - running it is the purpose
        ["/bin/sh", "-c", 'exec "$@"', "sh", *command],  # the shell logs why a program cannot be run
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield program
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            program.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):  # its children, and what ignores SIGTERM
            os.killpg(program.pid, signal.SIGKILL)
        program.wait()


def _wait_until_ready(program: "subprocess.Popen[bytes]", options: argparse.Namespace) -> str:
    """Wait until the program is ready. Returns why it is not, or an empty string. An empty list is only reported."""
    # the first request may hang for good, so the next one follows soon; the list may take long
    answered = _ask_until(bool, program, options.url + options.ready, 3.0, options.within)
    asked = answered and options.listed
    loaded = not asked or _ask_until(_has_data, program, options.url + options.listed, options.within, options.within)
    if program.poll() is not None:
        return _how_ended(program)
    if not answered:
        return f"did not answer {options.ready} within {options.within:g} s"
    if not loaded:
        _say(f"{options.name} has no models yet; until it has, no run can begin.")
    return ""


def _ask_until(
    good: Callable[[bytes], bool], program: "subprocess.Popen[bytes]", url: str, each: float, within: float
) -> bool:
    """Ask until a 200 with a good body comes, the program ends, or ``within`` seconds are over. A request times out
    after ``each`` seconds of silence, and waits in a thread, as the input may end meanwhile.
    """
    answers: list[bytes] = []
    deadline = time.monotonic() + within
    while program.poll() is None and (left := deadline - time.monotonic()) > 0:
        asking = threading.Thread(target=_ask, args=(url, min(each, left), answers), daemon=True)
        asking.start()
        while True:
            if _input_ended(LOOK_SECONDS):
                raise SystemExit(0)
            if program.poll() is not None or not asking.is_alive() or time.monotonic() > deadline:
                break
        if answers and good(answers.pop()):
            return True
    return False


def _ask(url: str, seconds: float, answers: list[bytes]) -> None:
    basic = base64.b64encode(f"opencode:{os.environ.get(PASSWORD, '')}".encode()).decode()
    request = urllib.request.Request(url, headers={"Authorization": f"Basic {basic}"})  # noqa: S310 - it is http
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with contextlib.suppress(OSError, http.client.HTTPException), direct.open(request, timeout=seconds) as answer:
        if answer.status == http.HTTPStatus.OK:
            answers.append(answer.read())


def _has_data(body: bytes) -> bool:
    try:
        return bool(json.loads(body)["data"])
    except (ValueError, KeyError, TypeError):
        return False


def _input_ended(seconds: float) -> bool:
    """Wait up to ``seconds`` for the end of standard input, to which nobody writes."""
    return bool(select.select([0], [], [], seconds)[0]) and not os.read(0, 4096)


def _how_ended(program: "subprocess.Popen[bytes]") -> str:
    code = program.wait()
    return f"ended with status {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"


def _last_lines(log: str) -> str:
    with open(log, "rb") as written:
        written.seek(max(0, os.fstat(written.fileno()).st_size - 4096))
        lines = written.read().decode(errors="replace").splitlines()
    return "\n".join(["Its last lines:", *lines[-LAST_LINES:]]) if lines else "It wrote nothing."


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _end_input(*_: object) -> None:
    """Handle a signal as if standard input had ended."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)


if __name__ == "__main__":
    sys.exit(main())
