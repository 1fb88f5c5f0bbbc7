"""Takes one short look at all workers, for probes: each has half a second to answer, and nothing is proven.

A worker that does not answer in time is alive if its black box changes within the look: then Python runs in it, and it
is only too busy. No stack is asked for and no signal is sent.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.errors import FormatError, NoWorkersFound
from wsgi_tracebacker.model.health import ANSWERS, MOVES, REFUSES, SILENT, WorkerHealth
from wsgi_tracebacker.model.health import DEAD as ENDED
from wsgi_tracebacker.model.questions import in_flight, oldest_seconds
from wsgi_tracebacker.reader import table
from wsgi_tracebacker.reader.finding import discovery
from wsgi_tracebacker.reader.finding.processes import DEAD, UNKNOWN, Processes
from wsgi_tracebacker.reader.survey import Answer, Survey, survey
from wsgi_tracebacker.wire.black_box import table_header

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsgi_tracebacker.model.snapshot import Snapshot
    from wsgi_tracebacker.reader.finding.discovery import Target

#: How long each worker has to answer.
LOOK_SECONDS = 0.5
#: A kubelet waits one second for the whole command. On a busy machine it takes long until the command has started: the
#: look then ends so long after the start of the process, but it has the last of these in any case.
END_SECONDS = 0.8
LEAST_SECONDS = 0.25
#: The same for the full reading that is kept as evidence, after the look has failed.
EVIDENCE_SECONDS = 0.25


class Look(NamedTuple):
    """What one look found."""

    workers: tuple[WorkerHealth, ...]
    #: The same workers, in the same order.
    survey: Survey


def seconds_left(processes: Processes, now: float) -> float:
    """How long a look may take. ``now``: seconds since the boot, also of sleep, as the starts of processes are."""
    started = processes.started_after_boot(os.getpid())
    elapsed = 0.0 if started is None else max(0.0, now - started)
    return max(LEAST_SECONDS, min(LOOK_SECONDS, END_SECONDS - elapsed))


def look(arguments: Sequence[str], seconds: float = LOOK_SECONDS) -> Look:
    """Look at the workers behind these arguments. Raises NoWorkersFound if there is none."""
    processes = Processes()
    before = {
        target.socket: _signs(target)
        for targets in discovery.find(arguments).targets
        for target in (targets if isinstance(targets, tuple) else ())
    }
    found = survey(arguments, seconds, (), processes, without_stacks=True, may_examine=False)
    return Look(tuple(_health(answer, before, processes) for answer in found.answers), found)


def evidence(taken: Look, seconds: float = EVIDENCE_SECONDS) -> list[Answer]:
    """Ask the workers that answered for their stacks; of the others, show what their black boxes have."""
    processes = Processes()
    answering = [answer.target.socket for answer in taken.survey.answers if answer.error is None]
    again: dict[str, Answer] = {}
    if answering:
        try:
            found = survey(answering, seconds, (), processes, may_examine=False)
            again = {answer.target.socket: answer for answer in found.answers}
        except NoWorkersFound:
            # They have ended meanwhile.
            pass
    answers = [again.get(answer.target.socket, answer) for answer in taken.survey.answers]
    return [
        answer if answer.error is None else answer._replace(snapshot=_from_table(answer, processes))
        for answer in answers
    ]


def _health(answer: Answer, before: dict[str, bytes | None], processes: Processes) -> WorkerHealth:
    return _condition(answer, before, processes)._replace(other_uid=answer.other_uid)


def _condition(answer: Answer, before: dict[str, bytes | None], processes: Processes) -> WorkerHealth:
    if answer.state == DEAD:
        return WorkerHealth(ENDED)
    if answer.state == UNKNOWN:
        return WorkerHealth(REFUSES)
    snapshot, condition = answer.snapshot, ANSWERS
    if answer.error is not None:
        signs, now = before.get(answer.target.socket), _signs(answer.target)
        condition = MOVES if None not in (signs, now) and signs != now else SILENT
        snapshot = _from_table(answer, processes)
    if snapshot is None:
        return WorkerHealth(condition)
    worker = snapshot.worker
    return WorkerHealth(
        condition=condition,
        oldest_request_seconds=oldest_seconds(snapshot),
        busy=in_flight(snapshot) if worker.busy is None else worker.busy,
        slots=worker.slots,
        inner_queue=worker.inner_queue,
        listen=worker.listen,
    )


def _signs(target: Target) -> bytes | None:
    """What changes in the black box of a worker while it works; None if it cannot be read."""
    opened = _open(target)
    if opened is None:
        return None
    try:
        return table_header.signs_of_life(opened.content())
    except (OSError, FormatError):
        return None
    finally:
        opened.close()


def _from_table(answer: Answer, processes: Processes) -> Snapshot | None:
    """What the black box of a worker says that did not answer."""
    card, opened = answer.target.card, None if answer.state in (DEAD, UNKNOWN) else _open(answer.target)
    if card is None or opened is None:
        return None
    try:
        return table.snapshot(
            card,
            opened.read(),
            answer.state,
            monotonic=time.monotonic(),
            unix=time.time(),
            clocks_are_ours=processes.is_boot(card.boot_id),
        )
    except (OSError, FormatError):
        return None
    finally:
        opened.close()


def _open(target: Target) -> table.Table | None:
    # A card that names another user than its owner lies: root must not open that user's files for it.
    if target.card is None or target.card.uid != target.card_owner:
        return None
    try:
        return table.Table(target.card)
    except OSError:
        return None
