"""What /proc says of a process, as far as more than its words counts."""

from __future__ import annotations

import os

import pytest

from wsgi_tracebacker.worker import kernel

#: Fields 3 to 22 of a ``stat`` line: the letter, the flags, and the start.
LINE = "{letter} 1 2 2 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 1 0 {ticks}"


def test_this_process_runs() -> None:
    """With its own start, and not with another: then it was another process that had the pid."""
    ticks = kernel.start_ticks() or 0
    assert kernel.runs(os.getpid(), ticks)
    assert not kernel.runs(os.getpid(), ticks - 1)
    assert not kernel.runs(2**22 + 7, ticks)


@pytest.mark.parametrize(
    ("stat", "runs"),
    [
        (LINE.format(letter="S", flags=0x400000, ticks=9), True),
        (LINE.format(letter="T", flags=0x400000, ticks=9), True),
        (LINE.format(letter="Z", flags=0x400000, ticks=9), False),
        (LINE.format(letter="X", flags=0, ticks=9), False),
        # On its way out: its locks are free already.
        (LINE.format(letter="R", flags=0x400004, ticks=9), False),
        (LINE.format(letter="S", flags=0x400000, ticks=8), False),
        ("S 1 2", False),
        ("", False),
    ],
)
def test_what_has_begun_to_end_does_not_run(stat: str, runs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its name is, a process is judged by its letter, its flags and its start."""
    monkeypatch.setattr(kernel, "read_file", lambda _: b"7 (a) Z b) " + stat.encode() if stat else None)
    assert kernel.runs(7, 9) is runs
