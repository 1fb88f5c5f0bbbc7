"""Takes readings: asks the workers once, or again and again on a thread of its own, so that the screen never waits."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.analysis.live import Reading, WorkerReading
from wsgi_tracebacker.errors import NoWorkersFound
from wsgi_tracebacker.reader.finding.processes import Processes
from wsgi_tracebacker.reader.survey import Survey, survey

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from wsgi_tracebacker.reader.elsewhere.gathered import Gathered
    from wsgi_tracebacker.reader.survey import Answer


class Taken(NamedTuple):
    """One reading, and what it was made from."""

    reading: Reading
    found: Survey | Gathered


class Question(NamedTuple):
    """Which workers are asked, and how long each may take."""

    bases: Sequence[str]
    numbers: Collection[int]
    timeout_seconds: float

    def ask(self) -> Taken:
        """Ask all of them once. Raises NoWorkersFound if there is none."""
        # No worker is signalled: a stalled one would have to write its stacks twice a second. Its memory can be read.
        processes = Processes()
        found = survey(self.bases, self.timeout_seconds, self.numbers, processes, may_read_memory=True)
        labels = labels_of([(answer.target.socket, answer.number, answer.other_uid) for answer in found.answers])
        workers = tuple(_worker(answer, label, processes) for answer, label in zip(found.answers, labels, strict=True))
        return Taken(Reading(time.monotonic(), time.time(), workers, found.missing), found)

    def ask_again(self) -> Taken:
        """The same, but a reading too where no worker is left, or where the system refuses something for a moment."""
        try:
            return self.ask()
        except (NoWorkersFound, OSError) as error:
            lines = tuple(str(error).splitlines())
            return Taken(Reading(time.monotonic(), time.time(), (), lines), Survey((), lines))


def labels_of(workers: Sequence[tuple[str, int | None, int | None]]) -> list[str]:
    """What to call workers, each given by its socket, its number and its user, so that no two have the same name.

    The user is that of ``Answer.other_uid``. It is in the name only where there are several: else the head has it.
    """
    sockets = [socket for socket, _, _ in workers]
    if len({socket.removesuffix(str(number)) for socket, number, _ in workers}) <= 1:
        names = ["-" if number is None else str(number) for _, number, _ in workers]
    else:
        names = [os.path.basename(socket) for socket in sockets]
        if len(set(names)) < len(names):
            names = sockets
    uids = [uid for _, _, uid in workers]
    if len(set(uids)) <= 1:
        return names
    return [name if uid is None else f"{name} (uid {uid})" for name, uid in zip(names, uids, strict=True)]


def _worker(answer: Answer, label: str, processes: Processes) -> WorkerReading:
    snapshot, card, pid = answer.snapshot, answer.target.card, answer.visible_pid
    application = None if snapshot is None else snapshot.worker.application
    return WorkerReading(
        socket=answer.target.socket,
        number=answer.number,
        pid=answer.shown_pid,
        state=answer.state,
        label=label,
        application=application or (None if card is None else card.application),
        reason=None if answer.error is None else f"{answer.error.reason}: {answer.error}",
        other_uid=answer.other_uid,
        memory_bytes=None if pid is None else processes.resident_bytes(pid),
        cpu_seconds=None if pid is None else processes.cpu_seconds(pid),
        snapshot=snapshot,
    )


class Readings:
    """Takes a reading every so many seconds, the first one after that time, until it is stopped.

    The thread is a daemon, and stop() does not wait for it: a worker that hangs must not keep the command from ending.
    If one reading takes longer than the interval, the next one begins at once, and none is made up for.
    """

    def __init__(self, ask: Callable[[], Taken], deliver: Callable[[Taken], None], every_seconds: float) -> None:
        self._ask = ask
        self._deliver = deliver
        self._every_seconds = every_seconds
        self._changed = threading.Condition()
        self._is_paused = False
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, name="wsgi-tb readings", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def set_interval(self, every_seconds: float) -> None:
        """Take effect at once, not after the old interval."""
        with self._changed:
            self._every_seconds = every_seconds
            self._changed.notify()

    def pause(self, *, paused: bool) -> None:
        """Stop asking the workers, or go on at once."""
        with self._changed:
            self._is_paused = paused
            self._changed.notify()

    def stop(self) -> None:
        with self._changed:
            self._is_stopped = True
            self._changed.notify()

    def _run(self) -> None:
        # Whoever starts this has just taken one.
        taken_at = time.monotonic()
        while self._wait(taken_at):
            taken_at = time.monotonic()
            taken = self._ask()
            with self._changed:
                # Under the lock, so that nothing is delivered after stop().
                if not self._is_paused and not self._is_stopped:
                    self._deliver(taken)

    def _wait(self, taken_at: float) -> bool:
        """Until the next reading is due; False: there is none any more."""
        with self._changed:
            while not self._is_stopped:
                rest = taken_at + self._every_seconds - time.monotonic()
                if rest <= 0 and not self._is_paused:
                    return True
                self._changed.wait(None if self._is_paused else rest)
            return False
