"""Claiming a worker number: its lock, its card, its paths, and files of others there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import select
import socket
import stat
from typing import TYPE_CHECKING, Any

import pytest

from wsgi_tracebacker.linux import files
from wsgi_tracebacker.model.card import Card
from wsgi_tracebacker.wire.documents import card_json
from wsgi_tracebacker.worker.listening import slot

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def card(number: int, base: str) -> Card:
    return Card(number, base, os.getpid(), 1, "boot", 1, os.geteuid(), None, None, "/", 1.0)


@pytest.fixture
def claimed(base: str) -> Iterator[list[slot.Slot]]:
    """Slots made in a test, released after it."""
    made: list[slot.Slot] = []
    yield made
    for one in made:
        one.release()


def claim(base: str, made: list[slot.Slot], *, preferred: int | None = None, group: int | None = None) -> slot.Slot:
    one = slot.claim(base, preferred)
    assert one is not None
    made.append(one)
    one.write_card(card(one.number, base))
    one.bind(group)
    return one


def listening(path: str) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    return server


def mode(path: str) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_numbers_count_from_one_and_are_given_back(base: str, claimed: list[slot.Slot]) -> None:
    """The smallest free number is taken; a released one is free, and its files are gone."""
    numbers = [claim(base, claimed).number for _ in range(3)]
    claimed[1].release()
    assert not os.path.lexists(f"{base}2")
    assert not os.path.lexists(f"{base}2.worker")
    assert (numbers, claim(base, claimed).number) == ([1, 2, 3], 2)


def test_a_preferred_number_is_taken_if_it_is_free(base: str, claimed: list[slot.Slot]) -> None:
    """uWSGI's worker number is claimed if it is free."""
    assert [claim(base, claimed, preferred=3).number, claim(base, claimed, preferred=3).number] == [3, 1]


def test_what_a_dead_worker_left_is_taken_over(base: str, claimed: list[slot.Slot]) -> None:
    """A card whose lock is free and a socket on which nobody listens: the number is the successor's."""
    dead = claim(base, [])
    dead.forget()  # as the kernel does it
    assert stat.S_ISSOCK(os.lstat(f"{base}1").st_mode)
    heir = claim(base, claimed)
    assert heir.number == 1
    assert heir.is_intact()
    with open(heir.card_path, "rb") as file:
        assert card_json.decode(file.read()).number == 1


def test_a_file_of_the_users_own_is_no_card(base: str, claimed: list[slot.Slot]) -> None:
    """A file that only has the name of a card stays as it is: its number counts as used."""
    precious = f"{base}1.worker"
    with open(precious, "wb") as file:
        file.write(b"precious = 1")
    claim(base, claimed).release()
    with open(precious, "rb") as file:
        assert file.read() == b"precious = 1"


def test_a_shorter_card_leaves_nothing_of_the_longer_one(base: str, claimed: list[slot.Slot]) -> None:
    """A card that is written over a longer one is whole."""
    with open(f"{base}1.worker", "wb") as file:
        file.write(b'{"card": 9, ' + b"x" * 9000)
    one = claim(base, claimed)
    with open(one.card_path, "rb") as file:
        assert card_json.decode(file.read()) == card(1, base)


def make_card_a(kind: str, base: str) -> str:
    path = f"{base}1.worker"
    if kind == "directory":
        os.mkdir(path)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "symlink":
        os.symlink(f"{base}elsewhere", path)
    elif kind == "symlink to a file":
        with open(f"{base}elsewhere", "wb") as file:
            file.write(b"precious")
        os.symlink(f"{base}elsewhere", path)
    elif kind == "hard link":
        with open(f"{base}elsewhere", "wb") as file:
            file.write(b"precious")
        os.link(f"{base}elsewhere", path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path)
    return path


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[int, int]]]:
    """Attempts to open a file for writing: the path, and the inode there."""
    noted = []
    real = os.open

    def note(path: str, flags: int, *arguments: Any, **keywords: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR) and not flags & files.O_PATH:
            noted.append((path, inode(path)))
        return real(path, flags, *arguments, **keywords)

    monkeypatch.setattr(os, "open", note)
    return noted


def inode(path: str) -> tuple[int, int]:
    """Zeros if there is no file."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return 0, 0
    return status.st_dev, status.st_ino


@contextlib.contextmanager
def a_reader_of(pipe: str) -> Iterator[None]:
    """A process that waits at a pipe; fails if somebody opened it for writing."""
    descriptor = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        yield
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        # The end of a file that had a writer; one that never had any has no end.
        assert poll.poll(0) == []
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("kind", ["directory", "fifo", "symlink", "symlink to a file", "hard link", "socket"])
def test_a_strangers_file_at_the_cards_path_is_stepped_over(
    base: str, claimed: list[slot.Slot], kind: str, opened: list[tuple[str, tuple[int, int]]]
) -> None:
    """A file that is no card of ours is neither opened for writing nor removed: the next number is claimed."""
    path = make_card_a(kind, base)
    before = os.lstat(path)
    with a_reader_of(path) if kind == "fifo" else contextlib.nullcontext():
        assert claim(base, claimed).number == 2
    assert opened == [(f"{base}2.worker", (0, 0))]
    after = os.lstat(path)
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)
    if os.path.exists(f"{base}elsewhere"):
        with open(f"{base}elsewhere", "rb") as file:
            assert file.read() == b"precious"


@pytest.mark.parametrize(
    "kind", ["regular file", "symlink", "directory", "fifo", "live socket", "symlink to a dead socket"]
)
def test_a_strangers_file_at_the_sockets_path_is_stepped_over(base: str, claimed: list[slot.Slot], kind: str) -> None:
    """uWSGI unlinks any file there, also a live server's socket: here it stays, and the next number is claimed."""
    path = f"{base}1"
    server = None
    if kind == "regular file":
        with open(path, "wb") as file:
            file.write(b"precious")
    elif kind == "symlink":
        os.symlink(f"{base}elsewhere", path)
    elif kind == "directory":
        os.mkdir(path)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "live socket":
        server = listening(path)
    else:
        listening(f"{base}dead").close()
        os.symlink(f"{base}dead", path)
    before = os.lstat(path)
    assert claim(base, claimed).number == 2
    assert (os.lstat(path).st_ino, os.lstat(path).st_mode) == (before.st_ino, before.st_mode)
    assert not os.path.lexists(f"{base}1.worker")
    if server is not None:
        server.close()


def test_a_live_socket_with_a_full_backlog_is_somebody_elses(base: str, claimed: list[slot.Slot]) -> None:
    """A server that is too busy to accept is alive all the same."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"{base}1")
    server.listen(0)
    clients = []
    try:
        for _ in range(8):
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            clients.append(client)
            try:
                client.connect(f"{base}1")
            except BlockingIOError:
                break
        else:
            pytest.fail("the backlog never filled")
        assert claim(base, claimed).number == 2
    finally:
        for one in [*clients, server]:
            one.close()


def test_one_base_that_begins_like_another_shares_no_number(base: str, claimed: list[slot.Slot]) -> None:
    """``tb`` + 12 and ``tb1`` + 2 are the same files: the second worker claims another number."""
    owner = claim(base + "1", claimed, preferred=2)
    assert claim(base, claimed, preferred=12).number == 1
    assert owner.is_intact()


def test_a_card_replaced_while_we_wait_for_its_lock_is_not_taken_for_ours(
    base: str, claimed: list[slot.Slot], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If an owner unlinks its card between our open and our lock, nobody can find the file we have: we try again."""
    former = slot.claim(base)
    assert former is not None
    real = fcntl.flock
    locked: list[int] = []

    def flock(descriptor: int, operation: int) -> None:
        if not locked:
            former.release()
        locked.append(os.fstat(descriptor).st_ino)
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    one = claim(base, claimed)
    assert (one.number, len(locked), one.is_intact()) == (1, 2, True)
    assert os.lstat(one.card_path).st_ino == locked[-1]


def test_after_the_last_number_there_is_none(
    base: str, claimed: list[slot.Slot], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past the limit there is no number; nothing is left open."""
    monkeypatch.setattr(slot, "MAX_NUMBER", 3)
    for _ in range(3):
        claim(base, claimed)
    before = descriptors()
    assert slot.claim(base) is None
    assert descriptors() == before


def test_a_card_of_ours_is_the_one_that_was_checked(
    base: str, claimed: list[slot.Slot], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead worker's card that becomes a pipe between check and open: the pipe is not opened."""
    claim(base, []).forget()
    path, pipe = f"{base}1.worker", f"{base}.pipe"
    os.mkfifo(pipe)
    real = files.reopen

    def reopen(looked_at: int, flags: int) -> int:
        if stat.S_ISREG(os.lstat(path).st_mode):
            os.rename(pipe, path)
        return real(looked_at, flags)

    with a_reader_of(pipe):
        monkeypatch.setattr(files, "reopen", reopen)
        assert claim(base, claimed).number == 2


@pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o777])
@pytest.mark.parametrize("group", [None, os.getegid()])
def test_the_modes_are_ours_under_any_umask(base: str, claimed: list[slot.Slot], umask: int, group: int | None) -> None:
    """Socket and card are 0600, the socket 0660 with a group, whatever the umask; and the umask is left alone."""
    before = os.umask(umask)
    try:
        one = claim(base, claimed, group=group)
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert (mode(one.socket_path), mode(one.card_path)) == (0o600 if group is None else 0o660, 0o600)


def test_paths_that_vanish_are_noticed(base: str, claimed: list[slot.Slot]) -> None:
    """A socket or a card that is gone, or replaced, is no longer intact, and a replacement is not removed."""
    for gone in ("socket_path", "card_path"):
        one = claim(base, claimed)
        assert one.is_intact()
        os.unlink(getattr(one, gone))
        assert not one.is_intact()
        with open(getattr(one, gone), "wb") as file:
            file.write(b"new")
        assert not one.is_intact()
        one.release()
        assert os.path.getsize(getattr(one, gone)) == 3
        os.unlink(getattr(one, gone))


def test_descriptors_that_became_somebody_elses_are_not_closed(base: str, short_path: Path) -> None:
    """An application closed all descriptors and opened its own, with our numbers: they stay open."""
    one = claim(base, [])
    assert one.listening is not None
    numbers = (one.listening.number, one.lock.number)
    for number in numbers:
        theirs = os.open(short_path / "theirs", os.O_RDWR | os.O_CREAT)
        os.dup2(theirs, number)
        os.close(theirs)
    assert not one.is_intact()
    one.forget()
    for number in numbers:
        os.close(number)  # raises if it is closed already


def free_descriptors(count: int) -> tuple[int, int]:
    """The limit under which exactly so many more descriptors can be opened, and the limit as it was."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open("/dev/null", os.O_RDONLY) for _ in range(count)]
    limit = (
        max(taken)
        if taken
        else max(int(name) for name in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{name}"))
    ) + 1
    for descriptor in taken:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return soft, hard


@pytest.mark.parametrize("free", range(5))
@pytest.mark.parametrize("stale", [True, False])
def test_no_descriptors_leave_nothing_behind(base: str, free: int, stale: bool) -> None:
    """With few or no free descriptors, claiming fails or works, and leaves no descriptor or lock."""
    if stale:
        claim(base, []).forget()
    before = descriptors()
    limits = free_descriptors(free)
    one: slot.Slot | None = None
    refused: OSError | None = None
    try:
        one = slot.claim(base)
        if one is not None:
            one.bind(None)
    except OSError as error:
        refused = error
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    if refused is not None:
        assert refused.errno == errno.EMFILE
    if one is not None:
        one.release()
    assert descriptors() == before
    again = slot.claim(base)
    assert again is not None
    assert again.number == 1
    again.release()


def test_what_the_environment_refuses_is_an_os_error(base: str, short_path: Path) -> None:
    """A folder that is missing, or is a file, is an OSError, which the caller logs once."""
    (short_path / "file").write_bytes(b"")
    for folder in ("missing", "file"):
        with pytest.raises(OSError, match=r"missing|file"):
            slot.claim(str(short_path / folder / "tb"))


def test_releasing_twice_is_harmless(base: str, claimed: list[slot.Slot]) -> None:
    """The second release() does nothing to the number's next owner."""
    first = claim(base, [])
    first.release()
    second = claim(base, claimed)
    first.release()
    assert second.is_intact()
    assert (second.number, isinstance(second, slot.Slot)) == (1, True)
