"""The view of requests: a row for each, and one for each worker of which none is known. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_tracebacker.model.snapshot import UNKNOWN_PHASE
from wsgi_tracebacker.text.screens.grid import UNKNOWN, Column
from wsgi_tracebacker.text.units import duration
from wsgi_tracebacker.text.waits import beside
from wsgi_tracebacker.top.view import EMPTY, QUIET, STUCK, Cell, Row, look_of_age, number, percent, text
from wsgi_tracebacker.wire.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsgi_tracebacker.analysis.live import IdleThread, LiveRequest, Picture, WorkerReading
    from wsgi_tracebacker.model.groups import ServedRequest
    from wsgi_tracebacker.model.snapshot import Frame, Stack

COLUMNS = (
    Column("AGE", is_right=True),
    Column("W:C"),
    Column("REQUEST", least=18),
    Column("PHASE", rank=4),
    Column("STATE", rank=3),
    Column("WAITS FOR", least=15, good=36, rank=1),
    Column("CPU", is_right=True, rank=2),
    Column("WHERE", least=18, good=26, cuts_begin=True),
    Column("NOTE", least=8, rank=5, is_optional=True),
    Column("CLIENT", rank=6),
    Column("ID", least=8, rank=7, is_optional=True),
)

#: The states of proc_pid_stat(5) in one word.
_STATES = {"R": "running", "S": "sleeping", "D": "disk", "T": "stopped", "t": "traced", "I": "idle"}

#: A request of uWSGI's socket.
UNNAMED = "(uWSGI does not name it)"

#: Folders of a path that are shown: enough to tell shop/orders.py from admin/orders.py.
_FOLDERS_SHOWN = 1


def rows(picture: Picture, with_idle: bool) -> Iterator[Row]:
    for request in (*picture.requests, *picture.ended):
        yield _request(request)
    for worker in picture.reading.workers:
        if worker.reason is not None and worker.snapshot is None:
            yield _worker(worker, worker.reason)
    for lost in picture.lost:
        yield _worker(lost.worker._replace(state="gone"), "it has ended, and its socket is gone")
    if with_idle:
        for thread in picture.idle:
            yield _idle(thread)


def _request(live: LiveRequest) -> Row:
    served, request = live.served, live.served.request
    cells = (
        number(live.age_seconds, duration),
        _place(live.worker, served.stack.core),
        title(served),
        text(None if request is None or request.phase == UNKNOWN_PHASE else request.phase),
        text(_state(live)),
        text(None if live.ended_at is not None else waits_for(served)),
        number(live.cpu_share, percent),
        text(where(served.innermost)),
        text(None if request is None else request.note),
        text(None if request is None else request.remote_address),
        text(None if request is None else request.request_id),
    )
    look = look_of_age(live.age_seconds) if live.ended_at is None else QUIET
    return Row(live.key, cells, look, (served,), worker=live.worker)


def _idle(thread: IdleThread) -> Row:
    last = thread.stack.last_request
    note = "idle" if last is None else f"idle, {duration(last.ended_seconds_ago)} after {last.method} {last.path}"
    cells = _cells(_place(thread.worker, thread.stack.core), text(_kernel_state(thread.stack)))
    return Row(thread.key, cells, QUIET, idle=thread.stack, worker=thread.worker, note=printable(note))


def _worker(worker: WorkerReading, reason: str) -> Row:
    """A worker of which no request is known."""
    pid = "" if worker.pid is None else f" (pid {worker.pid})"
    cells = _cells(_place(worker, None), text(worker.state))
    note = printable(f"{worker.state}: worker {worker.label}{pid}, {reason}")
    return Row(worker.key, cells, STUCK, worker=worker, note=note)


def _cells(place: Cell, state: Cell) -> tuple[Cell, ...]:
    """Those of a row that is about no request."""
    return (EMPTY, place, EMPTY, EMPTY, state, *[EMPTY] * (len(COLUMNS) - 5))


def _place(worker: WorkerReading, core: int | None) -> Cell:
    return Cell(printable(f"{worker.label}:{UNKNOWN if core is None else core}"), _order(worker, core))


def _order(worker: WorkerReading, core: int | None) -> float:
    return (worker.number or 0) * 1_000_000.0 + (-1 if core is None else core)


def _state(live: LiveRequest) -> str:
    if live.ended_at is not None:
        return "lost" if live.worker.state == "dead" else "ended"
    stack = live.served.stack
    if live.worker.reason is not None:
        return "holds GIL" if stack.holds_gil else live.worker.state
    return stack.greenlet or _kernel_state(stack)


def _kernel_state(stack: Stack) -> str:
    return "" if stack.state is None else _STATES.get(stack.state, stack.state)


def title(served: ServedRequest) -> Cell:
    """Method and path."""
    request = served.request
    if request is None:
        return Cell(UNNAMED, None)
    return text(f"{request.method} {request.path}" + ("" if request.query is None else f"?{request.query}"))


def waits_for(served: ServedRequest) -> str | None:
    """What a request waits for; as far as only the kernel knows it, the call that its thread sleeps in."""
    known = None if served.request is None else served.request.waits_for
    return without_verb(served.kernel_view if known is None else beside(known.sentence, served.innermost))


def without_verb(sentence: str | None) -> str | None:
    """What stands in a column that is called WAITS FOR."""
    return None if sentence is None else sentence.removeprefix("waits for ")


def where(frame: Frame | None) -> str:
    """``shop/orders.py:71 load_order``."""
    if frame is None:
        return ""
    file = "/".join(frame.filename.split("/")[-1 - _FOLDERS_SHOWN :])
    return f"{file}:{'?' if frame.lineno is None else frame.lineno} {frame.function.rpartition('.')[2]}"
