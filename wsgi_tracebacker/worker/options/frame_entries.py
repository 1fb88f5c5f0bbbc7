"""Reads the entries that an application adds to the table of known functions.

An entry is a line of text: ``shop/bank.py:Client.charge service service='bank' statement=operation`` names a file, a
function, a kind of waiting, and where each part of the sentence comes from: a variable, or a text in quotes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.errors import ConfigurationError
from wsgi_tracebacker.model.waits import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Attributes of WaitsFor that an entry may give.
PARTS = ("service", "host", "statement", "method", "url", "call", "file", "thread", "pid")

#: Of these the worker itself finds out who has what; no function says so.
_NEVER_OF_A_FUNCTION = ("deadlock", "client_slow", "client_gone", "other_thread", "garbage", "repeated_statement")
OWN_KINDS = tuple(kind for kind in KINDS if kind not in _NEVER_OF_A_FUNCTION)

_SEPARATOR = re.compile(r"[;\n]")
_VALUE = r"(?:'[^']*'|\"[^\"]*\"|[\w.]+)"
_ENTRY = re.compile(rf"(?P<file>\S+\.py):(?P<function>[\w.]+)\s+(?P<kind>\w+)(?P<parts>(?:\s+\w+={_VALUE})*)")
_PART = re.compile(r"(\w+)=(?:'([^']*)'|\"([^\"]*)\"|([\w.]+))")


class FrameEntry(NamedTuple):
    """What an entry says; its parts by attribute of WaitsFor."""

    file: str
    function: str
    kind: str
    #: Paths of variables, such as ``self.host``.
    variables: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, str], ...]


def lines_of(name: str, option: object) -> tuple[str, ...]:
    """The entries of the option: a text, one entry a line or between semicolons, or several texts.

    Raises ConfigurationError with the ``name`` under which it was given, for an entry that cannot be read too.
    """
    texts: Iterable[object] = option if isinstance(option, (list, tuple)) else (option,)
    lines: list[str] = []
    for text in texts:
        if not isinstance(text, str):
            raise ConfigurationError(f"{name} must be text or a list of texts, not {option!r}")
        lines += [line.strip() for line in _SEPARATOR.split(text) if line.strip()]
    for line in lines:
        parse(line, name)
    return tuple(lines)


def parse(line: str, name: str = "known_frames") -> FrameEntry:
    """One entry. Raises ConfigurationError."""
    found = _ENTRY.fullmatch(line)
    if found is None:
        raise ConfigurationError(
            f"{name} has {line!r}: an entry is FILE.py:FUNCTION KIND PART=VARIABLE ..., a text stands in quotes"
        )
    if found["kind"] not in OWN_KINDS:
        raise ConfigurationError(f"{name} has the kind {found['kind']!r}: there are {', '.join(OWN_KINDS)}")
    variables, constants = [], []
    for part, single, double, path in _PART.findall(found["parts"]):
        if part not in PARTS:
            raise ConfigurationError(f"{name} has the part {part!r}: there are {', '.join(PARTS)}")
        if path:
            variables.append((part, path))
        else:
            constants.append((part, single or double))
    return FrameEntry(found["file"], found["function"], found["kind"], tuple(variables), tuple(constants))
