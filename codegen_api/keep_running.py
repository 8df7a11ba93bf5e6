"""Keeps a program running until standard input ends: ``--with`` puts it between the gateway and its host.

A program of its own that imports nothing of the package. However the gateway ends, the kernel closes the pipe that is
standard input here, and then the host is stopped with every process of its group. It prints ``{"url": ...}`` once the
host answers. A host that ends later is started again, with the same command and environment.
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
"""How long a program may take to end after SIGTERM."""
STEADY_SECONDS = 60.0
"""A program that ran this long is started again after a second; else each start waits twice as long as the last."""
LONGEST_DELAY = 60
LOG_BYTES = 16 * 1024 * 1024
"""The log begins anew when it is longer."""
LAST_LINES = 10

PASSWORD = "OPENCODE_SERVER_PASSWORD"  # noqa: S105 - the name of a variable
"""The variable with the password for HTTP Basic, in the environment that the program gets, too."""


def main() -> int:
    """Run the program until standard input ends; 1 if it could not be started."""
    options = _options()
    # a terminal sends these to everybody, and the gateway may need its host while it drains; a handler, because what is
    # ignored would be ignored by the program, too
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGTERM, _end_input)
    announced, failures = False, 0
    with open(options.log, "ab", buffering=0, opener=partial(os.open, mode=0o600)) as log:
        os.ftruncate(log.fileno(), 0)
        while True:
            began = time.monotonic()
            with _running(options.command, log) as program:
                why = _why_not_ready(program, options)
                if not announced:
                    if why:
                        _say(f"{options.name} {why}. {_last_lines(options.log)}")
                        return 1
                    announced = True
                    print(json.dumps({"url": options.url}), flush=True)
                while not why and program.poll() is None:
                    if _input_ended(LOOK_SECONDS):
                        return 0
                    if os.fstat(log.fileno()).st_size > LOG_BYTES:
                        os.ftruncate(log.fileno(), 0)
            failures = 0 if time.monotonic() - began > STEADY_SECONDS else failures
            delay = min(2**failures, LONGEST_DELAY)
            failures += 1
            _say(
                f"{options.name} {why or _ended(program)}. It is started again in {delay} s; its output: {options.log}"
            )
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
    program = subprocess.Popen(  # noqa: S603 - it is there to be run
        ["/bin/sh", "-c", 'exec "$@"', "sh", *command],  # which says in the log why it cannot be
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
        with contextlib.suppress(ProcessLookupError):  # what it started itself, and what does not listen
            os.killpg(program.pid, signal.SIGKILL)
        program.wait()


def _why_not_ready(program: "subprocess.Popen[bytes]", options: argparse.Namespace) -> str:
    """Wait until the program is ready; why it is not, or nothing. That a list is empty is told, and no reason."""
    # its first request may hang for good, so there is a next one soon; a list may take its time
    answered = _answered(program, options.url + options.ready, 3.0, options.within, bool)
    asked = answered and options.listed
    loaded = not asked or _answered(program, options.url + options.listed, options.within, options.within, _has_data)
    if program.poll() is not None:
        return _ended(program)
    if not answered:
        return f"did not answer {options.ready} within {options.within:g} s"
    if not loaded:
        _say(f"{options.name} has no models yet; until it has, no run can begin.")
    return ""


def _answered(
    program: "subprocess.Popen[bytes]", url: str, each: float, within: float, good: Callable[[bytes], bool]
) -> bool:
    """Ask until 200 comes with a good body, the program ends, or the time is over. One request takes ``each`` seconds
    without a word at most, and waits in a thread, for the input may end meanwhile.
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
    """Wait so long for the end of standard input, into which nobody writes."""
    return bool(select.select([0], [], [], seconds)[0]) and not os.read(0, 4096)


def _ended(program: "subprocess.Popen[bytes]") -> str:
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
