"""Finds the workers that the operator named, asks them all at once, and returns each one's snapshot or failure.

It combines discovery, ``/proc`` and the sockets. Only workers that do not answer are examined. It prints nothing.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.errors import (
    BadReply,
    MemoryUnreadable,
    NoWorkersFound,
    PermissionDenied,
    WorkerDead,
    WorkerTimedOut,
    WorkerUnreachable,
    WrongCard,
    WrongPeer,
)
from wsgi_tracebacker.reader.asking import client, peer_check, reply
from wsgi_tracebacker.reader.dead import deaths
from wsgi_tracebacker.reader.finding import named
from wsgi_tracebacker.reader.finding.processes import (
    ALIVE,
    BUSY,
    DEAD,
    DISK_WAIT,
    GONE,
    SAME,
    STOPPED,
    UNKNOWN,
    Processes,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterable, Sequence

    from wsgi_tracebacker.model.snapshot import Snapshot
    from wsgi_tracebacker.reader.finding.discovery import Target
    from wsgi_tracebacker.reader.unanswered.examine import Findings

#: The default time limit for an answer: a person waits five seconds without wondering, and a worker that is not stuck
#: answers in milliseconds. A worker whose table can be shown instead has one second.
DEFAULT_SECONDS = 5.0
DEFAULT_TABLE_SECONDS = 1.0

#: The errors of a worker that may be restarting just now.
_PASSING = (WorkerDead, WrongCard)

#: A worker that restarts removes its predecessor's socket and binds its own within this.
_RETRY_SECONDS = 0.05


class Answer(NamedTuple):
    """One worker: its snapshot, or why it did not answer, then with a snapshot from its table if there is one."""

    target: Target
    #: ``alive``, ``busy``, ``stalled``, ``stopped``, ``disk wait``, ``dead`` or ``unknown``.
    state: str
    snapshot: Snapshot | None
    error: WorkerUnreachable | None
    #: From the snapshot, the card or the kernel.
    number: int | None
    pid: int | None
    #: The user whose process it is, or else whose socket or card; None if that is the reader's own.
    other_uid: int | None = None
    #: The process's pid in the reader's own pid namespace; None if it cannot be seen from there.
    visible_pid: int | None = None
    #: Of a dead one: the Unix time at which it is known to have lived last.
    last_alive_at: float | None = None

    @property
    def shown_pid(self) -> int | None:
        """The pid for people: the one that they can use, as far as it is known."""
        return self.pid if self.visible_pid is None else self.visible_pid

    def for_people(self) -> Answer:
        """The same with that pid in its snapshot, too."""
        snapshot = self.snapshot
        if snapshot is None or snapshot.worker.pid == self.shown_pid:
            return self
        return self._replace(snapshot=snapshot._replace(worker=snapshot.worker._replace(pid=self.shown_pid)))


class Survey(NamedTuple):
    """The answers, in the order of the arguments and then of the numbers."""

    answers: tuple[Answer, ...]
    #: A line for each argument without workers, each number that does not exist, and each user with too many workers.
    missing: tuple[str, ...]

    def by_base(self) -> dict[str, list[Answer]]:
        """The answers of each base, in their order."""
        found: dict[str, list[Answer]] = {}
        for answer in self.answers:
            found.setdefault(answer.target.base, []).append(answer)
        return found


def survey(
    arguments: Sequence[str],
    timeout_seconds: float | None = None,
    numbers: Collection[int] = (),
    processes: Processes | None = None,
    *,
    may_signal: bool = False,
    may_read_memory: bool = False,
    from_outside: bool = False,
    without_stacks: bool = False,
    may_examine: bool = True,
) -> Survey:
    """Find and ask the workers behind ``arguments``, only those with one of ``numbers`` if any are given.

    Each has ``timeout_seconds`` to answer; None: the default. One that does not answer is examined if it may be, which
    may take longer than that: with ``may_read_memory`` its stacks are read from its memory, and with ``may_signal`` a
    worker that is proven stalled, and whose memory may not be read, is asked for them by signal. With ``from_outside``
    no worker is asked at all, and each is read from its memory.
    With ``without_stacks`` each worker is asked only who it is and how much it serves, which costs it next to nothing.
    Raises NoWorkersFound if there is none at all.
    """
    means = Means(may_signal, may_read_memory, from_outside)
    interview = _Interview(processes or Processes(), timeout_seconds, means, without_stacks, may_examine)
    targets, missing = named.find(arguments, numbers)
    answers = interview.ask(targets)
    if any(interview.is_unsettled(answer) for answer in answers.values()):
        time.sleep(_RETRY_SECONDS)
        # Workers that stopped meanwhile have removed their files; those that started, or died, are asked (again).
        targets, missing = named.find(arguments, numbers)
        again = {
            path: target
            for path, target in targets.items()
            if path not in answers or answers[path].target != target or isinstance(answers[path].error, _PASSING)
        }
        answers |= interview.ask(again)
        answers = {path: answers[path] for path in targets}
    shown, old = _without_old_deaths(answers.values())
    if not shown:
        raise NoWorkersFound("\n".join([*missing, *old, *_other_bases()]))
    return Survey(tuple(shown), tuple(missing))


def _without_old_deaths(answers: Iterable[Answer]) -> tuple[list[Answer], list[str]]:
    """Leave out the workers that have been dead for long; a line for each base that has such workers."""
    shown, old = [], Counter[str]()
    for answer in answers:
        if answer.state == DEAD:
            last_alive_at = deaths.last_alive_at(answer.target)
            if last_alive_at is not None and last_alive_at < time.time() - deaths.SHOWN_SECONDS:
                old[answer.target.base] += 1
                continue
            answer = answer._replace(last_alive_at=last_alive_at)  # noqa: PLW2901
        shown.append(answer)
    return shown, [
        f"{base}: workers that died more than a day ago: {count}; wsgi-tb clean removes what is left of them"
        for base, count in old.items()
    ]


def _other_bases() -> list[str]:
    # Imported only here: it searches the whole machine.
    from wsgi_tracebacker.reader.finding import everywhere  # noqa: PLC0415

    return everywhere.bases_line()


class Means(NamedTuple):
    """What may be done to have the stacks of a worker that does not answer, or is not to be asked."""

    may_signal: bool
    may_read_memory: bool
    from_outside: bool


_NO_CARD = client.Failure(MemoryUnreadable("it is no worker of wsgi_tracebacker's: it has no card"))


class _Interview:
    """How workers are asked, and what their answers mean."""

    def __init__(
        self,
        processes: Processes,
        timeout_seconds: float | None,
        means: Means,
        without_stacks: bool,
        may_examine: bool,
    ) -> None:
        self._processes = processes
        self._seconds = DEFAULT_SECONDS if timeout_seconds is None else timeout_seconds
        self._table_seconds = DEFAULT_TABLE_SECONDS if timeout_seconds is None else timeout_seconds
        self._means = means
        self._without_stacks = without_stacks
        self._may_examine = may_examine

    def ask(self, targets: dict[str, Target]) -> dict[str, Answer]:
        """Ask all of them at once."""
        if self._means.from_outside:
            return {path: self._from_outside(target) for path, target in targets.items()}
        listening = {path: target for path, target in targets.items() if target.inode is not None}
        replies = client.ask_all(
            [(target.socket, self._seconds) for target in listening.values()],
            [self._examiner(target) for target in listening.values()],
            [target.owner for target in listening.values()],
            request=client.WORKER if self._without_stacks else client.SNAPSHOT,
        )
        outcomes = dict(zip(listening, replies, strict=True))
        del replies
        taken_at = time.time()
        answers = {}
        for path, target in targets.items():
            if path in outcomes:
                # pop(): a reply that has been decoded would only take memory.
                answers[path] = self._answer(target, outcomes.pop(path), taken_at)
            else:
                answers[path] = self._without_socket(target)
        return answers

    def is_unsettled(self, answer: Answer) -> bool:
        """Whether this worker seems to be starting, stopping or restarting just now."""
        if answer.target.inode is None:
            return answer.state != DEAD
        if not isinstance(answer.error, WorkerDead):
            # A card that names another process may be the predecessor's.
            return isinstance(answer.error, WrongCard)
        # Its socket was removed after it was listed, or its successor does not listen yet.
        return not os.path.exists(answer.target.socket) or self._standing(answer.target) == SAME

    def _examiner(self, target: Target) -> client.Examine | None:
        """How to examine a worker; None if it may not be, or has no card that can be believed."""
        card = target.card if self._may_examine else None
        # A card that names another user than its owner lies: root must not open that user's files for it.
        if card is None or card.uid != target.card_owner:
            return None

        def examine(waited_seconds: float) -> Generator[float, int, Findings]:
            # Imported only here: nearly always every worker answers.
            from wsgi_tracebacker.reader.unanswered import examine  # noqa: PLC0415

            timeouts = examine.Timeouts(self._seconds, self._table_seconds)
            standing = self._standing(target)
            return examine.examine(
                card,
                self._processes,
                standing,
                waited_seconds,
                timeouts,
                may_signal=self._means.may_signal,
                may_read_memory=self._means.may_read_memory,
            )

        return examine

    def _answer(self, target: Target, outcome: client.Outcome, taken_at: float) -> Answer:
        if isinstance(outcome, client.Failure):
            return self._unanswered(target, outcome)
        try:
            snapshot = reply.snapshot(outcome, taken_at, without_stacks=self._without_stacks)
            peer_check.check(outcome, snapshot.worker, target.card, self._processes)
        except BadReply as error:
            return self._unanswered(target, client.Failure(error, outcome.peer_pid))
        worker, uid = snapshot.worker._replace(uid=outcome.peer_uid), _other(outcome.peer_uid)
        if worker.number is None:
            worker = worker._replace(number=target.number)
        if worker.started_at is None and worker.pid is not None:
            worker = worker._replace(started_at=self._processes.started_at(worker.pid))
        return Answer(
            target,
            ALIVE,
            snapshot._replace(worker=worker),
            None,
            worker.number,
            worker.pid,
            uid,
            visible_pid=outcome.peer_pid or None,
        )

    def _unanswered(self, target: Target, failure: client.Failure) -> Answer:
        error, findings = failure.error, failure.findings
        standing = self._standing(target)
        # uWSGI's workers have no card, but the kernel knows which process listens.
        pid = failure.peer_pid or None if target.card is None else target.card.pid
        snapshot = None
        state = UNKNOWN
        if isinstance(error, WorkerDead):
            state = DEAD
        elif standing == GONE and not isinstance(error, (PermissionDenied, WrongPeer)):
            state = DEAD
            error = WorkerDead("its process has ended, though something still holds its socket open")
        elif findings is not None:
            state, snapshot = findings.state, findings.snapshot
            error = type(error)("; ".join((str(error), *findings.notes)))
        elif isinstance(error, WorkerTimedOut):
            state = BUSY
            if pid is not None and (target.card is None or standing == SAME):
                found = self._processes.state(pid, threads=True)
                state = found if found in (STOPPED, DISK_WAIT) else BUSY
        seen = failure.peer_pid or (pid if standing == SAME else None)
        return Answer(target, state, snapshot, error, target.number, pid, _other(target.owner), visible_pid=seen)

    def _from_outside(self, target: Target) -> Answer:
        """A worker as its memory shows it, without asking it anything."""
        from wsgi_tracebacker.reader.unanswered.examine import SilentWorker  # noqa: PLC0415

        card, standing = target.card, self._standing(target)
        if standing == GONE or card is None or card.uid != target.card_owner:
            return self._without_socket(target) if card is not None else self._unanswered(target, _NO_CARD)
        worker = SilentWorker(card, self._processes, standing)
        try:
            state = UNKNOWN if worker.pid is None else self._processes.state(worker.pid)
            if not worker.open_memory():
                error = MemoryUnreadable(
                    "; ".join(worker.notes) or "it has no black box, or is in another pid namespace"
                )
                return Answer(target, state, None, error, target.number, card.pid, _other(target.owner))
            snapshot = worker.findings(state).snapshot
        finally:
            worker.close()
        return Answer(target, state, snapshot, None, target.number, card.pid, _other(target.owner), worker.pid)

    def _without_socket(self, target: Target) -> Answer:
        card = target.card
        assert card is not None
        standing = self._standing(target)
        error: WorkerUnreachable
        if standing == SAME:
            state = self._processes.state(card.pid)
            error = WorkerUnreachable("its socket is gone though it runs; it makes it anew within a minute")
        elif standing == UNKNOWN and self._processes.is_boot(card.boot_id):
            state = UNKNOWN
            error = WorkerUnreachable(
                "its socket is gone, and whether it runs cannot be told from another pid namespace; "
                "run wsgi-tb inside its container"
            )
        else:
            state, error = DEAD, WorkerDead("its process has ended")
        seen = card.pid if standing == SAME else None
        return Answer(target, state, None, error, card.number, card.pid, _other(target.owner), visible_pid=seen)

    def _standing(self, target: Target) -> str:
        if target.card is None or target.card_owner is None:
            return UNKNOWN
        return self._processes.standing(target.card, target.card_owner)


def _other(uid: int) -> int | None:
    return None if uid == os.geteuid() else uid
