"""Whose program is at the other end of a TCP connection within this machine: the kernel knows it, by ``sock_diag``.

See sock_diag(7). Anybody on a machine can connect to its loopback addresses, and TCP has no credentials to ask for.
"""

from __future__ import annotations

import _socket
import struct

# From <linux/netlink.h>, <linux/sock_diag.h> and <linux/inet_diag.h>.
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_ANY_STATE = 0xFFFFFFFF
_NO_COOKIE = 0xFFFFFFFF
#: Length, type, flags, sequence number, port.
_NETLINK_HEAD = struct.Struct("=IHHII")
#: Family, protocol, extensions, padding, states.
_REQUEST = struct.Struct("=BBBBI")
#: Both ports, both addresses, interface, cookie.
_SOCKET_ID = struct.Struct("=2s2s16s16sIII")
#: What comes before the user in an answer: family, state, timer, retransmissions, socket, expiry, both queues.
_BEFORE_USER = 4 + _SOCKET_ID.size + 12
_USER = struct.Struct("=I")
_REPLY_BYTES = 4096


def uid_of_peer(connection: _socket.socket) -> int | None:
    """The user whose socket is at the other end, in this network namespace; None if the kernel does not say."""
    try:
        local, peer = connection.getsockname(), connection.getpeername()
        # The socket that is looked for has our address as its peer's.
        looked_for = _SOCKET_ID.pack(
            *(_port(peer), _port(local), _address(connection, peer), _address(connection, local)),
            *(0, _NO_COOKIE, _NO_COOKIE),
        )
        request = _REQUEST.pack(connection.family, _socket.IPPROTO_TCP, 0, 0, _ANY_STATE) + looked_for
        head = _NETLINK_HEAD.pack(_NETLINK_HEAD.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0)
        kinds = _socket.SOCK_RAW | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK
        asking = _socket.socket(_socket.AF_NETLINK, kinds, _NETLINK_SOCK_DIAG)
        try:
            # The kernel answers within send().
            asking.send(head + request)
            reply = asking.recv(_REPLY_BYTES)
        finally:
            asking.close()
        if _NETLINK_HEAD.unpack_from(reply)[1] != _SOCK_DIAG_BY_FAMILY:
            return None
        uid: int = _USER.unpack_from(reply, _NETLINK_HEAD.size + _BEFORE_USER)[0]
        return uid
    except (OSError, struct.error):
        return None


def _port(name: tuple[str, int]) -> bytes:
    return name[1].to_bytes(2, "big")


def _address(connection: _socket.socket, name: tuple[str, int]) -> bytes:
    # Without the zone of a link-local address.
    return _socket.inet_pton(connection.family, name[0].partition("%")[0]).ljust(16, b"\0")
