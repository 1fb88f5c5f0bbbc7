"""What a thread waits for, in words."""

from __future__ import annotations

import pytest

from wsgi_tracebacker.model.snapshot import Stack
from wsgi_tracebacker.text.kernel_waits import kernel_view


@pytest.mark.parametrize(
    ("state", "channel", "words"),
    [
        ("S", "futex_wait_queue", "waits for a lock or the GIL"),
        ("S", "hrtimer_nanosleep", "sleeps"),
        ("S", "wait_woken", "waits for data from a socket"),
        ("S", "do_sys_poll", "waits for a descriptor (poll)"),
        ("S", "new_in_linux_7\x1b[2J", "sleeps in new_in_linux_7\x1b[2J"),
        ("S", "0", None),
        ("S", None, None),
        ("R", "0", "on a CPU"),
        ("D", "folio_wait_bit", "waits for a disk"),
        ("Z", None, None),
        (None, None, None),
    ],
)
def test_the_kernels_view(state: str | None, channel: str | None, words: str | None) -> None:
    """The kernel's function in words, or its own name where there are no words for it; None where it says nothing."""
    assert kernel_view(Stack("a", state=state, wait_channel=channel)) == words


def test_who_holds_the_gil_waits_for_nothing() -> None:
    """That is what the others wait for."""
    assert kernel_view(Stack("a", state="R", holds_gil=True)) == "holds the GIL"
