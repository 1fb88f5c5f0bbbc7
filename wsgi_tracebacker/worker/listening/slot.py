"""Claims a worker number: its lock, its card, the paths of its files, what a dead owner left there.

Binds the socket of the number; the listener serves on it.

The rules, each of which prevents something that was seen to go wrong elsewhere:

- The ``flock`` on the card is the claim; the kernel releases it when the process dies, however it dies. It is not
  ``lockf``: two sub-interpreters of one process must not share a number, and a POSIX lock is lost when any other
  descriptor of the file is closed.
- After locking, the descriptor's inode is compared with the path's: if the owner unlinked its card while we waited,
  we have the lock of a file that nobody can find.
- Only the owner of the lock binds or unlinks, and it unlinks only a socket of its own user on which nobody listens. A
  number with a file of somebody else counts as used. Such a file is not opened either: that alone would wake a process
  that waits at a pipe.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import stat
from typing import TYPE_CHECKING

from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.linux import files
from wsgi_tracebacker.linux.descriptor import OwnDescriptor
from wsgi_tracebacker.wire.documents import card_json
from wsgi_tracebacker.worker.reporting import faults

if TYPE_CHECKING:
    from wsgi_tracebacker.model.card import Card

#: Numbers that are tried before giving up. A reload overlaps, so they are not capped at the number of workers.
MAX_NUMBER = 1024

#: Clients that the kernel keeps waiting for us; more get EAGAIN.
_BACKLOG = 64

_OWNER_AND_GROUP = 0o660

#: Errors for a card that is ours but may not be written: its number counts as used. The caller gets any other error.
_NOT_WRITABLE = (errno.EACCES, errno.EPERM)

#: How often one number is tried again because its card was replaced before we had its lock.
_REPLACED_TRIES = 8


class Slot:
    """A worker number that is ours, with its lock, card and bound socket."""

    def __init__(self, base: str, number: int, lock: OwnDescriptor) -> None:
        """See claim(), which makes it. ``lock`` is the open and locked card."""
        self.base = base
        self.number = number
        self.card_path = card_json.card_path(base, number)
        self.socket_path = card_json.socket_path(base, number)
        #: The listening socket. ``_socket.socket`` is the C type: what gevent and eventlet patch is the class in
        #: ``socket`` that derives from it, whose ``accept()`` hands back patched sockets.
        self.listening: OwnDescriptor | None = None
        self.lock = lock
        self._socket_inode: files.Inode | None = None

    def write_card(self, card: Card) -> None:
        """Write the card. A reader that finds a half-written one notices that and reads it again."""
        content = card_json.encode(card)
        os.pwrite(self.lock.number, content, 0)
        os.ftruncate(self.lock.number, len(content))

    def bind(self, group_id: int | None) -> None:
        """Bind and listen. Raises OSError; FileExistsError if the socket's path is somebody else's."""
        if not _make_room(self.socket_path):
            raise FileExistsError(errno.EEXIST, "in use by somebody else", self.socket_path)
        listening = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
        try:
            # On Linux the mode of the descriptor, less the umask, becomes the mode of the path: it is never wider
            # than this, not even between two calls, and nobody's umask is touched.
            os.fchmod(listening.fileno(), files.OWNER_ONLY)
            listening.bind(self.socket_path)
            # At once, so that release() removes the socket if anything below fails.
            self._socket_inode = files.inode_at(self.socket_path)
            self._admit_group(group_id)
            # Before listen() every connect is refused, so nobody gets in before the mode is right.
            listening.listen(_BACKLOG)
        except BaseException:
            listening.close()
            raise
        self.listening = OwnDescriptor(listening)

    def _admit_group(self, group_id: int | None) -> None:
        if group_id is not None:
            try:
                _set_mode(self.socket_path, _OWNER_AND_GROUP, group_id)
                return
            except PermissionError:
                faults.warn_once(
                    "group",
                    "cannot give the socket to group %s, this process is not in it; only the owner can read",
                    group_id,
                )
        _set_mode(self.socket_path, files.OWNER_ONLY, None)

    def is_intact(self) -> bool:
        """Whether both paths still lead to our files: ``/tmp`` cleaners and restarted services remove them."""
        return (
            self.lock.is_ours()
            and self.listening is not None
            and self.listening.is_ours()
            and files.inode_at(self.card_path) == self.lock.inode
            and files.inode_at(self.socket_path) == self._socket_inode
        )

    def files(self) -> list[tuple[str, files.Inode | None]]:
        """The paths of our files, each with its inode, in the order in which they are removed."""
        return [(self.socket_path, self._socket_inode), (self.card_path, self.lock.inode)]

    def release(self) -> None:
        """Unlink our files, then close the lock. Safe to call twice."""
        if self.lock.number < 0:
            return
        files.unlink_if(self.socket_path, self._socket_inode)
        # If we lost the lock, the card may have another owner by now.
        if self.lock.is_ours():
            files.unlink_if(self.card_path, self.lock.inode)
        self.forget()

    def forget(self) -> None:
        """Close the descriptors and nothing else: in a forked child the files are the parent's.

        It does not unlock: parent and child share the lock of the open file, and the parent would lose it.
        """
        if self.listening is not None:
            self.listening.close()
            self.listening = None
        self.lock.close()


def claim(base: str, preferred: int | None = None) -> Slot | None:
    """Claim the preferred number if it is free, else the smallest free one.

    Returns None if the first 1,024 are used. Raises OSError if the operating system refuses something (the folder is
    missing or read-only, no descriptors are left).
    """
    if preferred is not None:
        slot = _claim_number(base, preferred)
        if slot is not None:
            return slot
    for number in range(1, MAX_NUMBER + 1):
        slot = _claim_number(base, number)
        if slot is not None:
            return slot
    return None


def claim_of(base: str, number: int, pid: int) -> Slot | None:
    """Claim the number of the dead worker ``pid``, if nobody else has or had it since.

    For a process that sees a worker end and removes its files. Raises OSError like claim().
    """
    if not _is_of(base, number, pid):
        return None
    slot = _claim_number(base, number)
    if slot is not None and not _is_of(base, number, pid):
        # A successor came and went before we had the lock. An empty card is the one that we have just made.
        if os.fstat(slot.lock.number).st_size:
            slot.forget()
        else:
            slot.release()
        return None
    return slot


def numbers_at(base: str) -> list[int]:
    """The numbers that have a card."""
    folder, prefix = os.path.split(base)
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    found = [
        name[len(prefix) : -len(card_json.CARD_SUFFIX)]
        for name in names
        if name.startswith(prefix) and name.endswith(card_json.CARD_SUFFIX)
    ]
    return sorted(int(number) for number in found if number.isdecimal() and number.isascii() and number[0] != "0")


def read_card(base: str, number: int) -> Card | None:
    """The card of a number, if there is one of this user."""
    path = card_json.card_path(base, number)
    try:
        content, _ = files.read_file_of(path, os.geteuid(), card_json.MAX_CARD_BYTES + 1)
        return card_json.decode(content)
    except (OSError, FormatError):
        return None


def _is_of(base: str, number: int, pid: int) -> bool:
    card = read_card(base, number)
    return card is not None and card.pid == pid


def _claim_number(base: str, number: int) -> Slot | None:
    path = card_json.card_path(base, number)
    for _ in range(_REPLACED_TRIES):
        descriptor = _open_card(path)
        if descriptor is None:
            return None
        lock = OwnDescriptor(descriptor)
        slot = None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if files.inode_at(path) == lock.inode:
                if _is_free(descriptor, path, card_json.socket_path(base, number)):
                    slot = Slot(base, number, lock)
                return slot
        except BlockingIOError:
            return None
        finally:
            if slot is None:
                lock.close()
    return None


def _open_card(path: str) -> int | None:
    """Open the card of a number, or make it; None, and nothing is opened, if the file at its path is not ours."""
    try:
        # Two steps, because O_CREAT on an existing file of somebody else in a sticky folder is refused with EACCES
        # (fs.protected_regular), as if the folder refused us.
        try:
            return _open_ours(path)
        except FileNotFoundError:
            return files.create(path, os.O_RDWR)
    except FileExistsError:
        # Another starting worker has made it meanwhile, and will have locked it.
        try:
            return _open_ours(path)
        except OSError:
            return None
    except OSError as error:
        # EACCES for a path that does not exist: the folder refuses us.
        if error.errno in _NOT_WRITABLE and os.path.lexists(path):
            return None
        raise


def _open_ours(path: str) -> int | None:
    try:
        return files.open_file_of(path, os.geteuid(), os.O_RDWR)
    except files.NotOurs:
        return None


def _is_free(locked_card: int, card_path: str, socket_path: str) -> bool:
    """Whether a number can be used, whose card we have locked. If not, a card that we have made is removed again."""
    # A file of the user's own may have the name of a card. Cards are written from their start, so a half-written one
    # begins like a whole one.
    if os.pread(locked_card, len(card_json.START), 0) not in (b"", card_json.START):
        return False
    is_free = False
    try:
        # The card may be an old one, with another mode.
        os.fchmod(locked_card, files.OWNER_ONLY)
        is_free = _make_room(socket_path)
    finally:
        if not is_free and os.fstat(locked_card).st_size == 0:
            os.unlink(card_path)
    return is_free


def _make_room(path: str) -> bool:
    """Unlink the socket that a dead worker left; False if somebody listens there, or the file is no socket of ours.

    A server that takes no locks may listen there: uWSGI's own tracebacker.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return True
    if not stat.S_ISSOCK(status.st_mode) or status.st_uid != os.geteuid():
        return False
    probe = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
    try:
        probe.connect(path)
    except ConnectionRefusedError:
        pass
    except FileNotFoundError:
        return True
    except OSError:
        # EAGAIN: its backlog is full, so somebody listens.
        return False
    else:
        return False
    finally:
        probe.close()
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError:
        return False
    return True


def _set_mode(path: str, mode: int, group_id: int | None) -> None:
    """Change the mode of a socket, but of nothing that replaced it: Linux has no ``chmod(follow_symlinks=False)``."""
    reference = files.refer(path)
    try:
        if not stat.S_ISSOCK(os.fstat(reference).st_mode):
            raise FileExistsError(errno.EEXIST, "replaced by somebody else", path)
        if group_id is not None:
            os.chown(files.path_of(reference), -1, group_id)
        os.chmod(files.path_of(reference), mode)
    finally:
        os.close(reference)
