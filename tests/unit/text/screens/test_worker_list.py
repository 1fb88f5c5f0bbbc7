"""The table of ``wsgi-tb list``."""

from __future__ import annotations

from typing import Any

from wsgi_tracebacker.model.snapshot import ListenSocket
from wsgi_tracebacker.model.worker_row import WorkerRow
from wsgi_tracebacker.text.screens.worker_list import lines

ROW = WorkerRow(1, "/run/tb1", "/run/tb", 7, 1647, "alive", "shop.wsgi:application", 8, 41.2, None, None)
HTTP = (ListenSocket(5, "tcp", "127.0.0.1:80", 12, 2048),)
SHARED = {"waiting": 12, "waiting_limit": 2048, "listen": HTTP}


def table(*rows: WorkerRow) -> list[str]:
    return list(lines(rows, lambda moment: f"<{moment:.0f}>"))


def row(number: int, **changes: Any) -> WorkerRow:
    return ROW._replace(number=number, visible_pid=1646 + number, **changes)


def test_slots_and_queues() -> None:
    """Busy of all slots; what waits on the sockets of the line above is not repeated; a pid is the reader's."""
    assert table(
        row(1, busy=8, slots=8, memory_bytes=212 << 20, cpu_share=0.031, **SHARED),
        row(2, busy=6, slots=8, memory_bytes=198 << 20, cpu_share=1.5, **SHARED),
        row(3, busy=1, state="stalled", oldest_request_seconds=None, application="größe:\x1b"),
    ) == [
        "WORKER   PID  STATE    BUSY  WAITING  OLDEST   RSS   CPU  APPLICATION",
        "     1  1647  alive     8/8  12/2048  41.2 s  212M    3%  shop.wsgi:application",
        '     2  1648  alive     6/8        "  41.2 s  198M  150%  shop.wsgi:application',
        r"     3  1649  stalled   1/-        -       -     -     -  größe:\x1b",
    ]


def test_columns_that_say_nothing_are_left_out() -> None:
    """What waits inside the server, restarts, and another user's uid are shown where there are any."""
    plain, full = table(row(1, inner_queue=0, restarts=0))[0], table(row(1, inner_queue=3, restarts=2, other_uid=0))
    assert not {"QUEUED", "RESTARTS", "OTHER"} & set(plain.split())
    assert full == [
        "WORKER   PID  STATE  BUSY  QUEUED  WAITING  OLDEST  RSS  CPU  RESTARTS  OTHER UID  APPLICATION",
        "     1  1647  alive     -       3        -  41.2 s    -    -         2          0  shop.wsgi:application",
    ]


def test_the_dead_are_one_line() -> None:
    """With the time of the first of them, if that is known; without a living worker nothing else."""
    dead = [row(4, state="dead", last_alive_at=20.0), row(5, state="dead", last_alive_at=10.0), row(6, state="dead")]
    assert table(*dead) == ["3 dead since <10>; wsgi-tb postmortem shows what they served"]
    assert table(row(1), dead[2])[-1] == "1 dead; wsgi-tb postmortem shows what they served"
