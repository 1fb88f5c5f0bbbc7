"""Files at paths of another user, who changes them meanwhile."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest

from tests.support.interpreters import needs_outside_help
from tests.support.swapping import Swapper
from wsgi_tracebacker.linux import files
from wsgi_tracebacker.model.card import Card
from wsgi_tracebacker.reader import table
from wsgi_tracebacker.reader.finding import discovery
from wsgi_tracebacker.reader.finding.processes import Processes
from wsgi_tracebacker.reader.unanswered import dump_request
from wsgi_tracebacker.wire.documents import card_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

UID = os.geteuid()


def card_naming(path: str) -> Card:
    return Card(1, "/tb", os.getpid(), 1, "boot", 1, UID, None, None, "/", 0.0, path, path, 12)


def ask_for_a_dump(path: str) -> None:
    list(dump_request.ask(card_naming(path), Processes(), lambda: "it is not"))


@pytest.mark.parametrize("first", ["file", "pipe"])
@pytest.mark.parametrize(
    "read",
    [
        lambda path: table.Table(card_naming(path)).close(),
        pytest.param(ask_for_a_dump, marks=needs_outside_help),
        lambda path: discovery.read_card(path, UID),
        lambda path: files.read_file_of(path, UID, 1 << 20),
        lambda path: os.close(files.open_file_of(path, UID, os.O_RDWR)),
    ],
    ids=["table", "stacks", "card", "postmortem", "writable"],
)
def test_what_is_opened_is_what_was_checked(
    read: Callable[[str], object], first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file at a path changes from one call to the next: a pipe that is there at times is never opened."""
    for folder in ("theirs", "own"):
        (tmp_path / folder).mkdir()
    (tmp_path / "own" / "tb1.worker").write_bytes(card_json.encode(card_naming("")))
    os.mkfifo(tmp_path / "theirs" / "tb1.worker")
    swapper = Swapper(f"{tmp_path}/own", f"{tmp_path}/theirs")
    if first == "pipe":
        swapper.swap()
    with monkeypatch.context() as patched, contextlib.suppress(OSError, dump_request.Refused):
        swapper.take_part(patched)
        read(f"{tmp_path}/own/tb1.worker")
    assert swapper.opened == ([stat.S_IFREG] if first == "file" else [])


def test_a_file_that_is_removed_meanwhile_is_the_one_that_was_checked(tmp_path: Path) -> None:
    """The file that passed the check is opened, though it has no name any more."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    descriptor = files.open_regular(str(path), lambda _: path.unlink())
    try:
        assert files.read_at_most(descriptor, 100) == b"content"
    finally:
        os.close(descriptor)


def test_without_proc_nothing_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what is missing; the path itself is not opened."""
    path = tmp_path / "file"
    path.write_bytes(b"x")
    monkeypatch.setattr(files, "path_of", lambda descriptor: f"{tmp_path}/proc/self/fd/{descriptor}")
    with pytest.raises(OSError, match="/proc is not mounted"):
        files.open_file_of(str(path), UID)


def test_in_the_root_folder_of_another_process_no_link_is_followed(tmp_path: Path) -> None:
    """Its target would be in our own root folder; and no path leads up and out of it."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("content")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    other_root = f"/proc/{os.getpid()}/root"
    descriptor = files.refer(f"{other_root}{tmp_path}/folder/file")
    assert os.path.samestat(os.fstat(descriptor), os.stat(tmp_path / "folder" / "file"))
    os.close(descriptor)
    for path in (f"{tmp_path}/link/file", f"{tmp_path}/folder/../folder/file", f"{tmp_path}/nothing"):
        with pytest.raises(OSError, match=r".") as error:
            files.refer(other_root + path)
        assert error.value.errno in (errno.ENOTDIR, errno.ENOENT)
