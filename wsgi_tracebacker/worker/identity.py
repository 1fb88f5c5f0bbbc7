"""Who this process is, determined once: the source of card, black box header and answers.

A forked child makes one of its own.
"""

from __future__ import annotations

import os
import sys
from time import CLOCK_BOOTTIME
from typing import NamedTuple

from wsgi_tracebacker._version import __version__
from wsgi_tracebacker.linux import proc
from wsgi_tracebacker.linux.clock import clock_gettime, monotonic, unix_time
from wsgi_tracebacker.model.card import Card
from wsgi_tracebacker.model.snapshot import Worker
from wsgi_tracebacker.wire.black_box.table_header import Counted, Header

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")

_IMPLEMENTATION = {"cpython": "CPython", "pypy": "PyPy"}.get(sys.implementation.name, sys.implementation.name)
_PYTHON = f"{_IMPLEMENTATION} {'.'.join(map(str, sys.version_info[:3]))}"


class Identity(NamedTuple):
    """One worker process. What ``/proc`` does not show is 0 or empty."""

    base: str
    pid: int
    #: When it started, in clock ticks since boot: with the pid, this names a process for good.
    start_ticks: int
    #: The same in Unix seconds; None where that is not known.
    started_at: float | None
    boot_id: str
    pid_namespace: int
    uid: int
    server: str | None
    application: str

    @classmethod
    def of_this_process(cls, base: str, server: str | None, application: str) -> Identity:
        """Ask the kernel; ``server`` and ``application`` come from the first request, or from the server's hook."""
        stat = proc.stat("/proc/self")
        booted_at = unix_time() - clock_gettime(CLOCK_BOOTTIME)
        return cls(
            base=base,
            pid=os.getpid(),
            start_ticks=stat.start_ticks if stat is not None else 0,
            started_at=booted_at + stat.start_ticks / _TICKS_A_SECOND if stat is not None else None,
            boot_id=proc.boot_id(),
            pid_namespace=proc.pid_namespace(),
            uid=os.geteuid(),
            server=server,
            application=application,
        )

    def is_own_socket(self, path: str) -> bool:
        """Whether a UNIX socket has the path of a worker of this base: this one, or another copy in this process."""
        return path.startswith(self.base) and path[len(self.base) :].isdigit()

    def header(self, number: int, counted: Counted) -> Header:
        """The header of a new black box."""
        return Header(
            pid=self.pid,
            number=number,
            uid=self.uid,
            listener=0,
            start_ticks=self.start_ticks,
            pid_namespace=self.pid_namespace,
            started_at=self.started_at or 0.0,
            monotonic=monotonic(),
            unix=unix_time(),
            unrecorded_cores=0,
            is_closed=False,
            boot_id=self.boot_id,
            server=self.server,
            application=self.application,
            python=_PYTHON,
            counted=counted,
            base=self.base,
        )

    def card(self, number: int, *, black_box: str | None, stacks: str | None, dump_signal: int | None) -> Card:
        """The content of ``<base><N>.worker``."""
        return Card(
            number=number,
            base=self.base,
            pid=self.pid,
            start_ticks=self.start_ticks,
            boot_id=self.boot_id,
            pid_namespace=self.pid_namespace,
            uid=self.uid,
            server=self.server,
            application=self.application,
            cwd=working_directory(),
            started_at=self.started_at or 0.0,
            black_box=black_box,
            stacks=stacks,
            dump_signal=dump_signal,
        )

    def worker(
        self,
        number: int | None,
        *,
        cwd: str,
        requests_finished: int,
        requests_in_flight: int,
        oldest_request_seconds: float | None,
    ) -> Worker:
        """The process as a snapshot shows it."""
        return Worker(
            number=number,
            pid=self.pid,
            ppid=os.getppid(),
            uid=self.uid,
            started_at=self.started_at,
            server=self.server,
            application=self.application,
            cwd=cwd,
            python=_PYTHON,
            version=__version__,
            base=self.base,
            requests_finished=requests_finished,
            requests_in_flight=requests_in_flight,
            oldest_request_seconds=oldest_request_seconds,
        )


def working_directory() -> str:
    """Where the process is now; empty if that folder was removed."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def uwsgi_worker_id() -> int | None:
    """The number that uWSGI gave this worker; None under other servers, and in uWSGI's master."""
    uwsgi = sys.modules.get("uwsgi")
    try:
        number = uwsgi.worker_id() if uwsgi is not None else 0
    except Exception:
        return None
    return number if type(number) is int and number > 0 else None


def application_name(application: object) -> str:
    """``module:name`` of a callable, or of the class of an object that is called; a text is a name already."""
    if isinstance(application, str):
        return application
    named = application if hasattr(application, "__qualname__") else type(application)
    module = getattr(named, "__module__", None) or sys.modules["__main__"].__name__
    return f"{module}:{getattr(named, '__qualname__', '?')}"
