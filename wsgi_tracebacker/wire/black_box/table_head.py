"""What the first bytes of a black box say of its worker: the part of ``table_header`` that finding workers needs.

Beside that module because it loads in a tenth of the time, and ``wsgi-tb read`` without an argument starts with this.
"""

from __future__ import annotations

import os
import re
import struct
from typing import NamedTuple

MAGIC = b"WSGI-TB-BLACKBOX"
VERSION = 3

#: The base path, in the file system's encoding and filled up with NUL. A socket's path has at most 107 bytes.
BASE_OFFSET = 672
BASE_BYTES = 112

#: How much of the file decode() needs.
HEAD_BYTES = BASE_OFFSET + BASE_BYTES

#: Where workers keep their files, if it is there.
SHARED_MEMORY = "/dev/shm"  # noqa: S108  (0600, no symlinks followed, the owner checked)

#: The name of a black box in shared memory, and the uid in it.
TABLE_NAME = re.compile(r"wsgi_tracebacker\.([0-9]{1,10})\.[0-9a-f]{16}\.[1-9][0-9]{0,4}\.table")

_WHOSE = struct.Struct("<16sI12xIII")


class Head(NamedTuple):
    """Whose black box it is."""

    pid: int
    number: int
    uid: int
    #: As the worker sees it: another mount namespace has another file there.
    base: str


def decode(content: bytes) -> Head | None:
    """Whose black box this is; None if it is none of this version, or has no base that can be one."""
    if len(content) < HEAD_BYTES:
        return None
    magic, version, pid, number, uid = _WHOSE.unpack_from(content)
    base = os.fsdecode(content[BASE_OFFSET:HEAD_BYTES].split(b"\0", 1)[0])
    if magic != MAGIC or version != VERSION or not base.startswith("/") or "/../" in base:
        return None
    return Head(pid, number, uid, base)
