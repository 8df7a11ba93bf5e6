"""The sandbox as a program: `python -m codegen_api.sandbox --port 8900`.

    --port N            0 takes a free port (default 8900)
    --host H            default 127.0.0.1; any other than loopback needs --open
    --limits L          table, shared or off
    --speed F           how many times faster than written runs are played
    --no-retry-after    leave that header out of 429 answers
    --announce          print {"url": ...} as the only line on stdout, once connections are accepted
    --die-with-stdin    exit when standard input ends, and leave Ctrl-C to the parent process

Exits with 2 for arguments that cannot be used and 1 when the address cannot be bound.
"""

import argparse
import ipaddress
import json
import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from types import FrameType

import uvicorn
from uvicorn.config import LOGGING_CONFIG

from .app import create_sandbox
from .directory import Directory
from .front import Private

NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


class SandboxServer(uvicorn.Server):
    """uvicorn, which says when it listens and may leave SIGINT to its parent."""

    def __init__(self, config: uvicorn.Config, greeting: str, ignore_sigint: bool) -> None:
        super().__init__(config)
        self._greeting = greeting
        self._ignore_sigint = ignore_sigint

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(self._greeting, flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Ctrl-C reaches the whole process group, and the parent may still need its host while it drains.
        if self._ignore_sigint and sig == signal.SIGINT:
            return
        super().handle_exit(sig, frame)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop; the exit code."""
    options = _options(arguments)
    if not (options.open or _is_loopback(options.host)):
        print(
            f"sandbox: refusing to listen on {options.host}: its tokens are public and anybody who reaches it can "
            "control it; add --open if that is what you want",
            file=sys.stderr,
        )
        return 2
    try:
        listener = _bind(options.host, options.port)
    except (OSError, OverflowError) as error:
        print(f"sandbox: cannot listen on {options.host} port {options.port}: {error}", file=sys.stderr)
        return 1
    with listener:
        url = _url(options.host, listener.getsockname()[1])
        app = create_sandbox(limits=options.limits, speed=options.speed, retry_after=options.retry_after)
        if not options.open:
            app = Private(app, NAMES | {f"[{options.host}]" if ":" in options.host else options.host})
        config = uvicorn.Config(
            app,
            lifespan="off",
            log_config=_log_config(),
            access_log=not options.announce,
            server_header=False,
            http="h11",  # httptools loses bodies that come with an offer to upgrade, and sends chunks to HTTP/1.0
            ws="none",
            timeout_keep_alive=75,  # longer than who asks us keeps a connection
            timeout_graceful_shutdown=1,
        )
        greeting = json.dumps({"url": url}) if options.announce else _greeting(url)
        server = SandboxServer(config, greeting, ignore_sigint=options.die_with_stdin)
        if options.die_with_stdin:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            threading.Thread(target=_exit_at_end_of_stdin, daemon=True).start()
        server.run(sockets=[listener])
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m codegen_api.sandbox", description="An emulated Codegen API.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8900)
    parser.add_argument("--limits", choices=("table", "shared", "off"), default="table")
    parser.add_argument("--speed", type=_positive, default=1.0)
    parser.add_argument("--no-retry-after", dest="retry_after", action="store_false")
    parser.add_argument("--open", action="store_true", help="allow other addresses than loopback")
    parser.add_argument("--die-with-stdin", action="store_true", help="exit when standard input ends")
    parser.add_argument("--announce", action="store_true", help="print one JSON line with the URL, nothing else")
    return parser.parse_args(arguments)


def _positive(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"must be a positive number, not {text}")
    return value


def _is_loopback(host: str) -> bool:
    try:
        addresses = {found[4][0] for found in socket.getaddrinfo(host, None)}
    except OSError:
        # Not a name at all: binding will say so more clearly.
        return True
    return all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in addresses)


def _bind(host: str, port: int) -> socket.socket:
    """A bound socket; uvicorn starts to listen on it."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        # Otherwise a restart within a minute would find the port still in use.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except BaseException:
        listener.close()
        raise
    return listener


def _url(host: str, port: int) -> str:
    """Where a client on this machine finds the sandbox."""
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - where not to connect to
    return f"http://[{here}]:{port}" if ":" in here else f"http://{here}:{port}"


def _greeting(url: str) -> str:
    tokens = " or ".join(user.token for user in Directory().users)
    return f"Sandbox of the Codegen API at {url}, token {tokens}; what else there is: {url}/_sandbox"


def _log_config() -> dict[str, object]:
    """The access log as uvicorn has it; of its other remarks only warnings, for they would bury the greeting."""
    loggers = {**LOGGING_CONFIG["loggers"], "uvicorn.error": {"level": "WARNING"}}
    return {**LOGGING_CONFIG, "loggers": loggers}


def _exit_at_end_of_stdin() -> None:
    """Wait for the parent to go, however it goes: the kernel closes its end of the pipe even on SIGKILL."""
    while os.read(0, 4096):
        pass
    # Not by way of the event loop, which a parent's death may have left with much to do.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
