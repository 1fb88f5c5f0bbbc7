"""Parses the plain command line, ``wsgi-tb read [BASE or SOCKET]...``, without click.

Most people and scripts use that one, and loading click takes as long as everything else that the command does. If there
is an option, or anything that could be one, click parses the command line.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from wsgi_tracebacker.reader.discovery import DEFAULT_BASE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Set by a shell that completes a command line, see click.shell_completion.
_COMPLETION = "_WSGI_TB_COMPLETE"


def plain_bases(arguments: Sequence[str], environ: Mapping[str, str]) -> tuple[str, ...] | None:
    """The bases of a plain ``read``; None for every other command line."""
    if arguments[:1] != ["read"] or _COMPLETION in environ or any(word.startswith("-") for word in arguments):
        return None
    return tuple(arguments[1:])


def bases_or_default(bases: tuple[str, ...]) -> tuple[str, ...]:
    """The bases of the command line, or else WSGI_TB_SOCKET, or else the middleware's default."""
    # An empty variable counts as unset.
    return bases or (os.environ.get("WSGI_TB_SOCKET") or DEFAULT_BASE,)
