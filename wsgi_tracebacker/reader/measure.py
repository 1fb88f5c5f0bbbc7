"""Measures the workers for a monitoring system: one snapshot of each, its black box's counters, its memory and CPU.

Nothing of it is counted here: a worker's black box counts, also for the workers before it that died.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.errors import FormatError, NoWorkersFound
from wsgi_tracebacker.model.metrics import Counts, Measured
from wsgi_tracebacker.reader.finding.processes import DEAD, Processes
from wsgi_tracebacker.reader.survey import survey
from wsgi_tracebacker.reader.table import Table
from wsgi_tracebacker.wire.black_box import table_header, table_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsgi_tracebacker.reader.survey import Answer

#: How long each worker has to answer: Prometheus waits ten seconds for everything, and proving a stall takes two.
ANSWER_SECONDS = 2.0


class Measurement(NamedTuple):
    """All workers at one moment."""

    workers: tuple[Measured, ...]
    #: The arguments without workers.
    missing: tuple[str, ...]


def measure(arguments: Sequence[str], timeout_seconds: float | None = None) -> Measurement:
    """Measure the workers behind these arguments."""
    processes = Processes()
    try:
        # No worker is signalled: a stalled one would have to write its stacks at each scrape.
        answers = survey(arguments, timeout_seconds or ANSWER_SECONDS, (), processes).answers
    except NoWorkersFound:
        answers = ()
    found = {path for answer in answers for path in (answer.target.base, answer.target.socket)}
    missing = tuple(argument for argument in arguments if argument not in found)
    return Measurement(tuple(_measured(answer, processes) for answer in answers), missing)


def _measured(answer: Answer, processes: Processes) -> Measured:
    pid = None if answer.state == DEAD else answer.visible_pid
    return Measured(
        base=answer.target.base,
        number=answer.number,
        state=answer.state,
        snapshot=answer.snapshot,
        counts=_counts(answer),
        resident_bytes=None if pid is None else processes.resident_bytes(pid),
        cpu_seconds=None if pid is None else processes.cpu_seconds(pid),
    )


def _counts(answer: Answer) -> Counts | None:
    """What a worker has counted; None if it has no black box, or none that can be believed."""
    card = answer.target.card
    # A card that names another user than its owner lies: root must not open that user's files for it.
    if card is None or card.uid != answer.target.card_owner:
        return None
    try:
        table = Table(card)
    except OSError:
        return None
    try:
        content = table.content()
    except (OSError, FormatError):
        return None
    finally:
        table.close()
    counted = table_header.decode_header(content).counted
    return Counts(
        requests=counted.requests_before + table_rows.count_requests(content),
        slow=counted.slow,
        clients_gone=counted.clients_gone,
        deaths=counted.restarts + (answer.state == DEAD),
        harakiri=tuple(zip(table_header.KINDS, counted.harakiri_kinds, strict=True)),
    )
