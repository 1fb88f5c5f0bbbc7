"""Decides who may read the socket: the same user, root, and the members of one group if the settings name it.

It trusts only the credentials that the kernel attaches to a UNIX connection (unix(7)).
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import _socket

_SOL_SOCKET = 1
_SO_PEERCRED = 17
#: The peer's supplementary groups; the credentials hold only its primary one.
_SO_PEERGROUPS = 59

_CREDENTIALS = struct.Struct("iII")  # pid, uid, gid
_GROUP = struct.Struct("I")
#: The most that Python's getsockopt() returns: 256 groups. A peer that is in more is refused.
_MAX_OPTION_BYTES = 1024


def credentials(connection: _socket.socket) -> tuple[int, int, int]:
    """The pid, uid and gid of a connection's peer; the pid is 0 in another pid namespace. Raises OSError."""
    pid, uid, gid = _CREDENTIALS.unpack(connection.getsockopt(_SOL_SOCKET, _SO_PEERCRED, _CREDENTIALS.size))
    return pid, uid, gid


def is_permitted(connection: _socket.socket, group_id: int | None) -> bool:
    """Whether the peer of a connection may read this worker's stacks."""
    try:
        _, uid, gid = credentials(connection)
        if uid in (0, os.geteuid()):
            return True
        if group_id is None:
            return False
        if gid == group_id:
            return True
        groups = connection.getsockopt(_SOL_SOCKET, _SO_PEERGROUPS, _MAX_OPTION_BYTES)
        return any(group == group_id for (group,) in _GROUP.iter_unpack(groups))
    except (OSError, struct.error):
        return False
