"""Real servers that more than one module starts."""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Protocol

import pytest

from tests.support.servers import SimpleServer, Uwsgi

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class StartSimpleServer(Protocol):
    """How a test starts ``wsgiref`` or ``werkzeug``."""

    def __call__(self, kind: str) -> SimpleServer: ...


class StartUwsgi(Protocol):
    """How a test starts uWSGI: with these arguments beside those of every test."""

    def __call__(self, *arguments: str) -> Uwsgi: ...


@pytest.fixture
def simple_server(base: str, tmp_path: Path) -> Iterator[StartSimpleServer]:
    """Start the standard library's server or werkzeug's, its socket at ``base``; ended after the test."""
    counter = itertools.count(1)
    with contextlib.ExitStack() as servers:

        def start(kind: str) -> SimpleServer:
            log = tmp_path / f"{kind}{next(counter)}.log"
            return servers.enter_context(SimpleServer(kind, log, {"WSGI_TB_SOCKET": base}))

        yield start


@pytest.fixture
def uwsgi(base: str, tmp_path: Path) -> Iterator[StartUwsgi]:
    """Start real uWSGI; where it serves a wrapped application, the sockets are at ``base``; ended after the test."""
    counter = itertools.count(1)
    with contextlib.ExitStack() as servers:

        def start(*arguments: str) -> Uwsgi:
            log = tmp_path / f"uwsgi{next(counter)}.log"
            return servers.enter_context(Uwsgi(*arguments, log=log, env={"WSGI_TB_SOCKET": base}))

        yield start
