"""Real servers that more than one module starts."""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Protocol

import pytest

from tests.servers.faulty import APPLICATION, TICK_SECONDS
from tests.support import black_boxes
from tests.support.servers import Gunicorn, SimpleServer, Uwsgi

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.servers.faulty import StartFaulty


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


@pytest.fixture
def faulty(tmp_path: Path, base: str) -> Iterator[StartFaulty]:
    """Start gunicorn with pages that answer the same whatever happens; ended after the test."""
    with contextlib.ExitStack() as servers:
        counter = itertools.count(1)

        def started(
            base: str, *arguments: str, before: Sequence[str] = (), application: str = APPLICATION, **env: str
        ) -> Gunicorn:
            # Of a worker that is killed its black box is left; this is done after the server has ended.
            servers.callback(black_boxes.remove, base)
            return servers.enter_context(
                Gunicorn(
                    application,
                    *("--worker-class", "gthread", "--threads", "4", *arguments),
                    log=tmp_path / f"faulty{next(counter)}.log",
                    env={"WSGI_TB_SOCKET": base, "FAULTY_TICK": str(TICK_SECONDS), **env},
                    before=before,
                )
            )

        yield started
