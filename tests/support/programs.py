"""Programs that tests run but that may be missing on a developer's machine."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent.parent


def find_program(name: str) -> str | None:
    """The path of a program: of this virtual environment if it is there, else from PATH.

    uWSGI only from this environment: Debian's is without Python.
    """
    of_environment = shutil.which(name, path=str(Path(sys.executable).parent))
    return of_environment if of_environment or name == "uwsgi" else shutil.which(name)


def require_program(name: str) -> str:
    """The path of a program; where it is missing the test is skipped, and fails under ``CI=true``.

    So that a machine without a compiler can run the tests, and a test is never skipped unseen where it counts.
    """
    path = find_program(name)
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{name} is not installed; under CI=true it has to be", pytrace=False)
        pytest.skip(f"{name} is not installed")
    return path
