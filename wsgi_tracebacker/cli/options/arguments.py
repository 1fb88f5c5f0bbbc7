"""What the arguments of a command line mean: bases, sockets and processes. Does not need click, which is slow."""

from __future__ import annotations

import os
import re

from wsgi_tracebacker.errors import Misuse

#: What people may name who do not know about bases: where the server listens, as a URL or as ``host:port``.
#: Compiled where an argument has a colon, which is rare.
_ADDRESS = r"(?is)[a-z][a-z0-9+.-]*://.*|(?:[^/:]*|\[[0-9a-f:.%]+\]):[0-9]{1,5}(?:/.*)?"


def bases_or_default(bases: tuple[str, ...]) -> tuple[str, ...]:
    """The bases and sockets that are meant: by the command line, or else WSGI_TB_SOCKET, or else all that there are.

    A pid means the workers that belong to it. Raises NoWorkersFound if it has none, and Misuse for an address.
    """
    if bases:
        return tuple(each for base in bases for each in _of_argument(base))
    # An empty variable counts as unset.
    named = os.environ.get("WSGI_TB_SOCKET")
    if named:
        return (named,)
    from wsgi_tracebacker.reader.finding.everywhere import default_arguments

    return default_arguments()


def _what_to_name(address: str) -> str:
    from wsgi_tracebacker.reader.finding.everywhere import bases_line

    line = (
        f"{address!r} is an address, and wsgi-tb does not ask over the network. Name the base path, the socket of a"
        " worker, or the pid of the server: ss -ltnp shows which pid listens at a port."
    )
    return "\n".join([line, *bases_line()])


def are_named(bases: tuple[str, ...]) -> bool:
    """Whether the user named what is meant."""
    return bool(bases or os.environ.get("WSGI_TB_SOCKET"))


def _of_argument(argument: str) -> tuple[str, ...]:
    if ":" in argument and re.fullmatch(_ADDRESS, argument):
        raise Misuse(_what_to_name(argument))
    # A file with such a name is a socket.
    if not (argument.isascii() and argument.isdecimal()) or os.path.lexists(argument):
        return (argument,)
    from wsgi_tracebacker.errors import NoWorkersFound
    from wsgi_tracebacker.reader.finding.everywhere import bases_line, sockets_of

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
