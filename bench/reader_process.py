"""How long ``wsgi-tb read`` takes as a whole process, with 1, 8 and 32 workers, over an interpreter that does nothing.

The floors are measured beside it: the interpreter alone, without and with the site packages of its environment (what
an editable installation puts there included), with the modules of the standard library that the command cannot do
without, and with click, which a command line with options needs. All have their bytecode, as installed programs do:
without it (PYTHONDONTWRITEBYTECODE, the first start of all) each start compiles the whole command anew.

The workers are forked from one process (run as a program, this module is that process); each stands in one request,
as deep as in the other measurements.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bench import environ, processes, stacks
from bench.folders import scratch_folder
from bench.samples import Row, in_turns, row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOPIC = "wsgi-tb read, the whole process"
FLOOR = "python -c pass"
CASE = "each worker with one request in flight"
COUNTS = (1, 8, 32)
#: What asking over sockets, reading JSON and named tuples take.
LIBRARY = "json, re, select, socket, struct, typing"


def subject(count: int) -> str:
    return f"{count} worker{'s' if count > 1 else ''}"


def measure(quick: bool) -> list[Row]:
    with contextlib.ExitStack() as started:
        bases = {count: started.enter_context(workers(count)) for count in COUNTS}

        cache = started.enter_context(scratch_folder())

        def run(*command: str) -> float:
            # env(1) costs each of them the same millisecond.
            return processes.milliseconds(
                ["env", "-u", "PYTHONDONTWRITEBYTECODE", f"PYTHONPYCACHEPREFIX={cache}", *command]
            )

        def python(program: str, *options: str) -> Callable[[], float]:
            return lambda: run(sys.executable, *options, "-c", program)

        def read(count: int, *options: str) -> Callable[[], float]:
            return lambda: run(*command(), "read", *options, bases[count])

        contestants = {
            "python -I -S -c pass": python("pass", "-I", "-S"),
            FLOOR: python("pass"),
            f"python -c 'import {LIBRARY}'": python(f"import {LIBRARY}"),
            "python -c 'import click'": python("import click"),
            # With an option, the command line is click's.
            f"{subject(1)}, --format json": read(1, "--format", "json"),
            **{subject(count): read(count) for count in COUNTS},
        }
        for contestant in contestants.values():
            contestant()
        values = in_turns(contestants, 4 if quick else 25)
    reference = statistics.median(values[FLOOR])
    return [row(TOPIC, CASE, name, "ms", samples, reference) for name, samples in values.items()]


def command() -> list[str]:
    """The command as installed, else the module."""
    script = Path(sys.executable).parent / "wsgi-tb"
    return [str(script)] if script.exists() else [sys.executable, "-m", "wsgi_tracebacker"]


@contextlib.contextmanager
def workers(count: int) -> Iterator[str]:
    """So many processes that can be asked; their base path."""
    with scratch_folder() as folder:
        base = f"{folder}/tb"
        command = [sys.executable, "-m", "bench.reader_process", str(count)]
        with processes.running(command, {"WSGI_TB_SOCKET": base}) as process:
            assert process.stdout is not None
            for _ in range(count):
                process.stdout.read(1)
            yield base


def main() -> None:
    for _ in range(int(sys.argv[1])):
        if os.fork() == 0:
            worker()
    while True:
        os.wait()


def worker() -> None:
    def say_so() -> None:
        stacks.ready.acquire()
        os.write(1, b"+")

    threading.Thread(target=say_so).start()
    stacks.wrapped(environ.make(), cast("Any", None))


if __name__ == "__main__":
    main()
