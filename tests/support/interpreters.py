"""What interpreters other than CPython do not have, so that the tests that need it are left out there with a reason."""

from __future__ import annotations

import sys

import pytest

#: For tests of ``harakiri_action="raise"``, which is refused elsewhere.
needs_raise = pytest.mark.skipif(
    sys.implementation.name != "cpython", reason="only CPython raises an exception into another thread"
)

#: For tests that something ends as soon as nobody has it.
needs_reference_counts = pytest.mark.skipif(
    not hasattr(sys, "getrefcount"), reason="without reference counts nobody sees at once that an object was dropped"
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
