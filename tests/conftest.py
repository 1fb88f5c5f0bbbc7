"""Fixtures that all tests share, and the proof that no test leaves anything behind."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import hypothesis
import pytest

from tests.support import black_boxes
from tests.support.leftovers import WATCHED, holdings
from tests.support.programs import PROJECT
from tests.support.servers import Gunicorn
from tests.support.waiting import wait_until
from wsgi_tracebacker.wire import table_layout as blackbox
from wsgi_tracebacker.worker import agent
from wsgi_tracebacker.worker.settings import DEFAULT_SOCKET

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: Seconds in which what a test ended (a thread that is told to, a child that is killed) has to be gone.
LEFTOVER_SECONDS = 3.0

# No time limit for an example: a loaded machine is not a fault. The same examples each time under CI, so that a
# failure there comes back on a developer's machine.
hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, database=None)
# What tests/stress/fuzz.py runs: another seed each time, and no example may take as long as a hang.
hypothesis.settings.register_profile(
    "fuzz",
    deadline=timedelta(seconds=float(os.environ.get("FUZZ_EXAMPLE_SECONDS", "10"))),
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "1000")),
    derandomize=False,
    database=None,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile(
    "fuzz" if "FUZZ_EXAMPLES" in os.environ else "ci" if os.environ.get("CI") == "true" else "local"
)


def pytest_collection_finish() -> None:
    """Collections pass over the tests and what they import: to look at them took a quarter of the unit tests' time."""
    gc.collect()
    if hasattr(gc, "freeze"):  # PyPy has none
        gc.freeze()


#: One worker of the default base, killed within a request.
_KILLED = """
import os, signal
from wsgi_tracebacker import TracebackerMiddleware

wrapped = TracebackerMiddleware(lambda *_: os.kill(os.getpid(), signal.SIGKILL))
wrapped({"REQUEST_METHOD": "GET", "PATH_INFO": "/killed"}, print)
"""


@pytest.fixture(scope="session", autouse=True)
def a_worker_of_the_default_base_was_killed() -> Iterator[None]:
    """As on a machine where somebody tried the README: a test that serves from the default base finds its black box.

    It then logs what became of that worker, and leaves a file. Only where the machine is ours alone.
    """
    if not WATCHED or black_boxes.files_of(DEFAULT_SOCKET) or Path(f"{DEFAULT_SOCKET}1").exists():
        yield
        return
    env = {name: value for name, value in os.environ.items() if not name.startswith("WSGI_TB_")}
    killed = subprocess.run([sys.executable, "-c", _KILLED], cwd=PROJECT, check=False, timeout=60, env=env)
    assert killed.returncode == -signal.SIGKILL
    assert black_boxes.files_of(DEFAULT_SOCKET)
    yield
    black_boxes.remove(DEFAULT_SOCKET)
    for path in (f"{DEFAULT_SOCKET}1", f"{DEFAULT_SOCKET}1.worker"):
        Path(path).unlink(missing_ok=True)


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    """Every test gives back its threads, child processes, descriptors, and files outside its own folder."""
    before = holdings()
    yield

    def given_back() -> bool:
        if not holdings().beyond(before):
            return True
        gc.collect()  # what is closed when it is collected is given back too
        return not holdings().beyond(before)

    wait_until(given_back, lambda: f"it gave back {holdings().beyond(before)}", LEFTOVER_SECONDS)


@pytest.fixture(autouse=True)
def no_settings_of_the_developer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment variables of the package do not reach from the developer's shell into a test."""
    for name in list(os.environ):
        if name.startswith("WSGI_TB_") or name in ("NO_COLOR", "FORCE_COLOR"):
            monkeypatch.delenv(name)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder with a short path, for UNIX sockets: their paths have at most 107 bytes, and tmp_path is long."""
    folder = Path(tempfile.mkdtemp(prefix="tb-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def base(short_path: Path) -> Iterator[str]:
    """A base path of our own for worker sockets, short and in a folder of its own.

    Middleware that served requests in this very process is at its end after the test, and the main thread has its
    name again. So are the black boxes of workers that were killed: nothing else would take them away.
    """
    main = threading.main_thread()
    name = main.name
    yield str(short_path / "tb")
    agent.stop()
    main.name = name
    # A worker that a test kills leaves its black box, for a successor that will never come.
    of_base = blackbox.file_name(str(short_path / "tb"), 1, 0, blackbox.TABLE).split(".")[2]
    for left in Path("/dev/shm").glob(f"wsgi_tracebacker.*.{of_base}.*"):
        left.unlink(missing_ok=True)
    black_boxes.remove(str(short_path / "tb"))


class StartGunicorn(Protocol):
    """How a test starts gunicorn: the application, gunicorn's arguments, and what else it wants to say."""

    def __call__(
        self,
        application: str = "example_app.wsgi:application",
        *arguments: str,
        unix: bool = False,
        env: Mapping[str, str] | None = None,
        cwd: Path = PROJECT,
        python: str = sys.executable,
    ) -> Gunicorn: ...


@pytest.fixture
def gunicorn(base: str, short_path: Path, tmp_path: Path) -> Iterator[StartGunicorn]:
    """Start real gunicorn, ready to be asked, its workers' sockets at ``base``; ended after the test.

    ``gunicorn("example_app.wsgi:application", "--workers", "2")`` listens on a port of its choice,
    ``unix=True`` on a UNIX socket.
    """
    counter = itertools.count(1)
    with contextlib.ExitStack() as servers:

        def start(
            application: str = "example_app.wsgi:application",
            *arguments: str,
            unix: bool = False,
            env: Mapping[str, str] | None = None,
            cwd: Path = PROJECT,
            python: str = sys.executable,
        ) -> Gunicorn:
            number = next(counter)
            server = Gunicorn(
                application,
                *arguments,
                log=tmp_path / f"gunicorn{number}.log",
                unix=short_path / f"http{number}" if unix else None,
                env={"WSGI_TB_SOCKET": base, **(env or {})},
                cwd=cwd,
                python=python,
            )
            return servers.enter_context(server)

        yield start
