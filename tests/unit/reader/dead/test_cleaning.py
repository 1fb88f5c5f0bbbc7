"""What is removed of the dead, and what is not."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support import black_boxes
from tests.unit.worker.blackbox.test_predecessor import leave
from tests.unit.worker.listening.test_slot import card
from wsgi_tracebacker.linux import proc
from wsgi_tracebacker.reader.dead import cleaning
from wsgi_tracebacker.wire.black_box import file_names

if TYPE_CHECKING:
    import pytest


def left(base: str) -> list[Path]:
    folder = Path(base).parent
    return sorted((*folder.iterdir(), *black_boxes.files_of(base)))


def test_all_files_of_a_dead_worker_go(base: str) -> None:
    """Socket, card and black box; and nothing is left for a second time."""
    leave(base, in_flight=True).forget()
    assert len(left(base)) == 4
    assert cleaning.clean([base]) == ((f"{base}1",), ())
    assert left(base) == []
    assert cleaning.clean([base]) == ((), ())


def test_a_worker_that_has_its_lock_lives(base: str) -> None:
    """Even if its card names a process that is gone: its number has an owner."""
    slot = leave(base, in_flight=True)
    before = left(base)
    assert cleaning.clean([base]) == ((), ())
    assert left(base) == before
    slot.release()


def test_a_card_of_a_process_that_runs(base: str) -> None:
    """It is left, whatever its lock."""
    slot = leave(base, in_flight=False)
    stat = proc.stat("/proc/self")
    assert stat is not None
    own = card(1, base)._replace(
        pid=os.getpid(), start_ticks=stat.start_ticks, boot_id=proc.boot_id(), pid_namespace=proc.pid_namespace()
    )
    slot.write_card(own)
    fcntl.flock(slot.lock.number, fcntl.LOCK_UN)
    assert cleaning.clean([base]) == ((), ())
    slot.release()
    assert len(left(base)) == 2


def test_black_boxes_without_a_card(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where somebody removed the folder, the black box of a dead worker goes if all bases are cleaned."""
    leave(base, in_flight=True).release()
    table, stacks = (black_boxes.path_of(base, 1, kind) for kind in (file_names.TABLE, file_names.STACKS))
    assert left(base) == [stacks, table]
    # Those of other tests are left alone.
    monkeypatch.setattr(cleaning, "_shared_names", lambda: [table.name, stacks.name, "x"])
    assert cleaning.clean([base]) == ((), ())
    assert cleaning.clean([], orphans=True) == ((f"{base}1",), ())
    assert left(base) == []
