"""What servers say of their slots, read from their own objects."""

from __future__ import annotations

import sys
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import pytest

from wsgi_tracebacker.worker import server_slots
from wsgi_tracebacker.worker.server_slots import ServerSlots
from wsgi_tracebacker.worker.tracking.core import Core


def core_of(thread: threading.Thread) -> Core:
    return Core(0, thread.ident or 1, None, thread)


def test_no_request_yet() -> None:
    """Before the first request nothing is known."""
    assert server_slots.read([]) == ServerSlots()


def test_the_main_thread() -> None:
    """A server that serves on the main thread has one slot: gunicorn's sync worker."""
    assert server_slots.read([core_of(threading.main_thread())]).slots == 1


def test_a_thread_pool() -> None:
    """All slots of a pool count, not only the threads that it has started; what it has not begun waits."""
    begun, go_on = threading.Semaphore(0), threading.Event()

    def serve() -> threading.Thread:
        begun.release()
        go_on.wait()
        return threading.current_thread()

    with ThreadPoolExecutor(2) as pool:
        future = pool.submit(serve)
        begun.acquire()
        [thread] = pool._threads
        core = core_of(thread)
        assert server_slots.read([core]) == ServerSlots(slots=2, busy=1, inner_queue=0)
        for _ in range(4):
            pool.submit(serve)
        begun.acquire()
        assert server_slots.read([core]) == ServerSlots(slots=2, busy=2, inner_queue=3)
        go_on.set()
        future.result()
    assert server_slots.read([core]) == ServerSlots()


def test_a_pool_of_another_class() -> None:
    """The class of an application is not asked: its code would run on our thread."""

    class Pool(ThreadPoolExecutor):
        @property
        def _max_workers(self) -> int:
            raise AssertionError("it was asked")

        @_max_workers.setter
        def _max_workers(self, value: int) -> None:
            self.__dict__["slots"] = value

    thread = threading.Thread(target=print)
    pool = Pool.__new__(Pool)
    import weakref

    thread._args = (weakref.ref(pool),)  # type: ignore[attr-defined]
    assert server_slots.read([core_of(thread)]) == ServerSlots()


def test_waitress(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its dispatcher counts its threads, those that work, and what waits."""

    class ThreadedTaskDispatcher:
        def __init__(self) -> None:
            self.threads = {0, 1, 2, 3}
            self.queue = deque(["one"])

        def handler_thread(self) -> None: ...

    module = ModuleType("waitress.task")
    module.ThreadedTaskDispatcher = ThreadedTaskDispatcher  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "waitress.task", module)
    dispatcher = ThreadedTaskDispatcher()
    core = core_of(threading.Thread(target=dispatcher.handler_thread))
    assert server_slots.read([core]) == ServerSlots(slots=4, inner_queue=1)
    dispatcher.active_count = 3  # type: ignore[attr-defined]
    dispatcher.stop_count = 2  # type: ignore[attr-defined]
    assert server_slots.read([core]) == ServerSlots(slots=2, busy=2, inner_queue=1)


@pytest.mark.parametrize(
    ("module_name", "names", "found"),
    [
        ("uwsgi", {"cores": 4, "sockets": [3, "x"]}, ServerSlots(slots=4, descriptors=(3,))),
        ("uwsgi", {"cores": 4}, ServerSlots(slots=4)),
        ("uwsgi", {"cores": "4"}, ServerSlots()),
        ("mod_wsgi", {"threads_per_process": 15}, ServerSlots(slots=15)),
        ("mod_wsgi", {}, ServerSlots()),
    ],
)
def test_servers_with_a_module(
    monkeypatch: pytest.MonkeyPatch, module_name: str, names: dict[str, Any], found: ServerSlots
) -> None:
    """uWSGI and mod_wsgi say it in their module, before the first request too."""
    module = ModuleType(module_name)
    module.__dict__.update(names)
    monkeypatch.setitem(sys.modules, module_name, module)
    assert server_slots.read([]) == found


def test_a_thread_of_another_kind() -> None:
    """A thread of a server that is not known has no slots that are known."""
    assert server_slots.read([core_of(threading.Thread(target=print, args=(1,)))]) == ServerSlots()
