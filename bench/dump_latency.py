"""How long a dump takes, from connecting to the end of the reply, beside uWSGI's own tracebacker and py-spy.

All of them look at the same process, a uWSGI worker whose threads each stand in a request of ours: the same stacks,
the same interpreter. Without uWSGI it is a process of plain Python.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench import processes, stacks
from bench.folders import scratch_folder
from bench.samples import Row, in_turns, missing, row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOPIC = "A dump, connect to end"
TEXT, JSON, UWSGI, PY_SPY = "wsgi_tracebacker, text", "wsgi_tracebacker, JSON", "uWSGI", "py-spy dump, a process"
FEW, MANY, MOST = (f"{count} threads of {stacks.FRAMES} frames" for count in (4, 64, 500))
BUSY = f"{MANY}, beside 2 busy threads"

TEXT_QUESTION = b"GET /snapshot.txt HTTP/1.0\r\n\r\n"
JSON_QUESTION = b"GET /snapshot HTTP/1.0\r\n\r\n"


class Case(NamedTuple):
    threads: int
    busy: int
    #: uWSGI's cost grows with the square of the threads: two seconds a dump of 500.
    rounds: int
    quick_rounds: int


CASES = {FEW: Case(4, 0, 60, 10), MANY: Case(64, 0, 40, 8), MOST: Case(500, 0, 6, 2), BUSY: Case(64, 2, 20, 4)}


class Worker(NamedTuple):
    """The process that is looked at."""

    pid: int
    #: Our socket.
    socket: str
    #: uWSGI's own.
    uwsgi_socket: str | None


def measure(quick: bool) -> list[Row]:
    rows: list[Row] = []
    for name, case in CASES.items():
        with worker(case) as found:
            sizes = {}
            subjects: dict[str, Callable[[], float]] = {}
            for subject, path, question in (
                (TEXT, found.socket, TEXT_QUESTION),
                (JSON, found.socket, JSON_QUESTION),
                (UWSGI, found.uwsgi_socket, b""),
            ):
                if path is not None:
                    subjects[subject] = dump_milliseconds(path, question)
                    sizes[subject] = f"{len(processes.ask(path, question)):,} bytes"
            py_spy = processes.find("py-spy")
            problem = processes.NOT_INSTALLED
            if py_spy is not None:
                try:
                    command = [py_spy, "dump", "--pid", str(found.pid)]
                    processes.milliseconds(command)
                    subjects[PY_SPY] = lambda command=command: processes.milliseconds(command)  # type: ignore[misc]
                except (OSError, subprocess.SubprocessError) as error:
                    problem = f"does not work here: {error}"
            values = in_turns(subjects, case.quick_rounds if quick else case.rounds)
        reference = statistics.median(values[TEXT])
        for subject in (TEXT, JSON, UWSGI, PY_SPY):
            if subject in values:
                rows.append(row(TOPIC, name, subject, "ms", values[subject], reference, sizes.get(subject, "")))
            else:
                why = problem if subject == PY_SPY else processes.NOT_INSTALLED
                rows.append(missing(TOPIC, name, subject, "ms", why))
    return rows


def dump_milliseconds(path: str, question: bytes) -> Callable[[], float]:
    def sample() -> float:
        started = time.perf_counter()
        processes.ask(path, question)
        return (time.perf_counter() - started) * 1e3

    return sample


@contextlib.contextmanager
def worker(case: Case) -> Iterator[Worker]:
    """A process with so many threads in requests, and the proof that they are what they should be."""
    uwsgi = processes.find("uwsgi")
    with scratch_folder() as folder:
        env = {
            "BENCH_THREADS": str(case.threads),
            "BENCH_BUSY": str(case.busy),
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
            depths = [len(thread["frames"]) for thread in snapshot["threads"] if thread["request"] is not None]
            if depths != [stacks.FRAMES] * case.threads:
                raise RuntimeError(f"there should be {case.threads} threads of {stacks.FRAMES} frames: {depths}")
            yield Worker(snapshot["worker"]["pid"], f"{folder}/tb1", None if uwsgi is None else f"{folder}/uwsgi1")
