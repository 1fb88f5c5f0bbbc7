"""The colours in which text is shown on a terminal, and none for elsewhere."""

from __future__ import annotations

from typing import NamedTuple


class Palette(NamedTuple):
    """What stands before and after text of a kind; all empty without colour."""

    heading: str = ""
    request: str = ""
    quiet: str = ""
    function: str = ""
    own: str = ""
    mark: str = ""
    slow: str = ""
    stuck: str = ""
    end: str = ""

    def paint(self, how: str, text: str) -> str:
        return f"{how}{text}{self.end}" if how else text


PLAIN = Palette()
#: Only the eight colours that every terminal has and every theme makes readable.
COLOURED = Palette(
    heading="\x1b[1m",
    request="\x1b[1;36m",
    quiet="\x1b[2m",
    function="\x1b[1m",
    own="\x1b[1m",
    mark="\x1b[2m",
    slow="\x1b[33m",
    stuck="\x1b[1;31m",
    end="\x1b[0m",
)
