"""Make ``docs/benchmarks.md`` from what ``python -m bench --json docs/benchmarks.json`` wrote.

Knows what each topic is about, and how rows become tables. Refuses to know any number: all of them are in the file.

``make bench-page`` measures and makes the page; ``python -m docs.measurements`` only makes it again.
"""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import (
    dump_latency,
    growth,
    live_view,
    memory,
    other_hosts,
    pauses,
    reader_process,
    recorder_load,
    recordings,
    request_cost,
    throughput,
)
from bench.samples import QUIET_LOAD, number

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCS = Path(__file__).resolve().parent
MEASURED, PAGE = DOCS / "benchmarks.json", DOCS / "benchmarks.md"

#: What a table does not say of itself.
ABOUT = {
    request_cost.TOPIC: """\
What a request pays over a middleware that only passes it on. Each contestant serves the same requests in one process,
in turns; the next process begins anew, because where memory happens to lie makes a third of such small times. With 8
threads it is the time that passes, shared by all requests. In our rows the black box (`/dev/shm`) is always written;
the row without it is what happens where there is no shared memory. `threading.Timer` and `dump_traceback_later` start
a thread for each request. The profiler makes a list of the body. With `harakiri_action=raise` each chunk passes a guard
of its own, which is what a body of 1,000 chunks shows; with all others a chunk costs nothing. With
`harakiri_action=kill` a request compares two numbers; timers of the kernel are set once in half a second.

dogslow is a middleware of Django's and looks only at what is slow in Django: it is measured there, and we beside it.
A request of Django's leaves little of us in the processor's caches, so we cost more there than in the tight loops
above, and so does everybody else.""",
    throughput.TOPIC: """\
gunicorn's `gthread` with one worker of 8 threads, bare and wrapped, both up all the time, under `wrk` with 8
connections, in turns of a second. The page is a kilobyte and takes no time of its own, so this is the worst case:
whatever an application does makes our share smaller. Ratios are made of the turns of one round. wrk, the worker and
four readers, who take turns, share the processors: a dump that is taken meanwhile costs what the client of it costs
too. How much that is says the row of a bare server beside which another worker, one that serves nobody, is read at the
same pace. The processor time of the worker is what it pays itself. uWSGI is another server, quicker by far at such a
page: only what reading does to it can be compared, and its idle threads have no frames to show.""",
    dump_latency.TOPIC: """\
From connecting to the end of the reply, all of them on the same process: a uWSGI worker whose threads each stand in a
request. `py-spy` and `pystack` are programs that are started for each dump, so their start is in it; they stop the
process meanwhile, and need the right to trace it. faulthandler has no socket: a thread in the process has it write to
whoever connects. What it leaves out stands beside it. manhole's prompt is not waited for. A subject that takes long
has fewer samples.""",
    pauses.TOPIC: """\
One thread of the process computes, as a busy request would, and notes each time that it had to wait. The longest of
these pauses is the longest that the GIL was held in one piece, or that the process was stopped; their sum is what one
dump took from the request in all. The first line is what the machine does of itself.""",
    reader_process.TOPIC: """\
The command as a whole, from its start to its end, on the same workers as the others. The
interpreter's own start, without and with the environment's packages and with what the command needs of the standard
library, is what it cannot be quicker than; `uwsgi --connect-and-read` is a C program, which knows
one worker at a time, and prints text as it comes.""",
    live_view.TOPIC: """\
The live view asks its workers again and again, here 32 of them with eight threads in requests each. A redraw is from
the decoded reading to the drawn screen of 200 columns and 50 lines, without the terminal. What a worker pays is
processor time for its answers; its requests cannot have it meanwhile.""",
    memory.TOPIC: """\
Real gunicorn workers of 8 threads, four of them in requests that wait 20 frames deep. What is gained by being there is
the difference to a bare worker that served the same. The dumps of the last tables are half text and half JSON; the
others take fewer, because uWSGI loses memory with each, and manhole starts a thread for each.""",
    growth.TOPIC: """\
What one more thread, frame, worker or request in flight costs. The exponents among the targets say how it grows: 1 is a
straight line, more is steeper.""",
    other_hosts.TOPIC: """\
The command as a whole. A host of many is a stand-in, which takes 0.1 s to answer; a few hosts are a real sshd on
loopback, where this machine computes both ends of each handshake. 32 hosts are asked at once, as by default.""",
    recorder_load.TOPIC: """\
What the flight recorder takes of a processor while it records eight slow requests.""",
    recordings.TOPIC: """\
What a recording costs, and how right it is. The application measures itself which share of its time one of its
functions takes, three quarters; each program records it for ten seconds, three times, in turns, a hundred looks a
second (from inside twenty), and the difference is in points of a hundred. `py-spy` without `--nonblocking` stops the
process at each look. From inside, what computes is seen where it gives the GIL away, and not where it spends its
time.""",
}


#: For who wants to know whether to use it, without a table.
COSTS = """\
## What it costs, in plain words

- **A request** costs some microseconds at most; the tables say how few. A body costs nothing for each of its chunks,
  unless `harakiri_action` is `raise`.
- **A worker** costs some six megabytes, of which most are modules of the standard library that many applications
  load anyway, and two threads that sleep.
- **While there are no requests** nothing runs, but for a look at its own files now and then.
- **A look** (`wsgi-tb read`) costs the worker a fraction of a millisecond for each thread, once. `wsgi-tb top` costs
  less than half a percent of a CPU.
- **A slow request** is looked at ten times a second from half of its time limit on: a percent of a CPU or two for
  eight of them.
- **A recording** (`wsgi-tb record`) costs the worker nothing that can be measured, and whoever records some percent of
  a CPU.
- **Under a monitor that reads a hundred times a second** the throughput of a page that takes no time of its own falls
  by an eighth, as JSON by a quarter. Read once a second, or use `wsgi-tb check`.
"""

#: Why some are missed.
GOALS = """\
The targets are set by what the fastest known way would need, not by what was reached. Missed are what is added to a
request, by about a microsecond, because every request is noted in shared memory so that it is known when the worker
dies, and so the throughput of a page that takes no time of its own; the first request of a thread, for which our code
has to come into the processor's caches; and reading a hundred times a second, because an answer has to run Python in
the worker, beside its requests. What says why (the statements of waits, the flight recorder, a dump with all of it)
misses its targets by less than half."""


def page(document: dict[str, Any]) -> str:
    parts = (_head(document), COSTS.splitlines(), _how(document), _topics(document), _targets(document))
    return "\n".join(line for part in parts for line in part).rstrip() + "\n"


def _head(document: dict[str, Any]) -> Iterator[str]:
    machine = document["machine"]
    peers = ", ".join(f"{name} {version or 'not installed'}" for name, version in machine["peers"].items())
    yield from ("# Benchmarks", "")
    yield "Everything that people use instead, installed for real and measured beside us, in one run and in turns."
    yield from ("", "<!-- Made by docs/measurements.py from docs/benchmarks.json: change those. -->", "")
    yield f"This run is of {machine['date']}: wsgi_tracebacker {machine['version']}, {machine['python']}, on"
    yield f"{machine['machine']} ({machine['processor']}). Beside it: {peers}."
    yield f"Load average when it began: {machine['load']:.1f}, when it ended: {machine['load_after']:.1f}."
    if machine["load"] > QUIET_LOAD:
        yield "**The machine was not quiet**: others used it meanwhile, and times are longer than they need be."
    if machine["quick"]:
        yield "**It was a quick run**, with few samples: a look, not a result."
    yield ""


def _how(document: dict[str, Any]) -> Iterator[str]:
    machine = document["machine"]
    minutes = sum(machine["seconds"].values()) / 60
    yield from (
        "",
        "## How it is measured",
        "",
        "To repeat it (Linux, a C compiler for uWSGI, `apt-get install wrk`):",
        "",
        "```console",
    )
    yield "$ make bench                                # everything; the table is printed"
    yield '$ make bench ARGS="--quick"                 # two minutes, fewer cases and samples'
    yield '$ make bench ARGS="dump pauses"             # some topics: ' + ", ".join(machine["seconds"])
    yield "$ make bench ARGS=recordings                # what recordings are worth: another hour"
    yield '$ make bench ARGS="--json FILE"             # every number, for programs'
    yield "$ make bench-page                           # everything, and this page from it"
    yield from (
        "```",
        "",
        f"It took {minutes:.0f} minutes here. What cannot be installed, or does not work, is said in",
    )
    yield "the tables. Values are medians, with the quartiles in parentheses; the column *beside* compares with the"
    yield "line that has 1.00. **Ratios count**: times are those of one machine on one day."
    yield ""


def _targets(document: dict[str, Any]) -> Iterator[str]:
    yield from ("## What was to be reached", "", GOALS, "")
    yield from ("| | wanted | reached | |", "|---|---|---|---|")
    for target in document["targets"]:
        verdict = {True: "met", False: "**missed**", None: "-"}[target["met"]]
        yield f"| {target['what']} | {target['wanted']} | {target['reached']} | {verdict} |"
    yield ""


def _topics(document: dict[str, Any]) -> Iterator[str]:
    for topic, rows in groupby(document["rows"], key=lambda row: row["topic"]):
        yield from (f"## {topic}", "", ABOUT[topic], "")
        # A topic that was measured by itself, after the run that the page begins with.
        if later := document.get("later", {}).get(topic):
            what = f"wsgi_tracebacker {later['version']}, load average {later['load']}"
            yield from (f"Measured by itself on {later['date']}: {what}.", "")
        for case, of_case in groupby(rows, key=lambda row: row["case"]):
            yield from (f"### {case[0].upper()}{case[1:]}", "")
            yield from ("| | median | | beside | |", "|---|---:|---|---:|---|")
            yield from map(_row, of_case)
            yield ""


def _row(row: dict[str, Any]) -> str:
    if row["median"] is None:
        return f"| {row['subject']} | - | | | {row['note']} |"
    spread = f"({number(row['low'])} to {number(row['high'])}, n={row['samples']})"
    beside = "" if row["ratio"] is None else f"{row['ratio']:,.2f}"
    return f"| {row['subject']} | {number(row['median'])} {row['unit']} | {spread} | {beside} | {row['note']} |"


def main() -> None:
    PAGE.write_text(page(json.loads(MEASURED.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
