"""The values that a snapshot of a worker consists of: frozen, typed, only strings and numbers, no live frames.

They are named tuples. A frozen dataclass takes nine times as long to define and three times as long to make, and the
first one imports a dozen modules, half of all that ``wsgi-tb read`` would need besides.

Times named ``…_at`` are Unix seconds (for people and logs); durations are named ``…_seconds``. Everything that
decides something was measured on the monotonic clock before it became one of these.
"""

from __future__ import annotations

from typing import NamedTuple

from wsgi_tracebacker.model.waits import WaitsFor  # noqa: TC001  (a value needs it)

#: The version of the JSON document; it rises when a key changes its meaning or goes, not when one is added.
SCHEMA = 1

#: The phases of a request, in the order in which it goes through them: the callable runs, its iterable is being
#: read, its ``close()`` runs.
PHASES = ("app", "body", "close")
#: The phase of a request that is known from the table only, which does not hold it.
UNKNOWN_PHASE = "unknown"
#: The kind of a thread of which uWSGI does not say more, or whose stack is not known: see ``interpreters``.
UNKNOWN_KIND = "unknown"
#: The kind of what is no thread: a request whose body is open and read by nobody, while its thread serves another one.
UNREAD_KIND = "unread"


class Frame(NamedTuple):
    """One call: where in which function a stack stands."""

    filename: str
    #: Line number from 1; None where the interpreter keeps none for this instruction.
    lineno: int | None
    #: The qualified name (``Class.method``, ``f.<locals>.g``); on CPython 3.10 the plain name, it keeps no other.
    function: str
    #: The source line as it stands in the file, without its line end; None where there is no source.
    source: str | None = None
    end_lineno: int | None = None
    #: Start and end of the expression that runs, in UTF-8 bytes of the line from 0, as the interpreter counts them
    #: (``code.co_positions()``, CPython 3.11 and up); None where it keeps none.
    column: int | None = None
    end_column: int | None = None
    #: The file is newer than the process, so that ``source`` may not be the line that runs.
    source_changed: bool = False


class Note(NamedTuple):
    """What the application said that its request is doing."""

    #: Since the start of the request.
    at_seconds: float
    text: str


class Request(NamedTuple):
    """One request in flight."""

    method: str
    #: ``SCRIPT_NAME`` + ``PATH_INFO``, without the query.
    path: str
    #: The query string; None unless the middleware was asked to show it.
    query: str | None
    remote_address: str | None
    request_id: str | None
    started_at: float
    age_seconds: float
    #: One of PHASES, or UNKNOWN_PHASE.
    phase: str
    #: WSGI calls that the application itself makes inside this one, outermost first.
    nested: tuple[Request, ...] = ()
    #: None also where it waits for nothing, or is younger than what is looked at.
    waits_for: WaitsFor | None = None
    #: The last notes of the application, the newest at the end.
    notes: tuple[Note, ...] = ()
    #: From the header ``traceparent``: the id of the trace that the request belongs to.
    trace_id: str | None = None
    #: How long it waited before it got here, by the header in which a proxy says when it received it; None: not known.
    queued_seconds: float | None = None

    @property
    def note(self) -> str | None:
        """The newest note."""
        return self.notes[-1].text if self.notes else None


class LastRequest(NamedTuple):
    """The request that a thread served before; it may still be sending the response to a slow client."""

    method: str
    path: str
    ended_seconds_ago: float


class HubState(NamedTuple):
    """What the hub of gevent or eventlet is doing: the loop that all greenlets of a thread wait in."""

    #: ``gevent`` or ``eventlet``.
    library: str
    #: ``idle`` (it waits for something to happen), ``running`` (a greenlet runs and will give way, as far as is
    #: known) or ``blocked`` (what runs has not given way, and all other greenlets of the thread wait).
    state: str
    #: For how long it has been blocked, at least; None if it is not.
    blocked_seconds: float | None


class Stack(NamedTuple):
    """One thread (or greenlet) of a worker at one instant."""

    name: str
    ident: int | None = None
    native_id: int | None = None
    #: The request slot, from 0; None for a thread that serves no requests.
    core: int | None = None
    #: ``main``, ``thread``, ``foreign`` (not started by Python), ``greenlet``, ``hub`` (the loop of gevent or eventlet
    #: and the thread it runs in), UNREAD_KIND or UNKNOWN_KIND.
    kind: str = "thread"
    daemon: bool | None = None
    #: The kernel's letter: R runs, S sleeps, D waits for a disk, T is stopped. See proc_pid_stat(5).
    state: str | None = None
    #: The kernel function that the thread sleeps in, where /proc names it.
    wait_channel: str | None = None
    cpu_seconds: float | None = None
    request: Request | None = None
    last_request: LastRequest | None = None
    #: Outermost first, as in a Python traceback.
    frames: tuple[Frame, ...] = ()
    #: How many frames were left out between the outermost ones and the rest. faulthandler leaves out the outermost
    #: ones and does not say how many: then it is 1.
    frames_omitted: int = 0
    #: Whether this thread holds the GIL; None where that is not proven.
    holds_gil: bool | None = None
    #: Of a greenlet: ``running`` or ``suspended``.
    greenlet: str | None = None
    #: Of kind ``hub``: what it is doing.
    hub: HubState | None = None
    #: Whether the innermost frames are missing, because they changed while they were read from outside.
    is_cut: bool = False


class ListenSocket(NamedTuple):
    """A socket on which a server accepts connections. Workers that were forked share it."""

    #: Its inode number, which no other socket of this machine has: whoever adds up counts each once.
    inode: int
    #: ``tcp`` or ``unix``.
    family: str
    #: ``127.0.0.1:8000``, a path, or the name of an abstract socket after an ``@``.
    address: str
    #: Connections that wait to be accepted, and how many the kernel lets wait; None: not known.
    waiting: int | None
    limit: int | None


class Worker(NamedTuple):
    """Who a worker is, and how much it has served. None: not known (uWSGI's own socket says none of it)."""

    number: int | None = None
    pid: int | None = None
    ppid: int | None = None
    uid: int | None = None
    #: When the process started.
    started_at: float | None = None
    server: str | None = None
    application: str | None = None
    cwd: str | None = None
    #: The interpreter, as ``CPython 3.11.7``.
    python: str | None = None
    #: The version of wsgi_tracebacker that the worker runs.
    version: str | None = None
    base: str | None = None
    requests_finished: int | None = None
    requests_in_flight: int | None = None
    #: The age of the oldest request in flight; None also if there is none.
    oldest_request_seconds: float | None = None
    #: How many requests the server can serve at once in this process, as it says itself.
    slots: int | None = None
    #: How many of them are taken: by requests in flight, or by what else a slot does for a client.
    busy: int | None = None
    #: Connections that the server has accepted and that wait in the process until a slot is free.
    inner_queue: int | None = None
    #: How many workers with this number were there before it, as far as it was handed on.
    restarts: int | None = None
    listen: tuple[ListenSocket, ...] = ()
    #: The host that it runs on, in a document of ``wsgi-tb read``; a worker itself does not say it.
    host: str | None = None


class Counters(NamedTuple):
    """What the listener of one worker has done since it started."""

    snapshots: int = 0
    clients_accepted: int = 0
    #: Closed on without a byte: not the owner, not root, not in the group.
    clients_refused: int = 0
    #: Closed on before their reply was out: stalled, too slow, or more than the listener holds.
    clients_dropped: int = 0
    #: Faults of ours that were caught; the first of each kind was logged.
    faults: int = 0


class Snapshot(NamedTuple):
    """All stacks of one worker at one instant."""

    worker: Worker
    taken_at: float
    stacks: tuple[Stack, ...]
    #: Who took it: ``worker`` (its own listener), ``uwsgi`` (uWSGI's tracebacker), ``table`` (a reader, from the table
    #: of requests in flight), ``memory`` (a reader, from that table and the worker's memory) or ``faulthandler`` (a
    #: reader, from that table and faulthandler's dump).
    source: str = "worker"
    #: ``alive``; of a worker that did not answer ``busy``, ``stalled``, ``stopped`` or ``disk wait``.
    state: str = "alive"
