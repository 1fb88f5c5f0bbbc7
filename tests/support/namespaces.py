"""Programs in a pid namespace of their own, as in a container that shares its folders, and not its memory."""

from __future__ import annotations

import os
import subprocess

from tests.support.programs import cannot_be_tried

_UNSHARE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
#: Black boxes are in shared memory: those of a container are not at their paths out here.
_UNSHARE += ["sh", "-c", 'mount -t tmpfs tmpfs /dev/shm && exec "$@"', "sh"]


def pid_namespace() -> list[str]:
    """What to write before a command: it has pid 1 there."""
    if os.geteuid() != 0 or subprocess.run([*_UNSHARE, "true"], check=False, capture_output=True).returncode:
        cannot_be_tried("pid namespaces cannot be made here")
    return _UNSHARE
