from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from wsgi_tracebacker.model import Frame, Stack
from wsgi_tracebacker.reader.process import Identity
from wsgi_tracebacker.reader.sources import Sources

if TYPE_CHECKING:
    from pathlib import Path

OURS = Identity(os.geteuid(), os.getegid(), tuple(os.getgroups()))
NOBODY = Identity(65534, 65534, ())


def shown(filename: str, identity: Identity = OURS, started_at: float | None = None, cwd: str = "/") -> Frame:
    (frame,) = Sources(identity, cwd, started_at).fill_in(Stack("x", frames=(Frame(filename, 2, "f"),))).frames
    return frame


def test_a_line_is_read_by_its_number(tmp_path: Path) -> None:
    """Also of a file that was compiled with a name relative to the worker's folder; a newer file is marked."""
    file = tmp_path / "a.py"
    file.write_text("one\n    zwö\n", encoding="utf-8")
    assert shown(str(file)).source == "    zwö"
    assert shown("a.py", cwd=str(tmp_path)).source == "    zwö"
    assert not shown(str(file), started_at=file.stat().st_mtime + 1).source_changed
    assert shown(str(file), started_at=file.stat().st_mtime - 1).source_changed


def test_what_is_no_source_is_left_out(tmp_path: Path) -> None:
    """Code without a file, names that are not there, folders, pipes, devices, and what the kernel makes up: that would
    speak of the reader.
    """
    os.mkfifo(tmp_path / "pipe")
    for name in (
        "<string>",
        "",
        "/not/there.py",
        str(tmp_path),
        str(tmp_path / "pipe"),
        "nul\0",
        "/dev/zero",
        "/proc/self/maps",
    ):
        assert shown(name).source is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_root_reads_with_the_workers_eyes(short_path: Path) -> None:
    """A worker cannot have root show a file to it, and root is itself again afterwards."""
    os.chmod(short_path, 0o755)
    secret, public = short_path / "secret", short_path / "public"
    for file, mode in ((secret, 0o640), (public, 0o644)):
        file.write_text("one\ntwo\n", encoding="utf-8")
        file.chmod(mode)
    before = (os.getresuid(), os.getresgid(), os.getgroups())
    assert shown(str(secret), NOBODY).source is None
    assert shown(str(public), NOBODY).source == "two"
    assert (os.getresuid(), os.getresgid(), os.getgroups()) == before
