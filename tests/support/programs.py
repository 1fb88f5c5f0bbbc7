"""Programs that tests run but that may be missing on a developer's machine."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import NoReturn

import pytest

#: What a shell ignores for a command that it starts in the background, and nohup; children inherit that.
INTERRUPTIONS = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)

PROJECT = Path(__file__).resolve().parent.parent.parent


def find_program(name: str, also_in: str = "") -> str | None:
    """The path of a program: of this virtual environment if it is there, else from PATH, else from one more folder.

    uWSGI only from this environment: Debian's is without Python.
    """
    places = (str(Path(sys.executable).parent), *(() if name == "uwsgi" else (None, also_in)))
    return next((path for place in places if place != "" and (path := shutil.which(name, path=place))), None)


def require_program(name: str, also_in: str = "") -> str:
    """The path of a program; where it is missing the test is skipped, and fails under ``CI=true``.

    So that a machine without a compiler can run the tests, and a test is never skipped unseen where it counts.
    """
    path = find_program(name, also_in)
    if path is None:
        missing(name)
    return path


def require_module(name: str) -> None:
    """The same for a module of this virtual environment."""
    if importlib.util.find_spec(name) is None:
        missing(name)


def require_file(path: Path) -> Path:
    """The same for a file."""
    if not path.exists():
        missing(str(path))
    return path


def missing(what: str) -> NoReturn:
    """Skip the test because something is not installed, or fail it where everything has to be."""
    cannot_be_tried(f"{what} is not installed")


def cannot_be_tried(reason: str) -> NoReturn:
    """Skip the test for what this machine or user is refused, or fail it where all of it has to be possible."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}; under CI=true no test is left out for that", pytrace=False)
    pytest.skip(reason)


def default_signals() -> None:
    """Let signals that end a program end those that this one starts, also where it was started in the background."""
    for number in INTERRUPTIONS:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
