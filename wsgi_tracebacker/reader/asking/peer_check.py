"""Compares what a worker's card and its reply say of its process with what the kernel says of the connection's peer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_tracebacker.errors import WrongCard, WrongPeer

if TYPE_CHECKING:
    from wsgi_tracebacker.model.card import Card
    from wsgi_tracebacker.model.snapshot import Worker
    from wsgi_tracebacker.reader.asking.reply import Reply
    from wsgi_tracebacker.reader.finding.processes import Processes


def check(reply: Reply, worker: Worker, card: Card | None, processes: Processes) -> None:
    """Raise WrongPeer if the kernel contradicts the reply, WrongCard if it contradicts the card."""
    contradiction = _contradiction(worker.pid, worker.uid, reply, processes)
    if contradiction is not None:
        raise WrongPeer(f"its reply says that it is {contradiction}")
    contradiction = None if card is None else _contradiction(card.pid, card.uid, reply, processes)
    if contradiction is not None:
        raise WrongCard(f"its card says that it is {contradiction}")


def _contradiction(pid: int | None, uid: int | None, reply: Reply, processes: Processes) -> str | None:
    if not reply.peer_pid:
        # It is in a pid namespace that cannot be seen from here.
        return None
    # In a container a process has another pid, and perhaps another uid, than it has out here.
    if pid not in (None, reply.peer_pid) and pid != processes.pid_inside(reply.peer_pid):
        return f"pid {pid}, and the kernel says pid {reply.peer_pid}"
    if uid not in (None, reply.peer_uid) and processes.has_same_users(reply.peer_pid):
        return f"of uid {uid}, and the kernel says uid {reply.peer_uid}"
    return None
