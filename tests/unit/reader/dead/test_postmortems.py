from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.strangers import STRANGER, needs_root
from tests.unit.wire.black_box.test_table_rows import HEADER, row, table
from wsgi_tracebacker.reader.dead import postmortems
from wsgi_tracebacker.reader.dead.postmortems import Found
from wsgi_tracebacker.wire.black_box import dead_table, file_names, table_rows
from wsgi_tracebacker.wire.documents import postmortem_json as postmortem

if TYPE_CHECKING:
    from wsgi_tracebacker.wire.black_box.table_header import Header

UID = os.geteuid()


def own_header(**changes: object) -> Header:
    """A header that truly names this process."""
    stat = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    facts = {
        "pid": os.getpid(),
        "uid": UID,
        "start_ticks": int(stat[19]),
        "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(),
        "pid_namespace": os.stat("/proc/self/ns/pid").st_ino,
        **changes,
    }
    return HEADER._replace(**facts)  # type: ignore[arg-type]  # facts by their names


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """What stands in for /dev/shm."""
    folder = tmp_path / "shm"
    folder.mkdir()
    return folder


def put(shared: Path, base: str, header: Header, number: int = 3, uid: int = UID) -> Path:
    path = shared / file_names.file_name(base, number, uid, file_names.TABLE)
    path.write_bytes(table(row(path=b"/lost"), header=header))
    return path


def find(shared: Path, *bases: str, numbers: tuple[int, ...] = ()) -> Found:
    return postmortems.find(bases, numbers, shared_memory=str(shared))


def kept(shared: Path, base: str, number: int, died_at: float, uid: int = UID) -> Path:
    found = dead_table.read_postmortem(table(row(), header=HEADER._replace(number=number)), base, died_at, None)
    assert found is not None
    found = found._replace(last_written_at=died_at)
    path = shared / file_names.file_name(base, number, uid, file_names.POSTMORTEM)
    path.write_bytes(postmortem.encode(found))
    return path


def test_postmortems_of_successors_are_found(shared: Path, base: str) -> None:
    """Of this base only, the latest death first, and only the numbers that were asked for."""
    kept(shared, base, 1, 10.0)
    kept(shared, base, 2, 20.0)
    kept(shared, f"{base}x", 3, 30.0)
    assert [each.number for each in find(shared, base).postmortems] == [2, 1]
    assert [each.number for each in find(shared, base, numbers=(1,)).postmortems] == [1]
    assert [each.number for each in find(shared, f"{base}2").postmortems] == [2]


def test_a_dead_workers_table_is_read(shared: Path, base: str) -> None:
    """Its process has ended, or its pid was reused, or the machine has restarted; its stacks are read too."""
    path = put(shared, base, own_header(start_ticks=1))
    stacks = path.with_suffix(".stacks")
    stacks.write_bytes(b"the last stacks")
    os.utime(stacks, (1_000.0, 1_234.0))
    (found,) = find(shared, base).postmortems
    assert [request.path for request in found.requests] == ["/lost"]
    assert (found.stacks, found.stacks_written_at) == ("the last stacks", 1_234.0)
    put(shared, base, own_header(boot_id="another"))
    assert len(find(shared, base).postmortems) == 1


def test_a_living_worker_is_not_declared_dead(shared: Path, base: str) -> None:
    """Its table is passed over, and its base is known."""
    put(shared, base, own_header())
    assert find(shared, base) == Found((), is_known=True, faults=())


def test_a_worker_in_a_container_is_judged_by_its_socket(shared: Path, base: str) -> None:
    """Its pids mean nothing here: it is dead if the connection is refused, and alive if it is accepted."""
    put(shared, base, own_header(pid_namespace=1))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{base}3")
        assert len(find(shared, base).postmortems) == 1
        listening.listen()
        assert find(shared, base).postmortems == ()


def test_a_container_without_a_socket_is_not_declared_dead(shared: Path, base: str) -> None:
    """It may be dead, or a cleaner removed the socket: a line says so. After a reboot it is dead."""
    path = put(shared, base, own_header(pid_namespace=1))
    found = find(shared, base)
    assert found.postmortems == ()
    (fault,) = found.faults
    assert fault.startswith(f"{path}: whether its worker died cannot be told: ")
    assert fault.endswith("; run wsgi-tb inside its container")
    put(shared, base, own_header(pid_namespace=1, boot_id="another"))
    assert len(find(shared, base).postmortems) == 1


def test_tables_beside_the_sockets_are_found(shared: Path, base: str) -> None:
    """They are there if the worker had no shared memory."""
    Path(f"{base}3.table").write_bytes(table(row(path=b"/lost"), header=own_header(start_ticks=1)))
    (found,) = find(shared, base).postmortems
    assert (found.number, found.requests[0].path) == (3, "/lost")


def test_nothing_is_known_of_a_base_without_files(shared: Path, base: str) -> None:
    """``is_known`` is false."""
    assert find(shared, base) == Found((), is_known=False, faults=())


@pytest.mark.parametrize("harm", ["garbage", "short", "version", "link", "pipe", "owner", "two names"])
def test_a_file_that_is_no_workers_is_reported_and_not_followed(harm: str, shared: Path, base: str) -> None:
    """One line names the file and what is wrong with it; the others are shown."""
    kept(shared, base, 1, 10.0)
    path = put(shared, base, own_header(start_ticks=1), uid=UID + 1 if harm == "owner" else UID)
    content = path.read_bytes()
    if harm == "garbage":
        path.write_bytes(b"\xff" * table_rows.FILE_BYTES)
    elif harm == "short":
        path.write_bytes(content[:-1])
    elif harm == "version":
        path.write_bytes(content[:16] + b"\x09" + content[17:])
    elif harm == "two names":
        os.link(path, shared / "other")
    elif harm in ("link", "pipe"):
        path.unlink()
        if harm == "pipe":
            os.mkfifo(path)
        else:
            (shared / "elsewhere").write_bytes(content)
            path.symlink_to(shared / "elsewhere")
    found = find(shared, base)
    assert [each.number for each in found.postmortems] == [1]
    if harm not in ("link", "pipe"):
        (fault,) = found.faults
        assert fault.startswith(f"{path}: ")


def test_the_bytes_read_of_one_user_are_limited(shared: Path, base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says how many of its files are left out; another user's are all shown."""
    needs_root()
    paths = [kept(shared, base, number, 10.0 + number, STRANGER) for number in range(1, 9)]
    for path in paths:
        os.chown(path, STRANGER, STRANGER)
    kept(shared, base, 9, 9.0)
    counts_for = paths[-1].stat().st_size + postmortems._OPENING_BYTES
    # Whoever has some of it left may have one more file read.
    monkeypatch.setattr(postmortems, "MAX_USER_BYTES", 2 * counts_for + 1)
    found = find(shared, base)
    assert [each.number for each in found.postmortems] == [3, 2, 1, 9]
    (fault,) = found.faults
    assert fault == f"5 files of uid {STRANGER} are left out: of one user no more than 0 MiB are read"


@pytest.mark.parametrize("harm", ["garbage", "owner", "table"])
def test_bad_files_count_too(harm: str, shared: Path, base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They count for their owner, not for the user in their names."""
    for number in range(1, 9):
        path = kept(shared, base, number, 10.0 + number, UID + 1 if harm == "owner" else UID)
        if harm == "table":
            path = path.rename(path.with_suffix(".table"))
        if harm != "owner":
            path.write_bytes(b"\xff" * 100)
    monkeypatch.setattr(postmortems, "MAX_USER_BYTES", 3 * postmortems._OPENING_BYTES)
    found = find(shared, base)
    assert found.postmortems == ()
    assert len(found.faults) == 4
    assert found.faults[-1].startswith(f"5 files of uid {UID} are left out: ")


def test_tables_of_living_workers_do_not_use_up_the_limit(
    shared: Path, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most tables are of living workers."""
    monkeypatch.setattr(postmortems, "MAX_USER_BYTES", table_rows.FILE_BYTES)
    for number in range(1, 9):
        put(shared, base, own_header(number=number), number)
    put(shared, base, own_header(number=9, start_ticks=1), 9)
    found = find(shared, base)
    assert [each.number for each in found.postmortems] == [9]
    assert found.faults == ()
