"""How long a dump takes, from connecting to the end of the reply, beside everything else that shows stacks.

All of them look at the same process, a uWSGI worker whose threads each stand in a request of ours: the same stacks,
the same interpreter. Without uWSGI it is a process of plain Python. What others do not show is written beside them.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench import processes, stacks
from bench.folders import scratch_folder
from bench.samples import Row, in_turns, missing, row, usable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOPIC = "A dump, connect to end"
TEXT, JSON, UWSGI = "wsgi_tracebacker, text", "wsgi_tracebacker, JSON", "uWSGI"
MANHOLE, FAULTHANDLER = "manhole", "faulthandler, asked on a socket"
PY_SPY, PYSTACK = "py-spy dump, a process", "pystack remote, a process"
SUBJECTS = (TEXT, JSON, UWSGI, MANHOLE, FAULTHANDLER, PY_SPY, PYSTACK)


class Case(NamedTuple):
    threads: int
    frames: int = 31
    #: Threads that compute all the time.
    busy: int = 0
    rounds: int = 30
    #: None: left out.
    quick_rounds: int | None = None

    @property
    def name(self) -> str:
        beside = f", beside {self.busy} busy threads" if self.busy else ""
        return f"{self.threads} threads of {self.frames} frames{beside}"


#: The two for which there are targets.
_MANY, _BUSY = Case(64, rounds=40, quick_rounds=8), Case(64, busy=2, rounds=40, quick_rounds=6)
MANY, BUSY = _MANY.name, _BUSY.name

CASES = (
    _MANY,
    _BUSY,
    Case(4, 10),
    Case(4, 40, quick_rounds=4),
    Case(4, 200),
    Case(64, 10),
    Case(64, 40),
    Case(64, 200),
    Case(500, 10),
    Case(500, 40, quick_rounds=2),
    Case(500, 200),
    # CPU-bound: every answer has to wait for the GIL.
    Case(4, 10, busy=2, rounds=15),
    Case(4, 40, busy=2),
    Case(4, 200, busy=2, rounds=15),
    Case(64, 10, busy=2, rounds=15),
    Case(64, 40, busy=2, rounds=15),
    Case(64, 200, busy=2, rounds=15),
    Case(500, 10, busy=2, rounds=15),
    Case(500, 40, busy=2, rounds=15),
    Case(500, 200, busy=2, rounds=15),
)

#: What one subject may take of one case, in seconds. uWSGI's cost grows with the square of the threads.
BUDGET_SECONDS, QUICK_BUDGET_SECONDS = 2.0, 0.8

TEXT_QUESTION = b"GET /snapshot.txt HTTP/1.0\r\n\r\n"
JSON_QUESTION = b"GET /snapshot HTTP/1.0\r\n\r\n"
#: Ends what manhole prints of the stacks; its prompt follows.
MANHOLE_END = b"\n#############################################\n"

#: Why manhole is not asked beside threads that compute. Tried on 1.8.1: one connection, and the process never answered
#: anybody again. As it ends it sets the switch interval to 2**31 s, and whatever lets go of the GIL then is its last.
MANHOLE_FREEZES = "not asked: beside a thread that computes, it freezes the process for good (manhole 1.8.1)"

#: What faulthandler shows at most (Python/traceback.c).
_FAULTHANDLER_THREADS, _FAULTHANDLER_FRAMES = 100, 100


class Worker(NamedTuple):
    """The process that is looked at."""

    pid: int
    #: Our socket.
    socket: str
    #: uWSGI's own.
    uwsgi_socket: str | None
    #: Where those are that live in the process.
    peers: str
    #: Whether all its threads wait.
    is_idle: bool

    def dumps(self) -> dict[str, Callable[[], int | None]]:
        """How each subject takes a dump; bytes of it, where it is no process of its own."""
        found: dict[str, Callable[[], int | None]] = {
            TEXT: lambda: len(processes.ask(self.socket, TEXT_QUESTION)),
            JSON: lambda: len(processes.ask(self.socket, JSON_QUESTION)),
            FAULTHANDLER: lambda: len(processes.ask(f"{self.peers}/peers", b"stacks")),
        }
        uwsgi_socket = self.uwsgi_socket
        if uwsgi_socket is not None:
            found[UWSGI] = lambda: len(processes.ask(uwsgi_socket, b""))
        if self.is_idle and Path(self.peers, "manhole").exists():
            found[MANHOLE] = lambda: len(processes.ask_until(f"{self.peers}/manhole", MANHOLE_END))
        for subject, name, arguments in ((PY_SPY, "py-spy", ["dump", "--pid"]), (PYSTACK, "pystack", ["remote"])):
            program = processes.find(name)
            if program is not None:
                command = [program, *arguments, str(self.pid)]
                found[subject] = lambda command=command: processes.run(command)  # type: ignore[misc]
        return found

    def reasons(self) -> dict[str, str]:
        """Why some are not asked."""
        return {} if self.is_idle else {MANHOLE: MANHOLE_FREEZES}


def measure(quick: bool) -> list[Row]:
    rows: list[Row] = []
    for case in CASES:
        rounds = case.quick_rounds if quick else case.rounds
        if rounds is not None:
            rows += measure_case(case, rounds, QUICK_BUDGET_SECONDS if quick else BUDGET_SECONDS)
    return rows


def measure_case(case: Case, rounds: int, budget_seconds: float) -> list[Row]:
    with worker(case) as found:
        sizes: dict[str, int | None] = {}

        def sample(subject: str, dump: Callable[[], int | None]) -> Callable[[], float]:
            def measured() -> float:
                started = time.perf_counter()
                sizes[subject] = dump()
                return (time.perf_counter() - started) * 1e3

            return measured

        subjects, problems = usable({subject: sample(subject, dump) for subject, dump in found.dumps().items()})
        values = in_turns(subjects, rounds, budget_seconds)
    reasons = {**found.reasons(), **problems}
    reference = statistics.median(values[TEXT])
    rows = []
    for subject in SUBJECTS:
        if subject in values:
            note = remark(case, subject, sizes[subject])
            rows.append(row(TOPIC, case.name, subject, "ms", values[subject], reference, note))
        else:
            why = reasons.get(subject) or processes.NOT_INSTALLED
            rows.append(missing(TOPIC, case.name, subject, "ms", why))
    return rows


def remark(case: Case, subject: str, size: int | None) -> str:
    """How much it was, and what is missing in it."""
    if size is None:
        return ""
    remarks = [f"{size:,} bytes"]
    if subject == FAULTHANDLER:
        if case.threads > _FAULTHANDLER_THREADS:
            remarks.append(f"{_FAULTHANDLER_THREADS} threads only")
        if case.frames > _FAULTHANDLER_FRAMES:
            remarks.append(f"{_FAULTHANDLER_FRAMES} frames each only")
    return ", ".join(remarks)


@contextlib.contextmanager
def worker(case: Case, *, notes_pauses: bool = False) -> Iterator[Worker]:
    """A process with so many threads in requests, and the proof that they are what they should be."""
    uwsgi = processes.find("uwsgi")
    with scratch_folder() as folder:
        env = {
            "BENCH_THREADS": str(case.threads),
            "BENCH_FRAMES": str(case.frames),
            "BENCH_BUSY": str(case.busy),
            "BENCH_PAUSES": "1" if notes_pauses else "",
            "BENCH_PEERS": folder,
            "WSGI_TB_SOCKET": f"{folder}/tb",
        }
        command = [sys.executable, "-m", "bench.stacks"]
        if uwsgi is not None:
            command = [
                *(uwsgi, "--http-socket", f"{folder}/http", "--enable-threads", "--py-tracebacker", f"{folder}/uwsgi"),
                *("--virtualenv", sys.prefix, "--pythonpath", str(Path(__file__).parent.parent)),
                *("--module", "bench.stacks", "--disable-logging", "--master"),
            ]
        with processes.running(command, env) as process:
            if uwsgi is None:
                assert process.stdout is not None
                process.stdout.readline()
            else:
                processes.wait_until(Path(folder, "uwsgi1").exists, "uWSGI's tracebacker", process)
                processes.ask(f"{folder}/http", b"GET / HTTP/1.0\r\n\r\n")
            snapshot = json.loads(processes.ask(f"{folder}/tb1", JSON_QUESTION).partition(b"\r\n\r\n")[2])
            depths = [
                len(thread["frames"])
                for thread in snapshot["threads"]
                if thread["request"] is not None and thread["request"]["path"] != stacks.BUSY_PATH
            ]
            if depths != [case.frames] * case.threads:
                raise RuntimeError(f"there should be {case.name}: {depths}")
            yield Worker(
                snapshot["worker"]["pid"],
                f"{folder}/tb1",
                uwsgi and f"{folder}/uwsgi1",
                folder,
                not (case.busy or notes_pauses),
            )
