"""What a real server gets done under wrk, with and without us, and while somebody reads it 100 times a second.

Each server has one worker with 8 threads and stays up for the whole measurement; wrk loads one of them at a time, in
turns, for a short while. Only turns that follow each other are compared: a ratio is made of one round. wrk, the
server and the reader share the processors of the machine, with whoever else is there; what the worker itself uses
for a request is not disturbed by them, so it is told too.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench import dump_latency, processes, served
from bench.folders import scratch_folder
from bench.samples import Row, in_turns, missing, row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOPIC = "A server under load"
CPU = "processor time of the worker, for a request"
PACES = "dumps taken meanwhile"
REQUESTS, P50, P99 = "requests answered", "time of a request, median", "time of a request, 99th percentile"
PACE = 100
#: An answer may take longer than a hundredth of a second beside eight busy threads: one reader alone would fall behind.
READERS = 4
BARE, OURS = "gunicorn gthread", "gunicorn gthread, wrapped"
READ_TEXT, READ_JSON = f"the same, read {PACE} times a second as text", f"the same, read {PACE} times a second as JSON"
#: What the readers, and a worker that answers them, take from the machine, where the loaded one has no part in it.
BESIDE = f"{BARE}, while another worker is read {PACE} times a second as text"
#: What any thread of Python pays for that many answers: four system calls each, and no look at anything.
FIXED = f"{BARE}, with a thread that answers fixed bytes {PACE} times a second"
UWSGI, UWSGI_READ = "uWSGI, with its tracebacker", f"uWSGI, its tracebacker read {PACE} times a second"
#: What is compared with what, in ratios of one round.
COMPARED = {BESIDE: BARE, FIXED: BARE, OURS: BARE, READ_TEXT: BARE, READ_JSON: BARE, UWSGI_READ: UWSGI}
RATIO = "throughput, of what it is without"
RATIO_CPU = "processor time for a request, beside what it is without"
RATIO_P99 = "99th percentile, of what it is without"

THREADS = CONNECTIONS = 8
SECONDS = 1
ROUNDS, QUICK_ROUNDS = 40, 2


class Load(NamedTuple):
    """What wrk said."""

    requests_per_second: float
    p50_ms: float
    p99_ms: float
    requests: int
    #: Of the server's worker, which wrk does not know.
    cpu_microseconds: float = math.nan


class Server(NamedTuple):
    address: str
    #: Of the master; it has one worker.
    pid: int

    def worker_pid(self) -> int:
        return int(Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()[0])

    def cpu_seconds(self) -> float:
        """Of the worker, with all its threads."""
        fields = Path(f"/proc/{self.worker_pid()}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


def parse(output: str) -> Load:
    """What wrk printed; ValueError if not everything was answered, or it is no such output."""
    if trouble := re.search(r"Non-2xx.*|Socket errors: .*", output):
        raise ValueError(trouble[0])
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    requests = re.search(r"(\d+) requests in", output)
    at = {
        percent: float(value) * _UNITS[unit]
        for percent, value, unit in re.findall(r"^\s+(50|99)%\s+([\d.]+)(us|ms|s)$", output, re.MULTILINE)
    }
    if rate is None or requests is None or set(at) != {"50", "99"}:
        raise ValueError(f"this is no output of wrk: {output!r}")
    return Load(float(rate[1]), at["50"], at["99"], int(requests[1]))


def run_wrk(wrk: str, address: str, seconds: int, path: str = "/") -> Load:
    command = [wrk, "--latency", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", f"http://{address}{path}"]
    limit = seconds + processes.PATIENCE_SECONDS
    return parse(subprocess.run(command, capture_output=True, text=True, check=True, timeout=limit).stdout)


@contextlib.contextmanager
def read_at_pace(path: str, question: bytes) -> Iterator[list[int]]:
    """Some who take turns to take 100 dumps a second, or as many as are given; the list holds the bytes of each."""
    sizes: list[int] = []
    over = threading.Event()
    begin = time.monotonic()

    def read(number: int) -> None:
        due = begin + number / PACE
        while not over.wait(max(0.0, due - time.monotonic())):
            sizes.append(len(processes.ask(path, question)))
            # Late is late: not a burst of those that were missed.
            due = max(due + READERS / PACE, time.monotonic())

    readers = [threading.Thread(target=read, args=(number,)) for number in range(READERS)]
    for reader in readers:
        reader.start()
    try:
        yield sizes
    finally:
        over.set()
        for reader in readers:
            reader.join()


def measure(quick: bool) -> list[Row]:
    wrk, uwsgi = processes.find("wrk"), processes.find("uwsgi")
    if wrk is None:
        return [missing(TOPIC, REQUESTS, BARE, "requests/s", f"wrk is {processes.NOT_INSTALLED}: apt-get install wrk")]
    loads: dict[str, list[Load]] = {}
    paces: dict[str, list[float]] = {}

    def sample(name: str, server: Server, path: str | None = None, question: bytes = b"") -> Callable[[], float]:
        def measured() -> float:
            with contextlib.ExitStack() as reading:
                sizes = [] if path is None else reading.enter_context(read_at_pace(path, question))
                began = time.monotonic()
                used = server.cpu_seconds()
                load = run_wrk(wrk, server.address, SECONDS)
                used = server.cpu_seconds() - used
                took = time.monotonic() - began
                paces.setdefault(name, []).append(len(sizes) / took)
            loads.setdefault(name, []).append(load._replace(cpu_microseconds=used / load.requests * 1e6))
            return load.requests_per_second

        return measured

    with contextlib.ExitStack() as up:
        folder = up.enter_context(scratch_folder())
        bare = up.enter_context(gunicorn(folder, served.BARE))
        fixed = up.enter_context(gunicorn(folder, served.FIXED, "fixed"))
        ours = up.enter_context(gunicorn(folder, served.WRAPPED))
        # Its first request was asked for when it was started, and it gets no other.
        up.enter_context(gunicorn(folder, served.WRAPPED, "idle"))
        subjects = {
            BARE: sample(BARE, bare),
            BESIDE: sample(BESIDE, bare, f"{folder}/idle1", dump_latency.TEXT_QUESTION),
            FIXED: sample(FIXED, fixed, f"{folder}/fixed1", dump_latency.TEXT_QUESTION),
            OURS: sample(OURS, ours),
            READ_TEXT: sample(READ_TEXT, ours, f"{folder}/tb1", dump_latency.TEXT_QUESTION),
            READ_JSON: sample(READ_JSON, ours, f"{folder}/tb1", dump_latency.JSON_QUESTION),
        }
        if uwsgi is not None:
            theirs = up.enter_context(uwsgi_server(uwsgi, folder))
            subjects[UWSGI] = sample(UWSGI, theirs)
            subjects[UWSGI_READ] = sample(UWSGI_READ, theirs, f"{folder}/uwsgi1")
        in_turns(subjects, QUICK_ROUNDS if quick else ROUNDS)
    return _rows(subjects, {name: found[1:] for name, found in loads.items()}, paces)


def _rows(
    subjects: dict[str, Callable[[], float]], loads: dict[str, list[Load]], paces: dict[str, list[float]]
) -> list[Row]:
    rows = []
    for case, unit, column in ((REQUESTS, "requests/s", 0), (P50, "ms", 1), (P99, "ms", 2), (CPU, "µs", 4)):
        for name in subjects:
            values = [load[column] for load in loads[name]]
            reference = statistics.median(load[column] for load in loads[BARE])
            read = paces[name]
            note = f"{sum(read) / len(read):.0f} dumps a second" if any(read) else ""
            rows.append(row(TOPIC, case, name, unit, values, reference, note))
        if UWSGI not in subjects:
            rows.append(missing(TOPIC, case, UWSGI, unit, processes.NOT_INSTALLED))
    read_ones = [name for name in (BESIDE, FIXED, READ_TEXT, READ_JSON, UWSGI_READ) if name in subjects]
    rows += [row(TOPIC, PACES, name, "a second", paces[name][1:], None) for name in read_ones]
    for case, column in ((RATIO, 0), (RATIO_P99, 2), (RATIO_CPU, 4)):
        for name, other in COMPARED.items():
            if name in subjects:
                ratios = [one[column] / beside[column] for one, beside in zip(loads[name], loads[other], strict=True)]
                rows.append(row(TOPIC, case, name, "times", ratios, None))
            else:
                rows.append(missing(TOPIC, case, name, "times", processes.NOT_INSTALLED))
    return rows


@contextlib.contextmanager
def gunicorn(folder: str, wrap: str, name: str = "tb", threads: int = THREADS) -> Iterator[Server]:
    """A gunicorn that serves the page, once it answers; its socket, if it has one, and its log are called ``name``."""
    log = f"{folder}/{wrap}-{name}.log"
    kind = "gthread" if threads > 1 else "sync"
    command = [
        *(sys.executable, "-m", "gunicorn", "--worker-class", kind, "--workers", "1", "--threads", str(threads)),
        *("--bind", "127.0.0.1:0", "--keep-alive", "60", "--no-control-socket", "--log-file", log),
        "bench.served:application",
    ]
    env = {"BENCH_WRAP": wrap, "WSGI_TB_SOCKET": f"{folder}/{name}", "BENCH_MANHOLE": f"{folder}/manhole"}
    with processes.running(command, env) as process:
        yield Server(_address(process, Path(log), r"Listening at: http://(\S+)"), process.pid)


@contextlib.contextmanager
def uwsgi_server(uwsgi: str, folder: str) -> Iterator[Server]:
    """A uWSGI that serves the page, once it answers."""
    command = [
        *(uwsgi, "--http11-socket", "127.0.0.1:0", "--threads", str(THREADS), "--py-tracebacker", f"{folder}/uwsgi"),
        *("--virtualenv", sys.prefix, "--pythonpath", str(Path(__file__).parent.parent), "--disable-logging"),
        *("--module", "bench.served", "--master", "--logto", f"{folder}/uwsgi.log"),
    ]
    with processes.running(command, {"BENCH_WRAP": served.BARE}) as process:
        address = _address(process, Path(folder, "uwsgi.log"), r"bound to TCP address (127\.0\.0\.1:\d+)")
        yield Server(address, process.pid)


def _address(process: subprocess.Popen[bytes], log: Path, pattern: str) -> str:
    """The address that a server's log names, once it answers there."""

    def named() -> re.Match[str] | None:
        return re.search(pattern, log.read_text(errors="replace")) if log.exists() else None

    def answers() -> bool:
        found = named()
        if found is None:
            return False
        try:
            with urllib.request.urlopen(f"http://{found[1]}/", timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    processes.wait_until(answers, "a server", process)
    found = named()
    assert found is not None
    return found[1]
