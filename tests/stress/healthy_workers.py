"""Healthy workers are never harmed, tried for minutes: run by hand, not by pytest.

``python -m tests.stress.healthy_workers --reads 1000``
    One worker with 64 CPU-bound threads is read that often, by several readers at the same time that lose patience
    much sooner than usual. It must never be called stalled, never be signalled, and live.

``python -m tests.stress.healthy_workers --forks 10000``
    Workers start, serve on three threads, fork within requests, are stopped, killed, or end in every way, at random
    and beside readers, until that many forks were made. None may crash or hang, and nobody's files may pile up.

Both may be given. Each ends after ``--minutes`` at the latest (10), says how far it came, and the exit code is 1 if
anything was harmed. ``--seed`` gives the same dice again; the machine's scheduling is not among them.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import TYPE_CHECKING

from tests.support import black_boxes
from tests.support.programs import PROJECT
from tests.support.servers import process_group
from wsgi_tracebacker import TracebackerMiddleware
from wsgi_tracebacker.errors import NoWorkersFound
from wsgi_tracebacker.reader import client
from wsgi_tracebacker.reader.survey import survey
from wsgi_tracebacker.reader.unanswered import examine
from wsgi_tracebacker.wire import table_layout as blackbox

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

READERS_OF_ONE = 12
READERS_OF_MANY = 3
#: Workers that live at the same time.
WORKERS = 5
THREADS = 3
#: A reader waits half a second before it begins with a proof; these ones begin at once.
FIRST_SAMPLE_SECONDS = 0.1
READ_SECONDS = 2.0
SHORT_READ_SECONDS = 0.3
#: The longest that a worker lives.
LIFE_SECONDS = 0.12
END_SECONDS = 10.0


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


# --- readers


def read_on(base: str, timeout_seconds: float) -> None:
    """Read for ever, and say what state each worker was in; a line of JSON a read, until nobody takes them."""
    client.EXAMINE_AFTER_SECONDS = FIRST_SAMPLE_SECONDS
    examine.FIRST_SAMPLE_SECONDS = FIRST_SAMPLE_SECONDS
    while True:
        try:
            states = [answer.state for answer in survey([base], timeout_seconds, may_signal=True).answers]
        except NoWorkersFound:
            states = []
        say(json.dumps(states))


class Readers:
    """Reader processes, and what they have seen so far."""

    def __init__(self, base: str, count: int, timeout_seconds: float) -> None:
        self.reads = 0
        self.states: collections.Counter[str] = collections.Counter()
        command = [sys.executable, "-m", "tests.stress.healthy_workers", "--read-on", base, str(timeout_seconds)]
        self._processes = [subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE) for _ in range(count)]
        self._threads = [threading.Thread(target=self._count, args=(process,)) for process in self._processes]
        for thread in self._threads:
            thread.start()

    def _count(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.reads += 1
            self.states.update(json.loads(line))

    def end(self) -> list[str]:
        """What is wrong with them."""
        wrong = [
            f"a reader ended with {process.returncode}" for process in self._processes if process.poll() is not None
        ]
        for process in self._processes:
            process.kill()
            process.wait()
        for thread, process in zip(self._threads, self._processes, strict=True):
            thread.join()
            assert process.stdout is not None
            process.stdout.close()
        return wrong


def dumps(base: str) -> list[str]:
    """The stacks files that faulthandler has written into: somebody was signalled."""
    found = []
    for path in black_boxes.files_of(base):
        with contextlib.suppress(FileNotFoundError):
            if path.suffix == f".{blackbox.STACKS}" and b"hread 0x" in path.read_bytes():
                found.append(f"{path.name} holds a dump")
    return found


# --- a worker that is read


def many_reads(base: str, count: int, ends_at: float) -> list[str]:
    command = [sys.executable, "-m", "tests.programs.stalling_worker", base, "spin"]
    worker = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE)
    assert worker.stdout is not None
    worker.stdout.readline()
    readers = Readers(base, READERS_OF_ONE, READ_SECONDS)
    began = time.monotonic()
    while readers.reads < count and time.monotonic() < ends_at and worker.poll() is None:
        time.sleep(0.1)
    wrong = readers.end()
    if worker.poll() is not None:
        wrong.append(f"the worker ended with {worker.returncode}")
    worker.kill()
    worker.communicate()
    size = black_boxes.path_of(base, 1, blackbox.STACKS).stat().st_size
    if size:
        wrong.append(f"it was signalled: its stacks file has {size} bytes")
    if set(readers.states) - {"alive", "busy"}:
        wrong.append("it was called something else than alive or busy")
    say(f"{readers.reads} reads in {time.monotonic() - began:.0f} s: {dict(readers.states)}")
    return wrong


# --- workers that come and go


def work(base: str, dice: random.Random, forked: int) -> None:
    """Be a worker for a moment; ``forked`` is a pipe that gets a byte for each fork within a request."""

    def application(_: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        what = dice.random()
        if what < 0.02:
            fork_within_a_request()
        elif what < 0.1:
            time.sleep(0.002)
        start_response("200 OK", [])
        return [b"x"] if what < 0.5 else chunks()

    def chunks() -> Iterator[bytes]:
        yield b"x"

    def fork_within_a_request() -> None:
        child = os.fork()
        if child:
            os.write(forked, b".")
            os.waitpid(child, 0)
            return
        kind = dice.random()
        if kind < 0.3:
            os._exit(0)
        if kind < 0.6:
            sys.exit(0)
        # Back through the middleware and on for a few requests, as a worker of its own.
        here.ends_at = time.monotonic() + 0.02
        here.was_forked = True

    class Here(threading.local):
        ends_at = time.monotonic() + dice.random() * LIFE_SECONDS
        was_forked = False

    here = Here()
    wrapped = TracebackerMiddleware(application, socket=base, harakiri=30.0, harakiri_action="kill")

    def serve() -> None:
        while time.monotonic() < here.ends_at:
            environ = {"REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": "/any/path", "REMOTE_ADDR": "192.0.2.1"}
            for _ in wrapped(environ, lambda *_: lambda _: None):
                pass
        if here.was_forked:
            os._exit(0)

    threads = [threading.Thread(target=serve, daemon=True) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def begin_worker(base: str, seed: int, forked: int) -> int:
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        dice = random.Random(seed)
        work(base, dice, forked)
        code = 0
        if dice.random() < 0.5:
            # In order: its files go with it.
            from wsgi_tracebacker import stop

            stop()
    finally:
        os._exit(code)


def come_and_go(base: str, count: int, ends_at: float, seed: int) -> None:
    """The driver, a process of its own without threads. Says a line of JSON at its end."""
    dice = random.Random(seed)
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    living: dict[int, str] = {}
    codes: collections.Counter[str] = collections.Counter()
    forks = 0
    while (forks < count and time.monotonic() < ends_at) or living:
        if forks < count and len(living) < WORKERS and time.monotonic() < ends_at:
            living[begin_worker(base, dice.getrandbits(32), writing)] = "ended"
            forks += 1
        with contextlib.suppress(BlockingIOError):
            forks += len(os.read(reading, 65536))
        victim = dice.choice(list(living)) if living else 0
        what = dice.random()
        if not victim:
            pass
        elif what < 0.1:
            living[victim] = "killed"
            os.kill(victim, signal.SIGKILL)
        elif what < 0.15:
            os.kill(victim, signal.SIGSTOP)
            time.sleep(0.005)
            os.kill(victim, signal.SIGCONT)
        time.sleep(0.005)
        for pid in list(living):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                codes[f"{living.pop(pid)}: {os.waitstatus_to_exitcode(status)}"] += 1
    with contextlib.suppress(BlockingIOError):
        forks += len(os.read(reading, 65536))
    say(json.dumps({"forks": forks, "codes": codes}))


def many_forks(base: str, count: int, ends_at: float, seed: int) -> list[str]:
    began = time.monotonic()
    readers = Readers(base, READERS_OF_MANY, SHORT_READ_SECONDS)
    seconds = str(max(1.0, ends_at - began))
    driver = subprocess.Popen(
        [sys.executable, "-m", "tests.stress.healthy_workers", "--come-and-go", base, str(count), seconds, str(seed)],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        output, errors = driver.communicate(timeout=float(seconds) + 3 * END_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(driver.pid, signal.SIGKILL)
        output, errors = driver.communicate()
    wrong = readers.end()
    # Who was forked within the request of a worker that was killed ends a moment later.
    until = time.monotonic() + END_SECONDS
    while process_group(driver.pid) and time.monotonic() < until:
        time.sleep(0.05)
    hung = process_group(driver.pid)
    if hung:
        wrong.append(f"still there: {hung}")
        os.killpg(driver.pid, signal.SIGKILL)
    if driver.returncode or not output:
        wrong.append(f"the driver ended with {driver.returncode}")
        say(errors.decode(errors="replace")[-2000:])
        return wrong
    result = json.loads(output)
    # A worker that was to be killed may have ended a moment before that.
    expected = {"ended: 0", "killed: -9", "killed: 0"}
    wrong += [f"{number} workers: {code}" for code, number in result["codes"].items() if code not in expected]
    wrong += dumps(base)
    kinds = (blackbox.TABLE, blackbox.STACKS, blackbox.POSTMORTEM)
    left = [path.name.split(".")[-2:] for path in black_boxes.files_of(base)]
    numbers = {number for number, _ in left}
    if any(kind not in kinds for _, kind in left) or len(left) > len(kinds) * len(numbers):
        wrong.append(f"files have piled up: {left}")
    most = max(map(int, numbers), default=0)
    # Each worker, and a child of each of its threads.
    if most > WORKERS * (1 + THREADS):
        wrong.append(f"numbers went up to {most}")
    lines = collections.Counter(
        line.split("(", maxsplit=1)[0].rstrip("0123456789 ")
        for line in errors.decode(errors="replace").splitlines()
        if line.startswith(("WARNING", "ERROR")) and "postmortem" not in line
    )
    if "Traceback" in errors.decode(errors="replace"):
        wrong.append("a traceback was logged")
        for fault in re.findall(r"(?m)^\w+ wsgi_tracebacker: fault(?s:.{0,2000})", errors.decode(errors="replace"))[:3]:
            say(fault)
    say(
        f"{result['forks']} forks in {time.monotonic() - began:.0f} s, {readers.reads} reads beside them"
        f" {dict(readers.states)}; {result['codes']}; {len(left)} files left of {len(numbers)} numbers, the highest"
        f" {most}; said: {dict(lines)}"
    )
    return wrong


def main() -> int:
    if sys.argv[1:2] == ["--read-on"]:
        with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
            read_on(sys.argv[2], float(sys.argv[3]))
        return 0
    if sys.argv[1:2] == ["--come-and-go"]:
        come_and_go(sys.argv[2], int(sys.argv[3]), time.monotonic() + float(sys.argv[4]), int(sys.argv[5]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reads", type=int, default=0)
    parser.add_argument("--forks", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    options = parser.parse_args()
    if not options.reads and not options.forks:
        parser.error("nothing to do: give --reads, --forks or both")
    say(f"seed {options.seed}")
    wrong = []
    with tempfile.TemporaryDirectory(prefix="tb-stress-", dir="/tmp") as folder:
        for name, wanted in (("r", options.reads), ("f", options.forks)):
            if not wanted:
                continue
            base, ends_at = f"{folder}/{name}", time.monotonic() + options.minutes * 60
            try:
                if name == "r":
                    wrong += many_reads(base, wanted, ends_at)
                else:
                    wrong += many_forks(base, wanted, ends_at, options.seed)
            finally:
                black_boxes.remove(base)
    for line in wrong:
        say(f"WRONG: {line}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
