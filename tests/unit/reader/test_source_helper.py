"""Source files of other users' workers, opened by a process beside this one."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.programs import cannot_be_tried
from wsgi_tracebacker.model.snapshot import Frame, Stack
from wsgi_tracebacker.reader import sources
from wsgi_tracebacker.reader.finding.processes import Identity
from wsgi_tracebacker.reader.source_helper import SourceHelper

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OURS = Identity(os.geteuid(), os.getegid(), tuple(os.getgroups()))
NOBODY = Identity(65534, 65534, ())


@pytest.fixture
def helper() -> Iterator[None]:
    started = SourceHelper(sources.open_here)
    sources.open_by(started.open)
    try:
        yield
    finally:
        sources.open_by(sources.open_here)
        started.close()


def shown(filename: str, identity: Identity) -> str | None:
    (frame,) = sources.Sources(identity, "/", None).fill_in(Stack("x", frames=(Frame(filename, 2, "f"),))).frames
    return frame.source


@pytest.mark.usefixtures("helper")
def test_a_file_of_the_own_user(tmp_path: Path) -> None:
    """Its line, whatever bytes are in its name; one that is not there has none."""
    file = tmp_path / os.fsdecode(b"\xff \xc3\xa4.py")
    file.write_text("one\ntwo\n", encoding="utf-8")
    assert shown(str(file), OURS) == "two"
    assert shown(str(tmp_path / "none.py"), OURS) is None
    assert shown("x" * 100_000, OURS) is None
    assert shown(str(file), OURS) == "two"


@pytest.mark.usefixtures("helper")
def test_the_user_of_this_process_stays(short_path: Path) -> None:
    """While files are read that only another user may, and files are refused that this user may not read."""
    if os.geteuid() != 0:
        cannot_be_tried("only root can act as another user")
    short_path.chmod(0o755)
    theirs, roots = short_path / "theirs.py", short_path / "roots.py"
    for file in (theirs, roots):
        file.write_text("one\ntwo\n", encoding="utf-8")
        file.chmod(0o600)
    os.chown(theirs, NOBODY.uid, NOBODY.gid)
    users, ends = set(), threading.Event()

    def watch() -> None:
        while not ends.is_set():
            users.add((os.geteuid(), os.getegid()))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        for _ in range(200):
            assert shown(str(theirs), NOBODY) == "two"
            assert shown(str(roots), NOBODY) is None
    finally:
        ends.set()
        watching.join()
    assert users == {(OURS.uid, OURS.gid)}


def test_without_a_helper_only_ones_own(tmp_path: Path) -> None:
    """In an application that is not ours no other user's file is read at all."""
    file = tmp_path / "a.py"
    file.write_text("one\ntwo\n", encoding="utf-8")
    sources.open_by(sources.open_as_ourselves)
    with contextlib.ExitStack() as undo:
        undo.callback(sources.open_by, sources.open_here)
        assert shown(str(file), OURS) == "two"
        assert shown(str(file), NOBODY) is None
