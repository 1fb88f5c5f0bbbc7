"""Parses the plain command line, ``wsgi-tb read [BASE or SOCKET]...``, without click.

Most people and scripts use that one, and loading click takes as long as everything else that the command does. If there
is an option, or anything that could be one, click parses the command line.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Set by a shell that completes a command line, see click.shell_completion.
COMPLETION = "_WSGI_TB_COMPLETE"


def plain_bases(arguments: Sequence[str], environ: Mapping[str, str]) -> tuple[str, ...] | None:
    """The bases of a plain ``read``; None for every other command line."""
    if arguments[:1] != ["read"] or COMPLETION in environ or any(word.startswith("-") for word in arguments):
        return None
    return tuple(arguments[1:])


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
