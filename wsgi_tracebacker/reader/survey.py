"""All workers that the operator means, with what each of them answered or why it did not.

Knows how discovery, the kernel's word and the sockets fit together: what can be asked is asked at once, and only who
does not answer is looked at more closely. Refuses to show anything.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.errors import (
    BadReply,
    NoWorkersFound,
    PermissionDenied,
    WorkerDead,
    WorkerTimedOut,
    WorkerUnreachable,
)
from wsgi_tracebacker.reader import client, reply
from wsgi_tracebacker.reader.discovery import MAX_USER_WORKERS, Target, find
from wsgi_tracebacker.reader.processes import ALIVE, DEAD, DISK_WAIT, GONE, SAME, STOPPED, Processes

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Sequence

    from wsgi_tracebacker.model.snapshot import Snapshot
    from wsgi_tracebacker.reader.unanswered.examine import Findings

#: A worker that answers in time is ALIVE (from process); one that does not is STOPPED, in DISK_WAIT or else this.
BUSY = "busy"

#: Nothing can be said, because nothing may be seen.
UNKNOWN = "unknown"

#: How long an answer is waited for if nobody says otherwise: five seconds are what a person waits without wondering,
#: and a worker that is not stuck answers in milliseconds. One whose table can be shown instead has a second.
DEFAULT_SECONDS = 5.0
DEFAULT_TABLE_SECONDS = 1.0

#: A worker that starts again removes its predecessor's socket and binds its own within this.
_SECOND_LOOK_SECONDS = 0.05


class Answer(NamedTuple):
    """What became of one worker: its snapshot, or why it did not answer, then with what others say of it, if any."""

    target: Target
    #: ``alive``, ``busy``, ``stalled``, ``stopped``, ``disk wait``, ``dead`` or ``unknown``.
    state: str
    snapshot: Snapshot | None
    error: WorkerUnreachable | None
    #: As the snapshot, the card or the kernel knows it.
    number: int | None
    pid: int | None


class Survey(NamedTuple):
    """The answers in the order of the arguments and then of the numbers; and a line for each that is missing there.

    That is an argument that found nobody, a number that is not there, and whatever one user has too many of.
    """

    answers: tuple[Answer, ...]
    missing: tuple[str, ...]


def survey(
    arguments: Sequence[str],
    timeout_seconds: float | None = None,
    numbers: Collection[int] = (),
    processes: Processes | None = None,
    *,
    may_signal: bool = False,
    without_stacks: bool = False,
) -> Survey:
    """Find and ask the workers behind ``arguments``, only those with one of ``numbers`` if any are given.

    Each has ``timeout_seconds`` to answer; None: the default. One that does not answer is examined; ``may_signal`` has
    those that are proven stalled asked for their stacks. ``without_stacks`` asks each only who it is and how much it
    serves, which costs a worker next to nothing.
    Raises NoWorkersFound if there is none at all.
    """
    processes = processes or Processes()
    targets, missing = _look(arguments, numbers)
    answers = _ask(targets, timeout_seconds, processes, may_signal, without_stacks)
    if any(_worth_a_second_look(answer, processes) for answer in answers.values()):
        time.sleep(_SECOND_LOOK_SECONDS)
        again, missing = _look(arguments, numbers)
        # Who is gone from the folder has left in good order, and who has come meanwhile is asked.
        unsettled = [
            target
            for path, target in again.items()
            if path not in answers or answers[path].target != target or isinstance(answers[path].error, WorkerDead)
        ]
        asked = _ask(
            {target.socket: target for target in unsettled}, timeout_seconds, processes, may_signal, without_stacks
        )
        answers = {path: asked[path] if path in asked else answers[path] for path in again}
    if not answers:
        raise NoWorkersFound("\n".join(missing))
    return Survey(tuple(answers.values()), tuple(missing))


def _look(arguments: Sequence[str], numbers: Collection[int]) -> tuple[dict[str, Target], list[str]]:
    """What is there, by path (so that one worker named twice is asked once), and a line for what is not."""
    targets: dict[str, Target] = {}
    missing: list[str] = []
    found = find(arguments)
    for argument, behind in zip(arguments, found.targets, strict=True):
        if isinstance(behind, (OSError, ValueError)):
            reason = behind.strerror if isinstance(behind, OSError) else str(behind)
            missing.append(f"no workers behind {argument!r}: its folder cannot be listed: {reason}")
            continue
        if not behind:
            missing.append(_nobody(argument))
        targets.update((os.path.abspath(target.socket), target) for target in behind)
    missing += [
        f"{count} workers of uid {uid} are left out: of another user no more than {MAX_USER_WORKERS} are looked at"
        for uid, count in sorted(found.left_out.items())
    ]
    if not numbers:
        return targets, missing
    there = sorted({target.number for target in targets.values() if target.number is not None})
    if targets:
        known = ", ".join(map(str, there)) or "none with a number"
        missing += [f"no worker {number}: there is {known}" for number in sorted(set(numbers).difference(there))]
    return {path: target for path, target in targets.items() if target.number in numbers}, missing


def _nobody(argument: str) -> str:
    line = f"no workers behind {argument!r}: neither {argument}1, {argument}2 ... nor a socket of that name."
    if os.path.isdir(argument) and not argument.endswith("/"):
        return f"{line} It is a folder: name the base path inside it, as in {os.path.join(argument, 'tbsocket')!r}."
    return f"{line} A worker makes its socket with its first request; is the base the one of TracebackerMiddleware?"


def _worth_a_second_look(answer: Answer, processes: Processes) -> bool:
    """Whether it looks as if this one was just starting, ending or starting again."""
    if answer.target.inode is None:
        return answer.state != DEAD
    if not isinstance(answer.error, WorkerDead):
        return False
    # Its socket went between listing and connecting, or its successor has not yet begun to listen.
    return not os.path.exists(answer.target.socket) or _standing(answer.target, processes) == SAME


def _ask(
    targets: dict[str, Target],
    timeout_seconds: float | None,
    processes: Processes,
    may_signal: bool,
    without_stacks: bool,
) -> dict[str, Answer]:
    limit_seconds = DEFAULT_SECONDS if timeout_seconds is None else timeout_seconds
    listening = {path: target for path, target in targets.items() if target.inode is not None}
    examiners = [_examiner(target, timeout_seconds, processes, may_signal) for target in listening.values()]
    questions = [(target.socket, limit_seconds) for target in listening.values()]
    owners = [target.owner for target in listening.values()]
    request = client.WORKER if without_stacks else client.SNAPSHOT
    outcomes = dict(zip(listening, client.ask_all(questions, examiners, owners, request=request), strict=True))
    taken_at = time.time()
    answers = {}
    for path, target in targets.items():
        if path in outcomes:
            # Taken out: a reply that has been read is only memory.
            answers[path] = _answer(target, outcomes.pop(path), taken_at, processes, without_stacks)
        else:
            answers[path] = _no_socket(target, processes)
    return answers


def _examiner(
    target: Target, timeout_seconds: float | None, processes: Processes, may_signal: bool
) -> client.Examine | None:
    """How to examine a worker; None for one that has nothing that could be looked at."""
    card = target.card
    # A card that speaks of another user than its owner lies: root must not open that user's files for it.
    if card is None or card.uid != target.card_owner:
        return None

    def begin(waited_seconds: float) -> Generator[float, int, Findings]:
        # Here, because nearly always everybody answers.
        from wsgi_tracebacker.reader.unanswered.examine import Timeouts, examine  # noqa: PLC0415

        timeouts = Timeouts(
            DEFAULT_SECONDS if timeout_seconds is None else timeout_seconds,
            DEFAULT_TABLE_SECONDS if timeout_seconds is None else timeout_seconds,
        )
        standing = _standing(target, processes)
        return examine(card, processes, standing, waited_seconds, timeouts, may_signal=may_signal)

    return begin


def _answer(
    target: Target, outcome: client.Outcome, taken_at: float, processes: Processes, without_stacks: bool
) -> Answer:
    if isinstance(outcome, client.Failure):
        return _unanswered(target, outcome.error, outcome.peer_pid, processes, outcome.examination)
    try:
        snapshot = reply.snapshot(outcome, taken_at, without_stacks=without_stacks)
    except BadReply as error:
        return _unanswered(target, error, outcome.peer_pid, processes)
    worker = snapshot.worker
    if worker.number is None:
        worker = worker._replace(number=target.number)
    if worker.started_at is None and worker.pid is not None:
        worker = worker._replace(started_at=processes.started_at(worker.pid))
    if worker is not snapshot.worker:
        snapshot = snapshot._replace(worker=worker)
    return Answer(target, ALIVE, snapshot, None, worker.number, worker.pid)


def _unanswered(
    target: Target,
    error: WorkerUnreachable,
    peer_pid: int,
    processes: Processes,
    examination: Findings | None = None,
) -> Answer:
    standing = _standing(target, processes)
    # uWSGI's workers have no card, but the kernel says whose socket it is.
    pid = peer_pid or None if target.card is None else target.card.pid
    state = UNKNOWN
    if isinstance(error, WorkerDead):
        state = DEAD
    elif standing == GONE and not isinstance(error, PermissionDenied):
        error = WorkerDead("its process has ended, though something still holds its socket open")
        state = DEAD
    elif examination is not None:
        return Answer(
            target, examination.state, examination.snapshot, _with_notes(error, examination.notes), target.number, pid
        )
    elif isinstance(error, WorkerTimedOut):
        state = BUSY
        if pid is not None and (target.card is None or standing == SAME):
            letter = processes.state(pid, threads=True)
            state = letter if letter in (STOPPED, DISK_WAIT) else BUSY
    return Answer(target, state, None, error, target.number, pid)


def _with_notes(error: WorkerUnreachable, notes: Sequence[str]) -> WorkerUnreachable:
    return type(error)("; ".join((str(error), *notes)))


def _no_socket(target: Target, processes: Processes) -> Answer:
    card = target.card
    assert card is not None
    standing = _standing(target, processes)
    if standing == SAME:
        error = WorkerUnreachable("its socket is gone though it runs; it makes it anew within a minute")
        return Answer(target, processes.state(card.pid), None, error, card.number, card.pid)
    if standing == UNKNOWN and processes.is_boot(card.boot_id):
        error = WorkerUnreachable(
            "its socket is gone, and whether it runs cannot be told from another pid namespace; "
            "run wsgi-tb inside its container"
        )
        return Answer(target, UNKNOWN, None, error, card.number, card.pid)
    return Answer(target, DEAD, None, WorkerDead("its process has ended"), card.number, card.pid)


def _standing(target: Target, processes: Processes) -> str:
    if target.card is None or target.card_owner is None:
        return UNKNOWN
    return processes.standing(target.card, target.card_owner)
