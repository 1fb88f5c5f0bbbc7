"""What was to be reached, and whether it was. Knows the rows of one run; nothing fails because of what it finds."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from bench import (
    dump_latency,
    growth,
    known_waits,
    live_view,
    lock_waits,
    other_hosts,
    reader_process,
    recorder_load,
    recordings,
    request_cost,
    throughput,
)
from bench.samples import number

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.samples import Row

#: Microseconds that a pass-through middleware costs on the machines for which the limits were set. On one that is
#: slower or faster than that, the limits are scaled by it.
PASS_THROUGH_RANGE = (0.06, 0.15)


class Target(NamedTuple):
    what: str
    #: In words: ``at most 0.6 µs``.
    wanted: str
    reached: str
    #: None where it could not be measured.
    met: bool | None


class Medians:
    """The medians of a run, by topic, case and subject."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._medians = {(row.topic, row.case, row.subject): row.median for row in rows}

    def of(self, topic: str, case: str, subject: str) -> float | None:
        return self._medians.get((topic, case, subject))


def judge(rows: Sequence[Row]) -> Iterator[Target]:
    """Every target, in the order of the topics; those of topics that were not measured are left out."""
    medians = Medians(rows)
    topics = {row.topic for row in rows}
    if request_cost.TOPIC in topics:
        yield _added(medians, request_cost.LIST, request_cost.OURS, 0.45)
        yield _added(medians, request_cost.LIST, request_cost.ARMED, 0.45)
        yield _added(medians, request_cost.LIST, request_cost.MAPPING, 1.5)
        yield _added(medians, request_cost.LIST, request_cost.CALLABLE, 1.5)
        yield _added(medians, request_cost.LIST, request_cost.KILL, 1.0)
        yield _added(medians, request_cost.LIST, request_cost.RAISE, 2.0)
        yield _added(medians, request_cost.GENERATOR, request_cost.OURS, 0.9)
        yield _added(medians, request_cost.OBJECT, request_cost.OURS, 1.0)
        for case in (request_cost.LIST, request_cost.GENERATOR):
            yield _at_most(f"with harakiri armed beside without, {case}", _armed_ratio(medians, case), 1.1, "times")
        yield _at_most("the first request of a process", medians.of(*_FIRST), 2.0, "ms")
        further = medians.of(request_cost.TOPIC, request_cost.FURTHER, request_cost.OURS)
        yield _at_most("the first request of a further thread", further, 10.0, "µs")
    if dump_latency.TOPIC in topics:
        yield _times_faster(medians, dump_latency.MANY, 20)
        yield _times_faster(medians, dump_latency.BUSY, 5)
        text, json = (
            medians.of(dump_latency.TOPIC, dump_latency.MANY, s) for s in (dump_latency.TEXT, dump_latency.JSON)
        )
        # JSON has the kernel's view of all these threads, text has none.
        ratio = None if text is None or json is None else json / text
        yield _at_most(f"JSON beside text, {dump_latency.MANY}", ratio, 5.0, "times")
    yield from _locks(medians)
    yield from _waits(medians)
    if reader_process.TOPIC in topics:
        yield from _of_read(medians)
    if live_view.TOPIC in topics:
        yield from _of_top(medians)
    if recorder_load.TOPIC in topics:
        recording = medians.of(recorder_load.TOPIC, recorder_load.CASE, recorder_load.RECORDING)
        yield _at_most("the flight recorder of 8 slow requests", recording, 1.0, "% of a CPU")
    yield from _of_recordings(medians, rows)
    if throughput.TOPIC in topics:
        for subject, limit in ((throughput.OURS, 0.98), (throughput.READ_TEXT, 0.95), (throughput.READ_JSON, 0.95)):
            found = medians.of(throughput.TOPIC, throughput.RATIO, subject)
            target = _at_least(f"requests answered: {subject}", found, limit, "times those of it bare")
            # Where the readers share the processors, and each answer takes switches of the GIL: what is left of a bare
            # server, and of one whose thread answers and looks at nothing.
            beside = ""
            if subject != throughput.OURS:
                floors = {
                    "while another worker is read": medians.of(throughput.TOPIC, throughput.RATIO, throughput.BESIDE),
                    "with fixed bytes for an answer": medians.of(throughput.TOPIC, throughput.RATIO, throughput.FIXED),
                }
                found_ones = [f"{what}: {number(floor)}" for what, floor in floors.items() if floor is not None]
                beside = f" ({'; '.join(found_ones)})" if found_ones else ""
            yield target._replace(reached=target.reached + beside)
            slower = medians.of(throughput.TOPIC, throughput.RATIO_P99, subject)
            yield _at_most(f"99th percentile: {subject}", slower, round(1 / limit, 2), "times that of it bare")
        for subject in (throughput.READ_TEXT, throughput.READ_JSON):
            pace = medians.of(throughput.TOPIC, throughput.PACES, subject)
            yield _at_least(f"{throughput.PACES}: {subject}", pace, 0.95 * throughput.PACE, "a second")
    yield from _of_hosts(medians, rows)
    if growth.TOPIC in topics:
        for case in dict.fromkeys(row.case for row in rows if row.topic == growth.TOPIC):
            sizes = [(row.subject, row.median) for row in rows if row.topic == growth.TOPIC and row.case == case]
            steepest = growth.exponent([(int(size.split()[0]), median or 0.0) for size, median in sizes])
            yield _at_most(f"growth of {case}", steepest, growth.STRAIGHT, "as exponent")


def _of_read(medians: Medians) -> Iterator[Target]:
    one, many = reader_process.case_name(1), reader_process.case_name(32)
    floor = medians.of(reader_process.TOPIC, one, reader_process.FLOOR)
    for subject in (reader_process.READ, reader_process.READ_JSON):
        found = medians.of(reader_process.TOPIC, one, subject)
        ratio = None if not floor or found is None else found / floor
        yield _at_most(f"{subject}, 1 worker, beside {reader_process.FLOOR}", ratio, 3.0, "times")
    floor = medians.of(reader_process.TOPIC, many, reader_process.FLOOR)
    # On a machine that is not quiet, the interpreter's own start says how much is its.
    beside = "" if floor is None else f" ({reader_process.FLOOR}: {number(floor)} ms)"
    for subject in (reader_process.READ, reader_process.READ_TIMES):
        target = _at_most(f"{subject}, 32 workers", medians.of(reader_process.TOPIC, many, subject), 250.0, "ms")
        yield target._replace(reached=target.reached + beside)


def _of_top(medians: Medians) -> Iterator[Target]:
    redraw = medians.of(live_view.TOPIC, live_view.CASE, live_view.REDRAW)
    yield _at_most(f"wsgi-tb top, {live_view.CASE}, {live_view.REDRAW}", redraw, 100.0, "ms")
    taken = medians.of(live_view.TOPIC, live_view.WORKER_CASE, live_view.WORKER)
    yield _at_most(f"wsgi-tb top, {live_view.WORKER_CASE}", taken, 0.5, "% of a CPU")


def _of_recordings(medians: Medians, rows: Sequence[Row]) -> Iterator[Target]:
    topic = recordings.TOPIC
    if topic not in {row.topic for row in rows}:
        return
    for case in dict.fromkeys(row.case for row in rows if row.topic == topic and row.subject == recordings.BLOCKING):
        ours = medians.of(topic, case, recordings.OURS)
        yield _at_most(f"wsgi-tb record, {case}", ours, 4.0, "points")
        best = min(
            (found for each in recordings.PY_SPY if (found := medians.of(topic, case, each)) is not None), default=None
        )
        more = None if ours is None or best is None else max(0.0, ours - best)
        yield _at_most("the same, beyond the better of both py-spy's", more, 3.0, "points")
    recorded = recordings.RECORDED
    answered = medians.of(topic, recordings.REQUESTS, recorded)
    yield _at_least(f"{recordings.REQUESTS}: {recorded}", answered, 0.98, "times those of it not recorded")
    for case, limit in ((recordings.P99, 1.05), (recordings.CPU, 1.02)):
        found = medians.of(topic, case, recorded)
        yield _at_most(f"{case}: {recorded}", found, limit, "times that of it not recorded")
    seen = medians.of(topic, recordings.SEEN, recordings.OURS)
    yield _at_least(recordings.SEEN, seen, 70.0, "% of looks")
    yield _at_most(recordings.READER, medians.of(topic, recordings.READER, recordings.OURS), 5.0, "% of a CPU")


def _of_hosts(medians: Medians, rows: Sequence[Row]) -> Iterator[Target]:
    if other_hosts.TOPIC not in {row.topic for row in rows}:
        return
    for case, size, limit, unit in (
        (other_hosts.OF_HOSTS, f"{max(other_hosts.HOSTS)} hosts", 3000.0, "ms"),
        (other_hosts.MEMORY, f"{max(other_hosts.HOSTS)} hosts", 200.0, "MB"),
        (other_hosts.OF_DOCUMENTS, f"{max(other_hosts.DOCUMENTS)} documents", 2000.0, "ms"),
        (other_hosts.OF_SSHD, f"{other_hosts.SSH_HOSTS} hosts", 3000.0, "ms"),
    ):
        yield _at_most(f"{size}: {case}", medians.of(other_hosts.TOPIC, case, size), limit, unit)
    for case in (other_hosts.OF_HOSTS, other_hosts.OF_DOCUMENTS):
        sizes = [(row.subject, row.median) for row in rows if (row.topic, row.case) == (other_hosts.TOPIC, case)]
        steepest = growth.exponent([(int(size.split()[0]), median or 0.0) for size, median in sizes])
        yield _at_most(f"growth with {case}", steepest, growth.STRAIGHT, "as exponent")


def _locks(medians: Medians) -> Iterator[Target]:
    for subject, limit in ((lock_waits.TIME, 5.0), (lock_waits.LONGEST, 1.0)):
        found = medians.of(lock_waits.TOPIC, lock_waits.CASE, subject)
        if found is not None:
            yield _at_most(f"{lock_waits.CASE}: {subject}", found, limit, "ms")


def _waits(medians: Medians) -> Iterator[Target]:
    for subject, limit in ((known_waits.TIME, 2.0), (known_waits.STATEMENTS, 0.15)):
        found = medians.of(known_waits.TOPIC, known_waits.CASE, subject)
        if found is not None:
            yield _at_most(f"{known_waits.CASE}: {subject}", found, limit, "ms")


_FIRST = (request_cost.TOPIC, request_cost.FIRST, request_cost.OURS)


def _armed_ratio(medians: Medians, case: str) -> float | None:
    """What a request costs with a limit, in what it costs without one."""
    subjects = (request_cost.UNARMED, request_cost.ARMED)
    unarmed, armed = (medians.of(request_cost.TOPIC, case, subject) for subject in subjects)
    return None if not unarmed or armed is None else armed / unarmed


def _added(medians: Medians, case: str, subject: str, limit: float) -> Target:
    passed = medians.of(request_cost.TOPIC, case, request_cost.PASS_THROUGH)
    added = medians.of(request_cost.TOPIC, case, subject)
    low, high = PASS_THROUGH_RANGE
    what = f"added to a request, {case}"
    if subject != request_cost.OURS:
        what += f", {subject.removesuffix(' adds')}"
    if passed is None or added is None or passed <= 0:
        return Target(what, f"at most {limit:g} µs", "not measured", None)
    scale = passed / high if passed > high else passed / low if passed < low else 1.0
    wanted = f"at most {number(limit * scale)} µs"
    if scale != 1.0:
        wanted += f" ({limit:g} µs where a pass-through costs {low:g} to {high:g})"
    return Target(what, wanted, f"{number(added)} µs", added <= limit * scale)


def _times_faster(medians: Medians, case: str, limit: float) -> Target:
    ours = medians.of(dump_latency.TOPIC, case, dump_latency.TEXT)
    theirs = medians.of(dump_latency.TOPIC, case, dump_latency.UWSGI)
    what = f"text dump beside uWSGI's, {case}"
    wanted = f"at least {limit:g} times faster"
    if ours is None or theirs is None:
        return Target(what, wanted, "not measured", None)
    return Target(what, wanted, f"{theirs / ours:.1f} times", theirs / ours >= limit)


def _at_most(what: str, found: float | None, limit: float, unit: str) -> Target:
    wanted = f"at most {limit:g} {unit}"
    if found is None:
        return Target(what, wanted, "not measured", None)
    return Target(what, wanted, f"{number(found)} {unit}", found <= limit)


def _at_least(what: str, found: float | None, limit: float, unit: str) -> Target:
    wanted = f"at least {limit:g} {unit}"
    if found is None:
        return Target(what, wanted, "not measured", None)
    return Target(what, wanted, f"{number(found)} {unit}", found >= limit)


def lines(targets: Sequence[Target]) -> Iterator[str]:
    yield ""
    yield "Targets"
    yield "======="
    width = max((len(target.what) for target in targets), default=0)
    for target in targets:
        verdict = {True: "met", False: "MISSED", None: "-"}[target.met]
        yield f"  {target.what:<{width}}  {verdict:<6}  {target.reached}, wanted {target.wanted}"
