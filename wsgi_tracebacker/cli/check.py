"""``wsgi-tb check``: one line and an exit code for probes and monitors."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import click

from wsgi_tracebacker.cli import output
from wsgi_tracebacker.cli.options import Seconds, bases_argument
from wsgi_tracebacker.cli.plain import bases_or_default
from wsgi_tracebacker.errors import NoWorkersFound

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wsgi_tracebacker.reader.look import Look
    from wsgi_tracebacker.reader.survey import Answer

EPILOG = """\b
Examples:
  wsgi-tb check /run/app/tb --allow-none              for a liveness probe
  wsgi-tb check /run/app/tb --saturated 1 --waiting 10    for readiness
  wsgi-tb check --oldest 60 --silent 0 --dead 0       for a monitor

\b
Exit codes:
  0  healthy
  1  not healthy: no worker answers, or a limit is reached
  2  the command was not understood
  3  no worker was found (with --allow-none: 0)
  4  the output could not be written
"""

#: The width of the stacks in an evidence file.
_COLUMNS = 120


@click.command(epilog=EPILOG)
@bases_argument
@click.option("--oldest", metavar="SECONDS", type=Seconds(min=0), help="Fail if a request is at least so old.")
@click.option(
    "--saturated",
    metavar="SHARE",
    type=click.FloatRange(0, 1, min_open=True),
    help="Fail if at least this share of all slots is busy, as in 0.9.",
)
@click.option("--waiting", metavar="N", type=click.IntRange(min=1), help="Fail if at least N connections wait.")
@click.option(
    "--silent", metavar="N", type=click.IntRange(min=0), help="Fail if more than N workers are without an answer."
)
@click.option("--dead", metavar="N", type=click.IntRange(min=0), help="Fail if more than N workers are dead.")
@click.option(
    "--evidence",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Before it fails, write what every worker is doing into FILE.",
)
@click.option("--allow-none", is_flag=True, help="No worker at all is healthy, as before the first request.")
def check(
    bases: tuple[str, ...],
    oldest: float | None,
    saturated: float | None,
    waiting: int | None,
    silent: int | None,
    dead: int | None,
    evidence: str | None,
    allow_none: bool,
) -> int:
    """Check the workers in less than a second: one line, and an exit code.

    Without limits it fails only if no worker at all answers within half a second. BASE, SOCKET and PID are as for list.
    """
    from wsgi_tracebacker.analysis import checks
    from wsgi_tracebacker.model.health import Limits
    from wsgi_tracebacker.reader.look import look, seconds_left
    from wsgi_tracebacker.reader.processes import Processes
    from wsgi_tracebacker.text.screens.health import line

    limits = Limits(oldest, saturated, waiting, silent, dead)
    try:
        named = bases_or_default(bases)
        found = look(named, seconds_left(Processes(), time.clock_gettime(time.CLOCK_BOOTTIME)))
    except NoWorkersFound as error:
        if not allow_none:
            raise
        output.write_text([f"ok: no worker yet; {output.one_line(str(error))}"])
        return 0
    totals = checks.add_up(found.workers)
    failures = list(checks.failures(totals, limits))
    shown = line(totals, failures, list(checks.cannot_judge(totals, limits)))
    is_healthy = not failures and (allow_none or not found.survey.missing)
    if not is_healthy and evidence is not None:
        _write_evidence(evidence, shown, found)
    output.write_text([shown])
    for missing in found.survey.missing:
        output.fail(missing)
    return 0 if is_healthy else output.EXIT_UNANSWERED


def _write_evidence(path: str, shown: str, taken: Look) -> None:
    """Write a full reading. It is the operator's file: it is written in place, as /dev/termination-log has to be."""
    from wsgi_tracebacker.reader.look import evidence

    head = f"{time.strftime('%Y-%m-%d %H:%M:%S%z')}  wsgi-tb check  {shown}"
    text = "\n".join([head, "", *_reading(evidence(taken))]) + "\n"
    try:
        # Not blocking: nobody may read a pipe.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        with open(os.open(path, flags, 0o600), "wb") as file:
            file.write(text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        output.fail(f"evidence cannot be written to {path}: {error.strerror or error}")


def _reading(answers: Sequence[Answer]) -> Iterator[str]:
    from wsgi_tracebacker.analysis.places import group, served_requests
    from wsgi_tracebacker.text.screens.reading import Answered, Options, lines
    from wsgi_tracebacker.wire.escape import printable

    workers = [Answered(each.snapshot, each.other_uid) for each in answers if each.snapshot is not None]
    if workers:
        groups = group(served_requests(worker.snapshot for worker in workers), "place", "age")
        yield from lines(workers, groups, 0, Options(columns=_COLUMNS, limit=0, full=True, all_threads=True))
        yield ""
    for each in answers:
        if each.error is not None:
            yield printable(f"{output.name(each)}: {each.error.reason}: {each.error}")
