"""Finds out why the kernel does not let this process read another one's memory, and what to do about it.

The rule is that of ptrace(2): the same user and group, no capability that the reader lacks, and a process that did not
change its user since it started; or the capability CAP_SYS_PTRACE. Yama may forbid more.
"""

from __future__ import annotations

import os
from contextlib import suppress

from wsgi_tracebacker.linux import proc

#: The bit of CAP_SYS_PTRACE.
_PTRACE = 1 << 19

_AS_ROOT = "run wsgi-tb as root"


def reason(pid: int, root: str = proc.ROOT) -> str:
    """Why, and what to try."""
    other, own = f"{root}/{pid}", f"{root}/self"
    theirs, ours = proc.credentials(other), proc.credentials(own)
    scope = _yama_scope(root)
    if scope == 3:
        return "kernel.yama.ptrace_scope is 3: nobody may, until this machine has been started with another value"
    if os.geteuid() == 0 and not _capabilities(own) & _PTRACE:
        return f"this root lacks the capability CAP_SYS_PTRACE: {_AS_ROOT} with it (docker run --cap-add=SYS_PTRACE)"
    if theirs is None or ours is None:
        return _AS_ROOT
    if set(theirs.uids) != {os.geteuid()}:
        return f"it runs as another user: {_AS_ROOT}, or as that user"
    if set(theirs.gids) != {os.getegid()}:
        return f"it runs with another group: {_AS_ROOT}, or with that group"
    if _owner(other) != os.geteuid():
        return f"it changed its user after it was started: {_AS_ROOT}"
    if _capabilities(other) & ~_capabilities(own):
        return f"it has capabilities that this user lacks: {_AS_ROOT}"
    if scope:
        return f"kernel.yama.ptrace_scope is {scope}: {_AS_ROOT}"
    return _AS_ROOT


def _yama_scope(root: str) -> int:
    with suppress(OSError, ValueError):
        return int(proc.read(f"{root}/sys/kernel/yama/ptrace_scope"))
    return 0


def _capabilities(folder: str) -> int:
    with suppress(OSError, ValueError):
        return int(proc.status(folder).get("CapPrm", ""), 16)
    return 0


def _owner(folder: str) -> int:
    """Whose files there are: root's, if the process's own user may not read its memory."""
    with suppress(OSError):
        return os.stat(f"{folder}/mem").st_uid
    return -1
