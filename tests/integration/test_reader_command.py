"""The command as a process: streams, pipes, encodings, what it imports."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.listeners import answering, http, listener
from tests.support.programs import PROJECT
from wsgi_tracebacker.model.snapshot import Frame, Request, Snapshot, Stack, Worker

if TYPE_CHECKING:
    from collections.abc import Iterator

REQUEST = Request("GET", "/größe", None, None, None, 0.0, 1.0, "app")
STACK = Stack("WSGIWorker1Core0", core=0, request=REQUEST, frames=(Frame("a.py", 1, "f", "x"),))
COMMAND = (sys.executable, "-m", "wsgi_tracebacker")


@pytest.fixture
def worker(base: str) -> Iterator[str]:
    """A worker whose text is far larger than a pipe's buffer."""
    snapshot = Snapshot(Worker(number=1, pid=os.getpid()), 5.0, (STACK,) * 3000)
    with listener(f"{base}1", answering(http(snapshot))):
        yield base


def test_the_module_is_the_command(worker: str) -> None:
    """python -m wsgi_tracebacker reads real sockets."""
    command = (*COMMAND, "read", "--full", worker)
    result = subprocess.run(command, capture_output=True, cwd=PROJECT, check=True, timeout=30)
    assert result.stdout.decode().count("GET /größe  1.00 s") == 3000
    assert result.stderr == b""


@pytest.mark.parametrize("form", ["text", "html", "json", "uwsgi"])
def test_a_closed_pipe_is_no_error(worker: str, form: str) -> None:
    """As with ``| head -1``: no traceback, nothing on stderr, and the exit code tells of the workers."""
    command = (*COMMAND, "read", "--full", "--format", form, worker)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=PROJECT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 0


def test_a_terminal_without_unicode_gets_escapes(worker: str) -> None:
    """What its encoding does not have is written as an escape instead of ending the command."""
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = subprocess.run(
        (*COMMAND, "read", "--limit", "1", worker), capture_output=True, cwd=PROJECT, env=env, check=True, timeout=30
    )
    assert rb"GET /gr\xf6\xdfe  1.00 s" in result.stdout


def loaded_by(*arguments: str) -> tuple[int, set[str]]:
    """The exit code of the command, and the modules that it loads."""
    program = (
        "import atexit, sys\n"
        "before = set(sys.modules)\n"
        "atexit.register(lambda: print(*set(sys.modules) - before, file=sys.stderr))\n"
        "from wsgi_tracebacker.cli.main import run_command\n"
        "sys.exit(run_command())\n"
    )
    command = (sys.executable, "-c", program, *arguments)
    result = subprocess.run(command, capture_output=True, cwd=PROJECT, check=False, timeout=30, text=True)
    return result.returncode, set(result.stderr.split())


def test_a_mistyped_verb_is_answered_without_click() -> None:
    """The suggestion comes as quickly as a reading does."""
    code, loaded = loaded_by("raed")
    assert (code, "read?" in loaded, "click" in loaded) == (2, True, False)


def test_checking_loads_no_more_than_it_needs(worker: str) -> None:
    """A probe runs every few seconds in each container."""
    _, loaded = loaded_by("check", "--silent=0", worker)
    assert "wsgi_tracebacker.cli.probe" in loaded
    assert loaded & {"click", "dataclasses", "heapq", "inspect", "logging"} == set()


@pytest.mark.parametrize(
    "options",
    [(), ("--format", "json"), ("--limit=0", "--full"), ("--older", "0.5"), ("--by", "route", "--sort=cpu", "-w", "1")],
)
def test_reading_loads_no_more_than_it_needs(worker: str, options: tuple[str, ...]) -> None:
    """The command starts quickly because it leaves alone what is slow to import, with the usual options too."""
    code, loaded = loaded_by("read", *options, worker)
    assert code == 0
    ours = {
        "click",
        "dataclasses",
        "fnmatch",
        "heapq",
        "html",
        "inspect",
        "subprocess",
        "wsgi_tracebacker.reader.elsewhere.hosts",
        "wsgi_tracebacker.reader.unanswered.examine",
        "wsgi_tracebacker.wire.black_box.table_header",
        "wsgi_tracebacker.wire.black_box.table_rows",
    }
    slow = ours | {"asyncio", "email", "http", "importlib.metadata", "logging", "urllib", "uuid", "werkzeug"}
    # Nothing of the serving side is wanted here.
    assert loaded & slow == set()
    assert not {name for name in loaded if name.startswith(("wsgi_tracebacker.worker.", "wsgi_tracebacker.middleware"))}
