"""``wsgi-tb top``: the live view, and its two forms for scripts: the screen as text, and a JSON line for each request.

``docs/reference/top.md`` describes the keys of a line.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import sys
import time
from typing import TYPE_CHECKING

import click

from wsgi_tracebacker.cli import output
from wsgi_tracebacker.cli.options.arguments import bases_or_default
from wsgi_tracebacker.cli.options.hosts import hosts_options
from wsgi_tracebacker.cli.options.shared import EXIT_CODES, Seconds, workers
from wsgi_tracebacker.cli.sources_beside import open_sources_beside
from wsgi_tracebacker.errors import LibraryMissing
from wsgi_tracebacker.model.snapshot import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsgi_tracebacker.analysis.live import LiveRequest, Picture
    from wsgi_tracebacker.reader.elsewhere.gathered import Gathered
    from wsgi_tracebacker.reader.elsewhere.hosts import Hosts
    from wsgi_tracebacker.reader.survey import Survey
    from wsgi_tracebacker.top.other_hosts import HostsQuestion
    from wsgi_tracebacker.top.readings import Question

#: Each worker has so long to answer: a screen that is renewed twice a second must not wait long for one that hangs.
DEFAULT_TIMEOUT_SECONDS = 1.0

#: As in ``top.views``, which a plain ``wsgi-tb --help`` does not need.
VIEW_NAMES = ("requests", "places", "workers", "locks", "routes")

#: Between the parts of the head.
_GAP = "   "

EPILOG = f"""\b
Examples:
  wsgi-tb top
  wsgi-tb top /run/app/tb --every 0.5
  wsgi-tb top --once --view places
  wsgi-tb top /run/app/tb --via 'ssh {{}}' --host web1 --host web2
  wsgi-tb top --once --format jsonl | jq 'select(.age_seconds > 10) | .path'

{EXIT_CODES}
"""


@click.command(epilog=EPILOG)
@workers
@click.option(
    "--every",
    "every_seconds",
    metavar="SECONDS",
    type=Seconds(min=0.1, max=3600),
    default=1.0,
    show_default=True,
    help="How often the workers are asked.",
)
@click.option(
    "--view", "view_name", type=click.Choice(VIEW_NAMES), default="requests", show_default=True, help="The first view."
)
@click.option("--once", is_flag=True, help="Print the screen as text and end. It takes two readings, --every apart.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "jsonl"]),
    default="text",
    show_default=True,
    help="jsonl: a line a request; without --once for every reading, until it is interrupted.",
)
@hosts_options
def top(
    bases: tuple[str, ...],
    numbers: tuple[int, ...],
    timeout_seconds: float | None,
    every_seconds: float,
    view_name: str,
    once: bool,
    form: str,
    hosts: Hosts | None,
) -> int:
    """Watch the workers: every request in flight, its age, what it waits for and where it stands.

    BASE is the path that the middleware was given (the workers are BASE1, BASE2, ...), SOCKET one worker's socket,
    uWSGI's too, PID a process: its workers. Without any it is $WSGI_TB_SOCKET, or else every base that has a worker and
    that you may read. Press ? for the keys.
    """
    # It lasts, unlike other verbs, for which ``main`` turns it off.
    gc.enable()
    seconds = timeout_seconds or DEFAULT_TIMEOUT_SECONDS
    with contextlib.ExitStack() as opened:
        question: Question | HostsQuestion
        if hosts is None:
            from wsgi_tracebacker.top.readings import Question

            question = Question(bases_or_default(bases), numbers, seconds)
            opened.enter_context(open_sources_beside())
        else:
            from wsgi_tracebacker.reader.elsewhere.followed import Followed
            from wsgi_tracebacker.top.other_hosts import HostsQuestion

            question = HostsQuestion(Followed(hosts, bases, numbers, seconds, every_seconds))
            opened.callback(question.stop)
        if once:
            return _print_once(question, every_seconds, view_name, form)
        if form == "jsonl":
            return _print_on(question, every_seconds)
        return _run(question, every_seconds, view_name)


def _run(question: Question | HostsQuestion, every_seconds: float, view_name: str) -> int:
    """The live view."""
    try:
        from wsgi_tracebacker.top.app import TopApp
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("textual", "rich"):
            raise
        raise LibraryMissing("top needs Textual: pip install 'wsgi-tracebacker[top]'") from None
    # Textual draws on stderr.
    if not (sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty()):
        raise click.UsageError("top needs a terminal; --once prints the screen as text, --format jsonl lines of JSON.")
    TopApp(question.ask(), question.ask_again, write, every_seconds, view_name).run()
    return 0


def _print_once(question: Question | HostsQuestion, every_seconds: float, view_name: str, form: str) -> int:
    from wsgi_tracebacker.analysis.live import advance
    from wsgi_tracebacker.reader.survey import Survey

    before = advance(None, question.ask().reading)
    time.sleep(every_seconds)
    taken = question.ask()
    picture = advance(before, taken.reading)
    if form == "jsonl":
        output.write_bytes(b"".join(json_lines(picture)))
    else:
        output.write_text(_screen(picture, view_name))
    if isinstance(taken.found, Survey):
        return output.end(taken.found)
    for failure in taken.found.failures:
        output.fail(failure)
    return output.EXIT_UNANSWERED if taken.found.failures else 0


def _print_on(question: Question | HostsQuestion, every_seconds: float) -> int:
    """Lines for each reading, until it is interrupted or nobody reads them any more."""
    from wsgi_tracebacker.analysis.live import advance

    picture, taken = None, question.ask()
    while True:
        picture = advance(picture, taken.reading)
        sys.stdout.buffer.write(b"".join(json_lines(picture)))
        sys.stdout.buffer.flush()
        time.sleep(every_seconds)
        taken = question.ask_again()


def _screen(picture: Picture, view_name: str) -> Iterator[str]:
    from wsgi_tracebacker.text.columns import wrap_all
    from wsgi_tracebacker.text.screens.grid import fit, line
    from wsgi_tracebacker.top.view import line_of, sorted_rows
    from wsgi_tracebacker.top.views import VIEWS
    from wsgi_tracebacker.top.worker_rows import head

    view = next(view for view in VIEWS if view.name == view_name)
    rows = sorted_rows(view, picture)
    # Into a file or a pipe nothing is cut, unless COLUMNS says how wide it may be.
    has_width = sys.stdout.isatty() or bool(os.environ.get("COLUMNS"))
    columns = shutil.get_terminal_size().columns if has_width else None
    widths = fit(view.columns, [row.texts for row in rows], columns)
    yield from wrap_all(_GAP.join(part.text for part in head(picture)), columns or sys.maxsize, between=_GAP)
    yield line(view.columns, [column.title for column in view.columns], widths).rstrip()
    for row in rows:
        yield line_of(row, view.columns, widths, cuts_note=has_width).rstrip()


def json_lines(picture: Picture) -> Iterator[bytes]:
    import json

    for live in picture.requests:
        yield json.dumps(_facts(live, picture)).encode("ascii") + b"\n"


def _facts(live: LiveRequest, picture: Picture) -> dict[str, object]:
    request, stack, innermost = live.served.request, live.served.stack, live.served.innermost
    return {
        "schema": SCHEMA,
        "taken_at": picture.reading.taken_at,
        "host": None if live.worker.snapshot is None else live.worker.snapshot.worker.host,
        "worker": live.worker.number,
        "pid": live.worker.pid,
        "socket": live.worker.socket,
        "worker_state": live.worker.state,
        "other_uid": live.worker.other_uid,
        "core": stack.core,
        "method": None if request is None else request.method,
        "path": None if request is None else request.path,
        "route": live.served.route or None,
        "phase": None if request is None else request.phase,
        "started_at": live.key.started_at,
        "age_seconds": live.age_seconds,
        "state": stack.state,
        "waits_for": None if request is None or request.waits_for is None else request.waits_for.sentence,
        "wait_channel": stack.wait_channel,
        "cpu_share": live.cpu_share,
        "filename": None if innermost is None else innermost.filename,
        "lineno": None if innermost is None else innermost.lineno,
        "function": None if innermost is None else innermost.function,
        "remote_address": None if request is None else request.remote_address,
        "request_id": None if request is None else request.request_id,
        "note": None if request is None else request.note,
    }


def write(found: Survey | Gathered) -> str:
    """Write a reading to a new file in the current folder, which only its owner may read; return the file's name."""
    from wsgi_tracebacker.reader.elsewhere.gathered import document_of

    name = time.strftime("wsgi-tb-%Y%m%d-%H%M%S.json")
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(document_of(found))
    return name
