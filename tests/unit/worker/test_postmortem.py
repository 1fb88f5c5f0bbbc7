"""What is said of a dead worker, by whoever is first, and what becomes of its files."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest

from tests.servers import asking
from tests.support import black_boxes
from tests.unit.worker.test_slot import card
from wsgi_tracebacker.formats import blackbox as layout
from wsgi_tracebacker.formats import postmortem as postmortem_format
from wsgi_tracebacker.formats.blackbox import FLIGHT
from wsgi_tracebacker.worker import blackbox, kernel, postmortem, slot

if TYPE_CHECKING:
    from wsgi_tracebacker.worker.slot import Slot

#: Of no process: above the kernel's own limit.
DEAD = 2**22 + 7


def leave(base: str, *, in_flight: bool, pid: int = DEAD, **whose: Any) -> Slot:
    """A worker with all its files; it is dead once its slot is forgotten, if ``whose`` does not say that it lives."""
    taken = slot.claim(base)
    assert taken is not None
    taken.write_card(card(taken.number, base)._replace(pid=pid))
    taken.bind(None)
    header = layout.Header(
        pid=pid,
        number=taken.number,
        uid=os.geteuid(),
        listener=0,
        start_ticks=1,
        pid_namespace=1,
        started_at=1.0,
        monotonic=monotonic(),
        unix=2.0,
        unrecorded_cores=0,
        is_closed=False,
        boot_id="boot",
        server="gunicorn",
        application="shop",
        python="CPython",
    )
    table = blackbox.create(blackbox.path_of(base, taken.number, layout.TABLE), replace(header, **whose))
    row = table.row(0)
    assert row is not None
    table.own(0, 1, 1)
    if in_flight:
        now = monotonic()
        FLIGHT.pack_into(row[0], row[1], now, b"GET", b"/lost", now)
    table.close(remove=False)
    stacks = blackbox.StacksFile(blackbox.path_of(base, taken.number, layout.STACKS))
    stacks.write("its last words\n")
    stacks.close(remove=False)
    return taken


def left(base: str) -> list[str]:
    return [path.name.rpartition(".")[2] for path in black_boxes.files_of(base)]


def test_a_dead_worker_is_buried(base: str) -> None:
    """Its requests are told, its files are gone, its postmortem is kept; and nobody can tell it again."""
    leave(base, in_flight=True).forget()
    os.utime(black_boxes.path_of(base, 1, layout.STACKS), (1_000.0, 1_234.0))
    assert asking.files(base) == ["1", "1.worker"]
    found, died = postmortem.bury(base, DEAD)
    assert found
    assert died is not None
    assert (died.pid, [request.path for request in died.requests]) == (DEAD, ["/lost"])
    assert (died.stacks, died.stacks_written_at) == ("its last words\n", 1_234.0)
    assert asking.files(base) == []
    assert left(base) == ["postmortem"]
    assert postmortem.bury(base, DEAD) == (False, None)
    assert postmortem.take(base, 1, os.getpid(), 1) is None


def test_what_was_kept_and_not_logged_is_told_by_the_next(base: str) -> None:
    """Whoever took the dead one's table may have been killed before it had logged it. Noted in place, without room."""
    leave(base, in_flight=True).forget()
    assert postmortem.untold(base, 1) is None
    died = postmortem.take(base, 1, os.getpid(), 1)
    assert died is not None
    assert postmortem.untold(base, 1) == died
    path = black_boxes.path_of(base, 1, layout.POSTMORTEM)
    before = path.read_bytes()
    # Of a later death, with this one's postmortem in hand still: that is not the one that was logged.
    postmortem.note_told(replace(died, pid=died.pid + 1))
    assert path.read_bytes() == before
    postmortem.note_told(died)
    assert postmortem.untold(base, 1) is None
    after = path.read_bytes()
    assert len(after) == len(before)
    assert postmortem_format.decode(after) == died
    postmortem.note_told(died)
    assert path.read_bytes() == after


@pytest.mark.parametrize("kept", [b"", b"garbage", postmortem_format.UNTOLD, postmortem_format.UNTOLD + b"}"])
def test_garbage_is_nothing_untold(kept: bytes, base: str) -> None:
    """What is damaged is for `wsgi-tb postmortem` to name."""
    path = black_boxes.path_of(base, 1, layout.POSTMORTEM)
    path.write_bytes(kept)
    assert postmortem.untold(base, 1) is None


@pytest.mark.parametrize("frees", [layout.TABLE, layout.STACKS, None])
def test_without_room_its_own_files_make_some(frees: str | None, base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it left goes a moment earlier, so that what it was serving is kept; and is told also if that is in vain."""
    leave(base, in_flight=True).forget()
    write = os.write

    def write_if_there_is_room(descriptor: int, content: bytes) -> int:
        if frees is None or black_boxes.path_of(base, 1, frees).exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, content)

    monkeypatch.setattr(os, "write", write_if_there_is_room)
    died = postmortem.take(base, 1, os.getpid(), 1)
    assert died is not None
    assert [request.path for request in died.requests] == ["/lost"]
    assert died.stacks == "its last words\n"
    assert left(base) == ([] if frees is None else ["postmortem"])
    if frees is not None:
        kept = black_boxes.path_of(base, 1, layout.POSTMORTEM).read_bytes()
        assert postmortem_format.decode(kept) == died


def living() -> dict[str, Any]:
    """What a header says of another process that lives: the one that runs the tests."""
    pid = os.getppid()
    return {
        "pid": pid,
        "start_ticks": kernel.start_ticks(pid) or 0,
        "boot_id": kernel.boot_id(),
        "pid_namespace": kernel.pid_namespace(),
    }


def test_who_lives_is_not_told_dead(base: str) -> None:
    """A card that was removed frees a lock, and ends no worker: nothing is told, kept or taken away from it."""
    leave(base, in_flight=True, **living()).release()
    before = left(base)
    assert postmortem.lives_on(base, 1, os.getpid())
    assert postmortem.take(base, 1, os.getpid(), 1) is None
    assert left(base) == before
    # Not even if the card there is of another one, which did die.
    other = slot.claim(base)
    assert other is not None
    other.write_card(card(1, base)._replace(pid=DEAD))
    other.forget()
    assert postmortem.bury(base, DEAD) == (True, None)
    assert left(base) == before


@pytest.mark.parametrize("change", [{"start_ticks": 1}, {"boot_id": "boot"}, {"pid_namespace": 1}, {"is_closed": True}])
def test_of_another_life_a_pid_says_nothing(base: str, change: dict[str, object]) -> None:
    """It was used again, or was another boot's or another namespace's, or its worker ended in order."""
    leave(base, in_flight=True, **{**living(), **change}).forget()
    assert not postmortem.lives_on(base, 1, os.getpid())
    assert (postmortem.take(base, 1, os.getpid(), 1) is None) == ("is_closed" in change)


def test_nobody_lives_where_there_is_no_table(base: str) -> None:
    """None at all, one that cannot be read, and this process's own."""
    assert not postmortem.lives_on(base, 1, os.getpid())
    black_boxes.path_of(base, 1, layout.TABLE).write_bytes(b"garbage")
    assert not postmortem.lives_on(base, 1, os.getpid())
    leave(base, in_flight=True, **living()).forget()
    assert not postmortem.lives_on(base, 1, os.getppid())


def test_one_that_served_nothing_is_buried_in_silence(base: str) -> None:
    """There is nothing to tell."""
    leave(base, in_flight=False).forget()
    assert postmortem.bury(base, DEAD) == (True, None)
    assert asking.files(base) == []
    assert left(base) == []


def test_what_is_locked_is_left_alone(base: str) -> None:
    """A worker that lives, whatever its master believes; and a child of it that holds the lock still."""
    living = leave(base, in_flight=True)
    before = left(base)
    try:
        assert postmortem.bury(base, DEAD) == (False, None)
        assert asking.files(base) == ["1", "1.worker"]
        assert left(base) == before
    finally:
        living.release()


def test_other_workers_files_are_left_alone(base: str) -> None:
    """Dead ones of another master too: it is the pid that counts."""
    leave(base, in_flight=True, pid=DEAD + 1).forget()
    assert postmortem.bury(base, DEAD) == (False, None)
    assert asking.files(base) == ["1", "1.worker"]


def test_the_number_of_a_successor_that_was_quicker_is_given_back(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the first look and the lock the number had another owner, which died too: it is that one's."""
    leave(base, in_flight=True).forget()
    pids = iter([DEAD, DEAD + 1])
    monkeypatch.setattr(slot, "_pid_on", lambda _: next(pids))
    assert slot.claim_of(base, 1, DEAD) is None
    monkeypatch.undo()
    assert asking.files(base) == ["1.worker"]
    again = slot.claim_of(base, 1, DEAD)
    assert again is not None
    again.release()


def test_a_card_that_went_meanwhile_is_not_made_anew(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A successor that ended in order took it away: what the lock made is taken away again."""
    pids = iter([DEAD, None])
    monkeypatch.setattr(slot, "_pid_on", lambda _: next(pids))
    assert slot.claim_of(base, 1, DEAD) is None
    assert asking.files(base) == []


def test_numbers_are_those_of_cards(base: str) -> None:
    """Not of files that look a little like one."""
    for name in (
        "1.worker",
        "12.worker",
        "x.worker",
        "01.worker",
        ".worker",
        "3",
        "4.workers",
        "²\N{SUPERSCRIPT TWO}.worker",
    ):
        with open(base + name, "w"):
            pass
    assert slot.numbers_at(base) == [1, 12]
    assert slot.numbers_at(f"{base}/no/such/folder") == []
