"""Workers are found without an argument and by a pid: in this root folder, and in other namespaces."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import black_boxes
from tests.support.programs import PROJECT, cannot_be_tried
from tests.support.servers import Gunicorn, children_of
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

#: A systemd service with PrivateTmp: its sockets are in a folder that others do not see, shared memory is the same.
_PRIVATE_TMP = 'mount -t tmpfs tmpfs "$1" && shift && exec "$@"'
#: A container: nothing is shared.
_CONTAINER = 'mount -t tmpfs tmpfs /dev/shm && mount -t tmpfs tmpfs "$1" && shift && exec "$@"'


def private_tmp(folder: Path) -> list[str]:
    return ["unshare", "-m", "sh", "-c", _PRIVATE_TMP, "sh", str(folder)]


def container(folder: Path) -> list[str]:
    new = ["unshare", "-m", "-p", "--fork", "--kill-child", "--mount-proc"]
    return [*new, "sh", "-c", _CONTAINER, "sh", str(folder)]


def wsgi_tb(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, of an operator who has set nothing."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("WSGI_TB_")}
    return subprocess.run(
        [sys.executable, "-m", "wsgi_tracebacker", *arguments],
        capture_output=True,
        text=True,
        cwd=PROJECT,
        env=env,
        check=False,
        timeout=30,
    )


def listed(*arguments: str) -> list[dict[str, Any]]:
    shown = wsgi_tb("list", "--format", "json", *arguments)
    return [] if shown.returncode == 3 else list(json.loads(shown.stdout)["workers"])


def pids_read(*arguments: str) -> set[int]:
    """The workers whose snapshots ``read`` shows."""
    return {
        each["worker"]["pid"] for each in json.loads(wsgi_tb("read", "--format", "json", *arguments).stdout)["workers"]
    }


@contextlib.contextmanager
def two_workers(base: str, log: Path, before: Sequence[str] = ()) -> Iterator[Gunicorn]:
    if before:
        if os.geteuid() != 0 or shutil.which("unshare") is None:
            cannot_be_tried("only root can make namespaces")
        if subprocess.run([*before, "true"], check=False, capture_output=True).returncode:
            cannot_be_tried("namespaces cannot be made here")
    with Gunicorn(
        "example_app.wsgi:application",
        *("-c", "python:wsgi_tracebacker.servers.gunicorn", "--workers", "2"),
        log=log,
        env={"WSGI_TB_SOCKET": base},
        before=before,
    ) as server:
        wait_until(lambda: len(of_base(base)) == 2, "both workers are found")
        yield server


def of_base(base: str) -> list[dict[str, Any]]:
    """What an operator without an argument finds of a base; tests that run beside this one have others."""
    return [worker for worker in listed() if worker["base"].endswith(base) and worker["state"] == "alive"]


def test_without_an_argument(base: str, tmp_path: Path) -> None:
    """Any base of this user's is found, with its name; a variable or an argument still means only what it names."""
    with two_workers(base, tmp_path / "log") as server:
        workers = of_base(base)
        assert {worker["pid"] for worker in workers} == set(server.workers())
        assert [worker["socket"] for worker in workers] == [f"{base}1", f"{base}2"]
        assert f"base {base}\n" in wsgi_tb("list").stdout
        assert {worker["pid"] for worker in workers} <= pids_read()
        wrong = wsgi_tb("read", f"{base}-wrong")
        assert wrong.returncode == 3
        assert f"{base} (2 workers)" in wrong.stderr


def test_by_a_pid(base: str, tmp_path: Path) -> None:
    """A master stands for its workers, and a worker for those beside it; a process without workers is exit code 3."""
    with two_workers(base, tmp_path / "log") as server:
        for pid in (server.pid, server.workers()[0]):
            assert {worker["pid"] for worker in listed(str(pid))} == set(server.workers())
        assert pids_read(str(server.pid)) == set(server.workers())
        with subprocess.Popen(["sleep", "60"], start_new_session=True) as other:
            alone = wsgi_tb("list", str(other.pid))
            other.kill()
        assert alone.returncode == 3
        assert f"process {other.pid}" in alone.stderr
        # Not which ones: others may run on this machine, and ten are named.
        assert "bases with workers that you may read: " in alone.stderr


def test_a_pid_is_no_pid_where_a_socket_has_that_name(base: str, short_path: Path) -> None:
    """A file in the current folder comes first, as before."""
    (short_path / "1").touch()
    shown = subprocess.run(
        [sys.executable, "-m", "wsgi_tracebacker", "list", "1"],
        capture_output=True,
        text=True,
        cwd=short_path,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        check=False,
        timeout=30,
    )
    assert (shown.returncode, "no workers behind '1'" in shown.stderr) == (3, True)


@pytest.mark.parametrize("namespaces", [private_tmp, container])
def test_in_other_namespaces(base: str, short_path: Path, tmp_path: Path, namespaces: Any) -> None:
    """They are found through the root folder of one of their processes, and named by the path through it."""
    with two_workers(base, tmp_path / "log", namespaces(short_path)) as server:
        one, two = of_base(base)
        assert one["base"].startswith("/proc/")
        assert not os.path.exists(f"{base}1")
        # What the kernel says is a pid of this namespace.
        master = server.pid if namespaces is private_tmp else children_of(server.pid)[0]
        assert {one["visible_pid"], two["visible_pid"]} == set(children_of(master))
        assert all(worker["memory_bytes"] > 0 and worker["slots"] == 1 for worker in (one, two))
        # The name is an argument, and so are pids of this namespace.
        assert [worker["socket"] for worker in listed(one["base"])] == [one["socket"], two["socket"]]
        assert [worker["socket"] for worker in listed(str(server.pid))] == [one["socket"], two["socket"]]
        assert pids_read(one["base"]) == {one["pid"], two["pid"]}
        assert f"\nworker 1  pid {one['visible_pid']}  gunicorn/" in wsgi_tb("read", one["socket"]).stdout
    black_boxes.remove(base)


def test_a_worker_that_does_not_answer_in_a_private_tmp(base: str, short_path: Path, tmp_path: Path) -> None:
    """Its black box is found through the root folder, too."""
    with two_workers(base, tmp_path / "log", private_tmp(short_path)) as server:
        stopped = server.workers()[0]
        os.kill(stopped, signal.SIGSTOP)
        try:
            [worker] = [each for each in listed() if each["visible_pid"] == stopped]
        finally:
            os.kill(stopped, signal.SIGCONT)
        assert (worker["state"], worker["busy"], worker["restarts"]) == ("stopped", 0, 0)


def test_the_dead_are_cleaned_up(base: str, tmp_path: Path) -> None:
    """They are one line and no failure beside a living worker; clean removes them, and nothing of the others."""
    with two_workers(base, tmp_path / "log") as server:
        one, two = listed(base)
        # The master would start another one.
        os.kill(server.pid, signal.SIGSTOP)
        try:
            os.kill(one["pid"], signal.SIGKILL)
            wait_until(lambda: [each["state"] for each in listed(base)] == ["dead", "alive"], "one is dead")
            shown = wsgi_tb("list", base)
            assert (shown.returncode, shown.stderr) == (0, "")
            assert shown.stdout.splitlines()[-1].startswith("1 dead since ")
            cleaned = wsgi_tb("clean", base)
            assert (cleaned.returncode, cleaned.stdout) == (0, f"removed {one['socket']}\n")
            assert [each["pid"] for each in listed(base)] == [two["pid"]]
            assert [path for path in black_boxes.files_of(base) if ".1." in path.name] == []
        finally:
            os.kill(server.pid, signal.SIGCONT)
