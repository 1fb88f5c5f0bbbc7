"""Harakiri in real servers: what hangs is named on time, at the right line, whatever runs beside it."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.programs import hanging
from tests.servers import asking
from tests.support import clients, logs
from tests.support.waiting import wait_until
from wsgi_tracebacker.wire.black_box import file_names
from wsgi_tracebacker.worker.blackbox import box_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import StartGunicorn
    from tests.support.servers import Gunicorn

HANGING = "tests.programs.hanging:application"
SYNC = ("--timeout", "60")
GTHREAD = ("--worker-class", "gthread", "--threads", "8", "--timeout", "60")
kinds = pytest.mark.parametrize("kind", [SYNC, GTHREAD], ids=["sync", "gthread"])

#: How much later than due a report may be on a machine that does much else.
LATE_SECONDS = 1.5

LINES = {
    "/sleep": "time.sleep(FOR_EVER_SECONDS)",
    "/spin": None,
    "/lock": "_never_released.acquire(timeout=FOR_EVER_SECONDS)",
    "/socket": "silent.recv(1)",
    "/stream": "time.sleep(0.01)",
}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "harakiri.log"


@pytest.fixture(autouse=True)
def what_the_killed_left(base: str) -> Iterator[None]:
    """A worker that was killed leaves its last reports in shared memory, on purpose."""
    yield
    for number in range(1, 9):
        Path(box_files.path_of(base, number, file_names.STACKS)).unlink(missing_ok=True)


@pytest.fixture
def hang(gunicorn: StartGunicorn, log: Path) -> Callable[..., Gunicorn]:
    """Start gunicorn with the program that hangs, its log in a file."""

    def start(*arguments: str, **options: str) -> Gunicorn:
        env = {f"WSGI_TB_{name.upper()}": value for name, value in options.items()}
        return gunicorn(HANGING, *arguments, env={"HARAKIRI_LOG": str(log), **env})

    return start


def reports(log: Path) -> list[str]:
    """The harakiri reports in the log, whole."""
    return [record for record in logs.records(log) if " harakiri: " in record.partition("\n")[0]]


def wait_for_reports(log: Path, count: int) -> list[str]:
    """So many reports, once they are there to their last line."""

    def there() -> bool:
        found = reports(log)
        return len(found) >= count and all("in flight in this worker" in report for report in found)

    wait_until(there, lambda: f"{count} reports are in the log: {reports(log)}")
    return reports(log)


def about(path: str, log: Path) -> list[str]:
    """The reports on one path."""
    return [report for report in reports(log) if f"harakiri: GET {path} " in report.partition("\n")[0]]


def check_report(report: str, path: str) -> None:
    """It names the request, its age on time, its line, and what was done."""
    head, *rest = report.splitlines()
    match = re.search(
        r"harakiri: GET (\S+) (\S+) s \(limit 0\.4 s\), worker 1 core \d+, pid \d+,.* phase (\w+); ", head
    )
    assert match is not None, report
    assert match[1] == path
    assert 0.4 <= float(match[2]) < 0.4 + LATE_SECONDS
    assert match[3] == ("body" if path == "/stream" else "app")
    assert any(line.startswith("  verdict: ") for line in rest)
    [heading] = [number for number, line in enumerate(rest) if line == "Stack (most recent call last):"]
    stack = "\n".join(rest[heading:])
    if path == "/stream" and "stream_slowly" not in stack:
        # In that very moment a chunk was sent; the timeline tells where the time went.
        assert "stream_slowly" in "\n".join(rest[:heading]), report
        return
    functions = re.findall(rf"^  \S*{os.path.basename(hanging.__file__)}:\d+ (\w+)", stack, re.MULTILINE)
    expected = hanging.HANGING[path].__name__ if path in hanging.HANGING else "stream_slowly"
    assert functions[-1] == expected, report
    line = LINES[path]
    if line is not None:
        assert f"\n    {line}\n" in stack, report


@contextlib.contextmanager
def quick_requests(address: clients.Address, threads: int = 2) -> Iterator[list[int]]:
    """Quick requests beside what the test does; yields the statuses so far."""
    over = threading.Event()
    statuses: list[int] = []

    def ask() -> None:
        while not over.is_set():
            statuses.append(clients.request(address, "/quick").status)

    running = [threading.Thread(target=ask) for _ in range(threads)]
    for thread in running:
        thread.start()
    try:
        yield statuses
    finally:
        over.set()
        for thread in running:
            thread.join()


@pytest.mark.parametrize("path", LINES)
def test_sync_names_what_hangs(path: str, hang: Callable[..., Gunicorn], log: Path) -> None:
    """One request hangs, the other worker serves on: the report comes in time and shows the line."""
    server = hang("--workers", "2", *SYNC, harakiri="0.4")
    server.get("/quick")
    with server.in_flight(path), quick_requests(server.address, 1) as statuses:
        [report] = wait_for_reports(log, 1)
        wait_until(lambda: len(statuses) > 100, "a hundred quick requests were served")
    # Worker 2 may be the one that hangs.
    check_report(report.replace("worker 2 ", "worker 1 "), path)
    assert set(statuses) == {200}


def test_gthread_names_all_that_hangs(hang: Callable[..., Gunicorn], log: Path, base: str) -> None:
    """Five hang at the same time, in every way, beside hundreds of quick requests: five reports, each its own.

    uWSGI 2.0.31 fails here: the quick requests on the other threads clear the deadline of the stuck ones.
    """
    server = hang(*GTHREAD, harakiri="0.4")
    server.get("/quick")
    with contextlib.ExitStack() as connections:
        for path in LINES:
            connections.enter_context(server.in_flight(path))
        statuses = connections.enter_context(quick_requests(server.address))
        found = wait_for_reports(log, len(LINES))
        wait_until(lambda: len(statuses) > 300, "hundreds of quick requests were served")
    assert len(found) == len(LINES)
    for path in LINES:
        [report] = about(path, log)
        check_report(report, path)
    assert set(statuses) == {200}
    # Each names others that were in flight beside it.
    assert all(
        re.search(r"^[1-9] other requests? in flight in this worker:\n  GET /", text, re.MULTILINE) for text in found
    )


@kinds
def test_kill(kind: tuple[str, ...], hang: Callable[..., Gunicorn], log: Path, base: str) -> None:
    """The report is complete in the log, with the innocent named; a new process takes the number and is watched too."""
    server = hang(*kind, harakiri="0.4", harakiri_action="kill")
    server.get("/quick")
    pids = []
    for count in (1, 2):
        pids.append(asking.pids(base)[1])
        with contextlib.ExitStack() as connections:
            hung = connections.enter_context(clients.in_flight(server.address, "/lock"))
            if kind is GTHREAD:
                wait_until(lambda: asking.serving(base, "/lock"), "it hangs")
                connections.enter_context(clients.in_flight(server.address, "/about?50000"))
            with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
                hung.getresponse()
        wait_until(lambda: f"pid {pids[-1]}," in "".join(about("/lock", log)), "its report is there")
        report = about("/lock", log)[-1]
        assert len(about("/lock", log)) == count
        assert f"pid {pids[-1]}," in report
        assert "; killing this worker" in report
        if kind is GTHREAD:
            assert "and with it the 1 other request named below" in report
            assert re.search(r"^1 other request in flight in this worker:\n  GET /about \d", report, re.MULTILINE)
        check_report(report, "/lock")
        # The backlog keeps the client waiting for the next process.
        assert clients.request(server.address, "/quick").status == 200
        wait_until(lambda: asking.pids(base).get(1) not in (None, pids[-1]), "there is a new worker 1")


def test_kill_waits_for_nobody(hang: Callable[..., Gunicorn], log: Path, gunicorn: StartGunicorn, base: str) -> None:
    """A log that cannot be written to, a full pipe with no reader, keeps neither the report nor the kill."""
    fifo = log.with_suffix(".fifo")
    os.mkfifo(fifo)
    descriptor = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    try:
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(descriptor, b"x" * 4096)
        server = gunicorn(
            HANGING, env={"HARAKIRI_LOG": str(fifo), "WSGI_TB_HARAKIRI": "0.4", "WSGI_TB_HARAKIRI_ACTION": "kill"}
        )
        server.get("/quick")
        pid = asking.pids(base)[1]
        began = time.monotonic()
        with (
            clients.in_flight(server.address, "/sleep") as hung,
            pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)),
        ):
            hung.getresponse()
        assert time.monotonic() - began < 10
        left = Path(box_files.path_of(base, 1, file_names.STACKS)).read_text(encoding="utf-8")
        assert "harakiri: GET /sleep" in left
        assert f"pid {pid}," in left
        assert "(logging hangs): harakiri: GET /sleep" in server.log_text()
    finally:
        os.close(descriptor)


@kinds
def test_raise(kind: tuple[str, ...], hang: Callable[..., Gunicorn], log: Path, base: str) -> None:
    """A 504 if nothing was sent, else the body ends; the worker goes on. What sits in C is left to sit."""
    server = hang(*kind, harakiri="0.4", harakiri_action="raise")
    server.get("/quick")
    workers = server.workers()
    for path in ("/pieces", "/spin"):
        response = server.get(path)
        assert (response.status, response.body) == (504, b"The request took too long.\n")
    for path in ("/stream", "/write"):
        with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
            server.get(path)
    assert server.get("/quick").text == "done\n"
    found = wait_for_reports(log, 4)
    assert len(found) == 4
    for path in ("/pieces", "/spin", "/stream", "/write"):
        [report] = about(path, log)
        # What streams may be between two chunks just then.
        between = path == "/stream" and "; HarakiriTimeout waits for the next chunk of its body" in report
        assert between or "; HarakiriTimeout raised in its thread" in report
    assert server.workers() == workers
    assert asking.ask(base, 1, "/worker")["worker"]["requests_in_flight"] == 0
    if kind is GTHREAD:
        with server.in_flight("/lock"):
            report = wait_for_reports(log, 5)[-1]
            assert "(a C call is not interrupted)" in report
            assert server.get("/quick").text == "done\n"
        assert server.workers() == workers


def test_grace(hang: Callable[..., Gunicorn], log: Path, base: str) -> None:
    """What the raise does not move, the grace ends: two reports, then a new process."""
    server = hang(*GTHREAD, harakiri="0.4", harakiri_action="raise", harakiri_grace="0.3")
    server.get("/quick")
    [worker] = server.workers()
    assert server.get("/pieces").status == 504
    with (
        clients.in_flight(server.address, "/lock") as hung,
        pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)),
    ):
        hung.getresponse()
    found = wait_for_reports(log, 3)
    assert "killed in 0.3 s if it is still there" in found[1]
    assert "still there after it was raised into, killing this worker" in found[2]
    assert clients.request(server.address, "/quick").status == 200
    assert worker not in server.workers()


# Tens of thousands where there is time for them.


@kinds
@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["plain", "preload"])
def test_a_new_process_is_watched_again(
    kind: tuple[str, ...], preload: tuple[str, ...], hang: Callable[..., Gunicorn], log: Path, base: str
) -> None:
    """After --max-requests, and after a reload, the watchdog of the next process reports as that of the first did."""
    server = hang(*kind, *preload, "--max-requests", "4", harakiri="0.4")
    pids: list[int] = []
    for count in (1, 2, 3):
        assert clients.request(server.address, "/about?700").status == 200
        report = wait_for_reports(log, count)[-1]
        match = re.search(r"harakiri: GET /about .* worker 1 core \d, pid (\d+),", report)
        assert match is not None, report
        pids.append(int(match[1]))
        if count == 1:
            while server.workers() in ([], pids):
                with contextlib.suppress(ConnectionError, http.client.RemoteDisconnected):
                    clients.request(server.address, "/quick")
        elif count == 2:
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda: server.workers() not in ([], [pids[-1]]), "the worker was reloaded")
            wait_until(lambda: pids[-1] not in server.workers(), "the old worker has ended")
    assert len(set(pids)) == 3
    server.end_signal = signal.SIGTERM
    server.stop()
    assert asking.files(base) == []
    assert not os.path.exists(box_files.path_of(base, 1, file_names.STACKS))


@kinds
def test_gunicorn_survives_what_is_raised(kind: tuple[str, ...], hang: Callable[..., Gunicorn]) -> None:
    """Hundreds that land in the callable, in write(), in a stream and in C: the same processes serve on."""
    server = hang(*kind, harakiri="0.05", harakiri_action="raise", samples_per_second="100")
    server.get("/quick")
    workers = server.workers()
    statuses = strike_hundreds(server.address, 1 if kind is SYNC else 4, 50)
    assert set(statuses) <= {200, 504, "IncompleteRead", "RemoteDisconnected", "ConnectionResetError"}, statuses
    assert statuses[504] > 0
    assert server.workers() == workers
    assert server.get("/quick").text == "done\n"


def strike_hundreds(address: clients.Address, threads: int, each: int) -> dict[object, int]:
    """Ask for what hangs in Python code, again and again; how it ended, counted."""
    statuses: dict[object, int] = {}

    def ask() -> None:
        for number in range(each):
            path = ("/pieces", "/write", "/stream", "/spin", "/c?49.5")[number % 5]
            status: object
            try:
                status = clients.request(address, path).status
            except (http.client.IncompleteRead, ConnectionError) as error:
                status = type(error).__name__
            statuses[status] = statuses.get(status, 0) + 1

    running = [threading.Thread(target=ask) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return statuses
