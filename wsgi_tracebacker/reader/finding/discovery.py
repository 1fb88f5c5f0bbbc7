"""Finds the workers behind a path that the operator named: the base path of many, one socket, or one card.

``<base><N>`` is a worker's socket, ``<base><N>.worker`` its card (see ``wire.card_json``). Nothing is locked here
(measured: readers that lock make starting workers skip numbers) and no link is followed. A card is believed only if it
belongs to the owner of the socket: another user's files must not lead a reader that runs as root.
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
from wsgi_tracebacker.wire.documents import card_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from wsgi_tracebacker.model.card import Card

#: The base path that the middleware has by default too.
DEFAULT_BASE = "/tmp/tbsocket"  # noqa: S108 - uWSGI's documented place; nothing is created there by the reader

_SUFFIX = re.compile(r"([1-9][0-9]{0,4})((?:\.worker)?)")
_TRAILING_NUMBER = re.compile(r"(?:^|[^0-9])([1-9][0-9]{0,4})$")

#: How long to wait before a broken card is read again: its worker writes it with one call, within microseconds.
_CARD_RETRY_SECONDS = 0.002

#: How many workers of one other user are read, in all arguments together. Workers take the numbers up to 1,024, so a
#: base has no more; and a user who makes sockets and cards for all 99,999 numbers does not delay the reader.
MAX_USER_WORKERS = 1024


class Target(NamedTuple):
    """One worker, dead or alive."""

    #: The path of the socket, whether it exists or not.
    socket: str
    #: From the card or, if there is none, from the path.
    number: int | None
    #: Inode of the socket, None if there is none.
    inode: int | None
    card: Card | None
    #: The user that the card's file belongs to.
    card_owner: int | None
    #: The user that the socket (or, if there is none, the card) belongs to.
    owner: int

    @property
    def base(self) -> str:
        """The base path, as it was found: the socket's path without its number."""
        number = "" if self.number is None else str(self.number)
        return self.socket.removesuffix(number) or self.socket


class Found(NamedTuple):
    """The workers behind some arguments."""

    #: The workers of each argument, sorted by number, or why its folder cannot be listed.
    targets: tuple[tuple[Target, ...] | OSError | ValueError, ...]
    #: By user: how many workers beyond MAX_USER_WORKERS were not read.
    left_out: Mapping[int, int]


def find(arguments: Sequence[str]) -> Found:
    """Find the workers behind each argument: a socket, a card, or the base path of many."""
    search = _Search()
    targets = [search.behind(argument) for argument in arguments]
    if search.broken:
        # One pause for all cards: with one for each, 500 broken cards of a stranger took a second.
        time.sleep(_CARD_RETRY_SECONDS)
        search.forget_broken()
        targets = [search.behind(argument) for argument in arguments]
    return Found(tuple(targets), search.left_out)


class _Search:
    """Lists each folder and reads each file once, however many arguments lead there."""

    def __init__(self) -> None:
        #: Sockets whose cards could not be read, perhaps because they are being written.
        self.broken: list[str] = []
        self.left_out: Counter[int] = Counter()
        #: By owner: the paths of the sockets.
        self._read_of: defaultdict[int, set[str]] = defaultdict(set)
        #: By folder, sorted.
        self._names: dict[str, list[str]] = {}
        #: By the path of the socket.
        self._targets: dict[str, Target | None] = {}

    def forget_broken(self) -> None:
        """Have them read again."""
        for path in self.broken:
            del self._targets[path]
        self.broken.clear()

    def behind(self, argument: str) -> tuple[Target, ...] | OSError | ValueError:
        path = argument
        if path.endswith(card_json.CARD_SUFFIX) and _socket(path) is None:
            # A shell expands ``/tmp/tbsocket*`` to the cards too.
            path = path.removesuffix(card_json.CARD_SUFFIX)
        named = self._target(path, _trailing_number(path))
        try:
            behind = tuple(self._of_base(argument))
        except (OSError, ValueError) as error:
            return error
        if named is None:
            return behind
        with_cards = tuple(target for target in behind if target.card is not None)
        if named.card is not None:
            # The path may be both worker 1 of /tmp/tb and the base of /tmp/tb11. Then the workers whose cards name this
            # base are shown beside worker 1.
            return (named, *with_cards)
        # A socket without card is uWSGI's, or the server's own with the base named after it.
        return behind if with_cards else (named,)

    def _of_base(self, base: str) -> Iterator[Target]:
        folder, prefix = os.path.split(base)
        if folder not in self._names:
            self._names[folder] = sorted(os.listdir(folder or "."))
        for number in sorted(_numbers(self._names[folder], prefix)):
            target = self._target(card_json.socket_path(base, number), number)
            # Worker 12 of /tmp/tb is not worker 2 of /tmp/tb1. Only names are compared, not folders: a folder has
            # several paths, through links and inside containers.
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
        card_path = path + card_json.CARD_SUFFIX
        try:
            owner = os.lstat(card_path).st_uid if socket_stat is None else socket_stat.st_uid
        except (OSError, ValueError):
            return None
        # A card without a socket is shown to its owner and to root only.
        if (socket_stat is None and os.geteuid() not in (0, owner)) or not self._counts(path, owner):
            return None
        try:
            card, card_owner = read_card(card_path, None if socket_stat is None else owner)
        except FormatError:
            self.broken.append(path)
            card, card_owner = None, None
        if socket_stat is None and card is None:
            return None
        other_root = files.OTHER_ROOT.match(path)
        if card is not None and other_root is not None:
            # Its paths are of its own mount namespace.
            card = card._replace(
                black_box=card.black_box and other_root[0] + card.black_box,
                stacks=card.stacks and other_root[0] + card.stacks,
            )
        return Target(
            socket=path,
            number=None if card is None else card.number,
            inode=None if socket_stat is None else socket_stat.st_ino,
            card=card,
            card_owner=card_owner,
            owner=owner,
        )

    def _counts(self, path: str, owner: int) -> bool:
        """Count a worker of a user; return whether it is within MAX_USER_WORKERS."""
        read = self._read_of[owner]
        if owner != os.geteuid() and len(read) >= MAX_USER_WORKERS and path not in read:
            self.left_out[owner] += 1
            return False
        read.add(path)
        return True


def _numbers(names: Sequence[str], prefix: str) -> set[int]:
    """Return the numbers of the workers of a base in a sorted folder."""
    numbers = set()
    for index in range(bisect_left(names, prefix), len(names)):
        if not names[index].startswith(prefix):
            break
        match = _SUFFIX.fullmatch(names[index], len(prefix))
        if match:
            numbers.add(int(match[1]))
    return numbers


def read_card(path: str, socket_owner: int | None) -> tuple[Card | None, int | None]:
    """Return the card at ``path`` and its owner; (None, None) if there is none that can be believed.

    It is believed if it is a regular file of ``socket_owner`` or, where there is no socket, of the reader's user. Root
    then believes every user's, because it only shows the card.
    Raises FormatError if the card is incomplete, which it is while its worker writes it.
    """

    def check(status: os.stat_result) -> None:
        believed = status.st_uid == socket_owner if socket_owner is not None else os.geteuid() in (0, status.st_uid)
        if not believed:
            raise PermissionError(f"{path} belongs to uid {status.st_uid}")

    try:
        descriptor = files.open_regular(path, check)
    except OSError:
        return None, None
    try:
        owner = os.fstat(descriptor).st_uid
        content = os.read(descriptor, card_json.MAX_CARD_BYTES + 1)
    except OSError:
        return None, None
    finally:
        os.close(descriptor)
    return card_json.decode(content), owner


def _socket(path: str) -> os.stat_result | None:
    try:
        found = os.lstat(path)
    except (OSError, ValueError):
        return None
    return found if stat.S_ISSOCK(found.st_mode) else None


def _trailing_number(path: str) -> int | None:
    match = _TRAILING_NUMBER.search(path)
    return int(match[1]) if match else None
