"""Connections that are kept: a line a reading, and nothing is left behind."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from tests.support.waiting import wait_until
from wsgi_tracebacker.reader.elsewhere.hosts import Hosts
from wsgi_tracebacker.reader.elsewhere.streams import Latest, Streams

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE = 60.0


@contextlib.contextmanager
def running(script: str, *targets: str, seconds: float = 10.0, unasked_seconds: float = 60.0) -> Iterator[Streams]:
    """A shell script on each host, with the host as its first argument."""
    streams = Streams(Hosts(("sh", "-c", script, "{}"), targets, ("x",), 2, seconds), (), unasked_seconds)
    try:
        yield streams
    finally:
        streams.stop()


def lives(pid: int) -> bool:
    """Whether a process is there that has not ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_each_host_has_its_latest_line() -> None:
    """Of more hosts than may connect at once too; whoever asks again waits for another line."""
    with running("n=0; while echo $0 $n; do n=$((n+1)); sleep 0.1; done", "a", "b", "c", "d") as streams:
        first = streams.ask({}, PATIENCE)
        assert {target: latest.line.split()[0].decode() for target, latest in first.items()} == {
            each: each for each in "abcd"
        }
        second = streams.ask(first, PATIENCE)
        assert all(int(second[each].line.split()[1]) > int(first[each].line.split()[1]) for each in "abcd")


def test_a_line_may_come_in_pieces() -> None:
    """It counts when it is whole; of several that come together the last one does."""
    with running("printf half; sleep 0.2; printf 'd\\nold\\nnew\\n'; sleep 60", "a") as streams:
        assert streams.ask({}, PATIENCE)["a"].line == b"new"


def test_a_program_that_has_lived_is_started_anew() -> None:
    """Its last line stands meanwhile."""
    with running("echo $$", "a") as streams:
        first = streams.ask({}, PATIENCE)
        second = streams.ask(first, PATIENCE)
        assert second["a"].line != first["a"].line
        assert second["a"].failure is None


def test_a_host_that_fails_is_said_and_tried_again(tmp_path: Path) -> None:
    """With the last line of its stderr; nobody waits for it meanwhile, and a line that comes later counts."""
    script = f"[ -e {tmp_path}/up ] && {{ echo fine; sleep 60; }}; echo refused >&2; exit 255"
    with running(script, "a") as streams:
        latest = streams.ask({}, PATIENCE)
        failure = latest["a"].failure
        assert failure is not None
        assert (latest["a"].line, failure.complaint, failure.exit_code) == (b"", "refused", 255)
        assert streams.ask(latest, PATIENCE)["a"].line == b""
        (tmp_path / "up").touch()
        wait_until(lambda: streams.ask(latest, 0.1)["a"].line == b"fine", "it is tried again")
        assert streams.ask(latest, 0.1)["a"].failure is None


def test_a_host_that_falls_silent_is_ended() -> None:
    """It has its time for each line."""
    with running("echo once; sleep 600", "a", seconds=0.5) as streams:
        found = streams.ask({}, PATIENCE)
        assert found["a"].line == b"once"
        failure = wait_until(lambda: streams.ask(found, 0.1)["a"].failure, "it is given up")
        assert failure is not None
        assert failure.complaint == "it did not answer within 0.5 s"


def test_a_program_that_is_not_there() -> None:
    """The reason is the system's."""
    streams = Streams(Hosts(("/nowhere/ssh", "{}"), ("a",)), ())
    try:
        failure = streams.ask({}, PATIENCE)["a"].failure
        assert failure is not None
        assert failure.complaint == "/nowhere/ssh: No such file or directory"
    finally:
        streams.stop()


def test_nothing_runs_while_nobody_asks() -> None:
    """Its programs are ended; the next question starts others, and waits for what they say."""
    script = "while echo $$; do sleep 0.1; done"
    with running(script, "a", unasked_seconds=0.5) as streams:
        first = streams.ask({}, PATIENCE)
        pid = int(first["a"].line)
        wait_until(lambda: not lives(pid), "it is ended")
        other = wait_until(lambda: _other(streams, first), "another one has begun")
        assert other


def _other(streams: Streams, before: dict[str, Latest]) -> bool:
    latest = streams.ask(before, 1.0)
    return "a" in latest and latest["a"].line != before["a"].line


def test_stop_ends_all_programs() -> None:
    """And whoever asks then waits for nobody."""
    with running("echo $$; sleep 600", "a", "b") as streams:
        pids = [int(latest.line) for latest in streams.ask({}, PATIENCE).values()]
        assert all(os.path.exists(f"/proc/{pid}") for pid in pids)
        streams.stop()
        assert not any(map(lives, pids))
        streams.ask({}, PATIENCE)
