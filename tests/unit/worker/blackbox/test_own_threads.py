"""Threads of ours are listed by ident while they run, here and in the black box's header."""

from __future__ import annotations

import _thread
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import wait_until
from tests.unit.worker.blackbox.test_table import a_table, content
from wsgi_tracebacker.wire.black_box import table_header
from wsgi_tracebacker.worker.blackbox.own_threads import OwnThreads
from wsgi_tracebacker.worker.threads import primitives

if TYPE_CHECKING:
    from pathlib import Path

    from wsgi_tracebacker.worker.blackbox.table import Table


def named(table: Table) -> tuple[tuple[int, int], ...]:
    return table_header.decode_header(content(table)).own_threads


def test_they_stand_in_the_header_while_they_run(tmp_path: Path) -> None:
    """A table that is made later lists them too; threads that have ended in any way are not listed."""
    threads = OwnThreads(primitives.bind())
    may_end = _thread.allocate_lock()
    may_end.acquire()
    seen: list[tuple[int, int]] = []

    def work(number: int) -> None:
        seen.append((_thread.get_ident(), _thread.get_native_id()))
        with may_end:
            pass
        if number:
            raise SystemExit

    for number in range(2):
        threads.start(work, (number,))
    wait_until(lambda: len(seen) == 2, "both run")
    with a_table(tmp_path) as table:
        threads.write_to(table)
        assert sorted(named(table)) == sorted(seen)
        may_end.release()
        wait_until(lambda: not named(table), "both have ended")


def test_more_than_there_are_places_run(tmp_path: Path) -> None:
    """The header has as many as it has places for."""
    threads = OwnThreads(primitives.bind())
    may_end = _thread.allocate_lock()
    may_end.acquire()

    run: list[int] = []

    def work() -> None:
        run.append(_thread.get_ident())
        with may_end:
            pass

    with a_table(tmp_path) as table:
        threads.write_to(table)
        for _ in range(table_header.THREADS + 1):
            threads.start(work)
        wait_until(lambda: len(run) == table_header.THREADS + 1, "all run")
        assert len(named(table)) == table_header.THREADS
        may_end.release()
        wait_until(lambda: not named(table), "all have ended")


def test_a_thread_that_is_not_to_be_had_is_none_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """start() raises, and nothing is left behind."""

    def refused(*_: object) -> int:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", refused)
    threads = OwnThreads(primitives.bind())
    with a_table(tmp_path) as table:
        threads.write_to(table)
        with pytest.raises(RuntimeError):
            threads.start(lambda: None)
        assert named(table) == ()
