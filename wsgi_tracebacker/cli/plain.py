"""The plain command line, ``wsgi-tb read [BASE or SOCKET]...``: what most people type and every script that watches.

Knows what it means without click, which takes as long to load as all else that the command does. Refuses to be a
second parser: as soon as there is an option, or anything that could be one, it is click's.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from wsgi_tracebacker.reader.discovery import DEFAULT_BASE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Set by a shell that wants to know how a command line goes on, see click.shell_completion.
_COMPLETION = "_WSGI_TB_COMPLETE"


def plain_bases(arguments: Sequence[str], environ: Mapping[str, str]) -> tuple[str, ...] | None:
    """The bases of a plain ``read``; None for every other command line."""
    if arguments[:1] != ["read"] or _COMPLETION in environ or any(word.startswith("-") for word in arguments):
        return None
    return tuple(arguments[1:])


def bases_or_default(bases: tuple[str, ...]) -> tuple[str, ...]:
    """What was named, or else WSGI_TB_SOCKET, or else the base that the middleware has by default too."""
    # An empty variable is as good as none: that is how scripts unset one.
    return bases or (os.environ.get("WSGI_TB_SOCKET") or DEFAULT_BASE,)
