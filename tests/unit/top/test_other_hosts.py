"""Readings of other hosts: whose each worker is, and what is said of those that do not answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from wsgi_tracebacker.errors import NoWorkersFound
from wsgi_tracebacker.model.reading import Unanswered
from wsgi_tracebacker.model.snapshot import Snapshot, Worker
from wsgi_tracebacker.reader.elsewhere.gathered import Gathered
from wsgi_tracebacker.top.other_hosts import HostsQuestion

if TYPE_CHECKING:
    from wsgi_tracebacker.reader.elsewhere.followed import Followed


class Told:
    """What was gathered, or what it raises."""

    def __init__(self, gathered: Gathered | None) -> None:
        self._gathered = gathered
        self.is_stopped = False

    def gather(self) -> Gathered:
        if self._gathered is None:
            raise NoWorkersFound("nobody is there")
        return self._gathered

    def stop(self) -> None:
        self.is_stopped = True


def question(gathered: Gathered | None) -> HostsQuestion:
    return HostsQuestion(cast("Followed", Told(gathered)))


def worker(host: str, number: int, state: str = "alive") -> Snapshot:
    return Snapshot(Worker(number=number, pid=100 + number, base="/run/tb", host=host), 5.0, (), state=state)


def test_workers_are_named_with_their_hosts() -> None:
    """Two with the same number, pid and base are two; one that did not answer is shown from its table, and why."""
    silent = Unanswered(2, "/run/tb2", 102, "timed out", "busy", None, "web1", "not within 1 s")
    lost = Unanswered(3, "/run/tb3", 103, "no permission", "unknown", None, "web2", "Permission denied")
    down = Unanswered(reason="unreachable", host="web3", message="no route")
    workers = (worker("web1", 1), worker("web1", 2, "busy"), worker("web2", 1))
    taken = question(Gathered(workers, (silent, lost, down), ())).ask()
    shown = taken.reading.workers
    assert [each.label for each in shown] == ["web1 1", "web1 2", "web2 1", "web2 3"]
    assert len({each.key for each in shown}) == 4
    assert [each.reason for each in shown] == [
        None,
        "timed out: not within 1 s",
        None,
        "no permission: Permission denied",
    ]
    assert shown[3].snapshot is None
    assert taken.reading.missing == ("web3: unreachable: no route",)


def test_where_nobody_is_there() -> None:
    """The first time it is an error; later a reading of nobody with the reason."""
    with pytest.raises(NoWorkersFound):
        question(None).ask()
    taken = question(None).ask_again()
    assert (taken.reading.workers, taken.reading.missing) == ((), ("nobody is there",))
