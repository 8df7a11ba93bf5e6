"""Colours on terminals, and nowhere else."""

import os
from typing import TextIO

BOLD, DIM, RED, GREEN, YELLOW, MAGENTA, CYAN = "1", "2", "31", "32", "33", "35", "36"


def shows_colours(stream: TextIO | None) -> bool:
    """Whether ``stream`` is a terminal, and colours are not switched off: see https://no-color.org."""
    try:
        return (
            stream is not None
            and stream.isatty()
            and not os.environ.get("NO_COLOR")
            and os.environ.get("TERM") != "dumb"
        )
    except ValueError:  # it is closed
        return False


def painted(text: str, colour: str, wanted: bool = True) -> str:
    """The text in a colour, unless that is empty or colours are not ``wanted``."""
    return f"\x1b[{colour}m{text}\x1b[0m" if wanted and colour and text else text
