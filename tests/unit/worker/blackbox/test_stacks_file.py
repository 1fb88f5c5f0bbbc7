"""The file of last reports: bounded, private, and never a reason to fail."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from wsgi_tracebacker.wire.black_box import file_names
from wsgi_tracebacker.worker.blackbox import box_files
from wsgi_tracebacker.worker.blackbox.stacks_file import MAX_STACKS_BYTES, StacksFile

if TYPE_CHECKING:
    from pathlib import Path


def test_reports_are_added(tmp_path: Path) -> None:
    """They are appended, in a file that only the owner may read."""
    file = StacksFile(str(tmp_path / "stacks"))
    assert file.write("one\n")
    assert file.write("two \udcff\n")
    assert (tmp_path / "stacks").read_text() == "one\ntwo \\udcff\n"
    assert os.stat(tmp_path / "stacks").st_mode & 0o777 == 0o600
    file.close(remove=True)
    assert not (tmp_path / "stacks").exists()


def test_nothing_is_made_before_there_is_a_report(tmp_path: Path) -> None:
    """Most workers never need the file."""
    StacksFile(str(tmp_path / "stacks")).close(remove=True)
    assert list(tmp_path.iterdir()) == []


def test_it_does_not_grow_beyond_its_bound(tmp_path: Path) -> None:
    """When it is full it is emptied; the last report is always complete."""
    file = StacksFile(str(tmp_path / "stacks"))
    for number in range(100):
        assert file.write(f"{number} " + "x" * 20_000)
        assert (tmp_path / "stacks").stat().st_size <= MAX_STACKS_BYTES
    assert f"99 {'x' * 20_000}" in (tmp_path / "stacks").read_text()
    assert file.write("é" * MAX_STACKS_BYTES)
    assert (tmp_path / "stacks").stat().st_size <= MAX_STACKS_BYTES
    file.close(remove=True)


def test_what_a_predecessor_left_is_replaced(tmp_path: Path) -> None:
    """The successor has the same path: its first report replaces the file."""
    (tmp_path / "stacks").write_text("old")
    file = StacksFile(str(tmp_path / "stacks"))
    assert file.write("new")
    assert (tmp_path / "stacks").read_text() == "new"
    file.close(remove=False)
    assert (tmp_path / "stacks").exists()


@pytest.mark.parametrize("trap", ["symlink", "hard link", "fifo", "folder", "no folder"])
def test_what_is_no_file_of_ours_is_left_alone(trap: str, tmp_path: Path) -> None:
    """A strange file at its path, in a folder that everybody may write to: no file is kept, and nothing raises."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path = tmp_path / "stacks"
    if trap == "symlink":
        path.symlink_to(victim)
    elif trap == "hard link":
        path.hardlink_to(victim)
    elif trap == "fifo":
        os.mkfifo(path)
    elif trap == "folder":
        path.mkdir()
    else:
        path = tmp_path / "missing" / "stacks"
    file = StacksFile(str(path))
    assert not file.write("report")
    assert not file.write("report")
    file.close(remove=True)
    assert victim.read_text() == "precious"
    assert path.exists() == (trap != "no folder")


def test_only_our_own_file_is_removed(tmp_path: Path) -> None:
    """A file that somebody else has put there stays."""
    file = StacksFile(str(tmp_path / "stacks"))
    file.write("report")
    (tmp_path / "stacks").unlink()
    (tmp_path / "stacks").write_text("another's")
    file.close(remove=True)
    file.close(remove=True)
    assert (tmp_path / "stacks").read_text() == "another's"


def test_each_slot_has_a_path_of_its_own() -> None:
    """Its name depends on base, number and user, also for bases that are too long for a file name."""
    paths = {
        box_files.path_of(base, number, file_names.STACKS)
        for base in ("/a/tb", "/b/tb", "/" + "x" * 90)
        for number in (1, 2)
    }
    assert len(paths) == 6
    assert all(os.path.dirname(path) == "/dev/shm" and len(os.path.basename(path)) < 100 for path in paths)


def test_without_shared_memory_it_is_beside_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers may have no /dev/shm."""
    monkeypatch.setattr(box_files, "SHARED_MEMORY", "/no/such/folder")
    assert box_files.path_of("/run/x/tb", 3, file_names.STACKS) == "/run/x/tb3.stacks"
