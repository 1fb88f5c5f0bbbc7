"""Parses the usual command lines of ``wsgi-tb read`` without click.

Loading click takes as long as everything else that the command does. So ``read`` with bases and with the options that
are named here, spelt in full and with values that are right, is understood without it. Whatever else there is, click
parses the whole command line, and says what is wrong with it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

#: The values of ``--format`` and of ``--color``.
FORMATS = ("text", "html", "json", "uwsgi")
COLOURS = ("auto", "always", "never")

#: The limits of ``--times``, and of every number of seconds.
MAX_TIMES = 100
MAX_SECONDS = 3600

#: Set by a shell that completes a command line, see click.shell_completion.
COMPLETION = "_WSGI_TB_COMPLETE"


def plain_read(arguments: Sequence[str], environ: Mapping[str, str]) -> dict[str, Any] | None:
    """The arguments of ``show`` for a usual ``read``; None for every other command line."""
    if arguments[:1] != ["read"] or COMPLETION in environ:
        return None
    bases: list[str] = []
    options: dict[str, Any] = {}
    words = iter(arguments[1:])
    for word in words:
        if not word.startswith("-"):
            bases.append(word)
        elif word in _FLAGS:
            options[_FLAGS[word]] = True
        else:
            option, has_value, value = word.partition("=")
            if option not in _OPTIONS:
                return None
            name, convert = _OPTIONS[option]
            options[name] = convert(value if has_value else next(words, ""))
            if options[name] is None:
                return None
    return {**options, "bases": tuple(bases)}


def _one_of(choices: Sequence[str]) -> Callable[[str], str | None]:
    return lambda value: value if value in choices else None


def _whole(least: int, most: int) -> Callable[[str], int | None]:
    def convert(value: str) -> int | None:
        is_whole = value.isdecimal() and value.isascii() and len(value) <= len(str(most))
        return int(value) if is_whole and least <= int(value) <= most else None

    return convert


def _seconds(value: str) -> float | None:
    """More than 0: for an age 0 would be right too, but nobody asks for it."""
    digits = value.replace(".", "", 1)
    if not (digits.isdecimal() and digits.isascii() and len(digits) <= 9):
        return None
    return seconds if 0 < (seconds := float(value)) <= MAX_SECONDS else None


#: By the option: the parameter of ``show``.
_FLAGS = {"--full": "full", "--all": "all_threads", "--no-signal": "no_signal"}

#: By the option: the parameter of ``show``, and what makes its value of a word, or None of one that is left to click.
_OPTIONS: dict[str, tuple[str, Callable[[str], object | None]]] = {
    "--format": ("form", _one_of(FORMATS)),
    "--color": ("colour", _one_of(COLOURS)),
    "--colour": ("colour", _one_of(COLOURS)),
    "--limit": ("limit", _whole(0, 9999)),
    "--times": ("times", _whole(1, MAX_TIMES)),
    "--every": ("every_seconds", _seconds),
    "--older": ("older_seconds", _seconds),
    "--timeout": ("timeout_seconds", _seconds),
}


def bases_or_default(bases: tuple[str, ...]) -> tuple[str, ...]:
    """The bases and sockets that are meant: by the command line, or else WSGI_TB_SOCKET, or else all that there are.

    A pid means the workers that belong to it. Raises NoWorkersFound if it has none.
    """
    if bases:
        return tuple(each for base in bases for each in _of_argument(base))
    # An empty variable counts as unset.
    named = os.environ.get("WSGI_TB_SOCKET")
    if named:
        return (named,)
    from wsgi_tracebacker.reader.everywhere import default_arguments

    return default_arguments()


def are_named(bases: tuple[str, ...]) -> bool:
    """Whether the user named what is meant."""
    return bool(bases or os.environ.get("WSGI_TB_SOCKET"))


def _of_argument(argument: str) -> tuple[str, ...]:
    # A file with such a name is a socket.
    if not (argument.isascii() and argument.isdecimal()) or os.path.lexists(argument):
        return (argument,)
    from wsgi_tracebacker.errors import NoWorkersFound
    from wsgi_tracebacker.reader.everywhere import bases_line, sockets_of

    sockets = sockets_of(int(argument))
    if not sockets:
        raise NoWorkersFound(
            "\n".join(
                [
                    f"no worker that you may read is process {argument}, its descendant or in its process group",
                    *bases_line(),
                ]
            )
        )
    return sockets
