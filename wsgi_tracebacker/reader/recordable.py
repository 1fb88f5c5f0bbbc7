"""Finds the workers that can be recorded, and opens them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_tracebacker.errors import FormatError, MemoryUnreadable
from wsgi_tracebacker.reader.finding import discovery
from wsgi_tracebacker.reader.finding.processes import GONE, SAME, Processes
from wsgi_tracebacker.reader.outside.recorder import WorkerRecorder

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


def open_workers(
    arguments: Sequence[str], numbers: Collection[int], known: Collection[int]
) -> tuple[list[WorkerRecorder], list[tuple[str, str]]]:
    """The workers behind the arguments, and of each that cannot be recorded its name and the reason.

    :param numbers: only workers with one of these numbers, if there are any.
    :param known: pids of workers that are open already.
    """
    processes = Processes()
    found, refused, seen = [], [], set(known)
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
                found.append(WorkerRecorder(card, processes))
            except (MemoryUnreadable, FormatError, OSError) as error:
                refused.append((f"worker {card.number} (pid {card.pid}, {target.socket})", str(error)))
    return found, refused
