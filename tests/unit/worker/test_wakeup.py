"""What wakes a polling thread, with and without Python's own name for it."""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING

import pytest

from wsgi_tracebacker.worker import wakeup

if TYPE_CHECKING:
    from collections.abc import Callable


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
