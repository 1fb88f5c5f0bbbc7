"""Whose code a source file is."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import wsgi_tracebacker
from tests.unit.wsgi import environ, serve
from wsgi_tracebacker import TracebackerMiddleware
from wsgi_tracebacker.worker.deadlines.code_ownership import is_installed, is_own, is_this_package

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from _typeshed.wsgi import StartResponse, WSGIEnvironment


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
    assert is_own(filename) is expected


def test_what_is_installed() -> None:
    """What pip or Debian installed, and neither the standard library nor this package."""
    assert is_installed("/home/u/.venv/lib/python3.12/site-packages/django/db.py")
    assert is_installed("/usr/lib/python3/dist-packages/flask/app.py")
    for filename in ("/srv/shop/views.py", threading.__file__, wsgi_tracebacker.__file__):
        assert not is_installed(filename)


def files_of_the_stack() -> list[tuple[str, str]]:
    """Of each frame, innermost first: the name of its module, and the file that its code object names."""
    found = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        found.append((frame.f_globals.get("__name__", ""), frame.f_code.co_filename))
        frame = frame.f_back
    return found


@pytest.mark.parametrize("options", [{}, {"harakiri": 60.0, "harakiri_action": "raise"}], ids=["plain", "raise"])
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
        assert is_own(files[0][1])
    called, _, called_within, _ = (
        [filename for module, filename in files if module.partition(".")[0] == "wsgi_tracebacker"]
        for files in stacks_seen
    )
    assert 1 <= len(called) < len(called_within)
    for filename in {filename for files in stacks_seen for module, filename in files if "wsgi_tracebacker." in module}:
        assert not is_own(filename)
        assert not is_installed(filename)


def test_no_module_of_the_package_is_the_applications_own() -> None:
    """Wherever the package lies, and whichever folder of it a module is in."""
    folder = Path(wsgi_tracebacker.__file__).parent
    files = [str(path) for path in folder.rglob("*.py")]
    assert len(files) > 50
    assert [name for name in files if is_own(name) or not is_this_package(name)] == []
