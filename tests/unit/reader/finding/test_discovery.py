from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.strangers import BYSTANDER, STRANGER, needs_root
from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.model.card import Card
from wsgi_tracebacker.reader.finding import discovery
from wsgi_tracebacker.reader.finding.discovery import read_card
from wsgi_tracebacker.wire.documents import card_json as cards

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wsgi_tracebacker.reader.finding.discovery import Target

CARD = Card(
    number=1,
    base="/tmp/tb",
    pid=42,
    start_ticks=1,
    boot_id="b",
    pid_namespace=1,
    uid=0,
    server=None,
    application=None,
    cwd="/",
    started_at=0.0,
)


class Folder:
    """A folder of sockets and cards."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.base = str(path / "tb")

    def socket(self, name: str) -> str:
        path = str(self.path / name)
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path)
        return path

    def card(self, base: str, number: int) -> str:
        path = self.path / f"{base}{number}.worker"
        path.write_bytes(cards.encode(CARD._replace(number=number, base=str(self.path / base))))
        return str(path)


def find(argument: str) -> tuple[Target, ...]:
    """What is behind one argument."""
    (found,) = discovery.find([argument]).targets
    if isinstance(found, Exception):
        raise found
    return found


@pytest.fixture
def folder(short_path: Path) -> Folder:
    return Folder(short_path)


def test_a_base_is_all_its_workers_by_number(folder: Folder) -> None:
    """Sockets with cards, sockets without (uWSGI's) and cards without sockets are workers, sorted as numbers."""
    for number in (10, 9, 2):
        folder.socket(f"tb{number}")
    folder.card("tb", 9)
    folder.card("tb", 30)
    found = find(folder.base)
    assert [(target.number, target.inode is not None, target.card is not None) for target in found] == [
        (2, True, False),
        (9, True, True),
        (10, True, False),
        (30, False, True),
    ]


def test_files_that_only_look_like_workers_are_left_out(folder: Folder) -> None:
    """Files, folders, links, impossible numbers, and broken cards."""
    real = folder.socket("other")
    for name in ("tb1", "tb2.worker", "tb3.lock", "tb04", "tb0", "tb123456", "tb5x"):
        (folder.path / name).write_text("{}")
    (folder.path / "tb6").mkdir()
    (folder.path / "tb7").symlink_to(real)
    folder.socket("tb0004")
    assert find(folder.base) == ()


def test_worker_12_of_one_base_is_not_worker_2_of_another(folder: Folder) -> None:
    """A card names its base: /tmp/tb and 12 is not /tmp/tb1 and 2."""
    folder.socket("tb12")
    folder.card("tb", 12)
    folder.socket("tb13")
    assert [target.number for target in find(folder.base)] == [12, 13]
    assert [target.number for target in find(folder.base + "1")] == [3]


def test_a_card_may_name_its_folder_by_another_path(folder: Folder) -> None:
    """One folder has many paths, through links and seen from outside a container."""
    folder.socket("tb1")
    card = CARD._replace(base="/somewhere/else/tb")
    (folder.path / "tb1.worker").write_bytes(cards.encode(card))
    assert [target.card for target in find(folder.base)] == [card]


def test_a_socket_or_its_card_is_that_worker(folder: Folder) -> None:
    """Only the named worker is found, by its socket or its card, even if other names start with its name."""
    path = folder.socket("tb1")
    folder.socket("tb11")
    assert [target.socket for target in find(path)] == [path]
    card = folder.card("tb", 1)
    assert find(path) == find(card)
    (target,) = find(path)
    assert target.card is not None
    assert target.number == 1


def test_a_worker_whose_socket_is_another_base_hides_nobody(folder: Folder) -> None:
    """/tmp/tb1 is worker 1 of /tmp/tb and the base of /tmp/tb12 as well: both are meant, as the cards say."""
    for base, number in (("tb", 1), ("tb1", 2), ("tb", 13)):
        folder.socket(f"{base}{number}")
        folder.card(base, number)
    folder.socket("tb14")
    found = [(target.card.base[-3:].strip("/"), target.number) for target in find(folder.base + "1") if target.card]
    assert found == [("tb", 1), ("tb1", 2)]
    assert len(find(folder.base + "1")) == len(found)
    assert [target.number for target in find(folder.base)] == [1, 13, 14]
    assert [target.number for target in find(folder.base + "13")] == [13]


def test_a_dead_workers_path_is_still_that_worker(folder: Folder) -> None:
    """A card without a socket is found by the socket's path."""
    folder.card("tb", 4)
    (target,) = find(folder.base + "4")
    assert (target.number, target.inode) == (4, None)


def test_the_number_of_a_socket_without_a_card_is_at_its_end(folder: Folder) -> None:
    """uWSGI's sockets have no card."""
    assert [target.number for target in find(folder.socket("app.12"))] == [12]
    assert [target.number for target in find(folder.socket("app"))] == [None]


def test_a_base_that_is_itself_a_socket_is_a_base(folder: Folder) -> None:
    """The server's own socket may have the name that the workers' begin with."""
    folder.socket("tb")
    folder.socket("tb1")
    folder.card("tb", 1)
    assert [target.number for target in find(folder.base)] == [1]


def test_a_base_can_end_in_anything(folder: Folder) -> None:
    """A trailing dot and a trailing slash are plain text."""
    folder.socket("s.1")
    folder.socket("2")
    assert [target.number for target in find(f"{folder.path}/s.")] == [1]
    assert [target.number for target in find(f"{folder.path}/")] == [2]


def test_bases_may_be_relative(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A base without a folder is one in the current folder."""
    folder.socket("tb1")
    monkeypatch.chdir(folder.path)
    assert [target.number for target in find("tb")] == [1]


def test_a_missing_folder_is_an_error(folder: Folder) -> None:
    """The error is returned, and the caller reports it."""
    with pytest.raises(FileNotFoundError):
        find(str(folder.path / "missing/tb"))


def test_a_card_that_is_no_plain_file_is_not_opened(folder: Folder) -> None:
    """A link to somebody's file, a pipe that would block, and a folder are no cards."""
    real = folder.card("tb", 1)
    link, pipe = str(folder.path / "link"), str(folder.path / "pipe")
    os.symlink(real, link)
    os.mkfifo(pipe)
    assert read_card(real, None)[0] == CARD._replace(base=folder.base)
    assert read_card(link, None) == (None, None)
    assert read_card(pipe, None) == (None, None)
    assert read_card(str(folder.path), None) == (None, None)


def test_a_card_of_another_user_than_the_sockets_is_not_believed(folder: Folder) -> None:
    """Otherwise any user who can write to the folder could forge a worker's card."""
    path = folder.card("tb", 1)
    assert read_card(path, os.geteuid())[1] == os.geteuid()
    assert read_card(path, os.geteuid() + 1) == (None, None)


def test_a_card_without_a_socket_is_believed_of_oneself_and_by_root(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that is not root does not see the leftovers of other users."""
    path = folder.card("tb", 1)
    owner = os.stat(path).st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert read_card(path, None) == (None, None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert read_card(path, None)[1] == owner


def test_half_a_card_and_a_huge_one_are_none(folder: Folder) -> None:
    """Both are ignored."""
    path = folder.card("tb", 1)
    whole = (folder.path / "tb1.worker").read_bytes()
    for broken in (whole[:-10], whole + b" " * cards.MAX_CARD_BYTES):
        (folder.path / "tb1.worker").write_bytes(broken)
        with pytest.raises(FormatError):
            read_card(path, None)
        assert find(folder.base) == ()


def test_of_a_huge_card_no_more_is_read_than_a_card_can_have(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte more than a card can have is enough to reject it; the rest of the file is not read."""
    path = folder.card("tb", 1)
    os.truncate(path, 1 << 26)
    sizes: list[int] = []

    def noting(read: Callable[..., bytes]) -> Callable[..., bytes]:
        def noted(*arguments: int) -> bytes:
            content = read(*arguments)
            sizes.append(len(content))
            return content

        return noted

    for name in ("read", "pread"):
        monkeypatch.setattr(os, name, noting(getattr(os, name)))
    with pytest.raises(FormatError):
        read_card(path, None)
    assert 0 < sum(sizes) <= cards.MAX_CARD_BYTES + 1


def test_cards_that_are_being_written_are_read_again_after_one_pause(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pause for all broken cards of all arguments: a user who makes many must not delay the reader for each."""
    numbers = range(1, 50)
    for number in numbers:
        (folder.path / f"tb{number}.worker").write_bytes(b"{")
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        folder.card("tb", 7)

    monkeypatch.setattr(time, "sleep", pause)
    found = discovery.find([folder.base, *(f"{folder.base}{number}.worker" for number in numbers)])
    assert len(pauses) == 1
    shown = [[target.number for target in behind] for behind in found.targets if not isinstance(behind, Exception)]
    assert shown == [[7], *([7] if number == 7 else [] for number in numbers)]


def test_a_folder_is_listed_once(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell's ``/tmp/tbsocket*`` may be thousands of arguments."""
    paths = [folder.card("tb", number) for number in range(1, 10)]
    listed: list[str] = []
    listdir = os.listdir

    def noted(path: str) -> list[str]:
        listed.append(path)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", noted)
    assert [len(behind) for behind in discovery.find(paths).targets if not isinstance(behind, Exception)] == [1] * 9
    assert listed == [str(folder.path)]


def test_the_workers_of_another_user_are_limited(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets, cards and broken cards count, each number once; other users, and the reader's own, lose nothing."""
    needs_root()
    monkeypatch.setattr(discovery, "MAX_USER_WORKERS", 3)
    for number in range(1, 11):
        path = folder.socket(f"tb{number}") if number % 2 else folder.card("tb", number)
        os.chown(path, STRANGER, STRANGER)
        if number == 2:
            (folder.path / "tb2.worker").write_bytes(b"{")
    for number, owner in ((11, BYSTANDER), (12, BYSTANDER), (13, BYSTANDER), *((each, 0) for each in range(14, 19))):
        os.chown(folder.card("tb", number), owner, owner)
    found = discovery.find([folder.base, f"{folder.base}3", f"{folder.base}9"])
    first, *others = found.targets
    assert not isinstance(first, Exception)
    assert [target.number for target in first] == [1, 3, *range(11, 19)]
    assert {target.owner for target in first} == {0, STRANGER, BYSTANDER}
    assert [len(behind) for behind in others if not isinstance(behind, Exception)] == [1, 0]
    assert found.left_out == {STRANGER: 7}


def test_a_reader_that_is_not_root_does_not_count_the_leftovers_of_others(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """These are cards without sockets, which it does not believe."""
    monkeypatch.setattr(discovery, "MAX_USER_WORKERS", 3)
    for number in range(1, 6):
        folder.card("tb", number)
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert discovery.find([folder.base]) == (((),), {})
