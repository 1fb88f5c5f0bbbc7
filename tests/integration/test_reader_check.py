"""``wsgi-tb check`` on workers that answer, that hang, and that are too busy."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import black_boxes, clients
from tests.support.programs import PROJECT
from tests.support.servers import stat_fields
from tests.support.waiting import wait_until
from tests.unit.worker.blackbox.test_predecessor import leave
from tests.unit.worker.listening.test_slot import card
from wsgi_tracebacker.linux import proc
from wsgi_tracebacker.model.health import MOVES, SILENT
from wsgi_tracebacker.reader.look import look
from wsgi_tracebacker.wire.black_box import file_names, table_header

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import StartGunicorn

#: Hooks that open the sockets of workers at their start.
CONFIGURATION = ("-c", "python:wsgi_tracebacker.servers.gunicorn")


def check(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wsgi_tracebacker", "check", *arguments],
        capture_output=True,
        text=True,
        cwd=PROJECT,
        check=False,
        timeout=30,
    )


def test_long_work_is_no_ill_health(gunicorn: StartGunicorn, base: str) -> None:
    """One line and 0 without limits, whatever is served; each limit that is reached is 1, with its reason."""
    server = gunicorn("example_app.wsgi:application", *CONFIGURATION, "--worker-class", "gthread", "--threads", "2")
    with server.in_flight("/slow?seconds=60"), server.in_flight("/slow?seconds=60"), server.in_flight("/slow"):
        wait_until(lambda: "2 of 2 slots busy, 1 connection waits" in check(base).stdout, "all slots are busy")
        healthy = check(base, "--saturated", "1", "--waiting", "2", "--oldest", "50", "--silent", "0", "--dead", "0")
        assert (healthy.returncode, healthy.stderr) == (1, "")
        assert healthy.stdout.startswith("failed: 100% of the slots busy, limit 100% (1 of 1 worker answers, ")
        for limit in (["--waiting", "1"], ["--oldest", "0.1"]):
            assert check(base, *limit).returncode == 1
        assert check(base).returncode == 0


def test_no_worker_at_all(base: str) -> None:
    """Exit code 3, or 0 where that is allowed: a liveness probe comes before the first request."""
    assert check(base).returncode == 3
    allowed = check(base, "--allow-none")
    assert (allowed.returncode, allowed.stderr) == (0, "")
    assert allowed.stdout.startswith("ok: no worker yet; ")
    assert allowed.stdout.count("\n") == 1


@pytest.fixture
def many_hang(gunicorn: StartGunicorn, base: str) -> Iterator[list[int]]:
    """32 workers that do not run at all, one of them with a request."""
    server = gunicorn("example_app.wsgi:application", *CONFIGURATION, "-w", "32", "--preload")
    wait_until(lambda: check(base).stdout.startswith("ok: 32 of 32 workers answer"), "all of them are there")
    pids = server.workers()
    with server.in_flight("/slow?seconds=60"):
        wait_until(lambda: check(base, "--oldest", "0").returncode, "the request is in flight")
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: all((stat_fields(pid) or "?")[0] == "T" for pid in pids), "they are stopped")
        try:
            yield pids
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)


@pytest.mark.alone
def test_all_workers_hang(many_hang: list[int], base: str, tmp_path: Path) -> None:
    """Less than a second, also with the evidence: a kubelet gives up after one."""
    file = tmp_path / "evidence"
    seconds = []
    for arguments in ([], ["--evidence", str(file)]):
        started = time.monotonic()
        failed = check(base, *arguments)
        seconds.append(time.monotonic() - started)
        assert (failed.returncode, failed.stderr) == (1, "")
        assert failed.stdout.startswith("failed: no worker answers (0 of 32 workers answer, 32 silent")
    # Without load they are 0.65 s and 0.7 s.
    assert min(seconds) < 1.0, seconds
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    text = file.read_text()
    assert "wsgi-tb check  failed: no worker answers" in text.splitlines()[0]
    assert "GET /slow" in text
    assert all(f"pid {pid}, {base}" in text for pid in many_hang)


def test_evidence_that_cannot_be_written(many_hang: list[int], base: str, tmp_path: Path) -> None:
    """It is said, and the exit code stays; nothing is written where all is well."""
    failed = check(base, "--evidence", str(tmp_path / "nowhere" / "file"))
    assert failed.returncode == 1
    assert "evidence cannot be written to " in failed.stderr
    os.kill(many_hang[0], signal.SIGCONT)
    wait_until(lambda: check(base, "--evidence", str(tmp_path / "none")).returncode == 0, "one answers")
    assert not (tmp_path / "none").exists() or "failed: " in (tmp_path / "none").read_text()
    assert check(base, "--silent", "31").returncode == 0
    assert check(base, "--silent", "30").returncode == 1


def test_a_worker_that_is_too_busy_to_answer_is_alive(base: str) -> None:
    """If its black box changes within the look, Python runs in it; one in which nothing changes is silent."""
    own = proc.stat("/proc/self")
    assert own is not None
    facts: dict[str, Any] = {
        "start_ticks": own.start_ticks,
        "boot_id": proc.boot_id(),
        "pid_namespace": proc.pid_namespace(),
    }
    slot = leave(base, in_flight=True, pid=os.getpid(), **facts)
    path = black_boxes.path_of(base, 1, file_names.TABLE)
    slot.write_card(card(1, base)._replace(pid=os.getpid(), uid=os.geteuid(), black_box=str(path), **facts))
    try:
        [silent] = look([base], 0.1).workers
        assert (silent.condition, silent.busy) == (SILENT, 1)
        ended = threading.Event()

        def beat() -> None:
            with path.open("r+b") as file:
                while not ended.wait(0.01):
                    file.seek(table_header.BEAT_OFFSET)
                    file.write(table_header.BEAT.pack(time.monotonic()))
                    file.flush()

        thread = threading.Thread(target=beat)
        thread.start()
        try:
            [busy] = look([base], 0.2).workers
        finally:
            ended.set()
            thread.join()
        assert (busy.condition, busy.busy) == (MOVES, 1)
    finally:
        slot.release()
        black_boxes.remove(base)


def test_the_dead_are_counted(gunicorn: StartGunicorn, base: str) -> None:
    """They are no failure beside a worker that answers, unless a limit says so."""
    server = gunicorn("example_app.wsgi:application", *CONFIGURATION, "--workers", "2")
    wait_until(lambda: check(base).stdout.startswith("ok: 2 of 2 workers"), "both are there")
    # The master would start another one.
    os.kill(server.pid, signal.SIGSTOP)
    try:
        os.kill(server.workers()[0], signal.SIGKILL)
        wait_until(lambda: "1 dead" in check(base).stdout, "one is dead")
        assert check(base).returncode == 0
        assert check(base, "--dead", "1").returncode == 0
        assert check(base, "--dead", "0").returncode == 1
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert clients.request(server.address, "/").status == 200
