from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from wsgi_tracebacker.model.card import Card
from wsgi_tracebacker.reader.finding.processes import ALIVE, DEAD, DISK_WAIT, GONE, SAME, STOPPED, UNKNOWN, Processes

if TYPE_CHECKING:
    from pathlib import Path

OWNER = 1000


class FakeProc:
    """A folder that looks like /proc, with one process in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "sys/kernel/random").mkdir(parents=True)
        (root / "sys/kernel/random/boot_id").write_text("the-boot\n")
        (root / "self/ns").mkdir(parents=True)
        (root / "self/ns/pid").touch()
        (root / "stat").write_text("cpu 1 2 3\nbtime 5000\nprocesses 7\n")
        self.process(42)

    def process(
        self, pid: int, letter: str = "S", start_ticks: int = 777, uid: int = OWNER, threads: str = "S"
    ) -> None:
        folder = self.root / str(pid)
        folder.mkdir(exist_ok=True)
        self.stat(folder, pid, letter, start_ticks)
        self.status(folder, f"0\t{uid}\t0\t0")
        for number, thread in enumerate(threads):
            (folder / f"task/{pid + number}").mkdir(parents=True, exist_ok=True)
            self.stat(folder / f"task/{pid + number}", pid, thread, start_ticks)

    def status(self, folder: Path, uids: str) -> None:
        (folder / "status").write_text(f"Name:\tpython) (x\nUid:\t{uids}\nGid:\t0\t0\t0\t0\nGroups:\t\n")

    def stat(self, folder: Path, pid: int, letter: str, start_ticks: int) -> None:
        # A program may call itself anything, with parentheses and blanks.
        (folder / "stat").write_text(f"{pid} (a) S 1 (b) {letter} " + "0 " * 18 + f"{start_ticks} 0 0\n")

    def card(self, **changes: object) -> Card:
        facts: dict[str, object] = {
            "number": 1,
            "base": "/tmp/tb",
            "pid": 42,
            "start_ticks": 777,
            "boot_id": "the-boot",
            "pid_namespace": (self.root / "self/ns/pid").stat().st_ino,
            "uid": OWNER,
            "server": None,
            "application": None,
            "cwd": "/",
            "started_at": 0.0,
        }
        return Card(**{**facts, **changes})  # type: ignore[arg-type]  # a test changes one fact by its name

    @property
    def processes(self) -> Processes:
        return Processes(str(self.root))


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path)


def test_the_process_of_a_card_is_recognised(proc: FakeProc) -> None:
    """pid, start, boot, pid namespace and owner together say that it is the same one."""
    assert proc.processes.standing(proc.card(), OWNER) == SAME


def test_another_process_with_the_same_pid_is_not_the_cards(proc: FakeProc) -> None:
    """A pid that was used again, or another user's process, means that the card's process is gone."""
    assert proc.processes.standing(proc.card(start_ticks=776), OWNER) == GONE
    assert proc.processes.standing(proc.card(), OWNER + 1) == GONE
    assert proc.processes.standing(proc.card(pid=43), OWNER) == GONE


@pytest.mark.parametrize(
    ("uids", "may"),
    [
        ("1000\t1000\t1000\t1000", True),
        ("1000\t0\t0\t0", True),
        ("0\t0\t1000\t0", True),
        ("0\t1000\t0\t1000", False),
        ("1001\t1000\t1001\t1000", False),
        ("0\t0\t0\t0", False),
        ("", False),
    ],
)
def test_a_process_that_only_acts_as_a_user_may_not_be_signalled_by_that_user(
    proc: FakeProc, uids: str, may: bool
) -> None:
    """By the rule of kill(2) the real and the saved user count, not the effective one."""
    proc.status(proc.root / "42", uids)
    assert proc.processes.may_be_signalled_by(42, OWNER) is may


def test_a_zombie_is_gone(proc: FakeProc) -> None:
    """A process that only waits to be reaped serves nobody."""
    proc.process(42, "Z")
    assert proc.processes.standing(proc.card(), OWNER) == GONE
    assert proc.processes.state(42) == DEAD


def test_other_boots_and_namespaces_are_not_judged(proc: FakeProc) -> None:
    """What a card of a container or of another machine says cannot be looked up here."""
    assert proc.processes.standing(proc.card(boot_id="another"), OWNER) == UNKNOWN
    assert proc.processes.standing(proc.card(pid_namespace=1), OWNER) == UNKNOWN


def test_a_process_in_another_namespace_is_found_by_what_it_is_there(proc: FakeProc) -> None:
    """It may have another pid here; one of another user is not the card's."""
    (proc.root / "42/ns").mkdir()
    (proc.root / "42/ns/pid").touch()
    card = proc.card(pid=7, pid_namespace=(proc.root / "42/ns/pid").stat().st_ino)
    assert proc.processes.visible_pid(card) is None
    with (proc.root / "42/status").open("a") as status:
        status.write("NSpid:\t42\t7\n")
    assert proc.processes.visible_pid(card) == 42
    assert proc.processes.visible_pid(card._replace(start_ticks=776)) is None
    assert proc.processes.visible_pid(card._replace(uid=OWNER + 1)) is None


@pytest.mark.parametrize(
    ("letter", "state"), [("S", ALIVE), ("R", ALIVE), ("T", STOPPED), ("t", STOPPED), ("D", DISK_WAIT)]
)
def test_the_letter_of_a_process_becomes_a_state(proc: FakeProc, letter: str, state: str) -> None:
    """The kernel's letters become the words of the list."""
    proc.process(42, letter)
    assert proc.processes.state(42) == state


def test_one_thread_that_waits_for_a_disk_is_enough(proc: FakeProc) -> None:
    """Any thread can hold up a worker; the process has the letter of its main thread only."""
    proc.process(42, "S", threads="SSD")
    assert proc.processes.state(42) == ALIVE
    assert proc.processes.state(42, threads=True) == DISK_WAIT


def test_the_start_of_a_process_is_a_time(proc: FakeProc) -> None:
    """It is the boot's time and the ticks since."""
    assert proc.processes.started_at(42) == pytest.approx(5000 + 777 / os.sysconf("SC_CLK_TCK"))
    assert proc.processes.started_at(43) is None
    assert proc.processes.started_after_boot(42) == 777 / os.sysconf("SC_CLK_TCK")


def test_the_real_proc_knows_this_process() -> None:
    """What is read of a made-up /proc is read of the real one too."""
    assert Processes().state(os.getpid()) == ALIVE
    started_at = Processes().started_at(os.getpid())
    assert started_at is not None
    assert started_at > 1_500_000_000
