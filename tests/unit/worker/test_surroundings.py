"""Private folders and shared processes are recognised."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.unit.formats.test_card import CARD
from wsgi_tracebacker.formats import card as card_format
from wsgi_tracebacker.worker import kernel, surroundings

if TYPE_CHECKING:
    from pathlib import Path

ROOT = "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
PRIVATE = (
    "310 280 254:0 /tmp/systemd-private-0ac1-apache2.service-q1w2e3/tmp /tmp rw,relatime - ext4 /dev/vda rw\n"
    "311 280 254:0 /var/tmp/systemd-private-0ac1-apache2.service-q1w2e3/tmp /var/tmp rw - ext4 /dev/vda rw\n"
)


@pytest.mark.parametrize(
    ("base", "mountinfo", "expected"),
    [
        ("/tmp/tbsocket", ROOT + PRIVATE, "/tmp"),
        ("/tmp/deeper/tbsocket", ROOT + PRIVATE, "/tmp"),
        ("/var/tmp/tbsocket", ROOT + PRIVATE, "/var/tmp"),
        ("/run/shop/tbsocket", ROOT + PRIVATE, None),
        ("/tmpfiles/tbsocket", ROOT + PRIVATE, None),
        ("/tmp/tbsocket", ROOT, None),
        ("/tmp/tbsocket", ROOT + "40 22 0:40 / /tmp rw - tmpfs tmpfs rw\n", None),
        # What is mounted over it, or inside it, is what counts.
        ("/tmp/tbsocket", ROOT + PRIVATE + "40 22 0:40 / /tmp rw - tmpfs tmpfs rw\n", None),
        ("/tmp/a b/tbsocket", ROOT + PRIVATE + "40 22 0:40 / /tmp/a\\040b rw - tmpfs tmpfs rw\n", None),
        ("/tmp/tbsocket", "", None),
        ("/tmp/tbsocket", "not a line of it\n", None),
    ],
)
def test_a_private_tmp(base: str, mountinfo: str, expected: str | None) -> None:
    """It is told by how systemd calls the folder that it mounts, for whatever is in it and nothing else."""
    assert surroundings.private_mount(base, mountinfo) == expected


def test_here_nothing_is_hidden(tmp_path: Path) -> None:
    """A folder of the test is seen by everybody."""
    assert surroundings.why_it_is_hidden(str(tmp_path / "tb")) is None


def write_card(base: str, number: int, pid: int, start_ticks: int) -> None:
    card = CARD._replace(number=number, base=base, pid=pid, start_ticks=start_ticks)
    with open(card_format.card_path(base, number), "wb") as file:
        file.write(card_format.encode(card))


def test_copies_are_those_of_this_process(tmp_path: Path) -> None:
    """By pid and start; what is no card, or another process's, is none, and neither are our own and later numbers."""
    base = str(tmp_path / "tb")
    pid, start_ticks = os.getpid(), kernel.start_ticks() or 0
    write_card(base, 1, pid, start_ticks)
    write_card(base, 2, pid, start_ticks + 1)
    write_card(base, 3, pid + 1, start_ticks)
    (tmp_path / "tb4.worker").write_text("no card")
    (tmp_path / "tb5.worker").symlink_to(tmp_path / "tb1.worker")
    write_card(base, 7, pid, start_ticks)
    write_card(base, 8, pid, start_ticks)
    write_card(base, 9, pid, start_ticks)
    assert surroundings.other_copies(base, 8) == [1, 7]
