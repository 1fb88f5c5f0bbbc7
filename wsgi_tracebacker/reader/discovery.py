"""From what the operator names to the places where workers may listen.

Knows the layout of ``wire.card_json``: ``<base><N>`` is a socket, ``<base><N>.worker`` its card. Refuses to lock
anything (measured: readers that lock make starting workers skip numbers), to follow links, and to believe a card
that is not owned by whoever owns the socket: a reader that runs as root must not be led by another user's files.
"""

from __future__ import annotations

import os
import re
import stat
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.linux import files
from wsgi_tracebacker.wire import card_json as cards

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from wsgi_tracebacker.model.card import Card

#: Where a worker's files are if nobody says otherwise.
DEFAULT_BASE = "/tmp/tbsocket"  # noqa: S108 - uWSGI's documented place; nothing is created there by the reader

_SUFFIX = re.compile(r"([1-9][0-9]{0,4})((?:\.worker)?)")
_TRAILING_NUMBER = re.compile(r"(?:^|[^0-9])([1-9][0-9]{0,4})$")

#: A card is written with one call; that a reader meets half of one is a matter of microseconds.
_CARD_RETRY_SECONDS = 0.002

#: Workers of another user that are looked at, of all arguments together. They take the numbers up to 1,024, so a base
#: has no more of them; and whoever plants sockets and cards at all 99,999 numbers is neither read nor waited for that
#: often.
MAX_USER_WORKERS = 1024


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
    #: The user whom the socket belongs to or, where there is none, the card.
    owner: int


class Found(NamedTuple):
    """What is behind some arguments."""

    #: The workers of each argument, sorted by number, or why its folder cannot be listed.
    targets: tuple[tuple[Target, ...] | OSError | ValueError, ...]
    #: How many workers of a user were not looked at, because there are more than MAX_USER_WORKERS.
    left_out: Mapping[int, int]


def find(arguments: Sequence[str]) -> Found:
    """The workers behind each argument: a socket, a card, or the base path of many."""
    look = _Look()
    targets = [look.behind(argument) for argument in arguments]
    if look.broken:
        # One pause for all. With one for each, 500 planted cards were a second.
        time.sleep(_CARD_RETRY_SECONDS)
        look.forget_broken()
        targets = [look.behind(argument) for argument in arguments]
    return Found(tuple(targets), look.left_out)


class _Look:
    """One look at the files: each folder is listed and each file read once, however many arguments lead there."""

    def __init__(self) -> None:
        #: Sockets whose cards could not be read, perhaps because they are being written.
        self.broken: list[str] = []
        self.left_out: Counter[int] = Counter()
        self._looked_at: defaultdict[int, set[str]] = defaultdict(set)
        #: By folder, sorted.
        self._names: dict[str, list[str]] = {}
        #: By the path of the socket.
        self._targets: dict[str, Target | None] = {}

    def forget_broken(self) -> None:
        """Have them read anew."""
        for path in self.broken:
            del self._targets[path]
        self.broken.clear()

    def behind(self, argument: str) -> tuple[Target, ...] | OSError | ValueError:
        path = argument
        if path.endswith(cards.CARD_SUFFIX) and (_socket(path) is None):
            # A shell's ``/tmp/tbsocket*`` names the cards too.
            path = path[: -len(cards.CARD_SUFFIX)]
        named = self._target(path, _trailing_number(path))
        try:
            behind = tuple(self._of_base(argument))
        except (OSError, ValueError) as error:
            return error
        if named is None:
            return behind
        if named.card is not None:
            # It may be both: worker 1 of /tmp/tb, and the base of /tmp/tb11. Nobody who names a base wants to miss its
            # workers, so those that say it is theirs are shown beside it.
            return (named, *(target for target in behind if target.card is not None))
        # A socket that has no card is uWSGI's, or not a worker's at all but the server's, with the base named after it.
        return behind if any(target.card is not None for target in behind) else (named,)

    def _of_base(self, base: str) -> Iterator[Target]:
        folder, prefix = os.path.split(base)
        if folder not in self._names:
            self._names[folder] = sorted(os.listdir(folder or "."))
        for number in sorted(_numbers(self._names[folder], prefix)):
            target = self._target(cards.socket_path(base, number), number)
            # Worker 12 of /tmp/tb is not worker 2 of /tmp/tb1. Only names are compared, not folders: one folder has
            # many paths, through links and inside containers.
            if target is None:
                continue
            card = target.card
            if card is None or (os.path.basename(card.base), card.number) == (prefix, number):
                yield target

    def _target(self, path: str, number: int | None) -> Target | None:
        """The worker whose socket is, or was, at ``path``; None if neither a socket nor a card is there."""
        if path not in self._targets:
            self._targets[path] = self._read(path)
        target = self._targets[path]
        return target if target is None or target.card is not None else target._replace(number=number)

    def _read(self, path: str) -> Target | None:
        socket_stat = _socket(path)
        card_path = path + cards.CARD_SUFFIX
        try:
            owner = os.lstat(card_path).st_uid if socket_stat is None else socket_stat.st_uid
        except (OSError, ValueError):
            return None
        # Leftovers of others are no business of somebody who is not root, not even to be counted.
        if (socket_stat is None and os.geteuid() not in (0, owner)) or not self._may_look_at(path, owner):
            return None
        try:
            card, card_owner = read_card(card_path, None if socket_stat is None else owner)
        except FormatError:
            self.broken.append(path)
            card, card_owner = None, None
        if socket_stat is None and card is None:
            return None
        return Target(
            socket=path,
            number=None if card is None else card.number,
            inode=None if socket_stat is None else socket_stat.st_ino,
            card=card,
            card_owner=card_owner,
            owner=owner,
        )

    def _may_look_at(self, path: str, owner: int) -> bool:
        looked_at = self._looked_at[owner]
        if owner != os.geteuid() and len(looked_at) >= MAX_USER_WORKERS and path not in looked_at:
            self.left_out[owner] += 1
            return False
        looked_at.add(path)
        return True


def _numbers(names: Sequence[str], prefix: str) -> set[int]:
    """The numbers of the workers of a base in a sorted folder."""
    numbers = set()
    for index in range(bisect_left(names, prefix), len(names)):
        if not names[index].startswith(prefix):
            break
        match = _SUFFIX.fullmatch(names[index], len(prefix))
        if match:
            numbers.add(int(match[1]))
    return numbers


def read_card(path: str, socket_owner: int | None) -> tuple[Card | None, int | None]:
    """The card at ``path`` and its file's owner; (None, None) for one that is not there or may not be believed.

    To be believed it is a regular file of ``socket_owner`` or, where there is no socket, of the user who reads;
    root then believes everybody's, because nothing is done with it but showing it.
    Raises FormatError for one that is no whole card, as one is that is being written just now.
    """

    def may_be_believed(status: os.stat_result) -> None:
        believed = status.st_uid == socket_owner if socket_owner is not None else os.geteuid() in (0, status.st_uid)
        if not believed:
            raise PermissionError(f"{path} belongs to uid {status.st_uid}")

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
    return cards.decode(content), owner


def _socket(path: str) -> os.stat_result | None:
    try:
        found = os.lstat(path)
    except (OSError, ValueError):
        return None
    return found if stat.S_ISSOCK(found.st_mode) else None


def _trailing_number(path: str) -> int | None:
    match = _TRAILING_NUMBER.search(path)
    return int(match[1]) if match else None
