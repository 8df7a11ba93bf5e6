"""The sandbox as a program: `python -m codegen_api.sandbox --port 8900`.

Exits with 2 for arguments that cannot be used and 1 when the address cannot be bound.
"""

import argparse
import contextlib
import ipaddress
import json
import logging
import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence

import uvicorn

from . import create_sandbox
from .directory import USERS
from .middleware import AllowedHosts

NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


class SandboxServer(uvicorn.Server):
    """uvicorn, but it prints a greeting when it listens, and can be interrupted from then on."""

    def __init__(self, config: uvicorn.Config, greeting: str) -> None:
        super().__init__(config)
        self._greeting = greeting

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(self._greeting, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal arrives. Returns the exit code."""
    options = _options(arguments)
    try:
        found = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        if not (options.open or ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback):
            print(
                f"sandbox: refusing to listen on {options.host}: its tokens are public and anybody who reaches it can "
                "control it; add --open if that is what you want",
                file=sys.stderr,
            )
            return 2
        # Python alone would make `::` mean IPv6 only.
        dual = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
        listener = socket.create_server(address, family=family, dualstack_ipv6=dual)
    except (OSError, OverflowError) as error:
        print(f"sandbox: cannot listen on {options.host} port {options.port}: {error}", file=sys.stderr)
        return 1
    with listener:
        url = _url(options.host, listener.getsockname()[1])
        app = create_sandbox(limits=options.limits, speed=options.speed, retry_after=options.retry_after)
        if not options.open:
            app = AllowedHosts(app, NAMES | {f"[{options.host}]" if ":" in options.host else options.host})
        config = uvicorn.Config(
            app,
            lifespan="off",
            access_log=not options.announce,
            server_header=False,
            http="h11",  # httptools loses bodies that come with an offer to upgrade, and sends chunks to HTTP/1.0
            ws="none",
            timeout_keep_alive=75,  # longer than clients keep a connection
            timeout_graceful_shutdown=1,
        )
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # other lines would bury the greeting
        greeting = json.dumps({"url": url}) if options.announce else _greeting(url)
        if options.die_with_stdin:
            # Ctrl-C reaches the whole process group, and the parent may still need its host while it drains.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            threading.Thread(target=_exit_at_end_of_stdin, daemon=True).start()
        with contextlib.suppress(KeyboardInterrupt):
            SandboxServer(config, greeting).run(sockets=[listener])
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m codegen_api.sandbox", description="An emulated Codegen API.")
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="the address to listen on (127.0.0.1)")
    add("--port", type=int, default=8900, help="the port to listen on (8900); 0 takes a free one")
    add("--open", action="store_true", help="allow other addresses than loopback")
    add("--limits", choices=("table", "shared", "off"), default="table", help="which rate limits there are (table)")
    add("--speed", type=_positive, default=1.0, help="how many times faster than written runs are played (1)")
    add("--no-retry-after", dest="retry_after", action="store_false", help="leave that header out of 429 answers")
    add("--announce", action="store_true", help='print {"url": ...} once connections are accepted, and nothing else')
    add("--die-with-stdin", action="store_true", help="exit when standard input ends; leave Ctrl-C to the parent")
    return parser.parse_args(arguments)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number, not {text}")
    return value


def _url(host: str, port: int) -> str:
    """Where a client on this machine finds the sandbox."""
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - where not to connect to
    return f"http://[{here}]:{port}" if ":" in here else f"http://{here}:{port}"


def _greeting(url: str) -> str:
    tokens = " or ".join(user.token for user in USERS)
    return f"Sandbox of the Codegen API at {url}, token {tokens}; what else there is: {url}/_sandbox"


def _exit_at_end_of_stdin() -> None:
    """Wait for the parent to go, however it goes: the kernel closes its end of the pipe even on SIGKILL."""
    while os.read(0, 4096):
        pass
    # Not through the event loop, which may be busy after a parent's death.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
