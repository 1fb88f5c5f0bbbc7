"""What a request waits for, and who has it: one frozen value, made of the parts that are known.

``text.waits`` makes its sentence. The parts are masked before they get here: no parameter, header, body, literal of a
statement, or user, query and fragment of a URL.
"""

from __future__ import annotations

from typing import NamedTuple

#: Every kind with what it means. The documents name these, so a kind is added and never changed.
KINDS = {
    "database": "an answer of a database or cache, while a statement or command runs",
    "http": "an answer of an HTTP server",
    "service": "an answer of another service that a library calls",
    "connection": "something on a socket: an answer of `peer`, or that the connection is made",
    "send": "that `peer` reads what is sent to it",
    "lock": "a lock of this process",
    "deadlock": "a lock whose holder waits, itself or through others, for this request",
    "pool": "a connection of a pool, all of which are in use",
    "file_lock": "a lock of a file",
    "file": "a disk, or another file",
    "pipe": "the other end of a pipe or FIFO",
    "child": "that a child process ends or writes",
    "thread": "that another thread ends",
    "queue": "an entry of a queue, or room in it",
    "signal": "another thread of this process: an event, a condition, a semaphore, a barrier",
    "future": "the result of a task",
    "import": "a module that is being imported",
    "dns": "the address of a host name",
    "sleep": "time: it sleeps",
    "client_slow": "the client, which reads slowly",
    "client_gone": "nothing that helps anybody: the client has closed its connection",
    "other_thread": "another thread that works for this request",
    "garbage": "collections of garbage, which took most of the time",
    "repeated_statement": "one short statement after another, all the same",
}


class Holder(NamedTuple):
    """A request, or a thread that serves none, that has what a request waits for."""

    method: str
    path: str
    age_seconds: float
    core: int | None = None
    #: The worker that serves it; None: the same one.
    worker: int | None = None
    #: In a deadlock: what this request has, and what it waits for.
    has: str | None = None
    wants: str | None = None
    #: The thread's name, if it serves no request: method and path are empty then, and its age is 0.
    thread: str | None = None


class WaitsFor(NamedTuple):
    """What a request waits for. What is not known, or has no meaning for this kind, is None."""

    #: One of KINDS.
    kind: str
    #: All of it for people, in one sentence without a full stop.
    sentence: str = ""
    #: The usual name of what listens there, or of the library's server: ``postgresql``, ``redis``.
    service: str | None = None
    #: The other end of the socket: ``10.0.0.5:5432``, ``[::1]:80``, or the path of a UNIX socket.
    peer: str | None = None
    #: The port of the socket's own end: for PostgreSQL the ``client_port`` of ``pg_stat_activity``.
    own_port: int | None = None
    #: True while the connection is being made.
    connecting: bool | None = None
    #: The host name that is asked for.
    host: str | None = None
    file: str | None = None
    #: The process that has it, or that is waited for, and its program's name.
    pid: int | None = None
    program: str | None = None
    #: The lock as the source names it, and the file and line where it is waited for.
    lock: str | None = None
    lock_place: str | None = None
    #: The requests that have it.
    holders: tuple[Holder, ...] = ()
    #: The pool's class, how many connections it may have, and how many are in use.
    pool: str | None = None
    pool_size: int | None = None
    pool_in_use: int | None = None
    #: The SQL text with ``?`` for each literal, or a command's name.
    statement: str | None = None
    #: Of an HTTP request; the URL is without user, query and fragment.
    method: str | None = None
    url: str | None = None
    #: The call that waits, ``queue.get``, and the file and line of the application that made it.
    call: str | None = None
    called_at: str | None = None
    #: The other thread's name.
    thread: str | None = None
    #: For how long, where that is known.
    since_seconds: float | None = None
    #: How much of that time collections of garbage took, from 0 to 1.
    share: float | None = None
    #: At so many of the recorder's last samples (``looks``) it ran that statement in a call that had begun since the
    #: sample before.
    new_calls: int | None = None
    looks: int | None = None
    #: True if the client has closed its connection; None also where that is not known.
    client_gone: bool | None = None
