"""Makes untrusted text harmless for a terminal: control sequences are removed, control characters made visible."""

import re

ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-Z\\`-~])")
"""Whole sequences: for colours, movements, titles, links, the clipboard."""
SIGNS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls, but not tab and newline
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # changes of the direction of text
    "\u2028\u2029\ud800-\udfff\ufff9-\ufffb\U000e0000-\U000e007f]"  # other line ends, surrogates, invisible characters
)
COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")


def plain(text: str) -> str:
    """The text without anything that controls a terminal or the direction of text."""
    return SIGNS.sub(_sign, ESCAPES.sub("", text).replace("\r\n", "\n"))


def on_a_line(text: str) -> str:
    """``plain`` on one line."""
    return plain(text).replace("\n", " ")


def _sign(found: re.Match[str]) -> str:
    code = ord(found[0])
    return chr(0x2400 + code) if code < 0x20 else f"\u2039U+{code:04X}\u203a"


def but_colours(text: str) -> str:
    """``plain``, but with colours, for texts whose colours are ours."""
    parts = COLOUR.split(text)
    return "".join(part if index % 2 else plain(part) for index, part in enumerate(parts))
