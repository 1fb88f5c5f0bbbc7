"""Stacks read from the memory of another process: of threads that stand still, and of threads that run."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.programs import known_calls
from tests.support.programs import PROJECT, require_program
from tests.support.pythons import VERSIONS, needs_known_memory, require_python
from tests.support.waiting import wait_until
from wsgi_tracebacker.errors import MemoryUnreadable
from wsgi_tracebacker.model.recording import CUT, EXACT, TORN
from wsgi_tracebacker.reader.outside.interpreter import Interpreter, attach
from wsgi_tracebacker.reader.outside.unwind import Paths, ThreadStack

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = needs_known_memory

PROGRAMS = PROJECT / "tests" / "programs"

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"


@contextlib.contextmanager
def running(python: str, program: str, *arguments: str) -> Iterator[tuple[int, str]]:
    """The pid of a program, and the first line that it printed."""
    command = [python, str(PROGRAMS / program), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.pid, process.stdout.readline()
        finally:
            process.kill()


@contextlib.contextmanager
def attached(pid: int) -> Iterator[Interpreter]:
    with contextlib.closing(attach(pid)) as interpreter:
        yield interpreter


@pytest.mark.parametrize("version", VERSIONS)
def test_threads_that_stand_still_are_where_python_says(version: str) -> None:
    """Every thread in every kind of call: file, qualified name and line of every frame, and the native id."""
    with running(require_python(version), "blocked_threads.py") as (pid, line), attached(pid) as interpreter:
        paths, threads = Paths(), {thread.ident: thread for thread in interpreter.threads()}
        for ident, native_id, frames in json.loads(line):
            look = ThreadStack(interpreter, threads[ident].address, paths).look()
            assert look.outcome == EXACT
            assert [[frame.filename, frame.function, frame.lineno] for frame in look.frames] == frames
            assert threads[ident].native_id == (0 if version == "3.10" else native_id)


def look_at_busy_threads(version: str, story: str, kind: str, threads: int, looks: int) -> Counter[str]:
    """The outcomes of so many looks; each stack that nobody can have had fails."""
    why_wrong = known_calls.judge(story, kind)
    outcomes: Counter[str] = Counter()
    arguments = (story, kind, str(threads))
    with running(require_python(version), "known_calls.py", *arguments) as (pid, _), attached(pid) as interpreter:
        paths, main = Paths(), interpreter.threads()[-1]
        stacks = [ThreadStack(interpreter, each.address, paths) for each in interpreter.threads() if each != main]
        assert len(stacks) == threads
        for number in range(looks):
            look = stacks[number % threads].look()
            outcomes[look.outcome] += 1
            known = [(each.filename, each.function, each.lineno) for each in look.frames if each.filename == "<known>"]
            assert not known or why_wrong(known) is None, (look.outcome, known)
    return outcomes


CASES = [(story, kind, threads) for story in ("tree", "shared") for kind in known_calls.CALLS for threads in (1, 4)]


@pytest.mark.parametrize(("story", "kind", "threads"), CASES)
def test_a_running_thread_is_never_shown_where_it_was_not(story: str, kind: str, threads: int) -> None:
    """Each stack is one that the program can have had; few are thrown away."""
    outcomes = look_at_busy_threads(HERE, story, kind, threads, 1000)
    # In 3.10, what runs is not read.
    assert HERE == "3.10" or outcomes[EXACT] + outcomes[CUT] > 700, outcomes


#: The case that found a fault before, on this interpreter.
QUICK = (HERE, "shared", "plain", 1)
MANY = [(version, *case) for version in VERSIONS for case in CASES]


@pytest.mark.alone
@pytest.mark.parametrize(
    ("version", "story", "kind", "threads"),
    [QUICK, *(pytest.param(*each, marks=pytest.mark.slow) for each in MANY if each != QUICK)],
)
def test_of_twenty_thousand_looks_none_is_wrong(version: str, story: str, kind: str, threads: int) -> None:
    """The same on every interpreter of this machine; in 3.10, what runs is not read."""
    outcomes = look_at_busy_threads(version, story, kind, threads, 20_000)
    assert version == "3.10" or outcomes[TORN] < 1_000, outcomes


def test_memory_that_is_gone_is_read_no_more() -> None:
    """Where one piece cannot be read, each of hundreds is read by itself, and a picture takes a millisecond."""
    # It sleeps so that it can be looked at while it is deep.
    program = (
        "import time\n"
        "def deep(depth):\n"
        "    return deep(depth - 1) if depth else time.sleep(0.1)\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    deep(900)\n"
        "    deep(1)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            with attached(process.pid) as interpreter:
                [thread] = interpreter.threads()
                stack = ThreadStack(interpreter, thread.address, Paths())
                wait_until(lambda: len(stack.look().frames) > 900, "it was deep")
                wait_until(lambda: len(stack.look().frames) < 10, "it came back")
                for start, end in stack._spans:
                    assert len(interpreter.memory.read(start, end - start)) == end - start
        finally:
            process.kill()


def _cpu_seconds(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


@pytest.mark.parametrize("version", VERSIONS)
def test_the_holder_of_the_gil_is_known(version: str) -> None:
    """The thread in a C call that keeps the GIL holds it in every look, and every stack is exact all the same."""
    program = (
        "import re, threading, time\n"
        "def matching():\n"
        "    re.match('(a+)+$', 'a' * 40 + 'b')\n"
        "for _ in range(3): threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
        "print('ready', flush=True)\n"
        "matching()\n"
    )
    with subprocess.Popen([require_python(version), "-c", program], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            with attached(process.pid) as interpreter:
                paths = Paths()
                stacks = [(each, ThreadStack(interpreter, each.address, paths)) for each in interpreter.threads()]
                main = stacks[-1][1]
                while "matching" not in [frame.function for frame in main.look().frames]:
                    pass
                # The expression is compiled in Python; then it is in C for ever.
                began = _cpu_seconds(process.pid)
                wait_until(lambda: _cpu_seconds(process.pid) > began + 0.1, "it is in the C call")
                for _ in range(100):
                    holder = next(stack for each, stack in stacks if each.address == interpreter.gil_holder())
                    look = holder.look()
                    assert (look.outcome, "matching" in [frame.function for frame in look.frames]) == (EXACT, True)
                assert {stack.look().outcome for _, stack in stacks} == {EXACT}
        finally:
            process.kill()


def test_what_is_no_python_is_refused_by_name() -> None:
    """A program without CPython, and a process that is not there."""
    with subprocess.Popen(["sleep", "600"]) as process:
        try:
            with pytest.raises(MemoryUnreadable, match="no CPython"):
                attach(process.pid)
        finally:
            process.kill()
    with pytest.raises(MemoryUnreadable, match="ended"):
        attach(process.pid)


#: Becomes nobody, then asks for the memory of a process.
NOBODY = (
    "import os, sys\n"
    "from wsgi_tracebacker.reader.outside.interpreter import attach\n"
    "from wsgi_tracebacker.errors import MemoryUnreadable\n"
    "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
    "try: attach(int(sys.argv[1]))\n"
    "except MemoryUnreadable as error: print(error)\n"
)
#: It is ended by the test: it only has to be there.
CHANGED_USER = "import os, time; os.setgid(65534); os.setuid(65534); print('ready', flush=True); time.sleep(600)"
AS_NOBODY = ("setpriv", "--reuid", "65534", "--clear-groups")
SLEEP = "echo ready; exec sleep 600"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(
    ("target", "why"),
    [
        (["sh", "-c", SLEEP], "it runs as another user: run wsgi-tb as root"),
        ([*AS_NOBODY, "--regid", "4711", "sh", "-c", SLEEP], "it runs with another group: run wsgi-tb as root"),
        ([sys.executable, "-c", CHANGED_USER], "it changed its user after it was started: run wsgi-tb as root"),
        (
            [
                *AS_NOBODY,
                "--regid",
                "65534",
                "--inh-caps",
                "+net_bind_service",
                "--ambient-caps",
                "+net_bind_service",
                "sh",
                "-c",
                SLEEP,
            ],
            "it has capabilities that this user lacks: run wsgi-tb as root",
        ),
    ],
    ids=["another user", "another group", "changed its user", "more capabilities"],
)
def test_what_is_refused_is_recognized_and_named(target: list[str], why: str) -> None:
    """The kernel says only that it is not permitted; the reason says which rule it was, and what to try."""
    with subprocess.Popen(target, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            command = [sys.executable, "-c", NOBODY, str(process.pid)]
            # The shell becomes sleep, which may take a moment: until then its reason may be another one.
            wait_until(
                lambda: why in subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False).stdout,
                lambda: f"{why}: {subprocess.run(command, cwd=PROJECT, capture_output=True, check=False)}",
                60,
            )
        finally:
            process.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up what a reader needs")
def test_root_without_the_capability_is_told_so() -> None:
    """As in a container."""
    without = [require_program("setpriv"), "--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace"]
    program = NOBODY.replace("os.setgroups([]); os.setgid(65534); os.setuid(65534)", "")
    command = [*without, sys.executable, "-c", program, str(os.getpid())]
    found = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=60)
    assert "CAP_SYS_PTRACE" in found.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_memory_that_was_opened_stays_readable_without_the_rights() -> None:
    """Root opens it and becomes another user: stacks are read all the same, piece by piece."""
    program = (
        "import json, os, sys\n"
        "from wsgi_tracebacker.reader.outside.interpreter import attach\n"
        "from wsgi_tracebacker.reader.outside.unwind import Paths, ThreadStack\n"
        "interpreter = attach(int(sys.argv[1]))\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "looks = [ThreadStack(interpreter, each.address, Paths()).look() for each in interpreter.threads()]\n"
        "print(json.dumps([[look.outcome, [frame[:3] for frame in look.frames]] for look in looks]))\n"
    )
    with running(sys.executable, "blocked_threads.py") as (pid, line):
        command = [sys.executable, "-c", program, str(pid)]
        found = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=60)
        looks = json.loads(found.stdout)
    for _, _, frames in json.loads(line):
        assert [EXACT, [[file, lineno, function] for file, function, lineno in frames]] in looks
