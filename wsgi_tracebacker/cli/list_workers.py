"""``wsgi-tb list``: one line for each worker.

``--format json`` prints ``{"schema": 1, "workers": [...]}``, each worker with ``number``, ``socket``, ``pid``,
``state``, ``application``, ``requests_in_flight``, ``oldest_request_seconds`` and ``reason`` (why it did not answer),
``other_uid`` (its user, null if that is the reader's own); null if unknown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from wsgi_tracebacker.cli import output
from wsgi_tracebacker.cli.options import EXIT_CODES, workers
from wsgi_tracebacker.cli.plain import bases_or_default
from wsgi_tracebacker.model.snapshot import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsgi_tracebacker.reader.survey import Answer

EPILOG = f"""\b
States:
  alive      it answered
  busy       it did not answer in time
  stalled    Python cannot run in it: something holds the GIL
  stopped    it was stopped by a signal (state T)
  disk wait  it waits for a disk (state D)
  dead       its process has ended
  unknown    it may not be asked, or cannot be seen from here

\b
Examples:
  wsgi-tb list
  wsgi-tb list /run/app/tb /run/admin/tb
  wsgi-tb list --format json | jq '.workers[] | select(.state != "alive")'

{EXIT_CODES}
"""

#: The keys of a worker that are columns of the text.
_COLUMNS = {
    "number": "WORKER",
    "pid": "PID",
    "state": "STATE",
    "requests_in_flight": "IN FLIGHT",
    "oldest_request_seconds": "OLDEST",
    "application": "APPLICATION",
    "socket": "SOCKET",
}


@click.command("list", epilog=EPILOG)
@workers
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def list_workers(bases: tuple[str, ...], numbers: tuple[int, ...], timeout_seconds: float | None, form: str) -> int:
    """List the workers: number, pid, state, requests in flight, age of the oldest, application.

    BASE is the path that the middleware was given (the workers are BASE1, BASE2, ...), SOCKET one worker's socket,
    uWSGI's too. Without either it is $WSGI_TB_SOCKET, or else /tmp/tbsocket.
    """
    from wsgi_tracebacker.reader.survey import survey

    found = survey(bases_or_default(bases), timeout_seconds, numbers, without_stacks=True)
    facts = [_facts(answer) for answer in found.answers]
    if form == "json":
        import json

        output.write_bytes(json.dumps({"schema": SCHEMA, "workers": facts}).encode("ascii") + b"\n")
    else:
        output.write_text(_table(facts))
    return output.end(found)


def _facts(answer: Answer) -> dict[str, object]:
    from wsgi_tracebacker.model.questions import in_flight, oldest_seconds

    snapshot, card = answer.snapshot, answer.target.card
    application = None if card is None else card.application
    return {
        "number": answer.number,
        "socket": answer.target.socket,
        "pid": answer.pid,
        "state": answer.state,
        "application": application if snapshot is None else snapshot.worker.application or application,
        "requests_in_flight": None if snapshot is None else in_flight(snapshot),
        "oldest_request_seconds": None if snapshot is None else oldest_seconds(snapshot),
        "reason": None if answer.error is None else answer.error.reason,
        "other_uid": answer.other_uid,
    }


def _table(workers: list[dict[str, object]]) -> Iterator[str]:
    from wsgi_tracebacker.text.columns import table
    from wsgi_tracebacker.text.units import duration

    def cell(value: object) -> object:
        return duration(value) if isinstance(value, float) else value

    columns = dict(_COLUMNS)
    if any(worker["other_uid"] is not None for worker in workers):
        columns["other_uid"] = "OTHER UID"
    rows = [[cell(worker[key]) for key in columns] for worker in workers]
    yield from table(tuple(columns.values()), rows, right_aligned=("WORKER", "PID", "IN FLIGHT", "OLDEST"))
