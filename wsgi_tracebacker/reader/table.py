"""Reads the table of requests in flight of a worker that does not answer, and makes a snapshot without stacks of it.

The file is read and not mapped: if it were cut short while it is mapped, the reader would crash.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.linux import files, proc
from wsgi_tracebacker.model.snapshot import UNKNOWN_PHASE, Request, Snapshot, Stack, Worker
from wsgi_tracebacker.wire.black_box import table_header, table_rows

if TYPE_CHECKING:
    from wsgi_tracebacker.model.card import Card
    from wsgi_tracebacker.wire.black_box.table_header import Header
    from wsgi_tracebacker.wire.black_box.table_rows import Row


class Reading(NamedTuple):
    """The content of the table at one instant."""

    header: Header
    #: The oldest request first.
    rows: tuple[Row, ...]
    #: Rows that were being written.
    torn: int
    #: Ident and native id of each core's thread, idle ones too.
    owners: dict[int, tuple[int, int]]
    content: bytes


class Table:
    """The open table of one worker."""

    def __init__(self, card: Card, visible_pid: int | None = None) -> None:
        """Raises OSError if there is no table that can be believed.

        :param visible_pid: the pid here of a worker in another pid namespace, whose shared memory may be another one.
        """
        path = card.black_box
        if path is None:
            raise FileNotFoundError("the worker has no black box")
        if visible_pid is not None and not files.OTHER_ROOT.match(path):
            path = f"{proc.ROOT}/{visible_pid}/root{path}"
        self._card = card
        self._descriptor = files.open_file_of(path, card.uid)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def content(self) -> bytes:
        """The whole file. Raises FormatError if it is not the table of the card's worker."""
        # One byte more than a table has, so that a longer file is rejected.
        content = files.read_at_most(self._descriptor, table_rows.FILE_BYTES + 1)
        header = table_header.decode_header(content)
        card = self._card
        if (header.number, header.pid, header.start_ticks, header.uid) != (
            card.number,
            card.pid,
            card.start_ticks,
            card.uid,
        ):
            raise FormatError("the black box is another process's")
        return content

    def flight(self, core: int) -> bytes:
        """The row of a core as it is now, for ``table_rows.decode_flight``. Whose table it is, is not checked."""
        return os.pread(self._descriptor, table_rows.DETAIL_OFFSET, table_rows.row_offset(core))

    def read(self) -> Reading:
        """Read it. Raises OSError or FormatError."""
        content = self.content()
        rows, torn = table_rows.decode_rows(content, self.content())
        return Reading(
            header=table_header.decode_header(content),
            rows=tuple(sorted(rows, key=lambda row: row.started)),
            torn=torn,
            owners=table_rows.decode_owners(content),
            content=content,
        )


def threads_of(content: bytes) -> tuple[int, frozenset[int]]:
    """Native ids: of the listener, 0 if it never ran, and of the threads that serve requests."""
    serving = (native_id for _, native_id in table_rows.decode_owners(content).values())
    return table_header.decode_header(content).listener, frozenset(serving)


def snapshot(
    card: Card, reading: Reading, state: str, *, monotonic: float, unix: float, clocks_are_ours: bool
) -> Snapshot:
    """Make a snapshot without stacks of the requests in flight.

    ``monotonic`` is the reader's clock. If it is not the worker's too, the ages are counted by the header's.
    """
    header = reading.header
    if not clocks_are_ours:
        monotonic = unix - header.unix + header.monotonic
    stacks = tuple(_stack(header, row, monotonic, unix) for row in reading.rows)
    return Snapshot(
        worker=Worker(
            number=header.number,
            pid=header.pid,
            uid=header.uid,
            started_at=header.started_at,
            server=header.server,
            application=header.application,
            cwd=card.cwd,
            python=header.python,
            base=card.base,
            requests_in_flight=len(reading.rows) + reading.torn,
            oldest_request_seconds=max((stack.request.age_seconds for stack in stacks if stack.request), default=None),
            busy=len(reading.rows) + reading.torn,
            restarts=header.counted.restarts,
        ),
        taken_at=unix,
        stacks=stacks,
        source="table",
        state=state,
    )


def _stack(header: Header, row: Row, monotonic: float, unix: float) -> Stack:
    age_seconds = max(0.0, monotonic - row.started)
    return Stack(
        name=f"WSGIWorker{header.number}Core{row.core}",
        ident=row.ident or None,
        native_id=row.native_id or None,
        core=row.core,
        kind="main" if row.native_id == header.pid else "unknown",
        request=Request(
            method=row.method,
            path=row.path,
            query=None,
            remote_address=row.remote_address,
            request_id=row.request_id,
            started_at=unix - age_seconds,
            age_seconds=age_seconds,
            phase=UNKNOWN_PHASE,
        ),
    )
