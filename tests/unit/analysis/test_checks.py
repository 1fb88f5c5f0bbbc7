"""What is healthy, and what is not."""

from __future__ import annotations

from typing import Any

import pytest

from wsgi_tracebacker.analysis import checks
from wsgi_tracebacker.model.health import ANSWERS, DEAD, MOVES, REFUSES, SILENT, Failure, Limits, Totals, WorkerHealth
from wsgi_tracebacker.model.snapshot import ListenSocket

SHARED = (ListenSocket(5, "tcp", "127.0.0.1:80", 12, 2048),)
BUSY = WorkerHealth(ANSWERS, 41.2, 8, 8, 3, SHARED)
IDLE = WorkerHealth(ANSWERS, None, 0, 8, 0, SHARED)


def failures(*workers: WorkerHealth, **limits: Any) -> list[Failure]:
    return list(checks.failures(checks.add_up(workers), Limits(**limits)))


def test_all_workers_together() -> None:
    """Slots and what waits are added up, a shared socket once; the oldest request is that of all workers."""
    totals = checks.add_up([BUSY, IDLE, WorkerHealth(SILENT, 50.0, 2), WorkerHealth(DEAD), WorkerHealth(REFUSES)])
    assert totals == Totals(2, 0, 1, 1, 1, 50.0, 8, 16, 15)
    assert totals.workers == 4
    foreign = checks.add_up([BUSY, *[IDLE._replace(other_uid=uid) for uid in (34, 33, 34)]])
    assert foreign.other_uids == (33, 34), "each user once"


def test_nothing_is_known() -> None:
    """Of workers that say nothing of it there are no slots and no queue, and no limit on them is reached."""
    workers = (WorkerHealth(ANSWERS),)
    assert failures(*workers, oldest_seconds=0.0, saturated_share=0.1, waiting=1) == []
    limits = Limits(oldest_seconds=0.0, saturated_share=0.1, waiting=1)
    assert list(checks.cannot_judge(checks.add_up(workers), limits)) == ["saturated", "waiting"]
    assert list(checks.cannot_judge(checks.add_up([BUSY]), limits)) == []


@pytest.mark.parametrize(
    ("conditions", "is_healthy"),
    [
        ([ANSWERS, SILENT, SILENT, DEAD], True),
        ([MOVES, SILENT], True),
        ([SILENT, SILENT], False),
        ([DEAD], False),
        ([REFUSES], False),
    ],
)
def test_without_limits_one_worker_is_enough(conditions: list[str], is_healthy: bool) -> None:
    """One that answers, or in which Python runs."""
    found = failures(*map(WorkerHealth, conditions))
    assert found == ([] if is_healthy else [Failure("none")])


@pytest.mark.parametrize(
    ("limits", "failure"),
    [
        ({"oldest_seconds": 41.2}, Failure("oldest", 41.2, 41.2)),
        ({"oldest_seconds": 41.3}, None),
        ({"saturated_share": 0.5}, Failure("saturated", 0.5, 0.5)),
        ({"saturated_share": 0.51}, None),
        ({"waiting": 15}, Failure("waiting", 15, 15)),
        ({"waiting": 16}, None),
        ({"silent": 0}, Failure("silent", 1, 0)),
        ({"silent": 1}, None),
        ({"dead": 1}, Failure("dead", 2, 1)),
        ({"dead": 2}, None),
    ],
)
def test_each_limit(limits: dict[str, Any], failure: Failure | None) -> None:
    """It is reached by its own value; workers may be silent or dead up to it."""
    workers = (BUSY, IDLE, WorkerHealth(SILENT), WorkerHealth(DEAD), WorkerHealth(DEAD))
    assert failures(*workers, **limits) == ([] if failure is None else [failure])
