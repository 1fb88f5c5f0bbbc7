"""What interpreters other than CPython do not have, so that the tests that need it are left out there with a reason."""

from __future__ import annotations

import ctypes
import gc
import sys

import pytest

#: For tests of ``harakiri_action="raise"``, which is refused elsewhere.
needs_raise = pytest.mark.skipif(
    sys.implementation.name != "cpython", reason="only CPython raises an exception into another thread"
)

COUNTS_REFERENCES = hasattr(sys, "getrefcount")

#: Collections until everything is gone that nobody has, also what only the finalisers of others let go of.
_COLLECTIONS = 3

#: For tests that something ends as soon as nobody has it.
needs_reference_counts = pytest.mark.skipif(
    not COUNTS_REFERENCES, reason="without reference counts nobody sees at once that an object was dropped"
)

#: For tests that look at which modules are not the standard library's.
needs_names_of_modules = pytest.mark.skipif(
    sys.implementation.name != "cpython", reason="sys.stdlib_module_names does not name PyPy's own modules"
)

#: For tests of a worker in which Python cannot run: the timers that end it, the signal that asks for its stacks.
needs_outside_help = pytest.mark.skipif(
    sys.implementation.name != "cpython",
    reason="PyPy has neither ctypes.PyDLL for the timers nor pidfds for the signal",
)

#: For tests of a C call that sleeps and keeps the GIL.
needs_pydll = pytest.mark.skipif(
    not hasattr(ctypes, "PyDLL"), reason="PyPy lets go of the GIL in every C call that ctypes makes"
)


def only_on_cpython(reason: str) -> pytest.MarkDecorator:
    """For tests of what other interpreters do in their own way."""
    return pytest.mark.skipif(sys.implementation.name != "cpython", reason=reason)


#: For tests of what comes after a thread that was started below Python, by a server in C, and called into it.
needs_ends_of_foreign_threads = pytest.mark.skipif(
    sys.implementation.name != "cpython", reason="PyPy keeps the thread-local values of a thread that it did not start"
)


def drop_what_nobody_has() -> None:
    """Do what reference counts do by themselves, where there are none: for tests of what comes then, not of when."""
    if not COUNTS_REFERENCES:
        for _ in range(_COLLECTIONS):
            gc.collect()
