"""The value of the file that says who holds a worker number."""

from __future__ import annotations

from typing import NamedTuple


class Card(NamedTuple):
    """Who holds a worker number: the content of ``<base><N>.worker``."""

    number: int
    base: str
    pid: int
    #: Field 22 of ``/proc/<pid>/stat``: clock ticks since boot. With the pid, the boot id and the pid namespace it
    #: names one process for good.
    start_ticks: int
    boot_id: str
    #: Inode number of ``/proc/self/ns/pid``.
    pid_namespace: int
    uid: int
    server: str | None
    application: str | None
    cwd: str
    started_at: float
    #: Where the table of requests in flight is, and the file of the last reports and stacks; None: there is none.
    black_box: str | None = None
    stacks: str | None = None
    #: The signal that faulthandler answers with all stacks, into ``stacks``; None: none.
    dump_signal: int | None = None
