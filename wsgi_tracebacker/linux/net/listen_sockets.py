"""The sockets on which a server in this process accepts connections, and how many connections wait on each.

The kernel counts the connections that a listening socket holds until the server accepts them: for TCP in ``TCP_INFO``
(see tcp(7): ``tcpi_unacked`` and ``tcpi_sacked`` of a listening socket are its queue and the limit of it), for UNIX
sockets only in ``sock_diag`` (see sock_diag(7)). Whatever the kernel refuses is None.
"""

from __future__ import annotations

import _socket
import os
import struct
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.linux.clock import monotonic
from wsgi_tracebacker.model.snapshot import ListenSocket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: How long the list of listening descriptors is kept: servers open them at their start. Looking for them takes one
#: system call for each descriptor of the process, 1 µs.
_RESCAN_SECONDS = 10.0
#: A process with more descriptors than this is searched no further: these take 10 ms of the GIL.
_MAX_DESCRIPTORS = 10_000

# From <asm-generic/socket.h>.
_SO_ACCEPTCONN = 30
_SO_COOKIE = 57
# From <linux/tcp.h>. Eight single bytes come first, then whole numbers of four.
_TCP_INFO = 11
_TCP_QUEUE = struct.Struct("=24xII")

# From <linux/netlink.h>, <linux/sock_diag.h> and <linux/unix_diag.h>.
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_UNIX_DIAG_RQLEN = 4
_UDIAG_SHOW_RQLEN = 1 << 4
_ANY_STATE = 0xFFFFFFFF
_NO_COOKIE = 0xFFFFFFFF
#: Length, type, flags, sequence number, port.
_NETLINK_HEAD = struct.Struct("=IHHII")
#: Family, protocol, padding, states, inode, what to show, cookie.
_UNIX_REQUEST = struct.Struct("=BBHIIIII")
#: Family, type, state, padding, inode, cookie.
_UNIX_ANSWER = struct.Struct("=BBBBIII")
#: Length and type of an attribute, and the two numbers of this one.
_ATTRIBUTE_HEAD = struct.Struct("=HH")
_QUEUE = struct.Struct("=II")
_REPLY_BYTES = 4096


class _Found(NamedTuple):
    descriptor: int
    #: The kernel's name of the socket; the number may be another socket's by now.
    cookie: bytes
    inode: int
    address: str


class ListenSockets:
    """Finds the listening sockets of this process, and keeps where they are."""

    def __init__(self, is_ours: Callable[[str], bool]) -> None:
        """``is_ours``: whether a UNIX socket with this path is a tracebacker's, which is left out."""
        self._is_ours = is_ours
        self._found: list[_Found] = []
        self._scan_at = 0.0

    def all(self, descriptors: Iterable[int] | None = None) -> tuple[ListenSocket, ...]:
        """Return them with their queues. ``descriptors``: the server's own, if it says which they are."""
        now = monotonic()
        read = [] if now >= self._scan_at else [_queue_of(each) for each in self._found]
        if now >= self._scan_at or None in read:
            self._scan_at = now + _RESCAN_SECONDS
            self._found = self._scan(_descriptors() if descriptors is None else descriptors)
            read = [_queue_of(each) for each in self._found]
        return tuple(each for each in read if each is not None)

    def _scan(self, descriptors: Iterable[int]) -> list[_Found]:
        found: dict[int, _Found] = {}
        for descriptor in descriptors:
            each = _identify(descriptor)
            if each is not None and not self._is_ours(each.address):
                # Two descriptors of one socket are one queue.
                found.setdefault(each.inode, each)
        return list(found.values())


def _descriptors() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc/self/fd")[:_MAX_DESCRIPTORS]]
    except (OSError, ValueError):
        return []


def _borrow(descriptor: int) -> _socket.socket | None:
    """A socket object for a descriptor that is not ours; None if it is no listening TCP or UNIX socket.

    The caller has to detach() it. Neither this nor getsockopt() releases the GIL, so no other Python thread closes the
    descriptor meanwhile.
    """
    try:
        borrowed = _socket.socket(fileno=descriptor)
    except OSError:
        return None
    try:
        if (
            borrowed.family in (_socket.AF_INET, _socket.AF_INET6, _socket.AF_UNIX)
            and borrowed.type == _socket.SOCK_STREAM
            and borrowed.getsockopt(_socket.SOL_SOCKET, _SO_ACCEPTCONN)
        ):
            return borrowed
    except OSError:
        pass
    borrowed.detach()
    return None


def _identify(descriptor: int) -> _Found | None:
    borrowed = _borrow(descriptor)
    if borrowed is None:
        return None
    try:
        cookie = borrowed.getsockopt(_socket.SOL_SOCKET, _SO_COOKIE, 8)
        address = _text(borrowed.getsockname())
    except OSError:
        return None
    finally:
        borrowed.detach()
    try:
        return _Found(descriptor, cookie, os.fstat(descriptor).st_ino, address)
    except OSError:
        return None


def _queue_of(found: _Found) -> ListenSocket | None:
    """The queue of a socket; None if it is not open under this number any more."""
    borrowed = _borrow(found.descriptor)
    if borrowed is None:
        return None
    try:
        if borrowed.getsockopt(_socket.SOL_SOCKET, _SO_COOKIE, 8) != found.cookie:
            return None
        is_unix = borrowed.family == _socket.AF_UNIX
        waiting, limit = (None, None) if is_unix else _tcp_queue(borrowed)
    except OSError:
        return None
    finally:
        borrowed.detach()
    if is_unix:
        waiting, limit = unix_queue(found.inode)
    return ListenSocket(found.inode, "unix" if is_unix else "tcp", found.address, waiting, limit)


def _tcp_queue(listening: _socket.socket) -> tuple[int | None, int | None]:
    try:
        waiting, limit = _TCP_QUEUE.unpack(listening.getsockopt(_socket.IPPROTO_TCP, _TCP_INFO, _TCP_QUEUE.size))
    except (OSError, struct.error):
        return None, None
    return waiting, limit


def unix_queue(inode: int) -> tuple[int | None, int | None]:
    """Connections that wait on a listening UNIX socket of this network namespace, and the limit; None: not known."""
    request = _UNIX_REQUEST.pack(
        _socket.AF_UNIX, 0, 0, _ANY_STATE, inode & 0xFFFFFFFF, _UDIAG_SHOW_RQLEN, _NO_COOKIE, _NO_COOKIE
    )
    head = _NETLINK_HEAD.pack(_NETLINK_HEAD.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0)
    try:
        asking = _socket.socket(
            _socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK, _NETLINK_SOCK_DIAG
        )
    except OSError:
        return None, None
    try:
        # The kernel answers within send().
        asking.send(head + request)
        return parse_unix_queue(asking.recv(_REPLY_BYTES))
    except OSError:
        return None, None
    finally:
        asking.close()


def parse_unix_queue(reply: bytes) -> tuple[int | None, int | None]:
    """The two numbers in an answer of the kernel; None and None if it is an error."""
    try:
        length, kind, *_ = _NETLINK_HEAD.unpack_from(reply)
        if kind != _SOCK_DIAG_BY_FAMILY:
            return None, None
        offset = _NETLINK_HEAD.size + _UNIX_ANSWER.size
        while offset + _ATTRIBUTE_HEAD.size <= min(length, len(reply)):
            size, attribute = _ATTRIBUTE_HEAD.unpack_from(reply, offset)
            if attribute == _UNIX_DIAG_RQLEN:
                waiting, limit = _QUEUE.unpack_from(reply, offset + _ATTRIBUTE_HEAD.size)
                return waiting, limit
            # Attributes begin at multiples of four; an attribute of no size would never end.
            offset += max(_ATTRIBUTE_HEAD.size, size + 3 & ~3)
    except struct.error:
        pass
    return None, None


def _text(name: object) -> str:
    """An address as people write it: ``127.0.0.1:8000``, ``[::1]:8000``, ``/run/shop.sock``, ``@abstract``."""
    if isinstance(name, tuple):
        host, port = name[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if isinstance(name, bytes):
        return "@" + os.fsdecode(name.lstrip(b"\0"))
    return str(name)
