"""The command lines of the validator and of the doctor."""

import argparse
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

import codegen_api
from codegen_api.settings import read_settings
from codegen_api.settings.environment import PREFIX, SettingsError, variables

Object = dict[str, Any]


DOCTOR = (
    "Opens a live log through the address that users have, and says in plain words what is wrong on the way, with the"
    " lines of configuration that mend it. It starts no run unless told to."
)
STATUSES = (
    "Exits with 0 when nothing is wrong, 1 when something is, 2 for arguments that make no sense, and 3 when nothing is"
    " wrong but no live log could be watched."
)
ORIGIN = "http://localhost:3000"


@dataclass
class Options:
    """The arguments and their defaults. A log may take ``timeout`` seconds to end. ``through`` is the address that the
    doctor examines, if it is wanted. It watches ``run`` for ``patience`` seconds.
    """

    url: str = "http://127.0.0.1:8000"
    through: str | None = None
    run: str | None = None
    patience: float | None = None
    token: str = field(default="", repr=False)
    organization: str | None = None
    create: bool = False
    metadata: Object | None = None
    timeout: float = 120.0
    origin: str = ""
    json: bool = False


def read_options(argv: Sequence[str] | None, *, doctor: bool = False) -> Options:
    """Parse ``argv``, for the doctor's own command or the validator, which can start the doctor, too. The token may
    come from the environment. Exits with 2 for invalid arguments.
    """
    parser = argparse.ArgumentParser(
        prog="codegen-api doctor" if doctor else "validate_server.py",
        description=DOCTOR if doctor else "Smoke checks against a running gateway.",
        epilog=STATUSES if doctor else None,
    )
    add = parser.add_argument
    if doctor:
        add("through", metavar="url", type=_url, help="the address that users have, with its path if there is one")
    else:
        add("url", nargs="?", default=Options.url, type=_url, help=f"where it is ({Options.url})")
        add("--through", metavar="URL", type=_url, help=f"the doctor instead of the checks. {DOCTOR} {STATUSES}")
        add("--metadata", type=_object, help="metadata of that run, as JSON")
        add("--timeout", type=_seconds, help=f"how long its log may take to end ({Options.timeout:g} s)")
    add("--token", type=_header, help="the token to use; better given as CODEGEN_TOKEN or CODEGEN_API_TOKEN")
    add("--organization", type=_header, help="the organization to ask for, for tokens that open more than one")
    whose = "" if doctor else "for the doctor: "
    add("--create", action="store_true", help=f"start a run and watch it{'' if doctor else ', and resume it'}")
    add("--run", type=_header, help=f"{whose}the run to watch (the newest that has not ended)")
    longer = f"{whose}watch for so long, or until the gateway ends the live log (until it was silent once)"
    add("--patience", metavar="SECONDS", type=_seconds, help=longer)
    add("--origin", type=_origin, help=f"a page that may call it ({'no page' if doctor else ORIGIN})")
    add("--json", action="store_true", help="print JSON instead of text")
    add("--version", action="version", version=f"codegen-gateway {codegen_api.__version__}")
    options = parser.parse_args(argv, namespace=Options())
    options.url = options.through or options.url
    options.origin = options.origin or ("" if options.through else ORIGIN)
    options.token = options.token or variables().get(f"{PREFIX}TOKEN") or ""
    if not options.token:
        try:
            secret = read_settings().api_token
        except SettingsError as error:
            parser.error(str(error))
        if not secret:
            parser.error("there is no token: set CODEGEN_TOKEN or CODEGEN_API_TOKEN, or give --token")
        options.token = secret.get_secret_value()
    return options


def object_in(text: str | bytes) -> Object | None:
    """The JSON object that ``text`` is; None if it is something else."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


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
    if not re.fullmatch(r"[\x21-\x7e]+", text):
        raise argparse.ArgumentTypeError("it may hold visible ASCII characters only")
    return text


def _origin(text: str) -> str:
    if "://" not in text:
        raise argparse.ArgumentTypeError("it is a scheme, :// and a host, such as https://app.example.com")
    return _header(text)


def _object(text: str) -> Object:
    value = object_in(text)
    if value is None:
        raise argparse.ArgumentTypeError("it is no JSON object")
    return value


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError("it is no number of seconds")
    return value
