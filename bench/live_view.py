"""What ``wsgi-tb top`` takes: to read 32 workers that serve 256 requests, to draw them, and from each worker.

The workers are forked from this module, which is a program then; each has eight threads that stand in a request. They
are read over their sockets as ``top`` reads them. A redraw is from a reading that has been decoded to the screen that
is drawn, of 200 columns and 50 lines; no terminal draws it, since that is the terminal's own time. A worker pays its
processor time: what it needs for a reading of its threads is what its requests cannot have meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench import processes, stacks
from bench.folders import scratch_folder
from bench.samples import Row, row
from wsgi_tracebacker.linux import proc
from wsgi_tracebacker.top.app import TopApp
from wsgi_tracebacker.top.readings import Question, Taken
from wsgi_tracebacker.wire.documents import card_json as card_format

if TYPE_CHECKING:
    from collections.abc import Iterator

TOPIC = "wsgi-tb top"
WORKERS, THREADS = 32, 8
CASE = f"{WORKERS} workers with {WORKERS * THREADS} requests of {stacks.FRAMES} frames"
READING, REDRAW = "a reading: ask all, decode the replies", "a redraw: from a reading to the screen"
PACE = 2
WORKER_CASE = f"what {PACE} readings a second take from each of these workers"
WORKER = "processor time of the worker"

SCREEN = (200, 50)
ROUNDS, QUICK_ROUNDS = 40, 5


def measure(quick: bool) -> list[Row]:
    rounds = QUICK_ROUNDS if quick else ROUNDS
    with workers() as (base, pids):
        question = Question((base,), (), timeout_seconds=processes.PATIENCE_SECONDS)
        # The first reading looks up every source line, in the worker.
        question.ask()
        readings, shares = [], []
        taken: list[Taken] = []
        for _ in range(rounds):
            used, began = _cpu_seconds(pids), time.perf_counter()
            taken.append(question.ask())
            readings.append((time.perf_counter() - began) * 1e3)
            shares.append((_cpu_seconds(pids) - used) / len(pids) * PACE * 100)
    drawn = asyncio.run(redraws(taken))
    return [
        row(TOPIC, CASE, READING, "ms", readings, None),
        row(TOPIC, CASE, REDRAW, "ms", drawn, None),
        row(TOPIC, WORKER_CASE, WORKER, "% of a CPU", shares, None),
    ]


async def redraws(taken: list[Taken]) -> list[float]:
    """Milliseconds of each reading after the first."""
    found = []
    # It would ask once in an hour; here it gets the readings from us.
    app = TopApp(taken[0], lambda: taken[0], lambda _: "", every_seconds=3600.0)
    async with app.run_test(size=SCREEN) as pilot:
        await pilot.pause()
        for each in taken[1:]:
            drawn = asyncio.Event()
            began = time.perf_counter()
            app.post_message(TopApp.Arrived(each))
            # After it in the queue, and then when the screen has been drawn.
            app.call_later(app.call_after_refresh, drawn.set)
            await drawn.wait()
            found.append((time.perf_counter() - began) * 1e3)
    return found


def _cpu_seconds(pids: list[int]) -> float:
    """Of all these processes with all their threads."""
    folders = (
        f"{proc.ROOT}/{pid}/task/{native_id}" for pid in pids for native_id in proc.threads(f"{proc.ROOT}/{pid}")
    )
    return sum(times[0] for folder in folders if (times := proc.run_times(folder)) is not None) / 1e9


@contextlib.contextmanager
def workers() -> Iterator[tuple[str, list[int]]]:
    """The base of the workers and their process ids, once all of their requests are in flight."""
    with scratch_folder() as folder:
        base = f"{folder}/tb"
        environment = {"WSGI_TB_SOCKET": base, "BENCH_THREADS": str(THREADS), "BENCH_BUSY": "0"}
        with processes.running([sys.executable, "-m", "bench.live_view"], environment) as process:
            pids = []
            for number in range(1, WORKERS + 1):
                path = f"{base}{number}"
                processes.wait_until(partial(processes.has_requests, path, THREADS), path, process)
                pids.append(card_format.decode(Path(f"{path}.worker").read_bytes()).pid)
            yield base, pids


def main() -> None:
    for _ in range(WORKERS):
        if os.fork() == 0:
            stacks.start()
            signal.pause()
    while True:
        os.wait()


if __name__ == "__main__":
    main()
