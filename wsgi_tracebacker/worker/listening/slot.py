"""Which worker number am I: the lock, the card, the paths, stale files, permissions.

Knows the files of worker N and whose they are. Refuses to serve on the socket it binds: that is the listener's.

The rules, each of which prevents something that was seen to go wrong elsewhere:

- The ``flock`` on the card is the claim; the kernel frees it when the process dies, however it dies. It is not
  ``lockf``: two sub-interpreters of one process must not share a slot, and a POSIX lock is lost when any other
  descriptor of the file is closed.
- After locking, the descriptor's inode is compared with the path's: an owner that unlinks its card while we wait
  would leave us with the lock of a file that nobody can find.
- Only the lock's owner binds or unlinks, and only what is a socket, owned by us, on which nobody listens. Files of
  strangers are stepped over: the number is simply taken. They are not opened either: that alone wakes whoever waits at
  a pipe for a writer.
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
from wsgi_tracebacker.wire import card_json as card_format
from wsgi_tracebacker.worker.reporting import faults

if TYPE_CHECKING:
    from wsgi_tracebacker.model.card import Card

#: Numbers that are tried before giving up. A reload overlaps, so they are not capped at the number of workers.
MAX_NUMBER = 1024

#: Clients that the kernel keeps waiting for us; more get EAGAIN.
_BACKLOG = 64

_OWNER_ONLY = 0o600
_OWNER_AND_GROUP = 0o660

#: Errors that mean "this card is ours, but somebody took the right to write it": step over it. Any other error is the
#: environment's refusal.
_LOCKED_UP = (errno.EACCES, errno.EPERM)

#: How often one number is tried again because its card was replaced under us.
_REPLACED_TRIES = 8


class Slot:
    """A worker number that is ours, with its lock, card and bound socket."""

    def __init__(self, base: str, number: int, lock_descriptor: int) -> None:
        """Not to be called directly: see claim()."""
        self.base = base
        self.number = number
        self.card_path = card_format.card_path(base, number)
        self.socket_path = card_format.socket_path(base, number)
        #: The listening socket. ``_socket.socket`` is the C type: what gevent and eventlet patch is the class in
        #: ``socket`` that derives from it, whose ``accept()`` hands back patched sockets.
        self.listening: OwnDescriptor | None = None
        #: The open card.
        self.lock = OwnDescriptor(lock_descriptor)
        self._socket_inode: tuple[int, int] | None = None

    def write_card(self, card: Card) -> None:
        """Write who we are. A reader that meets a half-written card sees that and looks again."""
        content = card_format.encode(card)
        os.pwrite(self.lock.number, content, 0)
        os.ftruncate(self.lock.number, len(content))

    def bind(self, group_id: int | None) -> None:
        """Bind and listen. Raises OSError; FileExistsError if the socket's path is somebody else's."""
        if not _may_be_bound(self.socket_path):
            raise FileExistsError(errno.EEXIST, "in use by somebody else", self.socket_path)
        listening = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
        try:
            # On Linux the mode of the descriptor, less the umask, becomes the mode of the path: it is never wider
            # than this, not even between two calls, and nobody's umask is touched.
            os.fchmod(listening.fileno(), _OWNER_ONLY)
            listening.bind(self.socket_path)
            # Noted at once, so that release() takes it away again if anything below fails.
            self._socket_inode = _inode(self.socket_path)
            self._set_mode(group_id)
            # Before listen() every connect is refused, so nobody gets in before the mode is right.
            listening.listen(_BACKLOG)
        except BaseException:
            listening.close()
            raise
        self.listening = OwnDescriptor(listening)

    def _set_mode(self, group_id: int | None) -> None:
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
        _set_mode(self.socket_path, _OWNER_ONLY, None)

    def is_intact(self) -> bool:
        """Whether both paths are still ours: ``/tmp`` cleaners and restarted runtime folders remove them."""
        try:
            return (
                _inode(self.card_path) == self.lock.inode
                and self.lock.is_ours()
                and _inode(self.socket_path) == self._socket_inode
                and self.listening is not None
                and self.listening.is_ours()
            )
        except OSError:
            return False

    def release(self) -> None:
        """Unlink what is ours, then let go of the lock. Safe to call twice."""
        if self.lock.number < 0:
            return
        # Without the lock, the card may have another owner by now.
        card_inode = self.lock.inode if self.lock.is_ours() else None
        for path, ours in ((self.socket_path, self._socket_inode), (self.card_path, card_inode)):
            try:
                if ours is not None and _inode(path) == ours:
                    os.unlink(path)
            except OSError:
                pass
        self.forget()

    def forget(self) -> None:
        """Close the descriptors and nothing else: in a forked child the files are the parent's.

        The lock is not released explicitly: it belongs to the open file that parent and child share, and an unlock
        here would be the parent's too.
        """
        if self.listening is not None:
            self.listening.close()
            self.listening = None
        self.lock.close()


def claim(base: str, preferred: int | None = None) -> Slot | None:
    """Take the preferred number if it is free, else the smallest free one.

    Returns None when none of the first 1,024 is to be had. Raises OSError for what the environment refuses (the
    folder is missing or read-only, no descriptors are left).
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
    """Take the number that a dead worker ``pid`` had, if its lock is free and nobody had the number since.

    For whoever sees a worker end and wants to clear up after it. Raises OSError like claim().
    """
    path = card_format.card_path(base, number)
    if _pid_on(path) != pid:
        return None
    slot = _claim_number(base, number)
    if slot is not None and _pid_on(path) != pid:
        # A successor came and went between the two looks. An empty card is the one that we made just now.
        if os.fstat(slot.lock.number).st_size:
            slot.forget()
        else:
            slot.release()
        return None
    return slot


def numbers_at(base: str) -> list[int]:
    """The numbers of which there is a card."""
    folder, prefix = os.path.split(base)
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    found = [
        name[len(prefix) : -len(card_format.CARD_SUFFIX)]
        for name in names
        if name.startswith(prefix) and name.endswith(card_format.CARD_SUFFIX)
    ]
    return sorted(int(number) for number in found if number.isdecimal() and number.isascii() and number[0] != "0")


def _pid_on(path: str) -> int | None:
    """The pid on a card of ours; None if there is none."""
    try:
        content, _ = files.read_file_of(path, os.geteuid(), card_format.MAX_CARD_BYTES + 1)
        return card_format.decode(content).pid
    except (OSError, FormatError):
        return None


def _claim_number(base: str, number: int) -> Slot | None:
    path = card_format.card_path(base, number)
    for _ in range(_REPLACED_TRIES):
        descriptor = _open_card(path)
        if descriptor is None:
            return None
        taken = False
        try:
            status = os.fstat(descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            try:
                replaced = _inode(path) != (status.st_dev, status.st_ino)
            except FileNotFoundError:
                replaced = True
            if replaced:
                continue
            if not _is_card(descriptor):
                return None
            try:
                # A umask can take the owner's own rights too: our successor could not open it.
                os.fchmod(descriptor, _OWNER_ONLY)
                taken = _may_be_bound(card_format.socket_path(base, number))
            finally:
                # Not taken: a live socket of somebody who takes no locks (uWSGI's own tracebacker), a file that is no
                # socket, or the environment refused something. Our own new empty card is taken away again; an old
                # one is left as it was.
                if not taken and status.st_size == 0:
                    os.unlink(path)
            return Slot(base, number, descriptor) if taken else None
        finally:
            if not taken:
                os.close(descriptor)
    return None


def _open_card(path: str) -> int | None:
    """The card of a number, made if there is none; None, and nothing is opened, if what stands there is not ours."""
    try:
        # Two steps, because O_CREAT on an existing file of somebody else in a sticky folder is refused with EACCES
        # (fs.protected_regular) although nothing is wrong with ours.
        try:
            return _open_ours(path)
        except FileNotFoundError:
            return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_CREAT | os.O_EXCL, _OWNER_ONLY)
    except FileExistsError:
        # Somebody made it between the two: a starter like us, who will have locked it.
        try:
            return _open_ours(path)
        except OSError:
            return None
    except OSError as error:
        # EACCES on a path that is not there: the folder refuses us.
        if error.errno in _LOCKED_UP and os.path.lexists(path):
            return None
        raise


def _open_ours(path: str) -> int | None:
    try:
        return files.open_file_of(path, os.geteuid(), os.O_RDWR)
    except files.NotOurs:
        return None


def _is_card(descriptor: int) -> bool:
    """Whether a file that is not empty is a card at all: a file of the user's own may have such a name.

    Cards are written from their start, so one that broke off half-way begins like one too.
    """
    start = os.pread(descriptor, len(card_format.START), 0)
    return not start or start == card_format.START


def _may_be_bound(path: str) -> bool:
    """Make the socket's path free: nothing is there, or what a dead owner left was unlinked."""
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
    """Change a path that must not be a symlink by now; ``os.chmod(follow_symlinks=False)`` does not exist on Linux."""
    descriptor = files.look(path)
    try:
        through_descriptor = files.path_of(descriptor)
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            raise FileExistsError(errno.EEXIST, "replaced by somebody else", path)
        if group_id is not None:
            os.chown(through_descriptor, -1, group_id)
        os.chmod(through_descriptor, mode)
    finally:
        os.close(descriptor)


def _inode(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino
