"""Asks the kernel whether the other end of a TCP connection has closed it, and whether it takes what is sent to it.

Any object may be passed in: a method of the C class refuses what is no socket, and none of the object's code runs. The
interpreter keeps the GIL in these calls, so the socket's thread cannot close it meanwhile.
"""

from __future__ import annotations

import _socket
import os
import stat
import struct
from typing import Any, NamedTuple

from wsgi_tracebacker.linux import proc
from wsgi_tracebacker.linux.net.sockets import address_text, duplicate_of

#: States of a connection in <linux/tcp_states.h>: reset, and closed by the other end while this one is still open.
_CLOSED, _CLOSE_WAIT = 7, 8
#: struct tcp_info in <linux/tcp.h> up to tcpi_notsent_bytes, Linux 4.6 and up: its first byte is the state.
_INFO = struct.Struct("=B143xI")

#: So many descriptors of a process are looked at.
_MAX_DESCRIPTORS = 256


class TcpState(NamedTuple):
    """One connection, seen from this end."""

    #: ``203.0.113.7:51234``; None once it was reset.
    peer: str | None
    #: The other end has closed it, or reset it. An end that closes only its sending side is not told from that.
    is_closed_by_peer: bool
    #: Bytes that this end has sent and the kernel cannot pass on yet: the other end does not read them.
    unsent_bytes: int


def tcp_state(connection: Any) -> TcpState | None:
    """The state of a ``_socket.socket``, of a derived class perhaps; None for anything else, and if it is not known."""
    try:
        info = _socket.socket.getsockopt(connection, _socket.IPPROTO_TCP, _socket.TCP_INFO, _INFO.size)
    except (OSError, TypeError):
        # No socket, a UNIX socket, or closed at this end.
        return None
    try:
        peer, _ = address_text(_socket.socket.getpeername(connection))
    except OSError:
        peer = None
    state, unsent = _INFO.unpack(info) if len(info) == _INFO.size else (info[0] if info else 0, 0)
    return TcpState(peer, state in (_CLOSED, _CLOSE_WAIT), unsent)


def states_by_own_port() -> dict[str, list[TcpState]]:
    """The states of all TCP connections of this process, by the port of this end.

    Some 10 µs for each descriptor. Not those that were reset: their other end is not known any more.
    """
    found: dict[str, list[TcpState]] = {}
    for number in proc.descriptors()[:_MAX_DESCRIPTORS]:
        try:
            is_socket = stat.S_ISSOCK(os.fstat(number).st_mode)
        except OSError:
            continue
        duplicate = duplicate_of(number) if is_socket else None
        if duplicate is None:
            continue
        try:
            state = tcp_state(duplicate)
            if state is not None and state.peer is not None:
                _, port = address_text(duplicate.getsockname())
                found.setdefault(str(port), []).append(state)
        except OSError:
            # It was reset just now.
            continue
        finally:
            duplicate.close()
    return found
