"""The content of the file that says which process has a worker number."""

from __future__ import annotations

from typing import NamedTuple


class Card(NamedTuple):
    """Which process has a worker number: the content of ``<base><N>.worker``."""

    number: int
    base: str
    pid: int
    #: Field 22 of ``/proc/<pid>/stat``: clock ticks since boot. Together with the pid, the boot id and
    #: the pid namespace it identifies one process.
    start_ticks: int
    boot_id: str
    #: Inode number of ``/proc/self/ns/pid``.
    pid_namespace: int
    uid: int
    server: str | None
    application: str | None
    cwd: str
    started_at: float
    #: Paths of the table of requests in flight and of the file with the last reports and stacks; None: there is none.
    black_box: str | None = None
    stacks: str | None = None
    #: The signal at which faulthandler writes all stacks into ``stacks``; None: there is none.
    dump_signal: int | None = None
