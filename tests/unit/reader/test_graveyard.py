from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.unit.formats.test_blackbox import HEADER, row, table
from wsgi_tracebacker.formats import blackbox, postmortem
from wsgi_tracebacker.reader import graveyard
from wsgi_tracebacker.reader.graveyard import Findings

if TYPE_CHECKING:
    from wsgi_tracebacker.formats.blackbox import Header

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
    return replace(HEADER, **facts)  # type: ignore[arg-type]  # facts by their names


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """What stands in for /dev/shm."""
    folder = tmp_path / "shm"
    folder.mkdir()
    return folder


def put(shared: Path, base: str, header: Header, number: int = 3, uid: int = UID) -> Path:
    path = shared / blackbox.file_name(base, number, uid, blackbox.TABLE)
    path.write_bytes(table(row(path=b"/lost"), header=header))
    return path


def dig(shared: Path, *bases: str, numbers: tuple[int, ...] = ()) -> Findings:
    return graveyard.dig(bases, numbers, shared_memory=str(shared))


def kept(shared: Path, base: str, number: int, died_at: float) -> None:
    found = postmortem.of_table(table(row(), header=replace(HEADER, number=number)), base, died_at, None)
    assert found is not None
    found = replace(found, last_written_at=died_at)
    path = shared / blackbox.file_name(base, number, UID, blackbox.POSTMORTEM)
    path.write_bytes(postmortem.encode(found))


def test_what_successors_kept_is_found(shared: Path, base: str) -> None:
    """Of this base only, the latest death first, and only the numbers that were asked for."""
    kept(shared, base, 1, 10.0)
    kept(shared, base, 2, 20.0)
    kept(shared, f"{base}x", 3, 30.0)
    assert [each.number for each in dig(shared, base).postmortems] == [2, 1]
    assert [each.number for each in dig(shared, base, numbers=(1,)).postmortems] == [1]
    assert [each.number for each in dig(shared, f"{base}2").postmortems] == [2]


def test_a_dead_workers_table_is_read(shared: Path, base: str) -> None:
    """Its process has ended, or its pid is another's by now, or it was before the machine started; with its stacks."""
    path = put(shared, base, own_header(start_ticks=1))
    path.with_suffix(".stacks").write_bytes(b"the last stacks")
    (found,) = dig(shared, base).postmortems
    assert [request.path for request in found.requests] == ["/lost"]
    assert found.stacks == "the last stacks"
    put(shared, base, own_header(boot_id="another"))
    assert len(dig(shared, base).postmortems) == 1


def test_a_living_worker_is_not_declared_dead(shared: Path, base: str) -> None:
    """Its table is passed over, and its base is known."""
    put(shared, base, own_header())
    assert dig(shared, base) == Findings((), is_known=True, faults=())


def test_a_container_is_told_by_its_socket(shared: Path, base: str) -> None:
    """Its pids mean nothing here: refused or gone is dead, and whoever accepts lives."""
    put(shared, base, own_header(pid_namespace=1))
    assert len(dig(shared, base).postmortems) == 1
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{base}3")
        assert len(dig(shared, base).postmortems) == 1
        listening.listen()
        assert dig(shared, base).postmortems == ()


def test_tables_beside_the_sockets_are_found(shared: Path, base: str) -> None:
    """Where there was no shared memory."""
    Path(f"{base}3.table").write_bytes(table(row(path=b"/lost"), header=own_header(start_ticks=1)))
    (found,) = dig(shared, base).postmortems
    assert (found.number, found.requests[0].path) == (3, "/lost")


def test_nothing_is_known_of_a_base_without_files(shared: Path, base: str) -> None:
    """Neither of the living nor of the dead."""
    assert dig(shared, base) == Findings((), is_known=False, faults=())


@pytest.mark.parametrize("harm", ["garbage", "short", "version", "link", "pipe", "owner", "two names"])
def test_what_is_not_a_workers_file_is_said_and_not_followed(harm: str, shared: Path, base: str) -> None:
    """One line names the file and what is wrong with it; the others are shown."""
    kept(shared, base, 1, 10.0)
    path = put(shared, base, own_header(start_ticks=1), uid=UID + 1 if harm == "owner" else UID)
    content = path.read_bytes()
    if harm == "garbage":
        path.write_bytes(b"\xff" * blackbox.FILE_BYTES)
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
    found = dig(shared, base)
    assert [each.number for each in found.postmortems] == [1]
    if harm not in ("link", "pipe"):
        (fault,) = found.faults
        assert fault.startswith(f"{path}: ")
