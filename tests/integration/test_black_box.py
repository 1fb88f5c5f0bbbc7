"""The black box of one worker: more requests than rows, no memory for it, strange files in its place, a fork."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.test_worker_environment import application, served
from tests.programs.black_box_stories import CROWD
from tests.support import black_boxes, clients
from tests.support.logs import messages
from tests.support.programs import PROJECT, cannot_be_tried
from tests.support.waiting import wait_until
from wsgi_tracebacker import TracebackerMiddleware, stop
from wsgi_tracebacker.linux import proc
from wsgi_tracebacker.wire.black_box import file_names, table_header, table_rows
from wsgi_tracebacker.wire.documents import postmortem_json as postmortem
from wsgi_tracebacker.worker import agent
from wsgi_tracebacker.worker.blackbox import box_files
from wsgi_tracebacker.worker.reporting import faults

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_SECONDS = 60.0
BEYOND = CROWD - table_rows.ROWS


@contextlib.contextmanager
def worker(base: str, story: str, *before: str) -> Iterator[subprocess.Popen[str]]:
    """A worker at its ``ready``; ``before`` is a command that runs it."""
    process = subprocess.Popen(
        [*before, sys.executable, "-m", "tests.programs.black_box_stories", base, story],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first == "ready\n", process.communicate()
        yield process
    finally:
        process.kill()
        process.communicate()


def command(verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "wsgi_tracebacker", verb, *arguments]
    return subprocess.run(line, capture_output=True, text=True, cwd=PROJECT, check=False, timeout=60)


@pytest.fixture(autouse=True)
def nothing_said_before() -> Iterator[None]:
    """Warnings that were logged once in this process may be logged again in each test."""
    faults.forget()
    yield
    stop()
    faults.forget()


def test_requests_of_a_worker_that_ran_out_of_memory_are_in_its_postmortem(base: str) -> None:
    """A limit of the address space, an allocation that fails, an abort below Python: both requests are named."""
    with worker(base, "out-of-memory") as process:
        _, errors = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == -signal.SIGABRT, errors
    untaken = json.loads(command("postmortem", base, "--format", "json").stdout)["postmortems"]
    assert [(each["pid"], sorted(request["path"] for request in each["requests"])) for each in untaken] == [
        (process.pid, ["/crowd/0", "/hungry"])
    ]
    with worker(base, "succeed") as successor:
        _, errors = successor.communicate("go on\n", timeout=PATIENCE_SECONDS)
    assert f"worker 1, pid {process.pid}, died with 2 requests in flight" in errors
    assert "\n  GET /hungry  (core 1, " in errors
    assert "\n  GET /crowd/0  (core 0, " in errors


def test_a_postmortem_says_how_much_memory_there_was_and_under_which_request_it_grew(base: str) -> None:
    """At last, and when the request became slow; in text too."""
    with worker(base, "growing") as process:
        process.communicate(timeout=PATIENCE_SECONDS)
    [died] = json.loads(command("postmortem", base, "--format", "json").stdout)["postmortems"]
    [request] = died["requests"]
    assert died["resident_bytes"] - request["resident_bytes"] > 30 << 20
    head, told = command("postmortem", base).stdout.splitlines()[:2]
    assert re.search(r", it had \d+M of memory$", head)
    assert re.search(r"  GET /grows  .*, the worker had \d+M when it became slow\)$", told)


def test_of_more_requests_than_rows_the_rest_is_counted(base: str) -> None:
    """The worker itself shows all; without its answer, and after its death, those beyond the table are a number; and
    of those in the table the oldest are listed.
    """
    with worker(base, "crowded") as process:
        document = json.loads(clients.request(f"{base}1", "/worker").body)
        assert document["worker"]["requests_in_flight"] == CROWD
        content = black_boxes.path_of(base, 1, file_names.TABLE).read_bytes()
        rows, torn = table_rows.decode_rows(content, content)
        assert (torn, table_header.decode_header(content).unrecorded_cores) == (0, BEYOND)
        assert sorted(row.core for row in rows) == list(range(table_rows.ROWS))

        process.send_signal(signal.SIGSTOP)
        result = command("read", base, "--format", "json", "--timeout", "5")
        document = json.loads(result.stdout)
        [stopped] = document["workers"]
        # Its memory, where the kernel lets us read that.
        assert stopped["state"] == "stopped"
        assert stopped["source"] in ("memory", "table")
        assert sum(thread["request"] is not None for thread in stopped["threads"]) == table_rows.ROWS
        assert f"{BEYOND} of its cores are not in its table" in result.stderr
    shown = command("postmortem", base)
    assert f"pid {process.pid}, died with {table_rows.ROWS} requests in flight" in shown.stdout
    assert f"\n  {table_rows.ROWS - postmortem.MAX_REQUESTS} requests more, begun later" in shown.stdout
    assert f"\n  threads beyond its table: {BEYOND}; what they served, if anything, is not known" in shown.stdout


def test_requests_that_have_ended_are_not_in_the_postmortem(base: str) -> None:
    """The postmortem has only the request in flight at the end: all other cores and their threads have ended."""
    with worker(base, "after-a-crowd") as process:
        pass
    head, request = command("postmortem", base).stdout.splitlines()
    assert f"pid {process.pid}, died with 1 request in flight" in head
    assert "  GET /crowd/0  (core 0, " in request


def test_of_a_worker_that_lost_its_card_no_death_is_logged(base: str, caplog: pytest.LogCaptureFixture) -> None:
    """A cleaner took card and socket of one that serves: the next one takes its number, it takes another one, both can
    be read, and when it dies indeed its requests are named.
    """
    with worker(base, "lose-card") as process:
        os.unlink(f"{base}1")
        os.unlink(f"{base}1.worker")
        assert served(TracebackerMiddleware(application, base))
        assert messages(caplog) == []
        assert not black_boxes.path_of(base, 1, file_names.POSTMORTEM).exists()
        assert json.loads(clients.request(f"{base}1", "/worker").body)["worker"]["pid"] == os.getpid()

        def is_back() -> bool:
            try:
                return bool(json.loads(clients.request(f"{base}2", "/worker").body)["worker"]["pid"] == process.pid)
            except OSError:
                return False

        wait_until(is_back, "the first one has another number")
        assert "no worker" in command("postmortem", base).stderr
    assert f"worker 2, pid {process.pid}, died with 1 request in flight" in command("postmortem", base).stdout


def with_shared_memory_of(size: str) -> tuple[str, ...]:
    """A command that runs another one with an empty ``/dev/shm`` of that size."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        cannot_be_tried("only root can give a process shared memory of its own")
    script = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
    before = ("unshare", "-m", "sh", "-c", script, "sh")
    if subprocess.run([*before, "true"], check=False, capture_output=True).returncode:
        cannot_be_tried("file systems cannot be mounted here")
    return before


@pytest.mark.parametrize("size", ["64k", "512k"], ids=["from the beginning", "later"])
def test_a_full_shared_memory_harms_no_request(base: str, size: str) -> None:
    """No room for a table, or none left after it was made: at most one warning, and 64 threads are served."""
    with worker(base, "full-memory", *with_shared_memory_of(size)) as process:
        output, errors = process.communicate("go on\n", timeout=PATIENCE_SECONDS)
        assert (process.returncode, output) == (0, "served on\n"), errors
    warnings = errors.splitlines()
    if size == "64k":
        [warning] = warnings
        assert warning.startswith("WARNING wsgi_tracebacker: no black box ([Errno 28] No space left on device)")
    else:
        assert warnings == []


def test_a_death_is_reported_if_shared_memory_is_full(base: str) -> None:
    """Somebody filled the rest of it: the successor logs the postmortem, and the command shows it afterwards."""
    python = f"{sys.executable} -m"
    story = f"{python} tests.programs.black_box_stories {base}"
    steps = [
        f"{story} out-of-memory >&2 2>/dev/null",
        "dd if=/dev/zero of=/dev/shm/filler bs=4k 2>/dev/null",
        f"echo go on | {story} succeed >/dev/null",
        f"{python} wsgi_tracebacker postmortem {base}",
    ]
    line = [*with_shared_memory_of("440k"), "sh", "-c", "; ".join(steps)]
    result = subprocess.run(line, capture_output=True, text=True, cwd=PROJECT, check=False, timeout=PATIENCE_SECONDS)
    for told in (result.stderr, result.stdout):
        assert "died with 2 requests in flight" in told
        assert "\n  GET /hungry  (core 1, " in told


def test_no_room_for_the_table_is_one_warning(
    base: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The application is served, the socket answers, its card names no table, and no half of one is left."""
    monkeypatch.setattr(os, "posix_fallocate", no_room)
    assert served(TracebackerMiddleware(application, base))
    [message] = messages(caplog)
    assert message.startswith("no black box ([Errno 28] No space left on device)")
    assert json.loads(clients.request(f"{base}1", "/worker").body)["worker"]["requests_finished"] == 3
    assert json.loads(Path(f"{base}1.worker").read_bytes())["black_box"] is None
    assert not black_boxes.path_of(base, 1, file_names.TABLE).exists()


def no_room(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("room", ["for three bytes", "for none"])
def test_half_a_postmortem_is_not_kept(room: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If there is room for half of it or none, no file is left: no reader could read that."""
    path = tmp_path / "postmortem"
    write = os.write
    some = no_room if room == "for none" else lambda descriptor, content: write(descriptor, content[:3])
    monkeypatch.setattr(os, "write", some)
    assert not box_files.write(str(path), b"whole")
    assert not path.exists()
    monkeypatch.undo()
    assert box_files.write(str(path), b"whole")
    assert path.read_bytes() == b"whole"


def header(base: str, **changes: object) -> bytes:
    """A predecessor's table, whole, with one request in flight; fields changed as said."""
    fields = {
        "pid": 4_000_000,
        "number": 1,
        "uid": os.geteuid(),
        "listener": 0,
        "start_ticks": 12,
        "pid_namespace": proc.pid_namespace(),
        "started_at": 1_000.0,
        "monotonic": 10.0,
        "unix": 1_010.0,
        "unrecorded_cores": 0,
        "is_closed": False,
        "boot_id": proc.boot_id(),
        "server": None,
        "application": base,
        "python": None,
        **changes,
    }
    content = table_header.encode_header(table_header.Header(**fields)).ljust(table_rows.HEADER_BYTES, b"\0")  # type: ignore[arg-type]
    row = table_rows.FLIGHT.pack(11.0, b"GET", b"/before", 1.0, 11.0) + table_rows.OWNER.pack(1, 1, 0)
    return (content + row).ljust(table_rows.FILE_BYTES, b"\0")


def predecessors(base: str) -> dict[str, bytes]:
    whole = header(base)
    infinite = table_rows.FLIGHT.pack(float("inf"), b"GET", b"/before", float("inf"), float("inf"))
    return {
        "empty": b"",
        "cut short": whole[:-1],
        "only a head": whole[:100],
        "too long": whole + b"\0",
        "of another version": whole[:16] + b"\x09" + whole[17:],
        "garbage": b"\xff" * table_rows.FILE_BYTES,
        "garbage after its name": table_header.MAGIC + b"\xff" * (table_rows.FILE_BYTES - len(table_header.MAGIC)),
        "rows of garbage": whole[: table_rows.HEADER_BYTES]
        + b"\x7f" * (table_rows.FILE_BYTES - table_rows.HEADER_BYTES),
        "times without end": header(base, unix=float("inf"), started_at=float("nan")),
        "a request without beginning": whole[: table_rows.HEADER_BYTES]
        + infinite
        + whole[table_rows.HEADER_BYTES + len(infinite) :],
    }


@pytest.mark.parametrize("kind", predecessors(""))
def test_no_table_of_a_predecessor_harms_its_successor(kind: str, base: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is served, has a table of its own, and nothing but a postmortem is logged: no fault of ours."""
    path = black_boxes.path_of(base, 1, file_names.TABLE)
    path.write_bytes(predecessors(base)[kind])
    path.chmod(0o600)
    assert served(TracebackerMiddleware(application, base))
    content = path.read_bytes()
    assert table_header.decode_header(content).pid == os.getpid()
    assert table_rows.decode_rows(content, content) == ([], 0)
    stop()
    assert {record.name for record in caplog.records if record.levelno >= logging.WARNING} <= {
        "wsgi_tracebacker.postmortem"
    }


def test_a_death_is_reported_without_the_stacks_of_an_earlier_one(base: str) -> None:
    """A worker without a signal opens its stacks file when it has something to report: until then there is none, and
    not that of whoever had its number before.
    """
    stacks = black_boxes.path_of(base, 1, file_names.STACKS)
    with worker(base, "without-signal") as first:
        stacks.write_text("the first one's report\n")
    with worker(base, "without-signal") as second:
        assert not stacks.exists()
    told = json.loads(command("postmortem", base, "--format", "json").stdout)["postmortems"]
    assert sorted((each["pid"], each["stacks"]) for each in told) == sorted(
        [(first.pid, "the first one's report\n"), (second.pid, None)]
    )


def test_counters_survive_a_death(base: str) -> None:
    """A successor starts with the counters of the dead worker."""
    with worker(base, "without-signal"):
        pass
    with worker(base, "without-signal"):
        header = table_header.decode_header(black_boxes.path_of(base, 1, file_names.TABLE).read_bytes())
        assert header.counted == table_header.Counted(restarts=1, requests_before=1)


KINDS = [file_names.TABLE, file_names.STACKS, file_names.POSTMORTEM]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["a link", "a second name", "a pipe", "a folder", "another user's"])
def test_what_is_not_ours_is_left_as_it_is(
    what: str, kind: str, base: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Another file is at the path of one of ours: it stays unchanged, and the application is served."""
    if what == "another user's" and os.geteuid() != 0:
        cannot_be_tried("only root can make files of others")
    path = black_boxes.path_of(base, 1, kind)
    # Somebody has died here, so that there is a postmortem to be kept.
    black_boxes.path_of(base, 1, file_names.TABLE).write_bytes(header(base))
    precious = header(base) if kind == file_names.TABLE else b"precious"
    victim = black_boxes.path_of(base, 1, "victim")
    victim.write_bytes(precious)
    path.unlink(missing_ok=True)
    try:
        if what == "a link":
            path.symlink_to(victim)
        elif what == "a second name":
            path.hardlink_to(victim)
        elif what == "a pipe":
            os.mkfifo(path)
        elif what == "a folder":
            path.mkdir()
        else:
            path.write_bytes(precious)
            os.chown(path, 12345, 12345)
        before = path.lstat()
        assert served(TracebackerMiddleware(application, base))
        stop()
        after = path.lstat()
        assert (before.st_ino, before.st_mode, before.st_uid, before.st_size, before.st_mtime_ns) == (
            after.st_ino,
            after.st_mode,
            after.st_uid,
            after.st_size,
            after.st_mtime_ns,
        )
        assert victim.read_bytes() == precious
        said = messages(caplog)
        if kind == file_names.TABLE:
            [warning] = said
            assert re.search("is no regular file|belongs to uid 12345|has 2 names", warning)
        else:
            # That of the predecessor, and where the stacks cannot be kept, that.
            told = [message for message in said if "worker 1, pid 4000000, died with 1 request in flight" in message]
            assert len(told) == 1
            assert len(said) == (2 if kind == file_names.STACKS else 1)
    finally:
        if what == "a folder":
            path.rmdir()
        path.unlink(missing_ok=True)


def test_a_fork_within_a_request_is_nobodys_business(base: str) -> None:
    """A child that exits there does; one that goes on ends its request, serves as a worker of its own, and leaves its
    parent's table as it was.
    """
    with worker(base, "fork") as process:
        output, errors = process.communicate("go on\n", timeout=PATIENCE_SECONDS)
        assert (process.returncode, output) == (0, "served on\n"), errors
        assert "fault" not in errors
    assert not agent._agents
    assert black_boxes.files_of(base) == []
