"""Reading workers that do not answer, and whose memory is not read: their tables, the proof, the signal and when it is
not sent.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import black_boxes
from tests.support.interpreters import needs_outside_help, needs_pydll
from tests.support.programs import PROJECT
from tests.support.stalling import telling
from tests.support.waiting import wait_until
from wsgi_tracebacker.reader.finding.processes import Processes
from wsgi_tracebacker.reader.unanswered import dump_request
from wsgi_tracebacker.wire.black_box import file_names
from wsgi_tracebacker.wire.documents import card_json as cards

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsgi_tracebacker.model.card import Card

#: A base, and the process of its only worker.
Stalled = tuple[str, "subprocess.Popen[str]"]

worker = functools.partial(telling, "stalling_worker")


def command(verb: str, *arguments: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "wsgi_tracebacker", verb, *arguments]
    if verb == "read":
        line.append("--no-memory")
    return subprocess.Popen(line, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(verb: str, *arguments: str) -> tuple[int, str, str]:
    with command(verb, *arguments) as process:
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err


def read(base: str, *arguments: str) -> dict[str, Any]:
    """The only worker's document."""
    code, out, err = run("read", base, "--format", "json", "--timeout", "10", *arguments)
    [document] = json.loads(out)["workers"]
    assert (code, "timed out" in err) == (1, True)
    assert isinstance(document, dict)
    return document


def read_stalled(base: str) -> dict[str, Any]:
    """The same once it is proven stalled: on a machine that is busy elsewhere, not every look can prove it."""
    return wait_until(lambda: (document := read(base))["state"] == "stalled" and document, "it is proven")


def card_of(base: str) -> Card:
    return cards.decode(Path(cards.card_path(base, 1)).read_bytes())


@pytest.fixture(scope="module")
def stalled() -> Iterator[Stalled]:
    """A base and the process of its only worker, for tests that leave both as they are: it burns a CPU."""
    with tempfile.TemporaryDirectory(prefix="tb-", dir="/tmp") as folder:
        base = f"{folder}/tb"
        with worker(base, "backtrack") as process:
            yield base, process
        black_boxes.remove(base)


def dumps_so_far(base: str) -> int:
    return black_boxes.path_of(base, 1, file_names.STACKS).stat().st_size


@needs_outside_help
def test_a_stalled_worker_shows_its_stacks(stalled: Stalled) -> None:
    """Request, stack, source lines and the GIL's holder; the list says it too, without a signal."""
    base, process = stalled
    dumps = dumps_so_far(base)
    assert "stalled" in run("list", base, "--timeout", "10")[1]
    assert dumps_so_far(base) == dumps
    document = read_stalled(base)
    assert (document["source"], document["state"], document["worker"]["pid"]) == (
        "faulthandler",
        "stalled",
        process.pid,
    )
    [thread] = document["threads"]
    assert (thread["request"]["method"], thread["request"]["path"]) == ("GET", "/backtrack")
    assert (thread["name"], thread["native_id"], thread["core"]) == ("WSGIWorker1Core0", process.pid, 0)
    assert thread["holds_gil"] is True
    innermost = "match" if sys.version_info < (3, 15) else "prefixmatch"  # what re.match() calls itself
    assert [frame["function"] for frame in thread["frames"][-3:]] == ["tell", "backtrack_for_ever", innermost]
    assert thread["frames"][-2]["source"] == '    re.match("(a+)+$", "a" * 40 + "b")'
    text = run("read", base, "--timeout", "10")[1]
    assert text.startswith(f"worker 1  pid {process.pid}  ")
    assert "1 in flight  stalled, no answer\n" in text
    assert re.search(r"  holds the GIL\s+thread 0x\w+, native id \d+$", text, re.MULTILINE)
    assert process.poll() is None


@needs_pydll
def test_a_holder_that_sleeps_is_not_named(base: str) -> None:
    """It is stalled all the same, and the line is there; who holds the GIL is not proven."""
    with worker(base, "deadlock"):
        [thread] = read_stalled(base)["threads"]
        assert thread["frames"][-1]["function"] == "lock_itself_out"
        assert thread["holds_gil"] is None


@needs_pydll
@needs_outside_help
def test_a_thread_that_runs_beside_a_sleeping_holder_is_not_named_as_the_holder(base: str) -> None:
    """A request that computes without the GIL is the only one that runs: that is no proof."""
    with worker(base, "beside"):
        threads = {thread["request"]["path"]: thread for thread in read_stalled(base)["threads"]}
        assert [thread["holds_gil"] for thread in threads.values()] == [None, None]
        assert threads["/beside"]["frames"][-1]["function"] == "lock_itself_out"
        assert threads["/compute"]["frames"][-1]["function"] == "compute_without_the_gil"
        text = run("read", base, "--timeout", "10")[1]
        assert "1 request: on a CPU\n" in text
        assert "holds the GIL" not in text


def test_without_a_signal_there_is_the_table(stalled: Stalled) -> None:
    """--no-signal: the state is known, the request and its thread are shown, no stacks, nothing sent."""
    base, process = stalled
    dumps = dumps_so_far(base)
    document = read(base, "--no-signal")
    assert (document["source"], document["state"]) == ("table", "stalled")
    [thread] = document["threads"]
    assert (thread["request"]["path"], thread["request"]["phase"], thread["frames"]) == (
        "/backtrack",
        "unknown",
        [],
    )
    assert thread["ident"]
    assert thread["native_id"] == process.pid
    _, out, _ = run("read", base, "--no-signal", "--format", "uwsgi", "--timeout", "10")
    assert "filename = <stalled, no answer> lineno = 0 function = request line = GET /backtrack  " in out
    assert dumps_so_far(base) == dumps


@needs_outside_help
def test_readers_at_the_same_time_do_not_mix_their_dumps(stalled: Stalled) -> None:
    """Each gets one whole dump."""
    base, _ = stalled
    dumps = dumps_so_far(base)
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(command("read", base, "--format", "json", "--timeout", "10")) for _ in range(3)]
        for reader in readers:
            [document] = json.loads(reader.communicate(timeout=60)[0])["workers"]
            [thread] = document["threads"]
            assert [frame["function"] for frame in thread["frames"]].count("backtrack_for_ever") == 1
        content = black_boxes.path_of(base, 1, file_names.STACKS).read_bytes()[dumps:]
        assert content.count(b"in backtrack_for_ever") == len(readers)


@needs_outside_help
def test_a_full_stacks_file_starts_anew(base: str) -> None:
    """The worker cannot keep its bound while it is stalled, so readers keep it."""
    with worker(base, "backtrack"):
        os.truncate(black_boxes.path_of(base, 1, file_names.STACKS), dump_request.MAX_STACKS_BYTES + 1)
        assert read_stalled(base)["source"] == "faulthandler"
        assert dumps_so_far(base) < dump_request.MAX_STACKS_BYTES


def test_a_busy_worker_is_never_signalled(base: str) -> None:
    """64 CPU-bound threads, whose listener waits for the GIL for seconds: asked again and again, it gets no signal."""
    with worker(base, "spin") as process:
        for _ in range(2):
            _, out, _ = run("read", base, "--timeout", "2.5")
            assert "GET /spin" in out
            assert "stalled" not in out
            assert process.poll() is None
        assert dumps_so_far(base) == 0


@pytest.mark.alone
@needs_pydll
def test_a_busy_worker_is_shown_after_a_second(base: str) -> None:
    """From its table, with its request, age and thread, in every format."""
    with worker(base, "unproven") as process:
        code, out, err = run("read", base, "--format", "json")
        [document] = json.loads(out)["workers"]
        [thread] = document["threads"]
        assert (code, document["source"], document["state"]) == (1, "table", "busy")
        assert (thread["request"]["path"], thread["native_id"], thread["frames"]) == ("/unproven", process.pid, [])
        assert thread["request"]["age_seconds"] > 1
        # By the command's own clock: to start it may take seconds on a machine that is busy.
        waited = re.search(r", busy\): timed out: it did not answer within ([0-9.]+) s", err)
        assert waited is not None, err
        assert 1 <= float(waited[1]) < 2
        code, out, _ = run("read", base)
        assert (code, out.splitlines()[0].endswith("1 in flight  busy, no answer")) == (1, True)
        assert f"thread {thread['ident']:#x}, native id {process.pid}\n" in out
        code, out, _ = run("read", base, "--format", "uwsgi")
        assert (code, "thread_id = WSGIWorker1Core0 filename = <busy, no answer> " in out) == (1, True)
        ids = f"ident {thread['ident']}  native id {process.pid}"
        assert re.search(rf" line = GET /unproven  [0-9.]+ s  {ids}$", out, re.MULTILINE)
        [listed] = json.loads(run("list", base, "--format", "json")[1])["workers"]
        assert (listed["state"], listed["requests_in_flight"]) == ("busy", 1)
        assert dumps_so_far(base) == 0


@needs_pydll
def test_with_a_longer_timeout_the_answer_is_awaited(base: str) -> None:
    """--timeout is the time limit for the worker's own answer."""
    with worker(base, "nap"):
        code, out, _ = run("read", base)
        assert (code, "  busy, no answer\n" in out) == (1, True)
        code, out, err = run("read", base, "--timeout", "60")
        assert (code, "no answer" in out, "nap_with_the_gil" in out, err) == (0, False, True, "")
        assert dumps_so_far(base) == 0


def test_a_stopped_worker_is_shown_as_stopped(base: str) -> None:
    """With what it was serving, at once, and without a signal."""
    with worker(base, "wait") as process:
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: Processes().state(process.pid) == "stopped", "it is stopped")
        code, out, err = run("read", base)
        assert (code, "  stopped, no answer\n" in out, "GET /wait" in out) == (1, True, True)
        assert ", stopped): timed out: it is stopped, so it was waited for no longer than 0." in err
        assert json.loads(run("list", base, "--format", "json")[1])["workers"][0]["state"] == "stopped"
        assert dumps_so_far(base) == 0


@pytest.mark.parametrize("harm", ["cut", "garbage", "version", "link", "pipe", "gone"])
def test_a_table_that_cannot_be_believed_is_reported(stalled: Stalled, tmp_path: Path, harm: str) -> None:
    """The worker is busy, the reason stands on stderr, nothing is shown, nothing signalled."""
    base, process = stalled
    dumps = dumps_so_far(base)
    path = black_boxes.path_of(base, 1, file_names.TABLE)
    aside = path.with_name(f"{path.name}.aside")
    path.rename(aside)
    try:
        content = aside.read_bytes()
        if harm == "cut":
            path.write_bytes(content[:-1])
        elif harm == "garbage":
            path.write_bytes(b"\xff" * len(content))
        elif harm == "version":
            path.write_bytes(content[:16] + b"\x09" + content[17:])
        elif harm == "pipe":
            os.mkfifo(path)
        elif harm == "link":
            other = tmp_path / "elsewhere"
            other.write_bytes(content)
            path.symlink_to(other)
        code, out, err = run("read", base, "--timeout", "2.5")
        assert (code, out) == (1, "")
        assert ", busy): timed out: it did not answer within " in err
        assert "black box" in err
        assert process.poll() is None
        assert dumps_so_far(base) == dumps
    finally:
        aside.replace(path)


@contextlib.contextmanager
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A program that any signal would end, and that is nobody's worker."""
    with subprocess.Popen(["sleep", "3600"]) as process:
        try:
            yield process
        finally:
            process.kill()


def ask(card: Card) -> None:
    """Everything that comes after the proof."""
    for seconds in dump_request.ask(card, Processes(), lambda: None):
        # What it asks its caller for, as the command does.
        time.sleep(seconds)


def start_ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])


@needs_outside_help
def test_another_program_with_the_pid_is_never_signalled(stalled: Stalled) -> None:
    """Neither by the start time of the card's process, nor if a card names it truly: it does not catch the signal."""
    base, _ = stalled
    dumps = dumps_so_far(base)
    with bystander() as other:
        card = card_of(base)
        with pytest.raises(dump_request.Refused, match="not the one of its card"):
            ask(card._replace(pid=other.pid))
        with pytest.raises(dump_request.Refused, match="does not catch signal"):
            ask(card._replace(pid=other.pid, start_ticks=start_ticks(other.pid)))
        with pytest.raises(dump_request.Refused, match="not the one of its card"):
            ask(card._replace(pid_namespace=1))
        with pytest.raises(dump_request.Refused, match="not the one of its card"):
            ask(card._replace(boot_id="another"))
        with pytest.raises(OSError, match="belongs to uid"):
            ask(card._replace(uid=os.geteuid() + 1))
        assert other.poll() is None
        assert dumps_so_far(base) == dumps


@needs_outside_help
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1, 0, -1, 65])
def test_a_signal_that_is_not_caught_is_never_sent(stalled: Stalled, number: int) -> None:
    """Whatever a card says."""
    base, process = stalled
    with pytest.raises(dump_request.Refused, match=r"does not catch|cannot be sent"):
        ask(card_of(base)._replace(dump_signal=number))
    assert process.poll() is None


def test_without_a_handle_on_the_process_nothing_is_signalled(
    stalled: Stalled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on PyPy, whose os has no pidfd_open: a pid alone may be another process's by the time of the signal."""
    base, process = stalled
    dumps = dumps_so_far(base)
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    with pytest.raises(dump_request.Refused, match="cannot name its process safely"):
        ask(card_of(base))
    assert process.poll() is None
    assert dumps_so_far(base) == dumps


@needs_outside_help
def test_a_worker_that_runs_again_is_not_signalled(stalled: Stalled) -> None:
    """Right before the signal it is checked whether the worker is still stalled."""
    base, _ = stalled
    dumps = dumps_so_far(base)
    asking = dump_request.ask(card_of(base), Processes(), lambda: "its table has changed")
    with pytest.raises(dump_request.Refused, match="it has gone on: its table has changed"):
        next(asking)
    assert dumps_so_far(base) == dumps


def test_a_worker_in_another_namespace_is_shown_and_not_signalled(stalled: Stalled) -> None:
    """Its pid means nobody here: the table is shown, with where to run the command to see more."""
    base, _ = stalled
    dumps = dumps_so_far(base)
    path = Path(cards.card_path(base, 1))
    content = path.read_bytes()
    path.write_bytes(cards.encode(cards.decode(content)._replace(pid_namespace=1)))
    try:
        code, out, err = run("read", base, "--timeout", "3")
    finally:
        path.write_bytes(content)
    assert (code, "GET /backtrack" in out, "  busy, no answer\n" in out) == (1, True, True)
    assert (
        "it runs in another pid namespace: to see more, run wsgi-tb as root of the host, or inside its container" in err
    )
    assert dumps_so_far(base) == dumps


@needs_outside_help
def test_a_listener_that_does_not_accept_is_no_answer_either(base: str) -> None:
    """Its backlog is full: the table is shown all the same, and its stacks."""
    with worker(base, "backtrack"), contextlib.ExitStack() as clients:
        with contextlib.suppress(BlockingIOError):
            while True:
                waiting = clients.enter_context(socket.socket(socket.AF_UNIX))
                waiting.setblocking(False)
                waiting.connect(f"{base}1")
        assert read_stalled(base)["source"] == "faulthandler"
