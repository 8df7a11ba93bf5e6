"""The program: ``codegen-api``, ``python -m codegen_api`` and ``python run_server.py``.

Each command is imported only when it is run: importing the server's parts takes a second.
"""

import sys
from collections.abc import Callable, Mapping, Sequence

from codegen_api import terminal


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command that the first word names, or the server if there is none, and exit with its status."""
    arguments = sys.argv[1:] if argv is None else argv
    name = arguments[0] if arguments and not arguments[0].startswith("-") else None
    command = _serve if name is None else COMMANDS.get(name)
    if command is None:
        print(f"{name} is none of the commands: {', '.join(COMMANDS)}. See codegen-api --help.", file=sys.stderr)
        raise SystemExit(2)
    try:
        status = command(arguments)
    except KeyboardInterrupt:  # for example during the import
        status = 130
    raise SystemExit(status)


def _serve(argv: Sequence[str]) -> int:
    from codegen_api.program.serve import main as serve  # noqa: PLC0415

    serve(argv)
    return 0


def _terminal(argv: Sequence[str]) -> int:
    from codegen_api.terminal.commands import run  # noqa: PLC0415

    return run(argv)


def _doctor(argv: Sequence[str]) -> int:
    from codegen_api.validate import doctor  # noqa: PLC0415

    return doctor(argv[1:])


def _keys(argv: Sequence[str]) -> int:
    from codegen_api.program import key_maker  # noqa: PLC0415

    return key_maker.main(argv[1:])


COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = {
    **dict.fromkeys(terminal.COMMANDS, _terminal),
    "doctor": _doctor,
    "keys": _keys,
}
