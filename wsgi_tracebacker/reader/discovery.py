"""From what the operator names to the places where workers may listen.

Knows the layout of ``formats.card``: ``<base><N>`` is a socket, ``<base><N>.worker`` its card. Refuses to lock
anything (measured: readers that lock make starting workers skip numbers), to follow links, and to believe a card
that is not owned by whoever owns the socket: a reader that runs as root must not be led by another user's files.
"""

from __future__ import annotations

import os
import re
import stat
import time
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.formats import card as cards
from wsgi_tracebacker.reader import files

if TYPE_CHECKING:
    from wsgi_tracebacker.model import Card

#: Where a worker's files are if nobody says otherwise.
DEFAULT_BASE = "/tmp/tbsocket"  # noqa: S108 - uWSGI's documented place; nothing is created there by the reader

_SUFFIX = re.compile(r"([1-9][0-9]{0,4})((?:\.worker)?)")
_TRAILING_NUMBER = re.compile(r"(?:^|[^0-9])([1-9][0-9]{0,4})$")

#: A card is written with one call; that a reader meets half of one is a matter of microseconds.
_CARD_ATTEMPTS = 3
_CARD_RETRY_SECONDS = 0.002


class Target(NamedTuple):
    """One place where a worker listens, or did."""

    #: The path of the socket, whether it exists or not.
    socket: str
    #: From the card or, for want of one, from the path.
    number: int | None
    #: Inode of the socket, None if there is none.
    inode: int | None
    card: Card | None
    #: The user whom the card's file belongs to.
    card_owner: int | None


def find(argument: str) -> tuple[Target, ...]:
    """The workers behind one argument, sorted by number: a socket, a card, or the base path of many.

    Raises OSError if the folder cannot be listed.
    """
    path = argument
    if path.endswith(cards.CARD_SUFFIX) and (_socket(path) is None):
        # A shell's ``/tmp/tbsocket*`` names the cards too.
        path = path[: -len(cards.CARD_SUFFIX)]
    named = _target(path, _trailing_number(path))
    behind = _behind(argument)
    if named is None:
        return behind
    if named.card is not None:
        # It may be both: worker 1 of /tmp/tb, and the base of /tmp/tb11. Nobody who names a base wants to miss its
        # workers, so those that say it is theirs are shown beside it.
        return (named, *(target for target in behind if target.card is not None))
    # A socket that has no card is uWSGI's, or not a worker's at all but the server's, with the base named after it.
    return behind if any(target.card is not None for target in behind) else (named,)


def _behind(base: str) -> tuple[Target, ...]:
    folder, prefix = os.path.split(base)
    numbers: set[int] = set()
    for name in os.listdir(folder or "."):
        if name.startswith(prefix):
            match = _SUFFIX.fullmatch(name, len(prefix))
            if match:
                numbers.add(int(match[1]))
    targets = []
    for number in sorted(numbers):
        target = _target(cards.socket_path(base, number), number)
        # Worker 12 of /tmp/tb is not worker 2 of /tmp/tb1. Only names are compared, not folders: one folder has many
        # paths, through links and inside containers.
        if target is None:
            continue
        card = target.card
        if card is None or (os.path.basename(card.base), card.number) == (prefix, number):
            targets.append(target)
    return tuple(targets)


def _target(path: str, number: int | None) -> Target | None:
    """The worker whose socket is, or was, at ``path``; None if neither a socket nor a card is there."""
    socket_stat = _socket(path)
    card, owner = read_card(path + cards.CARD_SUFFIX, None if socket_stat is None else socket_stat.st_uid)
    if socket_stat is None and card is None:
        return None
    return Target(
        socket=path,
        number=number if card is None else card.number,
        inode=None if socket_stat is None else socket_stat.st_ino,
        card=card,
        card_owner=owner,
    )


def read_card(path: str, socket_owner: int | None) -> tuple[Card | None, int | None]:
    """The card at ``path`` and its file's owner; (None, None) for one that cannot be read or may not be believed.

    To be believed it is a regular file of ``socket_owner`` or, where there is no socket, of the user who reads;
    root then believes everybody's, because nothing is done with it but showing it.
    """

    def may_be_believed(status: os.stat_result) -> None:
        believed = status.st_uid == socket_owner if socket_owner is not None else os.geteuid() in (0, status.st_uid)
        if not believed:
            raise PermissionError(f"{path} belongs to uid {status.st_uid}")

    for attempt in range(_CARD_ATTEMPTS):
        if attempt:
            time.sleep(_CARD_RETRY_SECONDS)
        try:
            descriptor = files.open_regular(path, may_be_believed)
        except OSError:
            return None, None
        try:
            owner = os.fstat(descriptor).st_uid
            content = os.read(descriptor, cards.MAX_CARD_BYTES + 1)
        except OSError:
            return None, None
        finally:
            os.close(descriptor)
        try:
            return cards.decode(content), owner
        except FormatError:
            continue
    return None, None


def _socket(path: str) -> os.stat_result | None:
    try:
        found = os.lstat(path)
    except (OSError, ValueError):
        return None
    return found if stat.S_ISSOCK(found.st_mode) else None


def _trailing_number(path: str) -> int | None:
    match = _TRAILING_NUMBER.search(path)
    return int(match[1]) if match else None
