"""Finds the workers that can be recorded, and opens each: from outside, or where that is refused from inside.

What a worker's memory shows is held against what it says itself. That also says who serves with greenlets.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.errors import BadReply, FormatError, MemoryUnreadable, WorkerDead, WorkerUnreachable
from wsgi_tracebacker.linux import proc
from wsgi_tracebacker.reader.asking import client, peer_check, reply
from wsgi_tracebacker.reader.finding import named
from wsgi_tracebacker.reader.finding.processes import GONE, SAME, Processes
from wsgi_tracebacker.reader.recording.from_inside import InsideRecorder
from wsgi_tracebacker.reader.recording.from_outside import OutsideRecorder
from wsgi_tracebacker.reader.recording.worker_key import WorkerKey

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from wsgi_tracebacker.model.card import Card
    from wsgi_tracebacker.model.snapshot import Snapshot
    from wsgi_tracebacker.reader.finding.discovery import Target
    from wsgi_tracebacker.reader.recording.record import Engine

#: How long a worker has to say where it is. One that does not answer, because it is stalled or busy, is recorded too:
#: of that, it was enough to find its listener in its own code.
_SECONDS = 1.0
#: The same for one that has loaded greenlet: only its answer says whether it serves with greenlets.
_GREENLET_SECONDS = 5.0

#: Workers that begin to record from inside at the same time.
_MAX_AT_ONCE = 100

#: How often it is asked: of a thread that Python did not start the outermost call may change with each request.
_ASKED = 5


class Opened(NamedTuple):
    """The workers that can be recorded, and of others the reason."""

    engines: list[Engine]
    #: Of each that is recorded from inside: its name, and why not from outside.
    inside: list[tuple[str, str]]
    #: Of each that cannot be recorded: its name, and why.
    refused: list[tuple[str, str]]
    #: A line for each argument and number without a worker that lives.
    missing: list[str]


class _Outside(NamedTuple):
    target: Target
    card: Card
    engine: OutsideRecorder

    @property
    def patience_seconds(self) -> float:
        # Others load it too: SQLAlchemy does.
        files = (file for file, _ in proc.mapped_files(f"{proc.ROOT}/{self.engine.pid}"))
        return _GREENLET_SECONDS if any(b"/_greenlet." in file for file in files) else _SECONDS


class Recordable:
    """The workers behind some arguments. Each is opened once, also one that refuses."""

    def __init__(
        self,
        arguments: Sequence[str],
        numbers: Collection[int],
        seconds: float,
        rate: float,
        *,
        only_inside: bool = False,
    ) -> None:
        """Nothing is opened yet.

        :param numbers: only workers with one of these numbers, if there are any.
        :param seconds: how long they are to be recorded.
        :param rate: looks a second.
        :param only_inside: do not read their memory.
        """
        self._arguments = arguments
        self._numbers = numbers
        self._seconds = seconds
        self._rate = rate
        self._only_inside = only_inside
        #: The keys of those that were found so far.
        self._seen: set[WorkerKey] = set()

    def open_new(self) -> Opened:
        """Open those that were not there the last time."""
        processes = Processes()
        targets, missing = named.find(self._arguments, self._numbers)
        opened = Opened([], [], [], missing)
        #: The bases of those that live.
        living = set()
        outside: list[_Outside] = []
        left: list[tuple[Target, Card, str]] = []
        for target in targets.values():
            card = target.card
            if card is None or target.card_owner is None:
                continue
            standing = processes.standing(card, target.card_owner)
            # A user may have another number in a container; or the card lies, and names another user's files.
            is_of_owner = card.uid == target.card_owner
            if standing == GONE or (standing == SAME and not is_of_owner):
                continue
            if WorkerKey.of(card) in self._seen:
                living.add(target.base)
                continue
            self._seen.add(WorkerKey.of(card))
            visible_pid = processes.visible_pid(card) if standing != SAME and is_of_owner else None
            if self._only_inside:
                left.append((target, card, ""))
            elif standing != SAME and visible_pid is None:
                left.append((target, card, "it runs in another pid namespace"))
            else:
                try:
                    outside.append(_Outside(target, card, OutsideRecorder(card, processes, visible_pid)))
                except (MemoryUnreadable, FormatError, OSError) as error:
                    left.append((target, card, str(error)))
        for each, reason in _doubted(outside, processes):
            outside.remove(each)
            each.engine.close()
            left.append((each.target, each.card, reason))
        opened.engines.extend(each.engine for each in outside)
        living |= {each.target.base for each in outside}
        for (target, card, reason), engine in zip(left, self._open_inside(left, processes), strict=True):
            if isinstance(engine, InsideRecorder):
                opened.engines.append(engine)
                opened.inside.append((_name(target, card, engine.pid), reason))
            elif isinstance(engine, WorkerDead) and processes.standing(card, card.uid) != SAME:
                # In another pid namespace, and of another boot, only the socket shows that a process has ended.
                continue
            else:
                why = f"{reason}; from inside: {engine}" if reason else str(engine)
                opened.refused.append((_name(target, card, card.pid), why))
            living.add(target.base)
        dead = {target.base for target in targets.values()} - living
        missing += [f"no worker of wsgi_tracebacker's behind {base!r} lives" for base in sorted(dead)]
        return opened

    def _open_inside(
        self, left: Sequence[tuple[Target, Card, str]], processes: Processes
    ) -> list[InsideRecorder | WorkerUnreachable | FormatError]:
        """All at once: a busy worker may take a second to begin, and the first one would be recorded for longer."""

        def begin(target: Target, card: Card) -> InsideRecorder | WorkerUnreachable | FormatError:
            try:
                return InsideRecorder(card, target.socket, self._seconds, self._rate, processes)
            except (WorkerUnreachable, FormatError) as error:
                return error

        with ThreadPoolExecutor(_MAX_AT_ONCE) as pool:
            return [each.result() for each in [pool.submit(begin, target, card) for target, card, _ in left]]


def _name(target: Target, card: Card, pid: int) -> str:
    return f"worker {card.number} (pid {pid}, {target.socket})"


def _doubted(opened: Sequence[_Outside], processes: Processes) -> list[tuple[_Outside, str]]:
    """Those that serve with greenlets, and those whose memory shows something else than their own snapshots."""
    left = [each for each in opened if each.target.inode is not None]
    doubted: dict[WorkerKey, tuple[_Outside, str]] = {}
    for _ in range(_ASKED):
        outcomes = client.ask_all(
            [(each.target.socket, each.patience_seconds) for each in left], owners=[each.target.owner for each in left]
        )
        again = []
        for each, outcome in zip(left, outcomes, strict=True):
            doubted.pop(each.engine.key, None)
            snapshot = _snapshot(each.target, outcome, processes)
            if snapshot is None:
                continue
            if any(stack.kind == "hub" for stack in snapshot.stacks):
                doubted[each.engine.key] = each, "its requests are greenlets, whose stacks are not in their thread"
            elif not each.engine.agrees_with(snapshot):
                again.append(each)
                reason = "its threads are not where it says that they are: what is read would not be right"
                doubted[each.engine.key] = each, reason
        left = again
        if not left:
            break
    return list(doubted.values())


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
