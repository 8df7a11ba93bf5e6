"""``codegen-api keys``: make API keys of the gateway. They are stored nowhere."""

import argparse
import sys
from collections.abc import Sequence

from codegen_api.auth.keys import new_key
from codegen_api.identity import SCOPES


def main(argv: Sequence[str]) -> int:
    """``keys new NAME --scopes ...``: print a new key and the line to store for it. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="codegen-api keys", description="Keys of the gateway's own, for machines.")
    new = parser.add_subparsers(required=True, metavar="new").add_parser(
        "new",
        help="make a key",
        description="Print a new key, behind `key: `, and behind `store: ` the line for the file that"
        " CODEGEN_API_KEYS_FILE names (or for CODEGEN_API_KEYS). The key is kept nowhere, and never shown again.",
    )
    new.add_argument("name", help="whose it is; runs belong to the name, so a new key under the old name keeps them")
    new.add_argument("--scopes", required=True, nargs="+", help=f"what it may do, of {', '.join(sorted(SCOPES))}")
    new.add_argument("--organization", help="the only organization that it may use")
    new.add_argument("--expires", help="when it expires: a date, or a time with its zone")
    arguments = parser.parse_args(argv)
    scopes = [scope for group in arguments.scopes for scope in group.split(",") if scope]
    try:
        key, line = new_key(arguments.name, scopes, arguments.organization, arguments.expires)
    except ValueError as error:
        print(str(error).removeprefix("line 1: "), file=sys.stderr)
        return 2
    print(f"key: {key}\nstore: {line}")
    return 0
