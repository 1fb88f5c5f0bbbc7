"""The public menu: what stands on it, and what it costs to look at it."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import pytest

import wsgi_tracebacker
from tests.support.interpreters import needs_names_of_modules
from tests.support.programs import PROJECT


def test_the_menu_is_complete() -> None:
    """Every name on the list is there, and stands for what its home calls by that name."""
    assert sorted(wsgi_tracebacker.__all__) == sorted(wsgi_tracebacker._HOMES)
    for name, home in wsgi_tracebacker._HOMES.items():
        assert getattr(wsgi_tracebacker, name) is getattr(importlib.import_module(home), name)
    assert set(wsgi_tracebacker.__all__) <= set(dir(wsgi_tracebacker))


def test_a_name_that_is_not_on_the_menu_is_an_attribute_error() -> None:
    """A misspelt name fails as it does in any module."""
    with pytest.raises(AttributeError, match="TracebackMiddleware"):
        _ = wsgi_tracebacker.TracebackMiddleware


def test_public_names_say_what_they_are() -> None:
    """Whatever is on the menu has a docstring."""
    undocumented = [
        name
        for name in wsgi_tracebacker.__all__
        if name != "__version__" and not getattr(wsgi_tracebacker, name).__doc__
    ]
    assert undocumented == []


@needs_names_of_modules
def test_a_worker_loads_only_the_standard_library() -> None:
    """A process that imports the package, wraps and serves has neither click nor werkzeug nor the reader loaded."""
    program = """
import json, sys
from wsgi_tracebacker import TracebackerMiddleware
TracebackerMiddleware(lambda environ, start_response: [])
outside = {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
print(json.dumps([sorted(outside), sorted(name for name in sys.modules if name.startswith("wsgi_tracebacker."))]))
"""
    printed = subprocess.run(
        [sys.executable, "-S", "-c", program], cwd=PROJECT, check=True, capture_output=True, timeout=30
    ).stdout
    outside, ours = json.loads(printed)
    # The last is 3.15's own, for the words of a ModuleNotFoundError; it is not in sys.stdlib_module_names.
    assert set(outside) <= {"__main__", "wsgi_tracebacker", "_missing_stdlib_info"}
    assert "wsgi_tracebacker.middleware" in ours
    assert not [name for name in ours if name.startswith(("wsgi_tracebacker.reader", "wsgi_tracebacker.cli"))]


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="PyPy keeps the file of libffi open once it needs it")
def test_importing_starts_nothing() -> None:
    """To import the package and wrap an application makes no thread and opens no descriptor."""
    program = """
import os, threading
before = set(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
from wsgi_tracebacker import TracebackerMiddleware
TracebackerMiddleware(lambda environ, start_response: [])
after = set(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
print(before == after)
"""
    printed = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, check=True, capture_output=True, timeout=30)
    assert printed.stdout == b"True\n"
