"""How long ``wsgi-tb read`` takes as a whole process, with 1 to 128 workers, beside the others in a loop.

All of them read the same processes: uWSGI's workers, forked from one master, each of which stands in one request of
ours, as deep as in the other measurements. uWSGI's own command and py-spy know one worker at a time, so a shell calls
them for each in turn, as people do. Without uWSGI, the workers are forked from this module, which is a program then.

The floors are measured beside it: the interpreter alone, without and with the site packages of its environment (what
an editable installation puts there included), with the modules of the standard library that the command cannot do
without, and with click, which the other verbs and rarer options need. All have their bytecode, as installed programs
do: without it (PYTHONDONTWRITEBYTECODE, the first start of all) each start compiles the whole command anew.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from bench import environ, processes, stacks
from bench.folders import scratch_folder
from bench.samples import Row, in_turns, missing, row, usable
from wsgi_tracebacker.wire.documents import card_json as card_format

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOPIC = "wsgi-tb read, the whole process"
#: What asking over sockets, reading JSON and named tuples take.
MODULES = "json, re, select, socket, struct, typing"
BARE, FLOOR = "python -I -S -c pass", "python -c pass"
LIBRARY, CLICK = f"python -c 'import {MODULES}'", "python -c 'import click'"
READ, READ_JSON, READ_HTML = "wsgi-tb read", "wsgi-tb read --format json", "wsgi-tb read --format html"
#: Three looks with hardly a pause, so that it is their own time.
READ_TIMES = "wsgi-tb read --times 3 --every 0.001"
#: Its command line is click's.
LIST = "wsgi-tb list"
UWSGI, PY_SPY = "uwsgi --connect-and-read, in a loop", "py-spy dump, in a loop"
SUBJECTS = (BARE, FLOOR, LIBRARY, CLICK, READ, READ_JSON, READ_HTML, READ_TIMES, LIST, UWSGI, PY_SPY)
COUNTS = (1, 8, 32, 128)

ROUNDS, QUICK_ROUNDS = 25, 4
#: What one subject may take of one case, in seconds. py-spy needs a tenth of one for each worker.
BUDGET_SECONDS, QUICK_BUDGET_SECONDS = 6.0, 1.0


class Workers(NamedTuple):
    base: str
    pids: list[int]
    #: uWSGI's own sockets.
    uwsgi_sockets: list[str]


def case_name(count: int) -> str:
    return f"{count} worker{'s' if count > 1 else ''} with one request in flight each"


def measure(quick: bool) -> list[Row]:
    rows: list[Row] = []
    for count in COUNTS:
        # py-spy takes ten seconds for them all.
        if not quick or count < max(COUNTS):
            rows += _measure_case(count, quick)
    return rows


def _measure_case(count: int, quick: bool) -> list[Row]:
    with workers(count) as found, scratch_folder() as bytecode:
        subjects, problems = usable(
            {
                name: (lambda command=command: processes.milliseconds(command))  # type: ignore[misc]
                for name, command in commands(found, bytecode).items()
            }
        )
        budget_seconds = QUICK_BUDGET_SECONDS if quick else BUDGET_SECONDS
        values = in_turns(subjects, QUICK_ROUNDS if quick else ROUNDS, budget_seconds)
    reference = statistics.median(values[FLOOR])
    return [
        row(TOPIC, case_name(count), subject, "ms", values[subject], reference)
        if subject in values
        else missing(TOPIC, case_name(count), subject, "ms", problems.get(subject, processes.NOT_INSTALLED))
        for subject in SUBJECTS
    ]


def commands(found: Workers, bytecode: str) -> dict[str, list[str]]:
    """The command of each subject that is installed; what is compiled of the Python ones is kept in a folder."""
    # env(1) costs each of them the same millisecond.
    env = ["env", "-u", "PYTHONDONTWRITEBYTECODE", f"PYTHONPYCACHEPREFIX={bytecode}"]
    commands = {
        BARE: [*env, sys.executable, "-I", "-S", "-c", "pass"],
        FLOOR: [*env, sys.executable, "-c", "pass"],
        LIBRARY: [*env, sys.executable, "-c", f"import {MODULES}"],
        CLICK: [*env, sys.executable, "-c", "import click"],
        READ: [*env, *command(), "read", found.base],
        READ_JSON: [*env, *command(), "read", "--format", "json", found.base],
        READ_HTML: [*env, *command(), "read", "--format", "html", found.base],
        READ_TIMES: [*env, *command(), "read", "--times", "3", "--every", "0.001", found.base],
        LIST: [*env, *command(), "list", found.base],
    }
    uwsgi, py_spy = processes.find("uwsgi"), processes.find("py-spy")
    if uwsgi is not None:
        commands[UWSGI] = _in_a_loop([uwsgi, "--connect-and-read"], found.uwsgi_sockets)
    if py_spy is not None:
        commands[PY_SPY] = _in_a_loop([py_spy, "dump", "--pid"], [str(pid) for pid in found.pids])
    return commands


def _in_a_loop(command: list[str], arguments: list[str]) -> list[str]:
    """A shell that runs a command once for each argument, and stops where it fails."""
    return ["sh", "-c", f'for one in {" ".join(arguments)}; do "$@" "$one" || exit 1; done', "sh", *command]


def command() -> list[str]:
    """The command as installed, else the module."""
    script = Path(sys.executable).parent / "wsgi-tb"
    return [str(script)] if script.exists() else [sys.executable, "-m", "wsgi_tracebacker"]


@contextlib.contextmanager
def workers(count: int) -> Iterator[Workers]:
    """So many processes that can be asked."""
    uwsgi = processes.find("uwsgi")
    with scratch_folder() as folder:
        base = f"{folder}/tb"
        start = [sys.executable, "-m", "bench.reader_process", str(count)]
        if uwsgi is not None:
            start = [
                *(uwsgi, "--socket", f"{folder}/socket", "--enable-threads", "--master", "--workers", str(count)),
                *("--py-tracebacker", f"{folder}/uwsgi", "--disable-logging", "--listen", "64"),
                *("--virtualenv", sys.prefix, "--pythonpath", str(Path(__file__).parent.parent)),
                *("--module", "bench.reader_process:application"),
            ]
        numbers = range(1, count + 1)
        with processes.running(start, {"WSGI_TB_SOCKET": base, "BENCH_THREADS": "1", "BENCH_BUSY": "0"}) as process:
            for path in [f"{base}{number}" for number in numbers]:
                processes.wait_until(partial(processes.has_requests, path, 1), path, process)
            cards = [card_format.decode(Path(f"{base}{number}.worker").read_bytes()) for number in numbers]
            sockets = [] if uwsgi is None else [f"{folder}/uwsgi{number}" for number in numbers]
            yield Workers(base, [card.pid for card in cards], sockets)


def application(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:  # noqa: ARG001
    """uWSGI's workers serve nothing: they start what they show when they are forked."""
    start_response("204 No Content", [])
    return []


def _start_in_each_worker_of_uwsgi() -> None:
    try:
        import uwsgi  # noqa: PLC0415
    except ImportError:
        return
    uwsgi.post_fork_hook = stacks.start


_start_in_each_worker_of_uwsgi()


def main() -> None:
    for _ in range(int(sys.argv[1])):
        if os.fork() == 0:
            stacks.wrapped(environ.make(), cast("Any", None))
    while True:
        os.wait()


if __name__ == "__main__":
    main()
