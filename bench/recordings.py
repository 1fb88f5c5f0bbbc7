"""What recordings are worth, and what they cost: the share of a function beside the application's own clock, and how
far py-spy and austin are from it; then throughput and latency of a server while it is recorded.

It takes an hour, so it is measured only where it is asked for: ``python -m bench recordings``.
"""

from __future__ import annotations

import contextlib
import os
import resource
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench import clocked, processes, served
from bench.folders import scratch_folder
from bench.samples import Row, in_turns, missing, row
from bench.throughput import Load, gunicorn, run_wrk
from wsgi_tracebacker.model.recording import PLACE_UNKNOWN
from wsgi_tracebacker.wire.profiles import raw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

TOPIC = "Recordings"
OURS, BLOCKING, NON_BLOCKING, AUSTIN = "wsgi-tb record", "py-spy record", "py-spy record --nonblocking", "austin"
INSIDE = "wsgi-tb record --from-inside"
#: The program of each.
PROGRAMS = {OURS: "", INSIDE: "", BLOCKING: "py-spy", NON_BLOCKING: "py-spy", AUSTIN: "austin"}
PY_SPY = (BLOCKING, NON_BLOCKING)
OFF = "off the application's own clock"
PLAIN, RECORDED = "not recorded", "recorded, 100 a second"
REQUESTS, P99, CPU, READER, SEEN = (
    "requests answered", "99th percentile", "CPU of the worker a request", "CPU of the reader, 8 threads of 40 calls",
    "looks that see a request, sync worker, requests of 1 ms",
)  # fmt: skip

#: At 100 a second, in three rounds 3,000 samples of one thread.
SECONDS, QUICK_SECONDS = 11, 4


#: Of a quick run: what Python computes, what it waits for, and what it cannot see.
QUICK_CASES = ("bursts of 1 ms", "C calls of 7 ms that keep the GIL", "sleeps of 5 ms")


def measure(quick: bool) -> list[Row]:
    seconds, rounds = (QUICK_SECONDS, 1) if quick else (SECONDS, 3)
    rows = []
    for threads in (8,) if quick else (1, 8):
        for case in QUICK_CASES if quick else clocked.CASES:
            found: dict[str, list[Recorded]] = {subject: [] for subject in PROGRAMS}
            problems: dict[str, str] = {}
            for _ in range(rounds):
                for subject, program in PROGRAMS.items():
                    if program and not processes.find(program):
                        problems[subject] = f"{program} is {processes.NOT_INSTALLED}"
                        continue
                    try:
                        found[subject].append(recorded(case, threads, seconds, subject))
                    except subprocess.CalledProcessError as error:
                        last = str(error.stderr, "utf-8", "replace").strip().rpartition("\n")[2]
                        problems[subject] = f"does not work here: {last}"
            rows += [_row(case_name(case, threads), each, found[each], problems.get(each, "")) for each in PROGRAMS]
    return [*rows, *_cost(5 if quick else 20)]


def _row(case: str, subject: str, found: list[Recorded], problem: str) -> Row:
    if not found:
        return missing(TOPIC, case, subject, "points", problem)
    unknown = statistics.median(each.unknown for each in found)
    note = problem or (f"{unknown:.0%} of the time: {PLACE_UNKNOWN}" if subject == INSIDE else "")
    return row(TOPIC, case, subject, "points", [each.points_off for each in found], None, note)


def case_name(case: str, threads: int) -> str:
    return f"{case}, {threads} thread{'s' * (threads > 1)}: {OFF}"


class Recorded(NamedTuple):
    #: How far the share of ``long_part`` is from what the application measured, in points of a hundred.
    points_off: float
    #: The share of the time that is said to be in no known place.
    unknown: float


def recorded(case: str, threads: int, seconds: int, subject: str) -> Recorded:
    """Record an application that keeps its own clock."""
    with scratch_folder() as folder:
        command = [sys.executable, "-m", "bench.clocked", case, str(threads), str(seconds)]
        environment = {**os.environ, "WSGI_TB_SOCKET": f"{folder}/tb"}
        with subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdout.readline()
                process.stdin.write("go\n")
                process.stdin.flush()
                output = f"{folder}/recorded.folded"
                subprocess.run(
                    _command(subject, f"{folder}/tb", process.pid, seconds - 1, output), check=True, capture_output=True
                )
                truth = float(process.stdout.readline())
            finally:
                process.kill()
        lines = Path(output).read_text(encoding="utf-8").splitlines()
        return Recorded(abs(share_of_long(lines) - truth) * 100, share_of_unknown(lines) if subject == INSIDE else 0.0)


def _command(subject: str, base: str, pid: int, seconds: int, output: str) -> list[str]:
    if subject in {OURS, INSIDE}:
        command = [sys.executable, "-m", "wsgi_tracebacker", "record", base, "-d", str(seconds), "-o", output]
        return [*command, "--from-inside"] if subject == INSIDE else command
    if subject == AUSTIN:
        return [str(processes.find("austin")), "-p", str(pid), "-x", str(seconds), "-i", "10ms", "-o", output]
    more = ["--nonblocking"] if subject == NON_BLOCKING else []
    # --idle: threads that wait too, as they are a part of a request's time.
    py_spy = [str(processes.find("py-spy")), "record", "-p", str(pid), "-d", str(seconds)]
    return [*py_spy, "-f", "raw", "-o", output, "--idle", *more]


def share_of_long(lines: Iterable[str]) -> float:
    """The share of ``long_part`` in both parts, of folded stacks; cut ones count where their last sure call is.

    A call is ``long_part (file:line)``, or of austin ``file:long_part:line``.
    """
    weights = {"long_part": 0.0, "short_part": 0.0}
    for line in lines:
        names, _, weight = line.rpartition(" ")
        for part in weights:
            if f"{part} (" in names or f":{part}:" in names:
                weights[part] += float(weight)
    return weights["long_part"] / (sum(weights.values()) or 1)


def share_of_unknown(lines: Iterable[str]) -> float:
    """The share of folded stacks that ends with PLACE_UNKNOWN."""
    weights = {True: 0.0, False: 0.0}
    for line in lines:
        names, _, weight = line.rpartition(" ")
        weights[names.endswith(PLACE_UNKNOWN)] += float(weight)
    return weights[True] / (sum(weights.values()) or 1)


def _seen(wrk: str, seconds: int) -> Row:
    """How many looks at a saturated worker see the request that it serves; what they miss is the server's own time."""
    with scratch_folder() as folder, gunicorn(folder, served.WRAPPED, threads=1) as server:
        output = f"{folder}/recorded.jsonl"
        command = [sys.executable, "-m", "wsgi_tracebacker", "record", f"{folder}/tb", "-d", str(seconds)]
        with processes.running([*command, "-o", output], os.environ) as recorder:
            load = run_wrk(wrk, server.address, seconds + 2, served.COMPUTE_PATH)
            recorder.wait(processes.PATIENCE_SECONDS)
        with open(output, encoding="utf-8") as file:
            recording = raw.parse(file)
    share = (recording.total_seconds + recording.torn_seconds) / recording.seconds * 100
    in_requests = load.requests_per_second * served.COMPUTE_SECONDS * 100
    return row(TOPIC, SEEN, OURS, "% of looks", [share], None, f"{in_requests:.0f} % of the time was the application's")


def _cost(rounds: int) -> list[Row]:
    wrk = processes.find("wrk")
    if wrk is None:
        return [missing(TOPIC, REQUESTS, PLAIN, "requests/s", f"wrk is {processes.NOT_INSTALLED}: apt-get install wrk")]
    loads: dict[str, list[Load]] = {PLAIN: [], RECORDED: []}
    with contextlib.ExitStack() as up:
        folder = up.enter_context(scratch_folder())
        server = up.enter_context(gunicorn(folder, served.WRAPPED))

        def sample(name: str) -> Callable[[], float]:
            def measured() -> float:
                with contextlib.ExitStack() as reading:
                    if name == RECORDED:
                        command = [sys.executable, "-m", "wsgi_tracebacker", "record", f"{folder}/tb", "-d", "600"]
                        recorder = reading.enter_context(
                            processes.running([*command, "-o", f"{folder}/x.folded"], os.environ)
                        )
                        processes.wait_until(lambda: _reads_memory(recorder.pid), "it records", recorder)
                    used = server.cpu_seconds()
                    load = run_wrk(wrk, server.address, 2)
                    used = server.cpu_seconds() - used
                loads[name].append(load._replace(cpu_microseconds=used / load.requests * 1e6))
                return load.requests_per_second

            return measured

        in_turns({name: sample(name) for name in loads}, rounds)
    # The first round warms up.
    found = {name: each[1:] for name, each in loads.items()}
    pairs = list(zip(found[RECORDED], found[PLAIN], strict=True))
    ratios = {
        REQUESTS: [recorded.requests_per_second / plain.requests_per_second for recorded, plain in pairs],
        P99: [recorded.p99_ms / plain.p99_ms for recorded, plain in pairs],
        CPU: [recorded.cpu_microseconds / plain.cpu_microseconds for recorded, plain in pairs],
    }
    rows = [row(TOPIC, case, RECORDED, "times", values, None) for case, values in ratios.items()]
    rows.append(_seen(wrk, 4 if rounds < 20 else 30))
    return [*rows, row(TOPIC, READER, OURS, "% of a CPU", [_reader_share() for _ in range(max(1, rounds // 7))], None)]


def _reads_memory(pid: int) -> bool:
    with contextlib.suppress(OSError):
        folder = f"/proc/{pid}/fd"
        return any(os.readlink(f"{folder}/{each}").endswith("/mem") for each in os.listdir(folder))
    return False


def _reader_share() -> float:
    """The CPU that a recording of 8 waiting threads takes, in per cent, without its start."""
    with scratch_folder() as folder:
        command = [sys.executable, "-m", "bench.recorder_load", "none", "30"]
        with processes.running(command, {**os.environ, "WSGI_TB_SOCKET": f"{folder}/tb"}) as process:
            processes.wait_until(partial(processes.has_requests, f"{folder}/tb1", 8), "it serves", process)
            used = []
            for seconds in (1, 9):
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                line = [sys.executable, "-m", "wsgi_tracebacker", "record", f"{folder}/tb", "-d", str(seconds)]
                subprocess.run([*line, "-o", f"{folder}/x.folded"], check=True, capture_output=True)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                used.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return (used[1] - used[0]) / 8 * 100
