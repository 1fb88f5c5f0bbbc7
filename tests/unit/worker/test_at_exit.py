"""Whom a worker asks to be told of its end, and what they may do to it."""

from __future__ import annotations

import atexit
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from wsgi_tracebacker.worker import at_exit
from wsgi_tracebacker.worker.reporting import faults

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOADED = ("multiprocessing.util", "multiprocessing.process", "mod_wsgi", "twisted.internet.reactor", "twisted.web.wsgi")


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Callable[[], object]]]:
    """What a process in which none of the servers is loaded has asked of atexit."""
    asked: list[Callable[[], object]] = []
    monkeypatch.setattr(at_exit, "_registered_in", 0)
    monkeypatch.setattr(at_exit, "_ends_in", 0)
    monkeypatch.setattr(at_exit, "_is_registered_at_import", False)
    monkeypatch.setattr(atexit, "register", asked.append)
    for name in LOADED:
        monkeypatch.delitem(sys.modules, name, raising=False)
    before = faults.count()
    yield asked
    if faults.count() > before:
        faults.forget()


def test_each_process_asks_once(registered: list[Callable[[], object]], monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that is started again asks nobody again; a forked process does."""
    for _ in range(2):
        at_exit.register(int)
    assert len(registered) == 1
    monkeypatch.setattr("os.getpid", lambda: 1)
    at_exit.register(int)
    assert len(registered) == 2
    assert not set(LOADED) & set(sys.modules)


@pytest.mark.parametrize("is_child", [True, False])
def test_a_child_of_multiprocessing(
    is_child: bool, registered: list[Callable[[], object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its finalizers are asked; elsewhere atexit runs those."""
    asked: list[tuple[object, ...]] = []
    util = SimpleNamespace(Finalize=lambda obj, callback, exitpriority: asked.append((obj, callback, exitpriority)))
    monkeypatch.setitem(sys.modules, "multiprocessing.util", util)
    process = SimpleNamespace(parent_process=lambda: object() if is_child else None)
    monkeypatch.setitem(sys.modules, "multiprocessing.process", process)
    at_exit.register(int)
    assert asked == ([(None, registered[0], 0)] if is_child else [])


def test_mod_wsgi_tells_each_interpreter(
    registered: list[Callable[[], object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what happens, in keywords that differ from version to version."""
    asked: list[Callable[..., object]] = []
    ended: list[str] = []
    monkeypatch.setitem(sys.modules, "mod_wsgi", SimpleNamespace(subscribe_shutdown=asked.append))
    at_exit.register(lambda: ended.append("ended"))
    [tell] = asked
    tell("process_stopping", shutdown_reason="shutdown_signal")
    assert ended == ["ended"]


def test_the_package_of_that_name_is_not_mod_wsgi(
    registered: list[Callable[[], object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyPI's mod_wsgi may be loaded anywhere and has no such function: no fault."""
    monkeypatch.setitem(sys.modules, "mod_wsgi", SimpleNamespace())
    before = faults.count()
    at_exit.register(int)
    assert faults.count() == before


def test_twisted_is_asked_on_its_own_thread(
    registered: list[Callable[[], object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only where it serves: a reactor that an application uses for something else may come and go."""
    asked: list[tuple[object, ...]] = []
    reactor = SimpleNamespace(callFromThread=lambda *what: asked.append(what), addSystemEventTrigger=object())
    monkeypatch.setitem(sys.modules, "twisted.internet.reactor", reactor)
    at_exit.register(int)
    assert asked == []
    monkeypatch.setattr(at_exit, "_registered_in", 0)
    monkeypatch.setitem(sys.modules, "twisted.web.wsgi", SimpleNamespace())
    at_exit.register(int)
    assert asked == [(reactor.addSystemEventTrigger, "after", "shutdown", registered[1])]


def test_nothing_is_raised_into_a_server(
    registered: list[Callable[[], object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that will not be asked keeps the others from nothing, and neither it nor a fault at the end is heard of."""

    def refuse(*_: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setitem(sys.modules, "mod_wsgi", SimpleNamespace(subscribe_shutdown=refuse))
    reactor = SimpleNamespace(callFromThread=refuse, addSystemEventTrigger=None)
    monkeypatch.setitem(sys.modules, "twisted.internet.reactor", reactor)
    monkeypatch.setitem(sys.modules, "twisted.web.wsgi", SimpleNamespace())
    before = faults.count()
    at_exit.register(refuse)
    assert faults.count() == before + 2
    registered[0]()
    assert faults.count() == before + 3
