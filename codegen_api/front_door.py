"""``codegen-api``, ``python -m codegen_api`` and ``python run_server.py``: what is meant by the command line."""

import sys
from collections.abc import Sequence

from codegen_api.terminal import COMMANDS


def main(argv: Sequence[str] | None = None) -> None:
    """Serve, or do what one of the commands for the terminal says. The exit status is that of either."""
    given = sys.argv[1:] if argv is None else argv
    # each is imported when it is wanted: a command for the terminal would wait a second for the server's parts
    if given and given[0] in COMMANDS:
        from codegen_api.terminal.commands import run  # noqa: PLC0415

        raise SystemExit(run(given))
    from codegen_api.serve import main as serve  # noqa: PLC0415

    serve(given)
