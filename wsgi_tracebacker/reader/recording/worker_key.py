"""What tells the workers of a recording apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from wsgi_tracebacker.model.card import Card


class WorkerKey(NamedTuple):
    """One process of this machine."""

    #: Two containers have the same pids; one that starts again has the same pid in a namespace of the same number.
    pid_namespace: int
    pid: int
    start_ticks: int

    @classmethod
    def of(cls, card: Card) -> WorkerKey:
        return cls(card.pid_namespace, card.pid, card.start_ticks)
