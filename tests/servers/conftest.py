"""Real servers that more than one module starts."""

from __future__ import annotations

import contextlib
import itertools
import re
import signal
import sys
from typing import TYPE_CHECKING, Protocol

import pytest

from tests.servers.faulty import APPLICATION, TICK_SECONDS
from tests.support import black_boxes
from tests.support.programs import PROJECT, require_program
from tests.support.servers import Gunicorn, Server

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from tests.servers.faulty import StartFaulty
    from tests.support.clients import Address


class SimpleServer(Server):
    """wsgiref's server or werkzeug's, with the wrapped example."""

    address: Address

    def __init__(self, kind: str, log: Path, env: Mapping[str, str]) -> None:
        super().__init__([sys.executable, "-m", "tests.programs.simple_server", kind], log, env=env)
        try:
            self.address = ("127.0.0.1", int(self.wait_for_log(r"^listens on (\d+)$")[1]))
        except BaseException:
            self.stop()
            raise


class Uwsgi(Server):
    """uWSGI with a master; when it is made, its workers have been started and its own tracebackers listen."""

    address: Address

    def __init__(self, *arguments: str, log: Path, env: Mapping[str, str]) -> None:
        processes = arguments[arguments.index("--processes") + 1] if "--processes" in arguments else "1"
        super().__init__(
            [
                *(require_program("uwsgi"), "--http-socket", "127.0.0.1:0", "--master", "--enable-threads"),
                *("--virtualenv", sys.prefix, "--pythonpath", str(PROJECT)),
                *arguments,
            ],
            log,
            env=env,
            # SIGTERM would reload it.
            end_signal=signal.SIGINT,
        )
        try:
            self.address = ("127.0.0.1", int(self.wait_for_log(r"bound to TCP address 127\.0\.0\.1:(\d+)")[1]))
            self.wait_for_log("(?s)" + r"spawned uWSGI worker .*" * int(processes))
            if "--py-tracebacker" in arguments:
                self.wait_for_log("(?s)" + r"python tracebacker for worker \d+ available.*" * int(processes))
            if "--lazy-apps" in arguments:
                self.wait_for_log("(?s)" + r"WSGI app 0 .* ready in .*" * int(processes))
        except BaseException:
            self.stop()
            raise

    def worker_pids(self) -> dict[int, int]:
        """As uWSGI itself numbers its workers: the pid that was started last for each number."""
        lines = re.findall(r"spawned uWSGI worker (\d+) \(pid: (\d+)", self.log_text())
        lines += re.findall(r"Respawned uWSGI worker (\d+) \(new pid: (\d+)", self.log_text())
        return {int(number): int(pid) for number, pid in lines}


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
