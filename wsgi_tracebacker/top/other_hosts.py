"""Readings of workers of other hosts, as the views of top and the page take those of this machine."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from wsgi_tracebacker.analysis.live import Reading, WorkerReading
from wsgi_tracebacker.errors import NoWorkersFound
from wsgi_tracebacker.reader.elsewhere.gathered import Gathered
from wsgi_tracebacker.top.readings import Taken

if TYPE_CHECKING:
    from wsgi_tracebacker.model.reading import Unanswered
    from wsgi_tracebacker.model.snapshot import Snapshot
    from wsgi_tracebacker.reader.elsewhere.followed import Followed

#: Of a worker: host, number and pid.
_Key = tuple[str | None, int | None, int | None]


class HostsQuestion:
    """What is asked of other hosts, as ``Question`` is of this machine. Stop it in the end."""

    def __init__(self, followed: Followed) -> None:
        self._followed = followed
        self.stop = followed.stop

    def ask(self) -> Taken:
        """The next reading. Raises NoWorkersFound if no host has a worker."""
        gathered = self._followed.gather()
        return Taken(_reading(gathered), gathered)

    def ask_again(self) -> Taken:
        """The same, but a reading too where no worker is left."""
        try:
            return self.ask()
        except NoWorkersFound as error:
            lines = tuple(str(error).splitlines())
            return Taken(Reading(time.monotonic(), time.time(), (), lines), Gathered((), (), lines))


def _reading(gathered: Gathered) -> Reading:
    silent = {(one.host, one.number, one.pid): one for one in gathered.unanswered if one.socket is not None}
    workers = [_answered(each, silent) for each in gathered.workers]
    shown = {(each.worker.host, each.worker.number, each.worker.pid) for each in gathered.workers}
    workers += [_silent(one) for key, one in silent.items() if key not in shown]
    missing = tuple(
        f"{one.host}: {one.reason}: {one.message or 'no reason is known'}"
        for one in gathered.unanswered
        if one.socket is None
    )
    return Reading(time.monotonic(), time.time(), tuple(workers), missing)


def _answered(snapshot: Snapshot, silent: dict[_Key, Unanswered]) -> WorkerReading:
    worker = snapshot.worker
    one = silent.get((worker.host, worker.number, worker.pid))
    return WorkerReading(
        socket=f"{worker.host} {worker.base or ''}{'' if worker.number is None else worker.number}",
        number=worker.number,
        pid=worker.pid,
        state=snapshot.state,
        label=_label(worker.host, worker.number),
        application=worker.application,
        reason=None if one is None else f"{one.reason}: {one.message}",
        snapshot=snapshot,
    )


def _silent(one: Unanswered) -> WorkerReading:
    return WorkerReading(
        socket=f"{one.host} {one.socket}",
        number=one.number,
        pid=one.pid,
        state=one.state,
        label=_label(one.host, one.number),
        reason=f"{one.reason}: {one.message}",
        other_uid=one.other_uid,
    )


def _label(host: str | None, number: int | None) -> str:
    return f"{host or '-'} {'-' if number is None else number}"
