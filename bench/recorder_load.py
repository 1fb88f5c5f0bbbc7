"""What the flight recorder takes from a worker while it records eight slow requests.

The requests wait at the depth of an ordinary stack; whatever CPU the process uses meanwhile is the recorder's and the
watchdog's. Run as a program, this module is that process and prints its share of a CPU.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, cast

from bench import environ
from bench.folders import scratch_folder
from bench.samples import Row, row
from wsgi_tracebacker import TracebackerMiddleware

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

TOPIC = "The flight recorder"
CASE = "8 slow requests, 10 samples a second"
IDLE, RECORDING = "not recorded", "recorded"

REQUESTS = 8
DEPTH = 40


def share_of_a_cpu(slow_seconds: float | None, seconds: float) -> float:
    """The process's share of a CPU, in per cent, over so many seconds in which all the requests wait."""
    waiting = threading.Semaphore(0)
    go_on = threading.Event()

    def wait(depth: int) -> None:
        if depth:
            wait(depth - 1)
        else:
            waiting.release()
            go_on.wait()

    def application(_: WSGIEnvironment, __: StartResponse) -> Iterable[bytes]:
        wait(DEPTH)
        return []

    wrapped = TracebackerMiddleware(application, slow=slow_seconds)
    threads = [
        threading.Thread(target=wrapped, args=(environ.make(), cast("Any", None)), daemon=True) for _ in range(REQUESTS)
    ]
    for thread in threads:
        thread.start()
    for _ in threads:
        waiting.acquire()
    # Until they are slow, and what each place in the code looks like was made once.
    time.sleep((slow_seconds or 0.0) + 0.5)
    began, cpu = time.monotonic(), time.process_time()
    # The measurement itself: CPU over a stretch of time.
    time.sleep(seconds)
    share = (time.process_time() - cpu) / (time.monotonic() - began) * 100
    logging.disable()
    go_on.set()
    for thread in threads:
        thread.join()
    return share


def measure(quick: bool) -> list[Row]:
    seconds, rounds = (1.0, 2) if quick else (3.0, 5)
    samples: dict[str, list[float]] = {IDLE: [], RECORDING: []}
    for _ in range(rounds):
        for subject, values in samples.items():
            values.append(_in_a_process("none" if subject == IDLE else "0.1", seconds))
    return [row(TOPIC, CASE, subject, "% of a CPU", values, None) for subject, values in samples.items()]


def _in_a_process(slow: str, seconds: float) -> float:
    with scratch_folder() as folder:
        output = subprocess.run(
            [sys.executable, "-m", "bench.recorder_load", slow, str(seconds)],
            env={**os.environ, "WSGI_TB_SOCKET": f"{folder}/tb"},
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
    return float(output)


if __name__ == "__main__":
    sys.stdout.write(f"{share_of_a_cpu(None if sys.argv[1] == 'none' else float(sys.argv[1]), float(sys.argv[2]))}\n")
