"""``wsgi-tb list``: one line for each worker.

``--format json`` prints ``{"schema": 1, "workers": [...]}``, each worker with the attributes of ``WorkerRow``.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from wsgi_tracebacker.cli import output
from wsgi_tracebacker.cli.options.arguments import are_named, bases_or_default
from wsgi_tracebacker.cli.options.hosts import hosts_options
from wsgi_tracebacker.cli.options.shared import workers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsgi_tracebacker.model.worker_row import WorkerRow
    from wsgi_tracebacker.reader.elsewhere.hosts import Hosts
    from wsgi_tracebacker.reader.survey import Answer, Survey
    from wsgi_tracebacker.reader.usage import Usage

EPILOG = """\b
States:
  alive      it answered
  busy       it did not answer in time
  stalled    Python cannot run in it: something holds the GIL
  stopped    it was stopped by a signal (state T)
  disk wait  it waits for a disk (state D)
  dead       its process has ended
  unknown    it may not be asked, or cannot be seen from here

\b
Columns:
  BUSY      slots that are taken, and how many there are
  QUEUED    connections that wait inside the server for a slot
  WAITING   connections that wait to be accepted, and how many may;
            " means the same sockets as the line above
  OLDEST    the age of the oldest request
  RSS, CPU  resident memory, and CPU over 0.1 s (100% is one CPU)

\b
Examples:
  wsgi-tb list                    all workers that you may read
  wsgi-tb list 4711               the workers of that process
  wsgi-tb list /run/app/tb /run/admin/tb
  wsgi-tb list /run/app/tb --via 'ssh {}' --host web1 --host web2
  wsgi-tb list --format json | jq '.workers[] | select(.state == "busy")'

\b
Exit codes:
  0  every worker that lives answered, and each base has one
  1  some did not answer, or all of a base are dead (named on stderr)
  2  the command was not understood
  3  no worker was found
  4  the output could not be written
"""


@click.command("list", epilog=EPILOG)
@workers
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@hosts_options
def list_workers(
    bases: tuple[str, ...], numbers: tuple[int, ...], timeout_seconds: float | None, form: str, hosts: Hosts | None
) -> int:
    """List the workers: state, slots, waiting connections, oldest request, memory, CPU.

    BASE is the path that the middleware was given (the workers are BASE1, BASE2, ...), SOCKET one worker's socket,
    uWSGI's too, PID a process: its workers are listed. Without any it is $WSGI_TB_SOCKET, or else every base that has
    a worker and that you may read.
    """
    if hosts is not None:
        return _list_hosts(hosts, bases, numbers, timeout_seconds, form)
    from wsgi_tracebacker.reader import usage
    from wsgi_tracebacker.reader.finding.processes import Processes
    from wsgi_tracebacker.reader.survey import survey

    found = survey(bases_or_default(bases), timeout_seconds, numbers, without_stacks=True)
    pids = {each.visible_pid for each in found.answers if each.visible_pid is not None and each.state != "dead"}
    used = usage.measure(pids, Processes())
    if form == "json":
        output.write_bytes(_json(found, used))
    else:
        output.write_text(_text(found, used, is_named=are_named(bases)))
    return output.end(found, dead_are_shown=form == "text")


def _json(found: Survey, used: dict[int, Usage]) -> bytes:
    from wsgi_tracebacker.wire.documents import list_json

    return list_json.encode([_row(answer, used) for answer in found.answers])


def _list_hosts(
    hosts: Hosts, bases: tuple[str, ...], numbers: tuple[int, ...], timeout_seconds: float | None, form: str
) -> int:
    """The workers of all hosts, host by host; a line on stderr for each host or worker that did not answer."""
    from wsgi_tracebacker.errors import FormatError
    from wsgi_tracebacker.reader.elsewhere import hosts as remote
    from wsgi_tracebacker.wire.documents import list_json

    options = [word for number in numbers for word in ("--worker", str(number))]
    if timeout_seconds is not None:
        options += ["--timeout", f"{timeout_seconds:.3f}"]
    words = ("list", "--format", "json", "--percent-encoded", *options, *map(remote.encode, bases))
    rows: list[WorkerRow] = []
    failures = []
    for ran in remote.run(hosts, words):
        try:
            rows += list_json.decode(ran.stdout, ran.target) if ran.stdout else []
        except FormatError as error:
            failures.append(f"{ran.target}: bad reply: {error}")
            continue
        if ran.exit_code or not ran.stdout:
            failures.append(f"{ran.target}: {ran.complaint or f'it ended with {ran.exit_code}'}")
    rows.sort(key=lambda row: (row.host or "", row.base, row.number or 0))
    if form == "json":
        output.write_bytes(list_json.encode(rows))
    else:
        output.write_text(_tables(rows))
    for line in sorted(failures):
        output.fail(line)
    return output.EXIT_UNANSWERED if failures else 0


def _tables(rows: list[WorkerRow]) -> Iterator[str]:
    from itertools import groupby

    from wsgi_tracebacker.text.screens.worker_list import lines
    from wsgi_tracebacker.wire.escape import printable

    now = time.time()
    separator: tuple[str, ...] = ()
    for (host, base), of_base in groupby(rows, lambda row: (row.host or "", row.base)):
        yield from separator
        yield f"{printable(host)}, base {printable(base)}"
        yield from lines(list(of_base), lambda moment: output.local_time(moment, now))
        separator = ("",)


def _text(found: Survey, used: dict[int, Usage], *, is_named: bool) -> Iterator[str]:
    from wsgi_tracebacker.reader.finding.discovery import DEFAULT_BASE
    from wsgi_tracebacker.text.screens.worker_list import lines
    from wsgi_tracebacker.wire.escape import printable

    of_bases = found.by_base()
    # One base that the operator knows needs no name.
    has_names = len(of_bases) > 1 or not (is_named or DEFAULT_BASE in of_bases)
    now = time.time()
    separator: tuple[str, ...] = ()
    for base, answers in of_bases.items():
        yield from separator
        if has_names:
            yield f"base {printable(base)}"
        yield from lines([_row(answer, used) for answer in answers], lambda moment: output.local_time(moment, now))
        separator = ("",)


def _row(answer: Answer, used: dict[int, Usage]) -> WorkerRow:
    from wsgi_tracebacker.model.questions import in_flight, oldest_seconds
    from wsgi_tracebacker.model.snapshot import Worker
    from wsgi_tracebacker.model.worker_row import WorkerRow

    snapshot, card = answer.snapshot, answer.target.card
    worker = Worker() if snapshot is None else snapshot.worker
    of_process = used.get(answer.visible_pid or 0)
    requests = None if snapshot is None else in_flight(snapshot)
    return WorkerRow(
        number=answer.number,
        socket=answer.target.socket,
        base=answer.target.base,
        pid=answer.pid,
        visible_pid=answer.visible_pid,
        state=answer.state,
        application=worker.application or (None if card is None else card.application),
        requests_in_flight=requests,
        oldest_request_seconds=None if snapshot is None else oldest_seconds(snapshot),
        reason=None if answer.error is None else answer.error.reason,
        other_uid=answer.other_uid,
        slots=worker.slots,
        busy=requests if worker.busy is None else worker.busy,
        inner_queue=worker.inner_queue,
        waiting=_sum([each.waiting for each in worker.listen]),
        waiting_limit=_sum([each.limit for each in worker.listen]),
        memory_bytes=None if of_process is None else of_process.memory_bytes,
        cpu_share=None if of_process is None else of_process.cpu_share,
        restarts=worker.restarts,
        last_alive_at=answer.last_alive_at,
        listen=worker.listen,
    )


def _sum(values: list[int | None]) -> int | None:
    """The sum of what is known; None if nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None
