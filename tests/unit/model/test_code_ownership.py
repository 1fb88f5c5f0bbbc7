"""Whose code a source file is."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import wsgi_tracebacker
from tests.support.interpreters import needs_raise
from tests.unit.wsgi import environ, serve
from wsgi_tracebacker import TracebackerMiddleware
from wsgi_tracebacker.model.code_ownership import PYTHON, THIS_PACKAGE, CodeOwnership, is_this_package

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from _typeshed.wsgi import StartResponse, WSGIEnvironment


OWNERSHIP = CodeOwnership()


@pytest.mark.parametrize(
    ("filename", "expected"),
    [
        ("/srv/shop/views.py", True),
        ("relative.py", True),
        (os.__file__, False),
        (threading.__file__, False),
        ("<frozen importlib>", False),
        ("/home/u/.venv/lib/python3.12/site-packages/django/db.py", False),
        (wsgi_tracebacker.__file__, False),
    ],
)
def test_what_is_the_applications_own(filename: str, expected: bool) -> None:
    """Not the standard library, not what pip installed, not this package."""
    assert OWNERSHIP.is_own(filename) is expected


@pytest.mark.parametrize(
    ("filename", "expected"),
    [
        # An editable install lies where its source is.
        ("/home/u/src/shop/src/shop/views.py", None),
        # An application in a folder of this package's name, or of Python's.
        ("/home/u/wsgi_tracebacker/example_app/pages.py", None),
        ("/home/u/lib/python/shop/views.py", None),
        # A virtual environment within the application's folder.
        ("/srv/shop/.venv/lib/python3.12/site-packages/flask/app.py", "flask"),
        ("/srv/shop/.venv/bin/gunicorn", "gunicorn"),
        # A single module, and a namespace package, whose parts lie in several folders.
        ("/v/lib/python3.12/site-packages/six.py", "six"),
        ("/v/lib64/python3.12/site-packages/google/cloud/storage/blob.py", "google"),
        # Inside a container, seen through /proc from outside.
        ("/proc/71/root/usr/local/lib/python3.13/site-packages/django/db.py", "django"),
        ("/proc/71/root/usr/local/lib/python3.13/socket.py", PYTHON),
        ("/proc/71/root/app/shop/views.py", None),
        # Zipapps: pex and shiv unpack their libraries, zipapp itself does not.
        ("/home/shop/.pex/installed_wheels/5f/flask-3.0-py3-none-any.whl/flask/app.py", "flask"),
        ("/home/shop/.shiv/shop_1f/site-packages/flask/app.py", "flask"),
        ("/srv/shop.pyz/shop/views.py", None),
        # Other layouts of Python.
        ("/srv/shop/__pypackages__/3.11/lib/flask/app.py", "flask"),
        ("/v/Flask-2.0-py3.8.egg/flask/app.py", "flask"),
        ("/home/shop/.local/share/uv/python/cpython-3.14.0-linux/lib/python3.14t/ssl.py", PYTHON),
        ("/usr/lib/pypy3.11/threading.py", PYTHON),
        ("/opt/app/python312.zip/socket.py", PYTHON),
        ("<string>", PYTHON),
        ("/x/site-packages/wsgi_tracebacker/worker/deadlines/interruptible.py", THIS_PACKAGE),
    ],
)
def test_the_library_of_a_file(filename: str, expected: str | None) -> None:
    """Whatever the layout of the installation, and whoever looks at it from where."""
    assert OWNERSHIP.library(filename) == expected
    assert OWNERSHIP.library(filename) == expected, "the second time from its cache"


def test_an_installed_application_is_known_by_its_name() -> None:
    """What pip installed is the application's own if the worker names it so; a framework's object names nobody's."""
    filename = "/v/lib/python3.12/site-packages/shop/views.py"
    assert CodeOwnership("shop.wsgi:app").is_own(filename)
    assert not CodeOwnership("shop.wsgi:app").is_own("/v/lib/python3.12/site-packages/flask/app.py")
    assert not CodeOwnership("flask.app:Flask").is_own("/v/lib/python3.12/site-packages/flask/app.py")
    assert CodeOwnership("flask.app:Flask").is_installed(filename)


def test_in_a_zipapp_the_application_is_the_package_that_the_worker_names() -> None:
    """Its libraries lie beside it, so that their paths do not show what they are."""
    ownership = CodeOwnership("shop.wsgi:app")
    assert ownership.is_own("/srv/shop.pyz/shop/views.py")
    assert ownership.is_own("/srv/shop.pyz/__main__.py")
    assert ownership.library("/srv/shop.pyz/flask/app.py") == "flask"


def test_a_standard_library_at_an_unusual_place() -> None:
    """It counts as Python if its folder is known."""
    assert CodeOwnership(None, "/src/cpython/Lib").library("/src/cpython/Lib/socket.py") == PYTHON
    assert CodeOwnership().library("/src/cpython/Lib/socket.py") is None


def test_hostile_names_fill_no_memory() -> None:
    """However many files a snapshot names, only some thousand are remembered."""
    ownership = CodeOwnership()
    for number in range(10_000):
        assert ownership.is_own(f"/srv/{number}.py")
    assert len(ownership._libraries) < 5_000


def test_what_is_installed() -> None:
    """What pip or Debian installed, and neither the standard library nor this package."""
    assert OWNERSHIP.is_installed("/home/u/.venv/lib/python3.12/site-packages/django/db.py")
    assert OWNERSHIP.is_installed("/usr/lib/python3/dist-packages/flask/app.py")
    for filename in ("/srv/shop/views.py", threading.__file__, wsgi_tracebacker.__file__):
        assert not OWNERSHIP.is_installed(filename)


def files_of_the_stack() -> list[tuple[str, str]]:
    """Of each frame, innermost first: the name of its module, and the file that its code object names."""
    found = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        found.append((frame.f_globals.get("__name__", ""), frame.f_code.co_filename))
        frame = frame.f_back
    return found


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="plain"),
        pytest.param({"harakiri": 60.0, "harakiri_action": "raise"}, id="raise", marks=needs_raise),
    ],
)
def test_no_frame_of_the_middleware_is_the_applications_own(base: str, options: dict[str, Any]) -> None:
    """Real requests, which stand within the real package: in a call, in one within that, and in their bodies."""
    stacks_seen: list[list[tuple[str, str]]] = []

    def body() -> Iterator[bytes]:
        stacks_seen.append(files_of_the_stack())
        yield b"content"

    def application(_: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        stacks_seen.append(files_of_the_stack())
        start_response("200 OK", [])
        return body()

    inner = TracebackerMiddleware(application, base, **options)
    outer = TracebackerMiddleware(lambda _, start: inner(environ("/within"), start), base, **options)
    for wrapped in (inner, outer):
        assert serve(wrapped).chunks == [b"content"]
    assert len(stacks_seen) == 4
    for files in stacks_seen:
        assert OWNERSHIP.is_own(files[0][1])
    called, _, called_within, _ = (
        [filename for module, filename in files if module.partition(".")[0] == "wsgi_tracebacker"]
        for files in stacks_seen
    )
    assert 1 <= len(called) < len(called_within)
    for filename in {filename for files in stacks_seen for module, filename in files if "wsgi_tracebacker." in module}:
        assert not OWNERSHIP.is_own(filename)
        assert not OWNERSHIP.is_installed(filename)


def test_no_module_of_the_package_is_the_applications_own() -> None:
    """Wherever the package lies, and whichever folder of it a module is in."""
    folder = Path(wsgi_tracebacker.__file__).parent
    files = [str(path) for path in folder.rglob("*.py")]
    assert len(files) > 50
    assert [name for name in files if OWNERSHIP.is_own(name) or not is_this_package(name)] == []
