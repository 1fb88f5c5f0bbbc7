"""Finds the workers that can be recorded, opens them, and holds what their memory shows against what they say."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.errors import BadReply, FormatError, MemoryUnreadable
from wsgi_tracebacker.reader.asking import client, peer_check, reply
from wsgi_tracebacker.reader.finding import discovery
from wsgi_tracebacker.reader.finding.processes import GONE, SAME, Processes
from wsgi_tracebacker.reader.outside.recorder import WorkerRecorder

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from wsgi_tracebacker.model.snapshot import Snapshot
    from wsgi_tracebacker.reader.finding.discovery import Target

#: How long a worker has to say where it is. One that does not answer, because it is stalled or busy, is recorded too:
#: of that, it was enough to find its listener in its own code.
_SECONDS = 1.0

#: How often it is asked: of a thread that Python did not start the outermost call may change with each request.
_ASKED = 5


class _Opened(NamedTuple):
    target: Target
    worker: WorkerRecorder


def open_workers(
    arguments: Sequence[str], numbers: Collection[int], known: Collection[int]
) -> tuple[list[WorkerRecorder], list[tuple[str, str]]]:
    """The workers behind the arguments, and of each that cannot be recorded its name and the reason.

    :param numbers: only workers with one of these numbers, if there are any.
    :param known: pids of workers that are open already.
    """
    processes = Processes()
    opened, refused, seen = [], [], set(known)
    for targets in discovery.find(arguments).targets:
        for target in targets if isinstance(targets, tuple) else ():
            card = target.card
            if card is None or card.uid != target.card_owner or (numbers and card.number not in numbers):
                continue
            standing = processes.standing(card, target.card_owner)
            if standing == GONE or card.pid in seen:
                continue
            seen.add(card.pid)
            try:
                if standing != SAME:
                    raise MemoryUnreadable("it runs in another pid namespace: run wsgi-tb inside its container")
                opened.append(_Opened(target, WorkerRecorder(card, processes)))
            except (MemoryUnreadable, FormatError, OSError) as error:
                refused.append((_name(target), str(error)))
    for each in _contradicted(opened, processes):
        opened.remove(each)
        each.worker.close()
        reason = "its threads are not where it says that they are: what is read would not be right"
        refused.append((_name(each.target), reason))
    return [each.worker for each in opened], refused


def _name(target: Target) -> str:
    assert target.card is not None
    return f"worker {target.card.number} (pid {target.card.pid}, {target.socket})"


def _contradicted(opened: Sequence[_Opened], processes: Processes) -> list[_Opened]:
    """Those whose memory shows something else than their own snapshots."""
    left = [each for each in opened if each.target.inode is not None]
    for _ in range(_ASKED):
        outcomes = client.ask_all(
            [(each.target.socket, _SECONDS) for each in left], owners=[each.target.owner for each in left]
        )
        snapshots = [_snapshot(each.target, answer, processes) for each, answer in zip(left, outcomes, strict=True)]
        left = [
            each
            for each, snapshot in zip(left, snapshots, strict=True)
            if snapshot is not None and not each.worker.agrees_with(snapshot)
        ]
        if not left:
            break
    return left


def _snapshot(target: Target, outcome: client.Outcome, processes: Processes) -> Snapshot | None:
    """What the worker says; None if it does not answer, or something else does."""
    if isinstance(outcome, client.Failure):
        return None
    try:
        snapshot = reply.snapshot(outcome, time.time())
        peer_check.check(outcome, snapshot.worker, target.card, processes)
    except BadReply:
        return None
    return snapshot
