"""The CPythons of this machine, for tests of what is read from the memory of each."""

from __future__ import annotations

import functools
import os
import sys

import pytest

from tests.matrix import WANTED, find_python

VERSIONS = [name for name in WANTED if not name.startswith("pypy")]

#: Offsets are known for this machine only.
needs_known_memory = pytest.mark.skipif(os.uname().machine != "x86_64", reason="memory is read on x86-64 only so far")

#: Elsewhere, a thread in the worker records: that has tests of its own.
needs_recordings_from_outside = pytest.mark.skipif(
    os.uname().machine != "x86_64" or sys.implementation.name != "cpython" or sys.version_info < (3, 11),
    reason="only running threads of CPython 3.11 and up on x86-64 are read from outside",
)


@functools.cache
def require_python(name: str) -> str:
    """The path of an interpreter; where this machine has none of that version the test is skipped."""
    found = find_python(name)
    if found is None:
        pytest.skip(f"no CPython {name} here: make test-matrix fetches it")
    return found.executable
