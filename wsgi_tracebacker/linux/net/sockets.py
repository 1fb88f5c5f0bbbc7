"""Asks the kernel which ends a socket of this process has, by its descriptor's number.

The socket may be one of a C library's, in use by another thread: it is asked through a duplicate, and nothing about it
changes. Not through ``/proc/net/tcp``: that takes 57 ms with 3,000 sockets.
"""

from __future__ import annotations

import _socket
import os
import sys
from typing import NamedTuple

#: From <asm-generic/unistd.h>: the same number on every machine.
_PIDFD_GETFD = 438


class SocketEnds(NamedTuple):
    """Where a socket leads."""

    #: ``10.0.0.5:5432``, ``[::1]:80``, or the path of a UNIX socket; None where it has none or is not connected yet.
    peer: str | None
    #: The other end's port; None for a UNIX socket.
    peer_port: int | None
    own_port: int | None
    #: It is of a kind that connects, and has no peer yet.
    is_connecting: bool


def ends(descriptor: int) -> SocketEnds | None:
    """The ends of a socket; None if it is none. Ask only for what fstat() calls a socket.

    Closing a duplicate of a regular file would drop the locks that the process has on it.
    """
    asked = duplicate_of(descriptor)
    if asked is None:
        return None
    try:
        return _ends(asked)
    finally:
        asked.close()


def ends_of_other(pid: int, descriptor: int) -> SocketEnds | None:
    """The ends of a socket of another process, which this one may trace; None if they cannot be had."""
    try:
        process = os.pidfd_open(pid)
    except (OSError, AttributeError):
        return None
    try:
        # Imported only here: no worker needs it.
        import ctypes  # noqa: PLC0415

        duplicate = ctypes.CDLL(None).syscall(_PIDFD_GETFD, process, descriptor, 0)
    finally:
        os.close(process)
    if duplicate < 0:
        return None
    try:
        asked = _socket.socket(-1, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK, 0, fileno=duplicate)
    except OSError:
        os.close(duplicate)
        return None
    try:
        return _ends(asked)
    finally:
        asked.close()


def duplicate_of(descriptor: int) -> _socket.socket | None:
    """A duplicate of a socket, to be asked and closed; None if it is none. See ends()."""
    try:
        duplicate = os.dup(descriptor)
    except OSError:
        return None
    try:
        # With SOCK_NONBLOCK given, Python does not set the mode of the socket, which the duplicate shares. Without it,
        # it would if the application had called socket.setdefaulttimeout().
        return _socket.socket(-1, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK, 0, fileno=duplicate)
    except OSError:
        os.close(duplicate)
        return None


def _ends(asked: _socket.socket) -> SocketEnds:
    try:
        peer = asked.getpeername()
    except OSError:
        peer = None
    try:
        own = asked.getsockname()
    except OSError:
        own = None
    peer_text, peer_port = address_text(peer)
    _, own_port = address_text(own)
    return SocketEnds(peer_text, peer_port, own_port, peer is None and _may_connect(asked))


def _may_connect(asked: _socket.socket) -> bool:
    return _option(asked, _socket.SO_TYPE) == _socket.SOCK_STREAM and not _option(asked, _socket.SO_ACCEPTCONN)


def _option(asked: _socket.socket, option: int) -> int:
    try:
        return asked.getsockopt(_socket.SOL_SOCKET, option)
    except OSError:
        return 0


def address_text(address: object) -> tuple[str | None, int | None]:
    """``("10.0.0.5:5432", 5432)`` for an address as Python has it; a UNIX socket has its path and no port."""
    if isinstance(address, tuple) and len(address) >= 2 and isinstance(address[0], str):
        host, port = address[0], address[1]
        # A mapped IPv4 address reads better without its prefix, as other tools show it.
        host = host.removeprefix("::ffff:") if "." in host else host
        return (f"[{host}]:{port}" if ":" in host else f"{host}:{port}"), port
    if isinstance(address, bytes):
        # A name in the abstract namespace begins with a null byte; tools show it as @.
        address = address.replace(b"\0", b"@", 1).decode("utf-8", "surrogateescape")
    return (address, None) if isinstance(address, str) and address else (None, None)


def address_of_bytes(content: bytes) -> tuple[str | None, int | None]:
    """An address as connect(2) takes it, in the machine's own order of bytes for the family."""
    if len(content) < 8:
        return None, None
    family = int.from_bytes(content[:2], sys.byteorder)
    port = int.from_bytes(content[2:4], "big")
    if family == _socket.AF_INET:
        return address_text((_socket.inet_ntop(_socket.AF_INET, content[4:8]), port))
    if family == _socket.AF_INET6 and len(content) >= 24:
        return address_text((_socket.inet_ntop(_socket.AF_INET6, content[8:24]), port))
    if family == _socket.AF_UNIX:
        return address_text(content[2:].split(b"\0", 1)[0] or content[2:].rstrip(b"\0"))
    return None, None
