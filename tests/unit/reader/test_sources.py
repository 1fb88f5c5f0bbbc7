from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.swapping import Swapper
from wsgi_tracebacker.model.snapshot import Frame, Stack
from wsgi_tracebacker.reader.finding.processes import Identity
from wsgi_tracebacker.reader.sources import Sources

if TYPE_CHECKING:
    from pathlib import Path

OURS = Identity(os.geteuid(), os.getegid(), tuple(os.getgroups()))
NOBODY = Identity(65534, 65534, ())


def shown(filename: str, identity: Identity = OURS, started_at: float | None = None, cwd: str = "/") -> Frame:
    (frame,) = Sources(identity, cwd, started_at).fill_in(Stack("x", frames=(Frame(filename, 2, "<module>"),))).frames
    return frame


def test_a_line_is_read_by_its_number(tmp_path: Path) -> None:
    """Also of a file that was compiled with a name relative to the worker's folder; a newer file is marked."""
    file = tmp_path / "a.py"
    file.write_text("one\n    zwö\n", encoding="utf-8")
    assert shown(str(file)).source == "    zwö"
    assert shown("a.py", cwd=str(tmp_path)).source == "    zwö"
    assert not shown(str(file), started_at=file.stat().st_mtime + 1).source_changed
    assert shown(str(file), started_at=file.stat().st_mtime - 1).source_changed


def test_a_template_has_no_line_of_the_code_that_it_was_compiled_to(tmp_path: Path) -> None:
    """faulthandler names the template's file, and the function and line of the generated code."""
    (tmp_path / "page.html").write_text("<html>\n<p>unrelated</p>\n", encoding="utf-8")
    (frame,) = Sources(OURS, str(tmp_path), None).fill_in(Stack("x", frames=(Frame("page.html", 2, "root"),))).frames
    assert (frame.lineno, frame.source) == (2, None)


def test_files_that_are_no_source_are_left_out(tmp_path: Path) -> None:
    """Code without a file, names that are not there, folders, pipes, devices, and what the kernel makes up or has open:
    that would speak of the reader.
    """
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a.py").write_text("one\ntwo\n", encoding="utf-8")
    with (tmp_path / "a.py").open(encoding="utf-8") as file:
        number = file.fileno()
        for path in (f"/proc/self/fd/{number}", f"/proc/{os.getpid()}/fd/{number}", f"/dev/fd/{number}"):
            assert os.stat(path).st_size
            assert shown(path).source is None
        assert shown(str(number), cwd="/proc/self/fd").source is None
    for name in (
        "<string>",
        "",
        "/not/there.py",
        str(tmp_path),
        str(tmp_path / "pipe"),
        "nul\0",
        "/dev/zero",
        "/dev/stdin",
        "/proc/self/maps",
    ):
        assert shown(name).source is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_root_reads_with_the_workers_rights(short_path: Path) -> None:
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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_root_reads_only_files_that_the_worker_can_reach(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link to what root has open, or to where it stands, leads past a folder that the worker may not enter: nothing
    is shown then. Links to what it may reach are followed.
    """
    os.chmod(short_path, 0o755)
    private = short_path / "private"
    (private / "inner").mkdir(parents=True)
    for path in (private / "inner" / "log.py", short_path / "public.py"):
        path.write_text("one\ntwo\n", encoding="utf-8")
    private.chmod(0o700)
    monkeypatch.chdir(private / "inner")
    with (private / "inner" / "log.py").open(encoding="utf-8") as file:
        for name, target in (
            ("descriptor.py", f"/proc/self/fd/{file.fileno()}"),
            ("current", "/proc/self/cwd"),
            ("link.py", "public.py"),
        ):
            (short_path / name).symlink_to(target)
        assert (short_path / "current" / "log.py").samefile(short_path / "descriptor.py")
        for name in ("descriptor.py", "current/log.py", "private/inner/log.py"):
            assert shown(str(short_path / name), NOBODY).source is None
        for name in ("link.py", "public.py"):
            assert shown(str(short_path / name), NOBODY).source == "two"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("turn", [0, 1])
@pytest.mark.parametrize("named", ["own", "private"])
def test_root_reads_the_file_that_it_has_checked(
    named: str, turn: int, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder on the path that is swapped for a link to where root stands, and back, with every call: what the worker
    may not reach is never shown, also where it is below the very folder that is swapped.
    """
    os.chmod(short_path, 0o755)
    for folder, mode, content in (("own", 0o755, "one\ntwo\n"), ("private", 0o700, "one\nsecret\n")):
        inner = short_path / folder / "inner" / "innermost"
        inner.mkdir(parents=True)
        (inner / "log.py").write_text(content, encoding="utf-8")
        (short_path / folder).chmod(mode)
    monkeypatch.chdir(short_path / "private" / "inner")
    (short_path / "private" / "inner" / "inner").symlink_to(".")
    swapper = Swapper(str(short_path / named), "/proc/self/cwd")
    os.chown(short_path, NOBODY.uid, NOBODY.gid)
    if turn:
        swapper.swap()
    with monkeypatch.context() as patched:
        swapper.take_part(patched)
        source = shown(str(short_path / named / "inner" / "innermost" / "log.py"), NOBODY).source
    assert source in (None, "two")
