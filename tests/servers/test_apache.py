"""Apache with mod_wsgi: what only a process with several interpreters can show."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.servers import asking
from tests.servers.matrix import starting
from tests.support import clients
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

TWO_APPLICATIONS = "WSGIScriptAlias /second {folder}/story.wsgi\n"


@pytest.fixture
def where() -> Iterator[starting.Place]:
    with starting.place() as place:
        yield place


@contextlib.contextmanager
def two_requests(apache: starting.Apache, gate: Path) -> Iterator[None]:
    with (
        clients.in_flight(apache.address, f"/slow?{gate}") as first,
        clients.in_flight(apache.address, f"/second/slow?{gate}") as second,
    ):
        try:
            yield
        finally:
            gate.touch()
            for connection in (first, second):
                assert connection.getresponse().read() == b"quick\n"


@pytest.mark.parametrize("wsgi", [starting.DAEMON, starting.EMBEDDED], ids=["daemon", "embedded"])
def test_two_applications_in_one_process_are_two_workers(wsgi: str, where: starting.Place) -> None:
    """Each has an interpreter and a copy of the middleware of its own, a number, a socket and its own requests; the
    second one warns, with the advice that makes them one. An end in order leaves nothing of either.
    """
    gate = where.folder / "gate"
    # The second alias comes first: the other one is of everything.
    with starting.Apache(where, starting.EVENT, TWO_APPLICATIONS + wsgi) as apache:
        clients.request(apache.address, "/quick")
        assert "in the same process" not in apache.log_text()
        clients.request(apache.address, "/second/quick")
        assert asking.files(where.base) == asking.expected_files(1, 2)
        pids = asking.pids(where.base)
        assert pids[1] == pids[2]
        apache.wait_for_log("worker 2 is in the same process as worker 1")
        said = apache.log_text()
        assert said.count("worker 2 is in the same process as worker 1") == 1
        assert "WSGIApplicationGroup %{GLOBAL}" in said
        # One warning is enough.
        assert "is in use" not in said
        with two_requests(apache, gate):
            wait_until(lambda: len(asking.serving(where.base)) == 2, lambda: str(asking.serving(where.base)))
            served = {
                document["worker"]["number"]: [
                    (thread["name"], thread["request"]["path"])
                    for thread in document["threads"]
                    if thread["request"] is not None
                ]
                for document in asking.snapshots(where.base)
            }
            # Threads are the process's: each sees the other's, without a request.
            for document in asking.snapshots(where.base):
                waiting = [
                    thread["request"] is None
                    for thread in document["threads"]
                    if any(frame["function"] == "wait_at_the_gate" for frame in thread["frames"])
                ]
                assert sorted(waiting) == [False, True]
        signals = [json.loads(Path(f"{where.base}{n}.worker").read_text())["dump_signal"] for n in (1, 2)]
        assert signals[0] is not None
        assert signals[1] is None
        assert {number: len(requests) for number, requests in served.items()} == {1: 1, 2: 1}
        for number, [(name, path)] in served.items():
            assert name.startswith(f"WSGIWorker{number}Core")
            assert path == "/slow" if number == 1 else "/second/slow"
        if wsgi == starting.EMBEDDED:
            # Apache would kill the process, ten seconds later.
            apache.end_signal = signal.SIGKILL
            os.killpg(apache.pid, signal.SIGKILL)
            return
        apache.stop()
    assert asking.files(where.base) == []


def test_two_applications_in_the_first_interpreter_are_one_worker(where: starting.Place) -> None:
    """With WSGIApplicationGroup %{GLOBAL} there is one worker, which knows the requests of both, and no warning."""
    gate = where.folder / "gate"
    with starting.Apache(where, starting.EVENT, TWO_APPLICATIONS + starting.DAEMON + starting.GLOBAL) as apache:
        with two_requests(apache, gate):
            wait_until(lambda: len(asking.serving(where.base)) == 2, lambda: str(asking.serving(where.base)))
            assert asking.files(where.base) == asking.expected_files(1)
        assert "in the same process" not in apache.log_text()
        apache.stop()
    assert asking.files(where.base) == []


#: What the how-to gives Apache, with modules beside it.
AUTO_SCRIPT = """
import os
import sys

os.environ["WSGI_TB_APP"] = "{module}:application"
sys.path.insert(0, os.path.dirname(__file__))

from wsgi_tracebacker.servers.auto import application
"""

SHOP = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [__name__.encode()]
"""


def test_two_scripts_in_one_interpreter_each_name_their_application(where: starting.Place) -> None:
    """The module that wraps them is imported once there, and still each script is given its own."""
    for module in ("hats", "coats"):
        (where.folder / f"{module}.py").write_text(SHOP)
        (where.folder / f"{module}.wsgi").write_text(AUTO_SCRIPT.format(module=module))
    scripts = "WSGIScriptAlias /hats {folder}/hats.wsgi\nWSGIScriptAlias /coats {folder}/coats.wsgi\n"
    with starting.Apache(where, starting.EVENT, scripts + starting.DAEMON + starting.GLOBAL) as apache:
        for _ in range(2):
            assert clients.request(apache.address, "/hats").text == "hats"
            assert clients.request(apache.address, "/coats").text == "coats"
        assert asking.ask(where.base, 1, "/worker")["worker"]["requests_finished"] == 4
        apache.stop()
