"""The postmortem of a dead worker, made once, and the removal of its files."""

from __future__ import annotations

import errno
import os
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest

from tests.servers import asking
from tests.support import black_boxes
from tests.unit.worker.listening.test_slot import card
from wsgi_tracebacker.linux import proc
from wsgi_tracebacker.wire.black_box import file_names, table_header
from wsgi_tracebacker.wire.black_box.table_rows import FLIGHT
from wsgi_tracebacker.wire.documents import postmortem_json
from wsgi_tracebacker.worker.blackbox import box_files, predecessor
from wsgi_tracebacker.worker.blackbox.stacks_file import StacksFile
from wsgi_tracebacker.worker.blackbox.table import Table
from wsgi_tracebacker.worker.listening import slot

if TYPE_CHECKING:
    from wsgi_tracebacker.worker.listening.slot import Slot

#: Of no process: above the kernel's own limit.
DEAD = 2**22 + 7


def leave(base: str, *, in_flight: bool, pid: int = DEAD, **whose: Any) -> Slot:
    """A worker with all its files; it is dead once its slot is forgotten, if ``whose`` does not say that it lives."""
    taken = slot.claim(base)
    assert taken is not None
    taken.write_card(card(taken.number, base)._replace(pid=pid))
    taken.bind(None)
    header = table_header.Header(
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
        base=base,
    )
    table = Table(box_files.path_of(base, taken.number, file_names.TABLE), header._replace(**whose))
    row = table.row(0, 1, 1)
    assert row is not None
    if in_flight:
        now = monotonic()
        FLIGHT.pack_into(row[0], row[1], now, b"GET", b"/lost", 3.0, now)
    table.close(remove=False)
    stacks = StacksFile(box_files.path_of(base, taken.number, file_names.STACKS))
    stacks.write("its last words\n")
    stacks.close(remove=False)
    return taken


def left(base: str) -> list[str]:
    return [path.name.rpartition(".")[2] for path in black_boxes.files_of(base)]


def test_a_dead_workers_files_are_removed(base: str) -> None:
    """The postmortem has its requests and is kept, its files are removed; a second postmortem cannot be made."""
    leave(base, in_flight=True).forget()
    os.utime(black_boxes.path_of(base, 1, file_names.STACKS), (1_000.0, 1_234.0))
    assert asking.files(base) == ["1", "1.worker"]
    died = predecessor.clean_up_after(base, DEAD)
    assert died is not None
    assert (died.pid, [request.path for request in died.requests]) == (DEAD, ["/lost"])
    assert (died.stacks, died.stacks_written_at) == ("its last words\n", 1_234.0)
    assert asking.files(base) == []
    assert left(base) == ["postmortem"]
    assert predecessor.clean_up_after(base, DEAD) is None
    assert predecessor.make_postmortem(base, 1) is None


def test_the_files_of_old_deaths_are_removed(base: str) -> None:
    """After a day, if no worker took the number; a worker that has its lock keeps its files, however old they are."""
    died = 2.0  # as leave() has it
    living, dead = leave(base, in_flight=True), leave(base, in_flight=True)
    dead.forget()
    assert predecessor.clean_up_old(base, died + predecessor.OLD_SECONDS - 1.0) == []
    assert asking.files(base) == ["1", "1.worker", "2", "2.worker"]
    [postmortem] = predecessor.clean_up_old(base, died + predecessor.OLD_SECONDS + 1.0)
    assert (postmortem.number, [request.path for request in postmortem.requests]) == (2, ["/lost"])
    assert asking.files(base) == ["1", "1.worker"]
    assert predecessor.clean_up_old(base, died + predecessor.OLD_SECONDS + 1.0) == []
    living.release()


@pytest.mark.parametrize("frees", [file_names.TABLE, file_names.STACKS, None])
def test_without_room_its_own_files_make_some(frees: str | None, base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are removed first, to make room for the postmortem; if that is not enough, it is still returned."""
    leave(base, in_flight=True).forget()
    write = os.write

    def write_if_there_is_room(descriptor: int, content: bytes) -> int:
        if frees is None or black_boxes.path_of(base, 1, frees).exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, content)

    monkeypatch.setattr(os, "write", write_if_there_is_room)
    died = predecessor.make_postmortem(base, 1)
    assert died is not None
    assert [request.path for request in died.requests] == ["/lost"]
    assert died.stacks == "its last words\n"
    assert left(base) == ([] if frees is None else ["postmortem"])
    if frees is not None:
        kept = black_boxes.path_of(base, 1, file_names.POSTMORTEM).read_bytes()
        assert postmortem_json.decode(kept) == died


def living() -> dict[str, Any]:
    """Header fields of a process that runs: the one that runs the tests."""
    pid = os.getppid()
    stat = proc.stat(f"/proc/{pid}")
    assert stat is not None
    return {
        "pid": pid,
        "start_ticks": stat.start_ticks,
        "boot_id": proc.boot_id(),
        "pid_namespace": proc.pid_namespace(),
    }


def test_who_lives_is_not_told_dead(base: str) -> None:
    """Removing a card frees its lock but ends no worker: no postmortem is made, and its files stay."""
    leave(base, in_flight=True, **living()).release()
    before = left(base)
    assert predecessor.make_postmortem(base, 1) is None
    assert left(base) == before
    assert predecessor.counted(base, 1) == table_header.Counted()


@pytest.mark.parametrize("change", [{"start_ticks": 1}, {"boot_id": "boot"}, {"pid_namespace": 1}, {"is_closed": True}])
def test_of_another_life_a_pid_says_nothing(base: str, change: dict[str, object]) -> None:
    """Its pid is another process's, its table is from another boot or namespace, or its worker ended in order."""
    leave(base, in_flight=True, **{**living(), **change}).forget()
    assert (predecessor.make_postmortem(base, 1) is None) == ("is_closed" in change)


def test_of_one_that_served_nothing_there_is_no_postmortem(base: str) -> None:
    """There is no postmortem."""
    leave(base, in_flight=False).forget()
    assert predecessor.clean_up_after(base, DEAD) is None
    assert asking.files(base) == []
    assert left(base) == []


def test_what_it_had_counted_is_its_successors(base: str) -> None:
    """It starts with the counters of its predecessor once, also if the master removed the files."""
    leave(base, in_flight=True, counted=table_header.Counted(harakiri=5, requests_before=20)).forget()
    predecessor.clean_up_after(base, DEAD)
    assert predecessor.counted(base, 1) == table_header.Counted(harakiri=5, restarts=1, requests_before=23)
    assert predecessor.counted(base, 1) == table_header.Counted()


def test_what_is_locked_is_left_alone(base: str) -> None:
    """Those of a worker that lives, whatever its master believes, and those whose lock a child still holds."""
    living = leave(base, in_flight=True)
    before = left(base)
    try:
        assert predecessor.clean_up_after(base, DEAD) is None
        assert asking.files(base) == ["1", "1.worker"]
        assert left(base) == before
    finally:
        living.release()


def test_other_workers_files_are_left_alone(base: str) -> None:
    """Those of dead workers of another master too: the pid decides."""
    leave(base, in_flight=True, pid=DEAD + 1).forget()
    assert predecessor.clean_up_after(base, DEAD) is None
    assert asking.files(base) == ["1", "1.worker"]


def test_the_number_of_a_successor_that_was_quicker_is_given_back(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before we had the lock, the number had another owner, which died too: its files stay."""
    leave(base, in_flight=True).forget()
    cards = iter([card(1, base)._replace(pid=pid) for pid in (DEAD, DEAD + 1)])
    monkeypatch.setattr(slot, "read_card", lambda *_: next(cards))
    assert slot.claim_of(base, 1, DEAD) is None
    monkeypatch.undo()
    assert asking.files(base) == ["1.worker"]
    again = slot.claim_of(base, 1, DEAD)
    assert again is not None
    again.release()


def test_a_card_that_went_meanwhile_is_not_made_anew(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A successor that ended in order removed the card: the one that claiming made is removed again."""
    cards = iter([card(1, base)._replace(pid=DEAD), None])
    monkeypatch.setattr(slot, "read_card", lambda *_: next(cards))
    assert slot.claim_of(base, 1, DEAD) is None
    assert asking.files(base) == []


def test_numbers_are_those_of_cards(base: str) -> None:
    """Files with similar names do not count."""
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
