"""What wakes a polling thread, with and without Python's own name for it."""

from __future__ import annotations

import math
import os
import select
import time
from typing import TYPE_CHECKING

import pytest

from wsgi_tracebacker.worker import wakeup
from wsgi_tracebacker.worker.wakeup import Waker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.mark.parametrize("create", [wakeup.create, wakeup._from_libc])
def test_it_rings_until_it_is_silenced(create: Callable[[], int]) -> None:
    """However often it was rung; it never blocks, and no program that is started inherits it."""
    descriptor = create()
    try:
        with pytest.raises(BlockingIOError):
            wakeup.silence(descriptor)
        wakeup.ring(descriptor)
        wakeup.ring(descriptor)
        assert select.select([descriptor], [], [], 0)[0] == [descriptor]
        wakeup.silence(descriptor)
        assert select.select([descriptor], [], [], 0)[0] == []
        assert not os.get_inheritable(descriptor)
    finally:
        os.close(descriptor)


@pytest.fixture
def waker() -> Iterator[Waker]:
    made = Waker()
    yield made
    made.close()


def is_awake(waker: Waker) -> bool:
    return bool(select.select([waker.descriptor], [], [], 0)[0])


def test_it_is_awake_until_it_is_cleared(waker: Waker) -> None:
    """However often it was woken; and cleared once too often, it is as it was."""
    assert not is_awake(waker)
    waker.wake()
    waker.wake()
    assert is_awake(waker)
    waker.clear()
    waker.clear()
    assert not is_awake(waker)


def test_it_says_when_it_was_woken_first(waker: Waker) -> None:
    """And not when that was heard; nothing is left over for the next time."""
    before = time.monotonic()
    waker.wake()
    between = time.monotonic()
    waker.wake()
    assert before <= waker.clear() <= between
    assert waker.clear() == math.inf


def test_what_has_its_number_now_is_left_alone(waker: Waker) -> None:
    """A pipe in its place is not written to, read from or closed; cleared, there is a descriptor of ours again."""
    reading, writing = os.pipe()
    number = waker.descriptor
    os.dup2(writing, number)
    waker.wake()
    os.set_blocking(reading, False)
    with pytest.raises(BlockingIOError):
        os.read(reading, 8)
    waker.clear()
    assert waker.descriptor != number
    waker.wake()
    assert is_awake(waker)
    os.write(number, b"still open")
    assert os.read(reading, 10) == b"still open"
    for descriptor in (reading, writing, number):
        os.close(descriptor)


def test_closed_twice(waker: Waker) -> None:
    """It stays closed, and nobody is woken."""
    waker.close()
    waker.close()
    waker.wake()
    assert (waker.descriptor, waker.is_ours()) == (-1, False)
