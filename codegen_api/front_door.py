"""``codegen-api``, ``python -m codegen_api`` and ``python run_server.py``: what is meant by the command line.

Each command is imported when it is wanted: one for the terminal would wait a second for the server's parts.
"""

import sys
from collections.abc import Callable, Mapping, Sequence

from codegen_api import terminal


def main(argv: Sequence[str] | None = None) -> None:
    """Do what the first word says, or serve if there is none. The exit status is that of either."""
    given = sys.argv[1:] if argv is None else argv
    command = COMMANDS.get(given[0]) if given and not given[0].startswith("-") else _serve
    if command is None:
        print(f"{given[0]} is none of the commands: {', '.join(COMMANDS)}. See codegen-api --help.", file=sys.stderr)
        raise SystemExit(2)
    try:
        status = command(given)
    except KeyboardInterrupt:  # while it was being imported, say
        status = 130
    raise SystemExit(status)


def _serve(argv: Sequence[str]) -> int:
    from codegen_api.serve import main as serve  # noqa: PLC0415

    serve(argv)
    return 0


def _terminal(argv: Sequence[str]) -> int:
    from codegen_api.terminal.commands import run  # noqa: PLC0415

    return run(argv)


def _doctor(argv: Sequence[str]) -> int:
    from codegen_api.validate import doctor  # noqa: PLC0415

    return doctor(argv[1:])


def _keys(argv: Sequence[str]) -> int:
    from codegen_api import key_maker  # noqa: PLC0415

    return key_maker.main(argv[1:])


COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = {
    **dict.fromkeys(terminal.COMMANDS, _terminal),
    "doctor": _doctor,
    "keys": _keys,
}
