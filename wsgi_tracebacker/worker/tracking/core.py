"""The record of one request slot: written by the thread that serves there, read by any thread.

A ``Core`` is reused from request to request: beginning and ending one are plain stores, no allocation, no lock.
``started`` is the token of the request: not zero means in flight, and a value that is still the same proves that it
is still the same request. The writer stores ``started`` last when it begins, so a reader that finds the same token
before and after it read the rest has read one request and not two halves. When it ends, the writer clears ``started``
before it calls anything: a signal handler may raise out of any call, and what stands after it would not be done.
"""

from __future__ import annotations

import _thread
import operator
import sys
import weakref
from operator import is_
from typing import TYPE_CHECKING, Any, Protocol

from wsgi_tracebacker.model.snapshot import PHASES
from wsgi_tracebacker.wire.black_box.table_rows import FLIGHT, decode_path
from wsgi_tracebacker.worker.blackbox.table import scratch_row
from wsgi_tracebacker.worker.tracking.handle import RequestHandle

if TYPE_CHECKING:
    import mmap
    import threading
    from collections.abc import Callable

    from wsgi_tracebacker.model.snapshot import Note
    from wsgi_tracebacker.model.waits import WaitsFor
    from wsgi_tracebacker.worker.blackbox.table import Row
    from wsgi_tracebacker.worker.options.settings import Settings

APP, BODY, CLOSE = range(len(PHASES))


def value_in(environ: object, key: str) -> object:
    """What an environ holds under a key, None if nothing.

    Not ``environ.get()``: a framework's own kind of dict may do anything there, on a thread of ours perhaps. An environ
    that is no dict is against PEP 3333.
    """
    return dict.get(environ, key) if isinstance(environ, dict) else None


class Lease:
    """Held by the body of a request as long as that exists: its reference count shows whether the body was dropped.

    A ``__del__`` on the body would do the same and cost every request 65 ns. Where references are not counted, each
    body gets a lease of its own, and the core sees when that was collected: see LentLease.
    """

    __slots__ = ("__weakref__",)


class LentLease:
    """``Core.lease`` on PyPy: a new one for each body that asks, known to the core weakly."""

    def __get__(self, core: Core | None, owner: type[Core] | None = None) -> Lease:
        lease = Lease()
        if core is not None:
            core.lent = weakref.ref(lease)
        return lease

    def __set__(self, core: Core, lease: Lease) -> None:
        core.lent = None


class Watcher(Protocol):
    """What a core calls when its request changes: see deadlines.parts."""

    def limit_changed(self, core: Core) -> None:
        """The request of this core has a limit of its own now."""

    def request_ended(self, core: Core) -> None:
        """The request of this core that had ``reports_end`` is over; the next one may have begun."""


class Core:
    """One request slot of this worker: the request that a thread serves now, and the one before."""

    __slots__ = (
        "begun",
        "buffer",
        "cause",
        "client_gone",
        "ended",
        "environ",
        "greenlet",
        "handle",
        "ident",
        "inside_ident",
        "inside_token",
        "interrupt_token",
        "lease",
        "lent",
        "lock",
        "marks",
        "native_id",
        "nested",
        "notes",
        "number",
        "offset",
        "outer",
        "own_limit",
        "phase",
        "reader_ident",
        "reading",
        "reports_end",
        "settings",
        "started",
        "thread",
        "watcher",
    )

    def __init__(
        self,
        number: int | None,
        ident: int,
        native_id: int | None,
        thread: threading.Thread | None,
        allocate_lock: Callable[[], _thread.LockType] = _thread.allocate_lock,
        row: Row | None = None,
    ) -> None:
        """Make an idle record for the thread ``ident``, in a row of the black box, else in memory of its own."""
        #: Monotonic time of the start of the request in flight, 0.0 while there is none.
        self.started = 0.0
        #: Monotonic time of the end of the last request, 0.0 if there was none.
        self.ended = 0.0
        self.phase = APP
        self.environ: dict[str, Any] | None = None
        self.settings: Settings | None = None
        #: Where method and path of the request are written: a row of the black box, or of memory of our own; and the
        #: head of that row, which is 0.0 while there is no request. The row keeps the last request's.
        self.buffer: mmap.mmap | memoryview[int]
        self.offset: int
        self.marks: memoryview[float]
        self.buffer, self.offset, self.marks = row if row is not None else scratch_row()
        #: Requests that began in its row, those of earlier cores with this number included. A float, as adding 1 to an
        #: int of any size takes 8 ns more.
        self.begun: float = FLIGHT.unpack_from(self.buffer, self.offset)[3] if row is not None else 0.0
        self.lent: weakref.ref[Lease] | None = None
        self.lease = Lease()
        self.number = number
        #: The thread that called the application.
        self.ident = ident
        self.native_id = native_id
        #: The thread that called iter() on the body, if that is no generator; on most servers it is the same one.
        self.reader_ident = ident
        #: The iterator of the body that was read last: whoever calls iter() may drop the body and go on.
        self.reading: weakref.ref[Any] | None = None
        self.thread = thread
        #: The greenlet that serves here; None on an ordinary thread.
        self.greenlet: weakref.ref[Any] | None = None
        #: The record of the request that this one was called within, and those called within this one.
        self.outer: Core | None = None
        self.nested: list[Core] = []
        #: What the application finds in its environ.
        self.handle = RequestHandle(self)
        #: A limit of this request's own: its token, its age when that was set, the seconds from then on, None for none,
        #: and its source. The token makes it void for the next request, so that nobody has to clear it.
        self.own_limit: tuple[float, float, float | None, str] | None = None
        #: Of a request whose client has gone: its token, its age when that was seen, and the seconds that it has from
        #: then on, None: as many as before. Stored by the watchdog only.
        self.client_gone: tuple[float, float, float | None] | None = None
        #: Why a slow request is slow, as far as it takes several looks to see: its token, and that. Stored by the
        #: watchdog only.
        self.cause: tuple[float, WaitsFor] | None = None
        #: What the application said of a request: its token, and the notes, which are void for the next one.
        self.notes: tuple[float, tuple[Note, ...]] = (0.0, ())
        #: The token of the request while its thread is where it may be raised into, else 0.0; which thread that is;
        #: and the token of the request that is to be interrupted. See interrupt.
        self.inside_token = 0.0
        self.inside_ident = ident
        self.interrupt_token = 0.0
        #: None for a call within a request, and for a core that was abandoned.
        self.watcher: Watcher | None = None
        #: Set by the watcher, to be called when the request in flight ends.
        self.reports_end = False
        self.lock: _thread.LockType = allocate_lock()

    def end(self, now: float) -> None:
        """The request is over."""
        self.reader_ident = self.ident
        self.environ = None
        self.marks[0] = 0.0
        self.started = 0.0
        self.ended = now
        if self.reports_end:
            self.report_end()

    def report_end(self) -> None:
        """Call the watcher: the request is over."""
        self.reports_end = False
        # Read once: another thread that stops the agent sets it to None.
        watcher = self.watcher
        if watcher is not None:
            watcher.request_ended(self)

    def write_row(self, environ: object, started: float) -> None:
        """Write method and path to the row, whatever a server put into its environ instead of what it should."""
        method = script = path = None
        if isinstance(environ, dict):
            # As value_in() does, without three calls: any client can have a request come here.
            method = dict.get(environ, "REQUEST_METHOD")
            script = dict.get(environ, "SCRIPT_NAME")
            path = dict.get(environ, "PATH_INFO")
        whole_path = (script if type(script) is str else "") + (path if type(path) is str else "")
        FLIGHT.pack_into(
            self.buffer,
            self.offset,
            started,
            method.encode("utf-8", "replace") if type(method) is str else b"",
            whole_path.encode("utf-8", "replace"),
            self.begun,
            started,
        )

    def read_row(self) -> tuple[float, str, str]:
        """Token, method and path of the request in flight, or of the last one."""
        _, method, path, _, token = FLIGHT.unpack_from(self.buffer, self.offset)
        return token, method.rstrip(b"\0").decode("utf-8", "replace"), decode_path(path)

    def request_line(self) -> str:
        """Method and path for people: ``GET /path``."""
        return " ".join(self.read_row()[1:])

    def change_row(self, row: Row) -> None:
        """Write requests to another row from now on, and copy what the present one holds.

        Called if there was no table yet when the core was made, or if the table's file has vanished. A request that
        begins at the same moment may still be written to the earlier row: see describe().
        """
        buffer, offset, marks = row
        size = FLIGHT.size
        buffer[offset : offset + size] = self.buffer[self.offset : self.offset + size]
        self.buffer, self.offset, self.marks = row
        # The request may have ended, or another begun, between two of these lines.
        marks[0] = max(0.0, self.started)

    def body_was_dropped(self) -> bool:
        """Whether the body was dropped without ``close()``, and its iterator too (or that is exhausted).

        Where references are not counted, that is seen when the body was collected.
        """
        # The token is compared again at the end: meanwhile the core's thread may close that body and begin its next
        # request, which holds no lease yet and must not be ended.
        started = self.started
        return (
            started > 0.0
            and self.phase != APP
            and _lease_references(self) <= _UNLEASED
            and not self._is_read()
            and self.started == started
        )

    def _is_read(self) -> bool:
        reading = self.reading
        # Only C code has the iterator in its hands, under the GIL: if another thread drops it at this moment, it must
        # not be freed on ours, where its destructor would run.
        if reading is None or next(map(is_, map(_referent, (reading,)), (None,))):
            return False
        return self.reading_frame_id() != _NO_FRAME

    def reading_frame_id(self) -> int | None:
        """The id() of the frame of the generator that is the body: it is in the stack of the thread that runs it.

        None if it is no generator.
        """
        reading = self.reading
        try:
            # In C code, as in _is_read().
            return next(map(id, map(_frame_of_generator, map(_referent, (reading,))))) if reading is not None else None
        except AttributeError:
            return None

    def serving_ident(self) -> int:
        """The ident of the thread that works on the request now, as far as that is known without its stack."""
        if self.phase == APP:
            return self.ident
        return self.inside_ident if self.inside_token == self.started else self.reader_ident


class AbandonedCore(Core):
    """A core of another process, or of an agent that was stopped: it can never begin a request again.

    The class of an existing core is changed to this one. A value of ``started`` alone would not last: a request that
    is in flight clears it when it ends, and another middleware of this process would then use the core as an idle one.
    """

    __slots__ = ()

    @property
    def started(self) -> float:
        return -1.0

    @started.setter
    def started(self, value: float) -> None:
        pass


def _lease_references(core: Core) -> int:
    if _COUNTS_REFERENCES:
        return sys.getrefcount(core.lease)
    lent = core.lent
    return int(lent is None or lent() is not None)


_referent: Callable[[weakref.ref[Any]], Any] = operator.methodcaller("__call__")
_frame_of_generator: Callable[[Any], Any] = operator.attrgetter("gi_frame")
#: Of a generator that has ended.
_NO_FRAME = id(None)

_COUNTS_REFERENCES = hasattr(sys, "getrefcount")
if not _COUNTS_REFERENCES:
    setattr(Core, "lease", LentLease())  # noqa: B010  (over its slot, which mypy knows)

#: The result for a lease that nothing else holds. Measured, because interpreters differ in how many references a call
#: itself adds.
_UNLEASED = _lease_references(Core(None, 0, None, None)) if _COUNTS_REFERENCES else 0
