"""Where a worker is that makes its files hard to find, or not its alone.

Knows two such places: a ``/tmp`` that systemd made for one service (``PrivateTmp=true``, as in Debian's
apache2.service), and a process with several interpreters (mod_wsgi has one for each application), in which there is
one copy of this package in each. Refuses to change anything about either: it gives the words of a warning.
"""

from __future__ import annotations

import os
import re
import stat

from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.formats import card as card_format
from wsgi_tracebacker.linux import files
from wsgi_tracebacker.worker import kernel

#: How systemd calls the folder that it mounts over ``/tmp`` and over ``/var/tmp``.
_PRIVATE = "/systemd-private-"

#: Numbers below one's own that are looked at: far more than applications in one process.
_MAX_LOOKED_AT = 64

#: A machine with many containers has some hundred mounts, of 100 to 200 characters each.
_MAX_MOUNTINFO_CHARACTERS = 1_000_000


def private_mount(base: str, mountinfo: str) -> str | None:
    """The mount point of systemd's private folder in which a base is; None if it is in none.

    :param mountinfo: the content of ``/proc/self/mountinfo``.
    """
    folder = os.path.realpath(os.path.dirname(base)) + "/"
    found, longest = None, 0
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        if len(fields) < 5:
            continue
        root, point = _unescaped(fields[3]), _unescaped(fields[4])
        # Of mounts at one place the last one counts, and a deeper one before any.
        if folder.startswith(point.rstrip("/") + "/") and len(point) >= longest:
            found, longest = (point if _PRIVATE in root else None), len(point)
    return found


def _unescaped(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def why_it_is_hidden(base: str) -> str | None:
    """Why others do not see the files at a base, for people; None if they do."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            mountinfo = file.read(_MAX_MOUNTINFO_CHARACTERS)
    except OSError:
        return None
    point = private_mount(base, mountinfo)
    if point is None:
        return None
    return (
        f"{point} is one that systemd made for this service alone (PrivateTmp=true), so nobody else finds its sockets"
        f" at {base}<N>; put them elsewhere, for instance below /run"
    )


def other_copies(base: str, number: int) -> list[int]:
    """The workers below our number that are this very process: copies of this package in other interpreters of it."""
    pid, start_ticks = os.getpid(), kernel.start_ticks() or 0
    found = []
    for other in range(max(1, number - _MAX_LOOKED_AT), number):
        # In a folder that others may write to, anything may have the name of a card: a pipe would be waited for.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            descriptor = os.open(card_format.card_path(base, other), flags)
        except OSError:
            continue
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                continue
            card = card_format.decode(os.read(descriptor, card_format.MAX_CARD_BYTES + 1))
        except (OSError, FormatError):
            continue
        finally:
            files.close(descriptor)
        if (card.pid, card.start_ticks) == (pid, start_ticks):
            found.append(other)
    return found
