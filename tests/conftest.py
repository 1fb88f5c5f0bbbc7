"""Fixtures that all tests share, and the proof that no test leaves anything behind."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import shutil
import sys
import tempfile
import threading
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import hypothesis
import pytest

from tests.support import black_boxes
from tests.support.browser import chromium
from tests.support.leftovers import holdings
from tests.support.programs import PROJECT, default_signals
from tests.support.servers import Gunicorn
from tests.support.waiting import wait_until
from wsgi_tracebacker.worker import agent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from selenium.webdriver.chrome.webdriver import WebDriver

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


default_signals()


def pytest_collection_finish() -> None:
    """Collections pass over the tests and what they import: to look at them took a quarter of the unit tests' time."""
    gc.collect()
    if hasattr(gc, "freeze"):  # PyPy has none
        gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def default_base() -> Iterator[str]:
    """The base of every worker that a test gives none: this process's own, so that runs and workers of a run differ.

    The other settings of the package do not reach from the developer's shell into a test.
    """
    for name in list(os.environ):
        if name.startswith("WSGI_TB_") or name in ("NO_COLOR", "FORCE_COLOR"):
            del os.environ[name]
    with tempfile.TemporaryDirectory(prefix="tb-", dir="/tmp") as folder:
        os.environ["WSGI_TB_SOCKET"] = f"{folder}/default"
        yield os.environ["WSGI_TB_SOCKET"]
        del os.environ["WSGI_TB_SOCKET"]


@pytest.fixture(autouse=True)
def leaves_nothing_behind(default_base: str) -> Iterator[None]:
    """Every test gives back its threads, child processes, descriptors, and files outside its own folder."""
    before = holdings(default_base)
    yield

    def given_back() -> bool:
        if not holdings(default_base).beyond(before):
            return True
        gc.collect()  # what is closed when it is collected is given back too
        return not holdings(default_base).beyond(before)

    wait_until(given_back, lambda: f"it gave back {holdings(default_base).beyond(before)}", LEFTOVER_SECONDS)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder with a short path, for UNIX sockets: their paths have at most 107 bytes, and tmp_path is long.

    Workers whose cards are left there were killed, and the test has to take away their black boxes.
    """
    folder = Path(tempfile.mkdtemp(prefix="tb-", dir="/tmp"))
    yield folder
    left = black_boxes.named_in(folder)
    shutil.rmtree(folder)
    for path in left:
        path.unlink(missing_ok=True)
    assert left == []


@pytest.fixture
def base(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A base path of our own for worker sockets, short and in a folder of its own.

    Middleware that served requests in this very process is at its end after the test, and the main thread has its
    name again. So are the black boxes of workers that were killed: nothing else would take them away. What a test has
    patched stays so until then: its ``os.kill`` is not given back to a watchdog that still runs.
    """
    main = threading.main_thread()
    name = main.name
    yield str(short_path / "tb")
    agent.stop()
    main.name = name
    # A worker that a test kills leaves its black box, for a successor that will never come.
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


@pytest.fixture(scope="module")
def driver() -> Iterator[WebDriver]:
    """One browser for the tests of a module."""
    with (
        tempfile.TemporaryDirectory(prefix="tb-chromium-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        chromium(Path(folder)) as found,
    ):
        yield found
