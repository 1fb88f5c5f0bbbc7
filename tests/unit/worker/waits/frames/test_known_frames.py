"""The table of known functions: which code it is about, and that its libraries have what it names."""

from __future__ import annotations

import importlib.util
import queue
import sys
import threading
from types import CodeType, FunctionType
from typing import Any

import pytest

from tests.support.programs import require_module
from wsgi_tracebacker.model.waits import KINDS, WaitsFor
from wsgi_tracebacker.worker.options.frame_entries import parse
from wsgi_tracebacker.worker.waits.frames.known_frames import KNOWN, Known, KnownFrames, entry, own_entry


def code_of(filename: str, source: str) -> CodeType:
    names: dict[str, Any] = {}
    exec(compile(source, filename, "exec"), names)
    [function] = [value for value in names.values() if isinstance(value, FunctionType)]
    return function.__code__


def test_functions_are_known_by_file_and_name() -> None:
    """A library's in any folder, the standard library's only in its own, a method by its class."""
    frames = KnownFrames()
    source = "def get(self, block, timeout): pass"
    assert frames.of(queue.Queue.get.__code__) is not None
    assert frames.of(code_of("/srv/shop/queue.py", source)) is None
    assert frames.of(threading.Event.wait.__code__) != frames.of(threading.Condition.wait.__code__)
    django = code_of("/x/site-packages/django/db/backends/utils.py", "def _execute(self, sql, params): pass")
    found = frames.of(django)
    assert found is not None
    assert found.kind == "database"
    assert frames.of(django) is found
    assert frames.of(code_of("/x/mydjango/db/backends/utils.py", "def _execute(self, sql, params): pass")) is None


def test_an_application_adds_entries_of_its_own() -> None:
    """They come before ours."""
    own = own_entry(parse("shop/bank.py:charge http method=method url=url"))
    assert own == entry("shop/bank.py", "charge", "http", method="method", url="url")._replace(library="")
    frames = KnownFrames([own])
    assert frames.of(code_of("/srv/shop/bank.py", "def charge(method, url): pass")) is own


LIBRARIES = sorted({known.library for known in KNOWN})
#: It has to be compiled against MySQL's own library.
NOT_INSTALLED = "MySQLdb"


@pytest.mark.parametrize("library", [library for library in LIBRARIES if library != NOT_INSTALLED])
def test_an_entry_names_what_its_library_has(library: str) -> None:
    """The function is in that file, and the variable is one of it. Only whole files may be of another version."""
    if library not in sys.stdlib_module_names and not library.startswith("<"):
        require_module(library)
    there = [known for known in KNOWN if known.library == library and _is_there(_module(known))]
    assert there
    for known in there:
        assert known.kind in KINDS
        assert {attribute for attribute, _ in (*known.variables, *known.constants)} <= set(WaitsFor._fields)
        try:
            loaded = importlib.import_module(_module(known))
        except ImportError:
            pytest.skip(f"{library} cannot be loaded: a C library of its own is not installed")
        codes = list(_functions(loaded, known))
        assert codes, known
        for _, expression in known.variables:
            assert any(expression.name in code.co_varnames for code in codes), expression


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _module(known: Known) -> str:
    if known.file.startswith("<"):
        return "importlib._bootstrap"
    return known.file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _plain(member: Any) -> FunctionType | None:
    """The function itself, without what it is wrapped in. Nothing but functions is touched: settings are lazy."""
    function = member.__func__ if type(member) in (classmethod, staticmethod) else member
    while type(function) is FunctionType and "__wrapped__" in vars(function):
        function = vars(function)["__wrapped__"]
    return function if type(function) is FunctionType else None


def _functions(module: Any, known: Known) -> Any:
    owner, _, name = known.function.rpartition(".")
    for value in vars(module).values():
        # By type: an isinstance() would load the settings that Django has none of.
        if issubclass(type(value), type) and (not owner or value.__name__ == owner):
            members = list(vars(value).values())
        else:
            members = [] if owner else [value]
        for member in map(_plain, members):
            code = member.__code__ if member is not None else None
            if code is not None and code.co_name == name and KnownFrames([known]).of(code) is known:
                yield code
