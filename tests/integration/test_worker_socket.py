"""The worker's own socket, end to end in one process: every route, and what goes wrong with uWSGI's."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import wsgi_tracebacker
from tests.support import clients
from tests.support.interpreters import COUNTS_REFERENCES, drop_what_nobody_has
from tests.support.leftovers import holdings
from tests.support.waiting import wait_until
from tests.unit.wsgi import environ, serve, snapshot
from wsgi_tracebacker import TracebackerMiddleware
from wsgi_tracebacker.wire import uwsgi_text as uwsgi
from wsgi_tracebacker.wire.documents import snapshot_json as json_format
from wsgi_tracebacker.worker.reporting import faults
from wsgi_tracebacker.worker.stacks import walk

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest


def simple(request: Any, start_response: Any) -> Any:
    return [b"x"]


@contextlib.contextmanager
def held(base: str, application: Any, count: int = 1) -> Iterator[TracebackerMiddleware]:
    """So many requests in flight, each in a thread that waits in ``application``; ended at the end."""
    go_on = threading.Event()
    everybody = threading.Semaphore(0)

    def wait() -> None:
        everybody.release()
        go_on.wait(60)

    wrapped = TracebackerMiddleware(lambda request, _: application(wait) or [], base)
    threads = [
        threading.Thread(target=serve, args=(wrapped, environ(f"/held/{number}", QUERY_STRING="secret=hush")))
        for number in range(count)
    ]
    for thread in threads:
        thread.start()
    try:
        for _ in threads:
            assert everybody.acquire(timeout=30)
        yield wrapped
    finally:
        go_on.set()
        for thread in threads:
            thread.join(30)


def waits(wait: Any) -> None:
    wait()


def text(base: str) -> bytes:
    return clients.read_to_end(base + "1")


def test_every_route_answers(base: str) -> None:
    """Both texts, the JSON document and who the worker is: each under its path, each in its type."""
    # Those of the tests before, which are counted in this process too.
    faults.forget()
    with held(base, waits):
        answers = {
            path: clients.request(base + "1", path) for path in ("/", "/snapshot.txt", "/snapshot", "/worker", "/x")
        }
    assert {path: answer.status for path, answer in answers.items()} == {
        "/": 200,
        "/snapshot.txt": 200,
        "/snapshot": 200,
        "/worker": 200,
        "/x": 404,
    }
    assert answers["/"].headers["content-type"] == answers["/snapshot.txt"].headers["content-type"]
    assert answers["/"].body.startswith(uwsgi.HEADER)
    assert len(uwsgi.parse(answers["/"].body)) == len(json_format.decode(answers["/snapshot"].body).stacks)
    worker, counters = json_format.decode_worker(answers["/worker"].body)
    assert (worker.number, worker.pid, worker.requests_in_flight, counters.snapshots, counters.faults) == (
        1,
        os.getpid(),
        1,
        3,
        0,
    )


def test_all_ways_to_ask_show_the_same_frames(base: str) -> None:
    """Silence, GET / and GET /snapshot name the same threads and functions, the own listener never among them."""
    with held(base, waits, 3):
        silent, asked = text(base), clients.request(base + "1", "/").body
        document = snapshot(base)
    by_text = {stack.name: [frame.function for frame in stack.frames] for stack in uwsgi.parse(silent)}
    again = {stack.name: [frame.function for frame in stack.frames] for stack in uwsgi.parse(asked)}
    by_json = {
        thread["name"]: [frame["function"].rpartition(".")[2] for frame in thread["frames"]]
        for thread in document["threads"]
    }
    serving = [name for name in by_json if name.startswith("WSGIWorker1Core")]
    assert len(serving) == 3
    assert all(by_text[name] == again[name] == by_json[name] and "waits" in by_text[name] for name in serving)
    package = str(Path(wsgi_tracebacker.__file__).parent)
    assert not any(stack.frames[0].filename.startswith(package) for stack in uwsgi.parse(silent))


def odd_module(folder: Path) -> Any:
    """A module whose file, functions and source are not ASCII."""
    path = folder / "m\u00f6dul_\u4f60\u597d.py"
    path.write_text(
        "def f\u00fcnf(wait):\n    w\u00e4rme = '\u4f60\u597d \u202e'; wait()  # \U0001f525\n", encoding="utf-8"
    )
    names: dict[str, Any] = {}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), names)
    return names["f\u00fcnf"]


def test_names_that_are_not_ascii_cut_nothing(base: str, tmp_path: Path) -> None:
    """uWSGI's dump ends at the first such character, for good: here files, functions, threads and source are whole."""
    main = threading.main_thread()
    main.name = "f\u00e4den \U0001f9f5\ud800\nthread_id = forged"
    with held(base, odd_module(tmp_path)):
        main.name = "f\u00e4den \U0001f9f5\ud800\nthread_id = forged"
        dumps = [text(base) for _ in range(3)]
        document = snapshot(base)
    for dump in dumps:
        stacks = {stack.name: stack for stack in uwsgi.parse(dump)}
        (innermost,) = [frame for frame in stacks["WSGIWorker1Core0"].frames if frame.function == "f\u00fcnf"]
        assert innermost.filename.endswith("m\u00f6dul_\u4f60\u597d.py")
        assert innermost.source == "w\u00e4rme = '\u4f60\u597d \\u202e'; wait()  # \U0001f525"
        assert not [name for name in stacks if name.startswith("forged")]
        assert "f\u00e4den \U0001f9f5".encode() in dump
    (thread,) = [thread for thread in document["threads"] if thread["request"]]
    (frame,) = [frame for frame in thread["frames"] if frame["function"] == "f\u00fcnf"]
    assert frame["source"].strip() == "w\u00e4rme = '\u4f60\u597d \u202e'; wait()  # \U0001f525"


def recursive(depth: int, wait: Any) -> None:
    if depth:
        recursive(depth - 1, wait)
    else:
        wait()


def test_a_megabyte_that_is_never_read_stops_nobody(base: str) -> None:
    """uWSGI's worker freezes in write(): here requests go on and other readers get their whole dump."""
    with held(base, lambda wait: recursive(450, wait), 12), clients.connect(base + "1") as idle_reader:
        idle_reader.sendall(b"GET /snapshot HTTP/1.0\r\n\r\n")
        wrapped = TracebackerMiddleware(simple, base)
        size = len(clients.request(base + "1", "/snapshot").body)
        for _ in range(200):
            assert serve(wrapped).chunks == [b"x"]
        assert len(uwsgi.parse(text(base))) >= 12
        assert size > 1_000_000
        assert idle_reader.recv(17) == b"HTTP/1.0 200 OK\r\n"


def test_a_failure_is_no_empty_reply(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """uWSGI answers a failure with nothing and success: here a silent client reads one line that says so."""
    serve(TracebackerMiddleware(simple, base))

    def fail(*_: Any) -> Any:
        raise ValueError("ours")

    with monkeypatch.context() as patched:
        patched.setattr(walk, "walk", fail)
        assert b"see the worker's log" in text(base)
    assert text(base).startswith(uwsgi.HEADER)
    faults.forget()


def resident_bytes() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_twenty_thousand_dumps_leave_nothing(base: str) -> None:
    """uWSGI leaks 10 kB a dump: here neither memory, descriptors nor threads grow."""
    with held(base, lambda wait: recursive(4, wait), 2):

        def dump(times: int) -> None:
            for number in range(times):
                path = b"GET / HTTP/1.0\r\n\r\n" if number % 2 else b"GET /snapshot HTTP/1.0\r\n\r\n"
                assert len(clients.read_to_end(base + "1", path)) > 1000

        # A compiler at run time takes some 15 MB until it has seen everything, measured on PyPy.
        dump(1000 if COUNTS_REFERENCES else 50_000)
        drop_what_nobody_has()
        before, held_before = resident_bytes(), holdings()
        dump(19_000)
        wait_until(lambda: not holdings().beyond(held_before), "descriptors and threads are as before")
        drop_what_nobody_has()
        after = resident_bytes()
    assert after - before < 4_000_000  # 200 bytes a dump; the allocator's own steps are a megabyte
