"""The server's command line: ``codegen-api`` without a command.

Settings come from the environment, overridden by the command line. ``--sandbox`` and ``--with`` start a host as well:
see ``local_hosts``.
"""

import argparse
import contextlib
import errno
import gc
import logging
import os
import re
import secrets
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

import uvicorn
from fastapi import FastAPI

import codegen_api
from codegen_api.app import create_app
from codegen_api.build_parts import allows_anonymous
from codegen_api.colours import BOLD, DIM, painted, shows_colours
from codegen_api.origins import is_loopback
from codegen_api.program import local_hosts
from codegen_api.program.http1 import StrictHttpProtocol
from codegen_api.settings import Settings, read_settings
from codegen_api.settings.environment import PREFIX, SettingsError
from codegen_api.telemetry.log_lines import form_of

if sys.platform != "win32":
    import resource

START_SECONDS = 30
"""Seconds a worker may take to start or respond. uvicorn's default of five would replace it again and again."""

GC_THRESHOLD = 50_000
"""New objects that trigger a garbage collection; Python's default is 700. A few requests in progress have that many, so
scanning them over and over took a fifth of the time of a GET. Reading a thousand runs at once takes more than 10,000.
"""

LET_IN = "Requests without credentials are let in as {who} by the dialects whose clients may send none."
LABEL = re.compile(r"^  [a-z]+ {2,}", re.MULTILINE)
"""The label of an announced line, such as ``host`` or ``docs``."""
EPILOG = """\
Everything else is set with environment variables that begin with CODEGEN_: see docs/settings.md.

commands, each with a --help of its own:
  create, tail, runs, resume, cancel   runs of a gateway, on the terminal
  doctor                               what is wrong on the way to a gateway
  keys                                 make a key for a user or a machine
"""


def main(argv: Sequence[str]) -> None:
    """Serve until a signal arrives. Exits with status 2 on invalid arguments or settings."""
    _open_standard_files()
    _raise_descriptor_limit()
    arguments = _parser().parse_args(argv)
    _set_environment(arguments)
    try:
        _start(arguments)
    except SettingsError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


def _start(arguments: argparse.Namespace) -> None:
    settings = read_settings()
    if arguments.sandbox and not arguments.sandbox_open and not is_loopback(settings.host):
        raise SettingsError(
            f"{settings.host} is not a loopback address: anybody could use the sandbox. Say --sandbox-open as well."
        )
    if arguments.reload and settings.workers > 1:
        raise SettingsError("--reload and several workers do not go together.")
    if arguments.sandbox_open and not arguments.sandbox:
        raise SettingsError("--sandbox-open says where the sandbox may be served; it needs --sandbox.")
    if arguments.dir is not None and not arguments.program:
        raise SettingsError("--dir says where the host works; it needs --with.")
    port = _reserve_port(settings.host, settings.port)
    url = _url(settings.host, port)
    with contextlib.ExitStack() as stack:
        host_lines: Sequence[str] = (f"  host     {settings.base_url}",)
        if arguments.sandbox:
            host_lines = stack.enter_context(local_hosts.sandbox(url))
        elif arguments.program:
            host_lines = stack.enter_context(local_hosts.program(arguments.program, arguments.dir or ".", url))
        # one for all workers and reloads; like everything sealed with it, it lasts as long as this process
        may_be_random = settings.redis_url is None and (arguments.sandbox or settings.auth == ("token",))
        if may_be_random and read_settings().secret_key is None:
            os.environ[PREFIX + "SECRET_KEY"] = secrets.token_urlsafe(32)
        if settings.workers > 1:
            create_app()  # report errors once, here, instead of in each worker
        settings = read_settings()  # again: the host has set some of them
        console = [f"  console  {url}{settings.root_path}/console/"] if settings.console else []
        pages = [*console, f"  docs     {url}{settings.root_path}/docs"]
        lines = [*pages, host_lines[0], *_anonymous_access(settings), *host_lines[1:]]
        _serve(settings, port, arguments.reload, url, lines)


def _open_standard_files() -> None:
    """Open standard files closed as by ``2>&-``: otherwise a socket would get such a number, and output."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _raise_descriptor_limit() -> None:
    """Raise the soft limit on open files: its default of 1,024 exists for programs that use select()."""
    if sys.platform != "win32":
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="codegen-api",
        description="A thin authenticated gateway in front of a hosted agent API.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    hosts = parser.add_mutually_exclusive_group()
    hosts.add_argument(
        "--sandbox", action="store_true", help="serve an embedded emulation of the host: no account needed"
    )
    parser.add_argument(
        "--sandbox-open", action="store_true", help="serve the sandbox on an address other than loopback"
    )
    hosts.add_argument(
        "--with", dest="program", choices=tuple(local_hosts.PROGRAMS), help="start this agent server as the host"
    )
    parser.add_argument("--dir", metavar="PATH", help="the folder in which that server works (the current one)")
    parser.add_argument("--host", help="the address to listen on (CODEGEN_HOST, else 127.0.0.1)")
    parser.add_argument("--port", type=int, help="the port to listen on (CODEGEN_PORT, else 8000); 0 takes a free one")
    parser.add_argument("--workers", type=int, help="how many processes (CODEGEN_WORKERS, else 1)")
    parser.add_argument("--version", action="version", version=f"codegen-gateway {codegen_api.__version__}")
    parser.add_argument("--reload", action="store_true", help="start again when the code changes")
    return parser


def _set_environment(arguments: argparse.Namespace) -> None:
    """Pass the command line on to the worker processes, through the environment."""
    for name in ("host", "port", "workers"):
        if getattr(arguments, name) is not None:
            os.environ[PREFIX + name.upper()] = str(getattr(arguments, name))
    if arguments.reload:
        os.environ.setdefault(PREFIX + "DRAIN_SECONDS", "1")


def application() -> FastAPI:
    """The application of a process that only serves. Its objects are permanent, so they are excluded from garbage
    collection: scanning them would block the event loop for more than 100 ms each time.
    """
    app = create_app()
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, *gc.get_threshold()[1:])
    return app


def _serve(settings: Settings, port: int, reload: bool, url: str, lines: Sequence[str]) -> None:
    threading.Thread(target=_announce, args=(url, lines), daemon=True).start()
    # uvicorn re-raises the signal after a clean shutdown; exit with status 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    logging.getLogger("uvicorn.error").addFilter(_quiet_after_signal)
    options = _uvicorn_options(settings)
    uvicorn.run(f"{__name__}:application", factory=True, port=port, reload=reload, **options)


def _quiet_after_signal(record: logging.LogRecord) -> bool:
    """Once the parent of workers has logged a signal, keep it from logging how each worker ends."""
    if record.getMessage().startswith("Received SIG"):
        logging.getLogger(record.name).setLevel(logging.WARNING)
    return True


def _uvicorn_options(settings: Settings) -> dict[str, Any]:
    # uvicorn's own handlers write text; without them its lines go where the gateway's do
    logging_options = {} if form_of(settings.log_format) == "text" else {"log_config": None}
    return {
        **logging_options,
        "host": settings.host,
        "workers": settings.workers,
        "timeout_worker_healthcheck": START_SECONDS,
        "log_level": settings.log_level.lower(),
        "access_log": False,  # the edge logs requests itself, with the request id and without the query
        "proxy_headers": bool(settings.trusted_proxies),  # uvicorn would by default trust every client on this machine
        "http": StrictHttpProtocol,
        "ws": "none",  # no route uses it, so an upgrade is ignored like any other
        "timeout_keep_alive": settings.keep_alive_seconds,
        "forwarded_allow_ips": list(settings.trusted_proxies),
    }


def _reserve_port(host: str, port: int) -> int:
    """Check that the port can be bound, and turn port 0 into a real one, so that it can be announced."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            claimed: int = probe.getsockname()[1]
            return claimed
    except OSError as error:
        advice = "--host takes an address of this machine."
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            advice = "--port takes another one; --port 0, one that is free."
        raise SettingsError(f"{host}:{port} cannot be served on: {error.strerror}. {advice}") from None


def _url(host: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{shown}:{port}"


def _anonymous_access(settings: Settings) -> list[str]:
    """A line that names the user for requests without credentials. The only token it may name is the sandbox's."""
    if settings.demo_token is None or not allows_anonymous(settings):
        return []
    public = settings.demo_token.get_secret_value() == local_hosts.SANDBOX_TOKEN
    return [LET_IN.format(who=local_hosts.SANDBOX_TOKEN if public else f"the user of {PREFIX}DEMO_TOKEN")]


def _announce(url: str, lines: Sequence[str]) -> None:
    """Print the URL once it responds, and then the other lines. All are written at once, as the log may go to the same
    file, and its lines must not come between them.
    """
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:  # a daemon thread: it ends with the process
        try:
            with direct.open(f"{url}/livez", timeout=5):
                break
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    colours = shows_colours(sys.stdout)
    others = [LABEL.sub(lambda found: painted(found[0], DIM, colours), each) for each in lines]
    sys.stdout.write("\n".join([f"codegen_api is at {painted(url, BOLD, colours)}", *others, ""]))
    sys.stdout.flush()
