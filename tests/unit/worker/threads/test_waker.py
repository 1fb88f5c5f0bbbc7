"""Waking a thread that polls."""

from __future__ import annotations

import os
import select
import socket
import time
from typing import TYPE_CHECKING

import pytest

from wsgi_tracebacker.worker.threads.waker import Waker

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def waker() -> Iterator[Waker]:
    made = Waker()
    yield made
    made.close()


def is_awake(waker: Waker) -> bool:
    return bool(select.select([waker.descriptor], [], [], 0)[0])


def test_it_is_awake_until_it_is_cleared(waker: Waker) -> None:
    """One clear() is enough for any number of wakes, and a second one changes nothing."""
    assert not is_awake(waker)
    waker.wake()
    waker.wake()
    assert is_awake(waker)
    waker.clear()
    waker.clear()
    assert not is_awake(waker)


def test_a_wait_ends_when_it_is_woken(waker: Waker) -> None:
    """Or after the given seconds."""
    assert not waker.wait(select.poll(), 0.001)
    waker.wake()
    assert waker.wait(select.poll(), 60)
    assert not is_awake(waker)


@pytest.mark.parametrize("end", ["_near", "_far"])
def test_what_has_its_number_now_is_left_alone(waker: Waker, end: str) -> None:
    """A socket in its place is not written to, read from or closed, and the thread sleeps for the whole time."""
    number = getattr(waker, end).number
    theirs, peer = socket.socketpair()
    peer.setblocking(False)
    with theirs, peer:
        os.dup2(theirs.fileno(), number)
        waker.wake()
        with pytest.raises(BlockingIOError):
            peer.recv(8)
        peer.send(b"precious")
        before = time.monotonic()
        waker.wait(select.poll(), 0.05)
        assert time.monotonic() - before >= 0.05
        waker.clear()
        waker.close()
        assert os.read(number, 8) == b"precious"
        os.close(number)


def test_closed_twice(waker: Waker) -> None:
    """It stays closed, and wakes no thread."""
    waker.close()
    waker.close()
    waker.wake()
    assert (waker.descriptor, waker.is_ours()) == (-1, False)
