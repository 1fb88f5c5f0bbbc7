"""How long a busy request is kept waiting while a dump is taken of its process.

One thread of the process does nothing but look at the clock, as a request would that computes: each gap between two
looks is a time in which somebody else held the interpreter (or the processor, or had stopped the process). The
longest gap of a dump is the longest that the GIL was held in one piece; their sum is what the dump took from it in
all. What a machine does of itself is the first line.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import TYPE_CHECKING

from bench import dump_latency, processes
from bench.dump_latency import Case, Worker
from bench.samples import Row, in_turns, missing, row, usable

if TYPE_CHECKING:
    from collections.abc import Callable

TOPIC = "A busy request while a dump is taken"
LONGEST, IN_ALL = "longest pause", "all pauses of one dump"
NOBODY = "no dump, 20 ms"

CASES = (
    Case(64, rounds=40, quick_rounds=6),
    Case(4, 40, rounds=20),
    Case(64, 200, rounds=20),
    Case(500, 40, rounds=15),
)
BUDGET_SECONDS, QUICK_BUDGET_SECONDS = 4.0, 1.0

#: In place of a dump: as long as one takes, so that pauses of other causes are counted too.
_QUIET_SECONDS = 0.02


def case_name(kind: str, case: Case) -> str:
    return f"{kind}, {case.name}"


def measure(quick: bool) -> list[Row]:
    rows: list[Row] = []
    for case in CASES:
        rounds = case.quick_rounds if quick else case.rounds
        if rounds is not None:
            rows += _measure_case(case, rounds, QUICK_BUDGET_SECONDS if quick else BUDGET_SECONDS)
    return rows


def _measure_case(case: Case, rounds: int, budget_seconds: float) -> list[Row]:
    with dump_latency.worker(case, notes_pauses=True) as found:
        longest: dict[str, list[float]] = {}

        def sample(subject: str, dump: Callable[[], object]) -> Callable[[], float]:
            def measured() -> float:
                pauses = pauses_during(found, dump)
                longest.setdefault(subject, []).append(max(pauses, default=0.0))
                return sum(pauses)

            return measured

        # The pauses of a stretch of time in which nobody dumps: what all others are compared with.
        dumps: dict[str, Callable[[], object]] = {NOBODY: lambda: time.sleep(_QUIET_SECONDS), **found.dumps()}
        subjects, problems = usable({subject: sample(subject, dump) for subject, dump in dumps.items()})
        in_all = in_turns(subjects, rounds, budget_seconds)
    reasons = {**found.reasons(), **problems}
    rows = []
    for kind, values in ((LONGEST, longest), (IN_ALL, in_all)):
        reference = statistics.median(values[dump_latency.TEXT][-rounds:])
        for subject in (NOBODY, *dump_latency.SUBJECTS):
            name = case_name(kind, case)
            if subject in subjects:
                # As many as were counted: not the trial, and not the round that warms up.
                counted = values[subject][-len(in_all[subject]) :]
                rows.append(row(TOPIC, name, subject, "ms", counted, reference, f"at most {max(counted):.1f} ms"))
            else:
                why = reasons.get(subject, processes.NOT_INSTALLED)
                rows.append(missing(TOPIC, name, subject, "ms", why))
    return rows


def pauses_during(worker: Worker, dump: Callable[[], object]) -> list[float]:
    """Milliseconds of each pause of the busy request that touches the time of a dump."""
    began = time.perf_counter()
    dump()
    ended = time.perf_counter()
    noted = json.loads(processes.ask(f"{worker.peers}/peers", b"pauses"))
    return [(end - start) * 1e3 for start, end in noted if end > began and start < ended]
