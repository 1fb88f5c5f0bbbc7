"""Does the work of ``wsgi-tb check``: one look, one line, an exit code. Imported without click, as ``show`` is."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from wsgi_tracebacker.cli import output
from wsgi_tracebacker.cli.options.arguments import bases_or_default
from wsgi_tracebacker.cli.options.option import Option
from wsgi_tracebacker.errors import NoWorkersFound

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wsgi_tracebacker.reader.look import Look
    from wsgi_tracebacker.reader.survey import Answer

#: In the order of the help.
OPTIONS = (
    Option("oldest", ("--oldest",), "Fail if a request is at least so old.", "SECONDS"),
    Option(
        "saturated",
        ("--saturated",),
        "Fail if at least this share of all slots is busy, as in 0.9.",
        "SHARE",
        is_least_excluded=True,
        most=1,
    ),
    Option("waiting", ("--waiting",), "Fail if at least N connections wait.", "N", least=1),
    Option("silent", ("--silent",), "Fail if more than N workers are without an answer.", "N"),
    Option("dead", ("--dead",), "Fail if more than N workers are dead.", "N"),
    Option("evidence", ("--evidence",), "Before it fails, write what every worker is doing into FILE.", "FILE"),
    Option("allow_none", ("--allow-none",), "No worker at all is healthy, as before the first request."),
)

#: The width of the stacks in an evidence file.
_COLUMNS = 120


def check(
    bases: tuple[str, ...] = (),
    *,
    oldest: float | None = None,
    saturated: float | None = None,
    waiting: int | None = None,
    silent: int | None = None,
    dead: int | None = None,
    evidence: str | None = None,
    allow_none: bool = False,
) -> int:
    """Look at the workers, write the line, and return the exit code."""
    from wsgi_tracebacker.analysis import checks
    from wsgi_tracebacker.model.health import Limits
    from wsgi_tracebacker.reader.finding.processes import Processes
    from wsgi_tracebacker.reader.look import look, seconds_left
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
