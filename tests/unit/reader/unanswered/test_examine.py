from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.wire.black_box.test_table_rows import HEADER, row, table
from wsgi_tracebacker.model.card import Card
from wsgi_tracebacker.model.snapshot import Frame, Request, Stack
from wsgi_tracebacker.reader.finding.processes import SAME, Processes, ThreadTimes
from wsgi_tracebacker.reader.unanswered import stall
from wsgi_tracebacker.reader.unanswered.examine import Timeouts, examine
from wsgi_tracebacker.reader.unanswered.join import join
from wsgi_tracebacker.reader.unanswered.stall import Sample
from wsgi_tracebacker.wire.black_box.faulthandler_text import Dump

if TYPE_CHECKING:
    from pathlib import Path

REQUEST = Request("GET", "/x", None, None, None, 0.0, 1.0, "unknown")
FRAMES = (Frame("app.py", 1, "application"), Frame("re.py", 2, "match"))


def serving(core: int) -> Stack:
    return Stack(f"WSGIWorker1Core{core}", ident=100 + core, native_id=10 + core, core=core, request=REQUEST)


def dumped(ident: int, *frames: Frame) -> Stack:
    return Stack(f"Thread-{ident:#x}", ident=ident, kind="unknown", frames=frames)


def joined(
    *stacks: Stack,
    rows: tuple[Stack, ...] = (serving(0), serving(1)),
    running: tuple[int, ...] = (11,),
    waiting: tuple[int, ...] = (),
    is_cut: bool = False,
    own: tuple[int, ...] = (),
) -> list[Stack]:
    owners = {0: (100, 10), 1: (101, 11), 2: (102, 12), 3: (103, 13)}
    return join(rows, owners, own, Dump(stacks, is_cut), [10, 11, 12, 99], running, waiting)


def test_requests_get_the_stacks_of_their_threads() -> None:
    """By ident; the one that runs holds the GIL, the others do not; one that is not in the dump has no frames."""
    first, second = joined(dumped(101, *FRAMES))
    assert (first.frames, first.holds_gil) == ((), False)
    assert (second.frames, second.holds_gil, second.request) == (FRAMES, True, REQUEST)


def test_a_holder_is_named_only_when_it_is_proven() -> None:
    """Not if nobody runs, if more than one does, or if the one that does serves no request: then nobody is."""
    for running in ((), (10, 11), (99,)):
        stacks = joined(dumped(101, *FRAMES), running=running)
        assert [stack.holds_gil for stack in stacks] == [None, None]
    # Nor if it has several requests, which are greenlets'.
    stacks = joined(dumped(101, *FRAMES), rows=(serving(1), serving(1)._replace(core=2)))
    assert [stack.holds_gil for stack in stacks[:2]] == [None, None]


@pytest.mark.parametrize(
    ("other", "facts", "is_proven"),
    [
        (dumped(100, *FRAMES), {}, False),
        (dumped(100, *FRAMES), {"waiting": (10,)}, True),
        (dumped(100, *FRAMES), {"waiting": (10,), "is_cut": True}, False),
        (dumped(9, *FRAMES), {"waiting": (10, 12, 99)}, False),
        (dumped(9), {}, False),
        (dumped(9, *FRAMES, Frame("/usr/lib/python3.11/threading.py", 327, "wait")), {}, True),
        (dumped(9, *FRAMES, Frame("/usr/lib/python3.14t/threading.py", 327, "Condition.wait")), {}, True),
        (dumped(9, *FRAMES, Frame("/usr/lib/python3.11/threading.py", 982, "run")), {}, False),
        (dumped(9, *FRAMES, Frame("/srv/shop/threading.py", 327, "wait")), {}, False),
        (dumped(9, Frame("/usr/lib/python3.11/concurrent/futures/thread.py", 81, "_worker")), {}, True),
        (dumped(9, Frame("/usr/lib/python3.11/concurrent/futures/thread.py", 81, "_worker"), *FRAMES), {}, False),
        (dumped(9, Frame("/lib/wsgi_tracebacker/ours.py", 222, "_run")), {"own": (9,)}, True),
        (
            dumped(9, Frame("/lib/wsgi_tracebacker/ours.py", 222, "_run"), *FRAMES),
            {"own": (9,)},
            False,
        ),
        (dumped(9, Frame("/lib/wsgi_tracebacker/ours.py", 222, "_run")), {}, False),
    ],
)
def test_a_holder_that_sleeps_may_be_any_that_is_not_known_to_wait(
    other: Stack, facts: dict[str, Any], is_proven: bool
) -> None:
    """Only the one that runs is left if all others wake up for the GIL, or stand where nobody sleeps with it."""
    first, second, *_ = joined(dumped(101, *FRAMES), other, **facts)
    assert (first.holds_gil, second.holds_gil) == ((False, True) if is_proven else (None, None))


def test_threads_that_serve_nothing_follow() -> None:
    """Idle cores by their names if their thread still lives, the main thread, and others as they are."""
    rest = joined(dumped(102, *FRAMES), dumped(103, *FRAMES), dumped(7, *FRAMES), dumped(8, *FRAMES))[2:]
    assert [(stack.name, stack.core, stack.kind) for stack in rest] == [
        ("WSGIWorker1Core2", 2, "unknown"),
        ("Thread-0x67", None, "unknown"),
        ("Thread-0x7", None, "unknown"),
        ("MainThread", None, "main"),
    ]


def test_own_threads_are_left_out() -> None:
    """Those that the black box names, whatever they run, and a thread that has not run any Python yet."""
    assert len(joined(dumped(5, *FRAMES), dumped(6, *FRAMES), dumped(9), own=(5, 6))) == 2


def test_greenlets_share_a_thread_and_its_stack_is_nobodys() -> None:
    """A dump does not say which of them runs, so it is shown beside them."""
    rows = (serving(0), serving(1)._replace(ident=100))
    stacks = joined(dumped(100, *FRAMES), rows=rows)
    assert [stack.frames for stack in stacks] == [(), (), FRAMES]
    assert stacks[2].request is None


def test_a_proof_that_never_completes_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads that spin in turns: each sample could be the middle of a proof, and none ever completes one."""
    black_box = tmp_path / "table"
    black_box.write_bytes(table(row(), header=HEADER._replace(pid=os.getpid(), uid=os.getuid())))
    turns = itertools.count()

    def sample(*_: object) -> Sample:
        half = next(turns)
        ran = {10 + number: (half + number) // 2 * 500_000_000 for number in (0, 1)}
        threads = {native_id: ThreadTimes(nanoseconds, 0, 0, "R") for native_id, nanoseconds in ran.items()}
        return Sample(half * 0.5, b"table", {**threads, 12: ThreadTimes(0, 0, half * 100, "S")}, frozenset((12,)))

    monkeypatch.setattr(stall, "sample", sample)
    card = Card(
        number=HEADER.number,
        base=str(tmp_path),
        pid=os.getpid(),
        start_ticks=HEADER.start_ticks,
        boot_id=HEADER.boot_id,
        pid_namespace=0,
        uid=os.getuid(),
        server=None,
        application=None,
        cwd="/",
        started_at=0.0,
        black_box=str(black_box),
    )
    examination = examine(card, Processes(), SAME, 1.0, Timeouts(1.0, 1.0), may_signal=True)
    assert next(examination) == 0.0
    assert [examination.send(0), examination.send(0)] == [0.5, 0.5]
    with pytest.raises(StopIteration) as done:
        examination.send(0)
    assert done.value.value.state == "busy"
    assert next(turns) == 3
