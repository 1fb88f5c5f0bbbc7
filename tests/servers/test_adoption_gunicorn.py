"""gunicorn with our configuration and an application that knows nothing of us."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.servers import asking
from tests.servers.matrix.starting import eventlet_python
from tests.support import black_boxes, clients
from tests.support.programs import PROJECT
from tests.support.waiting import wait_until
from wsgi_tracebacker.wire.black_box import file_names
from wsgi_tracebacker.wire.documents import postmortem_json as postmortem

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.conftest import StartGunicorn
    from tests.support.servers import Gunicorn

UNWRAPPED = "tests.programs.unwrapped:application"
OURS = ("-c", "python:wsgi_tracebacker.servers.gunicorn")

CLASSES = {
    "sync": ("--worker-class", "sync"),
    "gthread": ("--worker-class", "gthread", "--threads", "2"),
    "gevent": ("--worker-class", "gevent"),
    "eventlet": ("--worker-class", "eventlet"),
}
worker_classes = pytest.mark.parametrize("worker_class", CLASSES.values(), ids=CLASSES.keys())
preload = pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["plain", "preload"])


@pytest.fixture
def gunicorn(gunicorn: StartGunicorn) -> StartGunicorn:
    """For eventlet, gunicorn 25: the last one that has it."""

    def start(application: str, *arguments: str, env: Mapping[str, str] | None = None) -> Gunicorn:
        if "eventlet" not in arguments:
            return gunicorn(application, *arguments, env=env)
        # What gunicorn itself warns of.
        quiet = {**(env or {}), "PYTHONWARNINGS": "ignore"}
        return gunicorn(application, *arguments, env=quiet, python=eventlet_python())

    return start  # type: ignore[return-value]


@preload
def test_a_worker_of_asgi_applications_serves_and_can_be_read(
    preload: tuple[str, ...], gunicorn: StartGunicorn, base: str
) -> None:
    """gunicorn's own; its requests are not seen, and that is said."""
    server = gunicorn("tests.programs.plain_asgi:application", *OURS, "--worker-class", "asgi", *preload)
    assert server.get("/").body == b"done\n"
    assert list(asking.pids(base).values()) == server.workers()
    server.wait_for_log("under gunicorn's ASGIWorker the application is not wrapped")
    assert "Traceback" not in server.log_text()


ABORTED = r"\[ERROR\] Worker \(pid:(\d+)\) is aborted with "


@worker_classes
@preload
def test_the_application_is_wrapped_from_outside(
    worker_class: tuple[str, ...], preload: tuple[str, ...], gunicorn: StartGunicorn, base: str, tmp_path: Path
) -> None:
    """Each worker listens before any request, each request is seen, and an end in order leaves nothing."""
    # gevent's and eventlet's workers take a second to end, and files go at the very end.
    server = gunicorn(UNWRAPPED, *OURS, "--workers", "2", "--graceful-timeout", "10", *worker_class, *preload)
    wait_until(lambda: set(asking.pids(base).values()) == set(server.workers()), lambda: str(asking.pids(base)))
    worker = asking.ask(base, 1, "/worker")["worker"]
    assert worker["application"] == UNWRAPPED
    assert worker["server"].startswith("gunicorn/")
    gate = tmp_path / "gate"
    with clients.in_flight(server.address, f"/wait?{gate}") as connection:
        [thread] = wait_until(lambda: asking.serving(base, "/wait"), "the request is seen")
        assert thread["request"]["method"] == "GET"
        gate.touch()
        assert connection.getresponse().read() == b"done\n"
    server.end_signal = signal.SIGTERM
    server.stop()
    assert asking.files(base) == []
    assert "Traceback" not in server.log_text()
    assert "Exception ignored" not in server.log_text()


@pytest.mark.parametrize("worker_class", [CLASSES["sync"], CLASSES["gthread"]], ids=["sync", "gthread"])
def test_a_worker_that_hangs_while_it_imports_can_be_read(
    worker_class: tuple[str, ...], gunicorn: StartGunicorn, base: str, tmp_path: Path
) -> None:
    """The main thread stands in the import, with its line; afterwards the application is wrapped as ever."""
    gate = tmp_path / "gate"
    server = gunicorn(UNWRAPPED, *OURS, *worker_class, env={"IMPORT_WAITS_FOR": str(gate)})

    def waits() -> bool:
        return any(
            frame["function"] == "wait_for_the_file"
            for document in asking.snapshots(base)
            for thread in document["threads"]
            if thread["kind"] == "main"
            for frame in thread["frames"]
        )

    wait_until(waits, lambda: f"it imports: {asking.snapshots(base)}")
    shown = subprocess.run(
        [sys.executable, "-m", "wsgi_tracebacker", "read", "--all", base],
        capture_output=True,
        text=True,
        cwd=PROJECT,
        check=True,
        timeout=30,
    ).stdout
    assert re.search(r"\.py:\d+ wait_for_the_file$", shown, re.MULTILINE)
    assert re.search(r"\.py:\d+ <module>$", shown, re.MULTILINE)
    gate.touch()
    assert server.get("/quick").text == "done\n"
    assert asking.ask(base, 1, "/worker")["worker"]["requests_finished"] == 1


by_hand = pytest.mark.parametrize("program", ["hand.py", "flask_way.py"])


def write_wrapped(path: Path, options: str) -> None:
    """A module whose own code has the middleware."""
    wrap = f"TracebackerMiddleware(app, {options})"
    text = (
        "from tests.programs.unwrapped import application as app\nfrom wsgi_tracebacker import TracebackerMiddleware\n"
    )
    if path.name == "hand.py":
        text += f"application = {wrap}\n"
    else:
        text += "class Flask:\n    def __call__(self, *args): return self.wsgi_app(*args)\n"
        text += f"application = Flask()\napplication.wsgi_app = {wrap}\n"
    path.write_text(text)


@preload
@by_hand
def test_an_application_that_is_wrapped_by_hand_keeps_its_options(
    program: str, preload: tuple[str, ...], gunicorn: StartGunicorn, short_path: Path, base: str
) -> None:
    """Its own socket and name count from the end of its import on, and nobody warns of two bases."""
    own = f"{short_path}/own"
    write_wrapped(short_path / program, f"socket={own!r}, application='by hand', show_query=True")
    server = gunicorn(
        program.removesuffix(".py"), *OURS, *preload, "--chdir", str(short_path), env={"PYTHONPATH": str(PROJECT)}
    )
    wait_until(lambda: asking.pids(own) == {1: server.workers()[0]}, "it answers at its own socket")
    with clients.in_flight(server.address, f"/wait?{short_path}/gate"):
        thread = asking.waits_in(own, "wait_for_the_file")
        assert thread["request"]["query"] == f"{short_path}/gate"
        assert len(asking.serving(own)) == 1
        (short_path / "gate").touch()
    assert asking.ask(own, 1, "/worker")["worker"]["application"] == "by hand"
    assert asking.files(base) == []
    assert "listens at" not in server.log_text()


def configuration_of_the_how_to(index: int) -> str:
    page = (PROJECT / "docs/howto/gunicorn.md").read_text()
    found: list[str] = re.findall(r"```python\n(# gunicorn\.conf\.py\n.*?)```", page, re.DOTALL)
    return found[index]


def test_a_projects_own_configuration_imports_the_hooks(gunicorn: StartGunicorn, short_path: Path, base: str) -> None:
    """The first file of the how-to: one import brings them, and what raw_env sets is in time for them."""
    own = f"{short_path}/raw"
    text = configuration_of_the_how_to(0)
    assert "/run/shop/tb" in text
    (short_path / "conf.py").write_text(text.replace("/run/shop/tb", own))
    server = gunicorn(UNWRAPPED, "-c", str(short_path / "conf.py"))
    wait_until(lambda: asking.pids(own) == {1: server.workers()[0]}, lambda: f"it answers: {server.log_text()}")
    assert asking.ask(own, 1, "/worker")["worker"]["application"] == "shop"
    assert asking.files(base) == []
    [killed] = server.workers()
    with clients.in_flight(server.address, f"/wait?{short_path}/never"):
        asking.waits_in(own, "wait_for_the_file")
        os.kill(killed, signal.SIGKILL)
        server.wait_for_log(rf"\[{server.pid}\] \[ERROR\] postmortem: worker 1, pid {killed}, died with 1 request")
    black_boxes.remove(own)


def test_a_projects_own_hooks_call_ours(gunicorn: StartGunicorn, short_path: Path, base: str) -> None:
    """The second file of the how-to: both run, and a time-out is told."""
    (short_path / "conf.py").write_text(configuration_of_the_how_to(1))
    server = gunicorn(UNWRAPPED, "-c", str(short_path / "conf.py"), "--timeout", "2")
    first = server.workers()[0]
    wait_until(lambda: asking.pids(base) == {1: first}, lambda: f"it answers: {server.log_text()}")
    assert f"worker {first} is ours" in server.log_text()
    with clients.in_flight(server.address, "/lock"):
        server.wait_for_log(ABORTED + "1 request in flight")


# ------------------------------------------------------------------------------------------------------- time-outs


@pytest.mark.parametrize(
    ("worker_class", "target", "function"),
    [
        (CLASSES["sync"], "/lock", "wait_for_a_lock"),
        (CLASSES["sync"], "/spin", "spin"),
        (CLASSES["sync"], "/gil", "hold_the_gil"),
        (CLASSES["gevent"], "/spin", "spin"),
        (CLASSES["gevent"], "/gil", "hold_the_gil"),
        (CLASSES["eventlet"], "/spin", "spin"),
    ],
    ids=["sync lock", "sync spin", "sync C call with the GIL", "gevent spin", "gevent C call with the GIL", "eventlet"],
)
def test_what_a_time_out_aborts_is_in_gunicorns_error_log(
    worker_class: tuple[str, ...], target: str, function: str, gunicorn: StartGunicorn, base: str
) -> None:
    """The request with its stack as it was, without gunicorn's signal handler and ours on top; then a new worker
    serves.
    """
    server = gunicorn(UNWRAPPED, *OURS, *worker_class, "--timeout", "2")
    first = server.workers()[0]
    with clients.in_flight(server.address, target):
        found = server.wait_for_log(ABORTED + r"1 request in flight \(gunicorn's timeout is 2 s\)")
        wait_until(lambda: server.workers() not in ([], [first]), "there is a new worker")
    assert int(found[1]) == first
    report = server.log_text()[found.end() :]
    # Up to the next record of anybody's: the watchdog, which the C call kept from running, reports the hub now too.
    report = report[: re.search(r"^(\[|ERROR |WARNING )", report, re.MULTILINE).start()]  # type: ignore[union-attr]
    assert f"worker 1  pid {first}  gunicorn/" in report
    assert re.search(rf"WSGIWorker1Core0  GET {target}  \d\.\d+ s", report)
    assert re.search(rf":\d+ {function}\b", report)
    assert "handle_abort" not in report
    # Of the wait for this very report nothing is said.
    assert "reporter.py" not in report
    # The report of before has no stack, and gunicorn's own traceback comes later. That of a hub has one.
    if worker_class == CLASSES["sync"]:
        before = server.log_text()[: found.start()]
        assert not re.search(rf"^ +\S+\.py:\d+ {function}$", before, re.MULTILINE)
    assert len(re.findall(ABORTED, server.log_text())) == 1
    assert server.get("/quick").text == "done\n"
    assert asking.pids(base) == {1: server.workers()[0]}
    assert "Exception ignored" not in server.log_text()
    assert "postmortem" not in server.log_text()


@pytest.mark.parametrize(
    ("worker_class", "target", "is_reported"),
    [(CLASSES["sync"], "/c", True), (CLASSES["sync"], "/c-gil", False), (CLASSES["gthread"], "/c-gil", False)],
    ids=["sync without the GIL", "sync with the GIL", "gthread with the GIL"],
)
def test_a_c_call_that_no_signal_ends(
    worker_class: tuple[str, ...], target: str, is_reported: bool, gunicorn: StartGunicorn, base: str
) -> None:
    """gunicorn's handler cannot run, so the worker is killed, and the master names the request, with its stack: of the
    watchdog's report where that could run before, else of a dump. With the GIL held, a worker of threads has no
    heartbeat either.
    """
    server = gunicorn(UNWRAPPED, *OURS, *worker_class, "--timeout", "2")
    [killed] = server.workers()
    with clients.in_flight(server.address, target):
        server.wait_for_log(rf"postmortem: worker 1, pid {killed}, died with 1 request in flight")
    text = server.log_text()
    assert f"Worker (pid:{killed}) was sent SIGKILL!" in text
    assert re.search(rf"^  GET {target}  \(core 0, since ", text, re.MULTILINE)
    assert not re.search(ABORTED, text)
    assert len(re.findall(r"^ +\S+\.py:\d+ wait_in_c$", text.partition("postmortem: ")[2], re.MULTILINE)) == 1
    assert not re.search(r"^ +\S+\.py:\d+ wait_in_c$", text.partition("postmortem: ")[0], re.MULTILINE)
    assert ("harakiri: " in text.partition("WORKER TIMEOUT")[0]) is is_reported
    wait_until(lambda: asking.pids(base).get(1) not in (None, killed), "its successor answers")


def test_what_an_abort_has_logged_is_not_in_the_postmortem_again(gunicorn: StartGunicorn, base: str) -> None:
    """The application goes on after the abort, so that the worker is killed: its postmortem refers to what is there."""
    server = gunicorn(UNWRAPPED, *OURS, "--timeout", "2")
    [killed] = server.workers()
    with clients.in_flight(server.address, "/deaf"):
        server.wait_for_log(ABORTED)
        server.wait_for_log(rf"postmortem: worker 1, pid {killed}, died with 1 request in flight")
        wait_until(lambda: asking.pids(base).get(1) not in (None, killed), "its successor answers")
    text = server.log_text()
    assert len(re.findall(r"^ +\S+\.py:\d+ stay_whatever_comes$", text, re.MULTILINE)) == 1
    [said] = re.findall(r"postmortem: .*\n  GET /deaf .*\n(.*)\n", text)
    assert said == f"gunicorn's error log has its stacks, at 'Worker (pid:{killed}) is aborted'"
    kept = subprocess.run(
        [sys.executable, "-m", "wsgi_tracebacker", "postmortem", base],
        capture_output=True,
        text=True,
        cwd=PROJECT,
        check=True,
        timeout=30,
    ).stdout
    assert " stay_whatever_comes\n" in kept


def test_a_request_that_ends_between_report_and_time_out_has_its_stack_in_the_log(
    gunicorn: StartGunicorn, tmp_path: Path
) -> None:
    """Nobody aborts it, so the line on its end has the stack that the report left out."""
    server = gunicorn(UNWRAPPED, *OURS, "--timeout", "4")
    gate = tmp_path / "gate"
    with clients.in_flight(server.address, f"/wait?{gate}") as connection:
        server.wait_for_log(r"harakiri: GET /wait ")
        gate.touch()
        assert connection.getresponse().read() == b"done\n"
    ended = server.wait_for_log(r"slow: GET /wait .*; overdue and reported, ended at last: .*\n(Stack .*\n(  .*\n)+)")
    assert re.search(r"^  \S+\.py:\d+ wait_for_the_file$", ended[1], re.MULTILINE)
    assert len(re.findall(r"^ +\S+\.py:\d+ wait_for_the_file$", server.log_text(), re.MULTILINE)) == 1


@pytest.mark.alone  # a quarter of a second is between the report and gunicorn's line
def test_a_sync_worker_reports_before_its_time_out(gunicorn: StartGunicorn) -> None:
    """A quarter of two seconds before, without a harakiri; the report comes before gunicorn's line."""
    server = gunicorn(UNWRAPPED, *OURS, "--timeout", "2")
    with clients.in_flight(server.address, "/lock"):
        timed_out = server.wait_for_log(r"WORKER TIMEOUT")
    text = server.log_text()[: timed_out.start()]
    # Less by what it took from the worker's heartbeat to the request.
    assert re.search(r"harakiri: GET /lock 1\.\d s \(limit 1\.[345]\d* s\), .*; logged, still running", text)
    assert "wait_for_a_lock" in text


@pytest.mark.alone  # a quarter of a second is between the report and gunicorn's line
def test_a_sync_worker_reports_before_its_time_out_what_came_late_on_its_connection(gunicorn: StartGunicorn) -> None:
    """gunicorn's clock runs from before the connection was accepted, and so does ours."""
    server = gunicorn(UNWRAPPED, *OURS, "--timeout", "3")
    with contextlib.closing(clients.connect(server.address)) as connection:
        # A limit that counts from the request would be over after the second look of the master's.
        time.sleep(2)
        connection.sendall(b"GET /lock HTTP/1.0\r\n\r\n")
        timed_out = server.wait_for_log(r"WORKER TIMEOUT")
    text = server.log_text()[: timed_out.start()]
    assert re.search(r"harakiri: GET /lock 0\.\d+ s \(limit 0\.[67]\d* s\), .*; logged, still running", text)
    assert "wait_for_a_lock" in text


@by_hand
@pytest.mark.parametrize("variables", [{}, {"WSGI_TB_HARAKIRI": "60"}], ids=["no limit", "a limit that is too long"])
def test_an_application_that_is_wrapped_by_hand_without_a_limit_is_reported_before_the_time_out(
    program: str, variables: dict[str, str], gunicorn: StartGunicorn, short_path: Path
) -> None:
    """Once, and as its own code wants it: with the query. A limit of the environment's is not its own."""
    write_wrapped(short_path / program, "show_query=True")
    server = gunicorn(
        *(program.removesuffix(".py"), *OURS, "--timeout", "2", "--chdir", str(short_path)),
        env={"PYTHONPATH": str(PROJECT), **variables},
    )
    with clients.in_flight(server.address, "/lock?1"):
        timed_out = server.wait_for_log(r"WORKER TIMEOUT")
    text = server.log_text()[: timed_out.start()]
    assert len(re.findall(r"harakiri: GET /lock\?1 1\.\d s \(limit 1\.[345]\d* s\), ", text)) == 1
    assert "wait_for_a_lock" in text


# ---------------------------------------------------------------------------------------------------------- deaths


@worker_classes
@preload
def test_the_master_says_once_what_a_killed_worker_was_serving(
    worker_class: tuple[str, ...], preload: tuple[str, ...], gunicorn: StartGunicorn, base: str, tmp_path: Path
) -> None:
    """In gunicorn's error log; the successor, which takes the same number at once, does not say it again; and it is
    kept.
    """
    server = gunicorn(UNWRAPPED, *OURS, *worker_class, *preload)
    [killed] = server.workers()
    with clients.in_flight(server.address, f"/wait?{tmp_path / 'never'}"):
        wait_until(lambda: asking.serving(base, "/wait"), "the request is seen")
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: asking.pids(base).get(1) not in (None, killed), "its successor answers")
    assert server.get("/quick").text == "done\n"
    server.wait_for_log("postmortem: worker")
    said = re.findall(r"^(.*)postmortem: (.*)$", server.log_text(), re.MULTILINE)
    assert len(said) == 1
    assert re.fullmatch(rf"\[.*\] \[{server.pid}\] \[ERROR\] ", said[0][0])
    assert said[0][1].startswith(f"worker 1, pid {killed}, died with 1 request in flight")
    assert re.search(r"^  GET /wait  \(core 0, since ", server.log_text(), re.MULTILINE)
    kept = postmortem.decode(black_boxes.path_of(base, 1, file_names.POSTMORTEM).read_bytes())
    assert (kept.pid, [request.path for request in kept.requests]) == (killed, ["/wait"])


@worker_classes
def test_a_killed_worker_that_nobody_succeeds_leaves_nothing(
    worker_class: tuple[str, ...], gunicorn: StartGunicorn, base: str, tmp_path: Path
) -> None:
    """One that a reload has replaced already: the master tells of it and takes its files away."""
    server = gunicorn(UNWRAPPED, *OURS, *worker_class, "--graceful-timeout", "60")
    [old] = server.workers()
    with clients.in_flight(server.address, f"/wait?{tmp_path / 'never'}"):
        wait_until(lambda: asking.serving(base, "/wait"), "the request is seen")
        os.kill(server.pid, signal.SIGHUP)
        wait_until(lambda: asking.pids(base).keys() == {1, 2}, "the new one answers beside it")
        os.kill(old, signal.SIGKILL)
        server.wait_for_log(rf"^\[.*\] \[{server.pid}\] \[ERROR\] postmortem: worker 1, pid {old}, died with 1 ")
    wait_until(lambda: server.workers() == [asking.pids(base).get(2)], "there is only the new one")
    assert asking.files(base) == asking.expected_files(2)
    left = [path.name.rpartition(".")[2] for path in black_boxes.files_of(base) if ".1." in path.name]
    assert left == ["postmortem"]
