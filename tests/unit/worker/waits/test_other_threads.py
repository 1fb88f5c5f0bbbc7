"""Threads that work for others are found by the future that both have."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.unit.worker.waits.waiting_threads import look, running
from wsgi_tracebacker.worker.waits import other_threads
from wsgi_tracebacker.worker.waits.other_threads import OtherThread

if TYPE_CHECKING:
    from collections.abc import Callable


def find() -> dict[int, OtherThread]:
    with look() as taken:
        return other_threads.find(taken, taken.stacks)


def test_a_result_is_made_by_the_thread_that_runs_its_function() -> None:
    """Of two threads of an executor, the one with the same future."""
    release, idents = threading.Event(), {}

    def work(name: str) -> None:
        idents[name] = threading.get_ident()
        release.wait(30)

    with ThreadPoolExecutor(2) as executor:
        executor.submit(work, "other")
        future = executor.submit(work, "wanted")
        with running(future.result) as [waiter]:
            found = find()
            release.set()
    assert found == {waiter: OtherThread(idents["wanted"], is_joined=False)}


def test_a_thread_that_is_joined_is_the_other_one() -> None:
    """By its ident, whatever its name is."""
    release = threading.Event()
    joined = threading.Thread(target=release.wait, args=(30,))
    joined.start()
    with running(joined.join) as [waiter]:
        found = find()
        release.set()
    assert found == {waiter: OtherThread(joined.ident or 0, is_joined=True)}


def test_a_result_that_nobody_works_on_yet_has_no_thread() -> None:
    """The executor is full: its threads work for others."""
    release = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        executor.submit(release.wait, 30)
        future = executor.submit(release.wait, 30)
        with running(future.result):
            found = find()
            release.set()
    assert found == {}


def test_an_async_view_is_worked_on_by_the_thread_of_its_loop() -> None:
    """As asgiref runs those of Django and Flask."""
    sync = pytest.importorskip("asgiref.sync")
    release, idents = threading.Event(), []

    async def view() -> None:
        idents.append(threading.get_ident())
        release.wait(30)

    call: Callable[[], object] = sync.async_to_sync(view)
    with running(call) as [waiter]:
        found = find()
        release.set()
    assert found == {waiter: OtherThread(idents[0], is_joined=False)}
