"""Locks: who waits for which, and who has it."""

from __future__ import annotations

import contextlib
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.interpreters import needs_reference_counts, only_on_cpython
from tests.support.waiting import wait_until
from tests.unit.worker.waits.waiting_threads import look, running
from wsgi_tracebacker.worker.waits import locks
from wsgi_tracebacker.worker.waits.frames.expressions import Expressions

if TYPE_CHECKING:
    from wsgi_tracebacker.worker.waits.locks import LockWait


def find() -> dict[int, LockWait]:
    with look() as taken:
        return locks.find(taken, Expressions(None), {})


class Cart:
    """Things with locks."""

    by_class = threading.Lock()
    __slots__ = ("__dict__", "slotted")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.again = threading.RLock()
        self.condition = threading.Condition()
        self.slotted = threading.Lock()
        self.of = {"a": threading.Lock(), "b": threading.Lock()}
        self.release = threading.Event()

    def hold(self) -> None:
        with self._lock:
            self.release.wait(30)

    def want(self) -> None:
        with self._lock:
            pass

    def hold_again(self) -> None:
        with self.again:
            self.release.wait(30)

    def want_again(self) -> None:
        with self.again:
            pass

    def acquire(self) -> None:
        self._lock.acquire(timeout=30)
        self._lock.release()

    def hold_condition(self) -> None:
        with self.condition:
            self.release.wait(30)

    def want_condition(self) -> None:
        with self.condition:
            pass

    def hold_one(self, key: str) -> None:
        with self.of[key]:
            self.release.wait(30)

    def want_one(self, key: str) -> None:
        with self.of[key]:
            pass

    def hold_both(self) -> None:
        with self.slotted, self.by_class:
            self.release.wait(30)

    def want_both(self) -> None:
        with self.by_class, self.slotted:
            pass

    def first_then_second(self, barrier: threading.Barrier) -> None:
        # Its own release of the lock that the test released raises.
        with contextlib.suppress(RuntimeError), self.of["a"]:
            barrier.wait(30)
            with self.of["b"]:
                pass

    def second_then_first(self, barrier: threading.Barrier) -> None:
        with self.of["b"]:
            barrier.wait(30)
            with self.again, self.of["a"]:
                pass


def test_a_with_on_a_lock_names_the_lock_and_who_is_inside_it() -> None:
    """What the source calls the lock, where it is wanted, and the thread that is inside a `with` on the same object."""
    cart = Cart()
    with running(cart.hold) as [holder], running(cart.want) as [waiter]:
        found = find()
        cart.release.set()
    wait = found.pop(waiter)
    assert (wait.lock, wait.holders) == ("self._lock", ((holder, "self._lock"),))
    assert wait.filename == __file__
    assert wait.lineno == Cart.want.__code__.co_firstlineno + 1
    assert holder not in found


@only_on_cpython("what other threads wait for is not read from PyPy's frames")
def test_an_acquire_without_with_names_the_lock() -> None:
    """And whoever is inside a `with` on it."""
    cart = Cart()
    with running(cart.hold) as [holder], running(cart.acquire) as [waiter]:
        found = find()
        cart.release.set()
    assert (found[waiter].lock, found[waiter].holders) == ("self._lock", ((holder, "self._lock"),))


def test_a_lock_that_was_acquired_without_with_has_no_known_holder() -> None:
    """Nothing doubtful is said."""
    cart = Cart()
    cart._lock.acquire()
    with running(cart.want) as [waiter]:
        found = find()
        cart._lock.release()
    assert (found[waiter].lock, found[waiter].holders) == ("self._lock", ())


def test_an_rlock_says_itself_who_owns_it() -> None:
    """Also where its owner acquired it without a `with`."""
    cart = Cart()
    cart.again.acquire()
    with running(cart.want_again) as [waiter]:
        found = find()
        cart.again.release()
    assert found[waiter].holders == ((threading.get_ident(), None),)


def test_a_condition_counts_as_its_lock() -> None:
    """It is named as the application names it, not as `threading` does."""
    cart = Cart()
    with running(cart.hold_condition) as [holder], running(cart.want_condition) as [waiter]:
        found = find()
        cart.release.set()
    wait = found[waiter]
    assert (wait.lock, wait.filename, wait.holders) == ("self.condition", __file__, ((holder, "self.condition"),))


def test_items_of_a_dict_are_told_apart() -> None:
    """One lock a customer, and the like."""
    cart = Cart()
    holding, wanting = [lambda: cart.hold_one("a"), lambda: cart.hold_one("b")], lambda: cart.want_one("b")
    with running(*holding) as [_, holder], running(wanting) as [waiter]:
        found = find()
        cart.release.set()
    assert (found[waiter].lock, found[waiter].holders) == ("self.of[key]", ((holder, "self.of[key]"),))


def test_several_locks_of_one_with() -> None:
    """Slots and attributes of the class are read too."""
    cart = Cart()
    with running(cart.hold_both) as [holder], running(cart.want_both) as [waiter]:
        found = find()
        cart.release.set()
    assert (found[waiter].lock, found[waiter].holders) == ("self.by_class", ((holder, "self.by_class"),))


def test_a_cycle_of_waiting_threads_is_a_deadlock() -> None:
    """Each of its threads has the whole cycle, itself first."""
    cart = Cart()
    barrier = threading.Barrier(2)
    both = [lambda: cart.first_then_second(barrier), lambda: cart.second_then_first(barrier)]

    def want() -> None:
        # The release of the first thread, which has this lock no longer, may come while this one has it.
        with contextlib.suppress(RuntimeError):
            cart.want_one("a")

    with running(*both) as [one, other], running(want) as [outside]:
        found = find()
        # A thread that did not acquire it may release it: one of the two goes on, then the other one.
        cart.of["a"].release()
    cycles = locks.cycles(found)
    assert cycles == {one: (one, other), other: (other, one)}
    assert found[one].holders == ((other, "self.of['b']"),)
    assert found[outside].holders == ((one, "self.of['a']"),)


class Thing:
    """What a function has in a variable."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


@needs_reference_counts
def test_no_object_lives_longer_because_it_was_looked_at() -> None:
    """A variable that is deleted is gone: from CPython 3.13 on at once, on earlier ones when its function ends."""
    references: list[weakref.ref[Thing]] = []
    locked, release = [threading.Lock()], threading.Event()
    locked[0].acquire()

    def work() -> None:
        thing = Thing()
        thing.lock = locked.pop()
        references.append(weakref.ref(thing))
        with thing.lock:
            pass
        del thing
        release.wait(30)

    with running(work) as [ident]:
        thing = references[0]()
        assert thing is not None
        for _ in range(100):
            assert find()[ident].lock == "thing.lock"
        thing.lock.release()
        del thing
        if sys.version_info >= (3, 13):
            wait_until(lambda: references[0]() is None, "it is gone while its function runs")
        release.set()
    assert references[0]() is None


@pytest.mark.parametrize("arguments", [{}, {"timeout": 30}], ids=["acquire()", "acquire(timeout=30)"])
def test_a_thread_that_has_just_got_its_lock_does_not_wait_for_it(arguments: dict[str, Any]) -> None:
    """Beside one that computes, it stands at the call for a while after it, and waits for the GIL only."""
    lock, is_over = threading.Lock(), threading.Event()

    def take() -> None:
        while not is_over.is_set():
            lock.acquire(**arguments)
            lock.release()

    def compute() -> None:
        while not is_over.is_set():
            sum(range(1000))

    threads = [threading.Thread(target=function) for function in (take, compute, compute)]
    for thread in threads:
        thread.start()
    expressions = Expressions(None)
    try:
        for _ in range(1000):
            with look() as taken:
                waits = locks.find(taken, expressions, {})
                assert not waits or not taken.has_stayed(threads[0].ident or 0)
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def test_what_is_remembered_is_bounded() -> None:
    """However many functions wait, and however often they are looked at."""
    expressions = Expressions(None)
    cart = Cart()
    with running(cart.hold), running(cart.want):
        for _ in range(50):
            with look() as taken:
                locks.find(taken, expressions, {})
        size = len(expressions._places)
        for _ in range(50):
            with look() as taken:
                locks.find(taken, expressions, {})
        assert len(expressions._places) <= size + 2
        cart.release.set()
