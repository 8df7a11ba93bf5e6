"""The validator's command line."""

import argparse
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

import codegen_api
from codegen_api.environment import SettingsError
from codegen_api.settings import read_settings

Object = dict[str, Any]


@dataclass
class Options:
    """The arguments and their defaults. ``timeout`` is how many seconds a log may take to end."""

    url: str = "http://127.0.0.1:8000"
    token: str = field(default="", repr=False)
    organization: str | None = None
    create: bool = False
    metadata: Object | None = None
    timeout: float = 120.0
    origin: str = "http://localhost:3000"
    json: bool = False


def read_options(argv: Sequence[str] | None) -> Options:
    """Parse ``argv``; the token may come from the settings. Exits with 2 for arguments that make no sense."""
    parser = argparse.ArgumentParser(prog="validate_server.py", description="Smoke checks against a running gateway.")
    add = parser.add_argument
    add("url", nargs="?", default=Options.url, type=_url, help=f"where it is ({Options.url})")
    add("--token", type=_header, help="a token of the host; better given as CODEGEN_API_TOKEN")
    add("--organization", type=_header, help="the organization to ask for, for tokens that open more than one")
    add("--create", action="store_true", help="start a run, watch it to its end, and resume it")
    add("--metadata", type=_object, help="metadata of that run, as JSON")
    add("--timeout", type=_seconds, help=f"how long its log may take to end ({Options.timeout:g} s)")
    add("--origin", type=_header, help=f"a page that may call it ({Options.origin})")
    add("--json", action="store_true", help="print JSON instead of a table")
    add("--version", action="version", version=f"codegen-gateway {codegen_api.__version__}")
    options = parser.parse_args(argv, namespace=Options())
    if not options.token:
        try:
            secret = read_settings().api_token
        except SettingsError as error:
            parser.error(str(error))
        if not secret:
            parser.error("there is no token: set CODEGEN_API_TOKEN or give --token")
        options.token = secret.get_secret_value()
    return options


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
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError("it is no number of seconds")
    return value
