"""What tells the workers of a recording apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgi_tracebacker.model.card import Card


def worker_key(card: Card) -> int:
    """Return a number of its own for each process of this machine: two containers have the same pids.

    A pid is below 2 to the 22nd, PID_MAX_LIMIT of the kernel's threads.h.
    """
    return card.pid_namespace << 22 | card.pid
