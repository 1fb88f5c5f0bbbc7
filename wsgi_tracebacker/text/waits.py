"""Says in one sentence what a request waits for: every word about it that people read is made here.

The sentence holds names as they are: escape it where it is shown.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from wsgi_tracebacker.text.units import duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsgi_tracebacker.model.snapshot import Frame
    from wsgi_tracebacker.model.waits import Holder, WaitsFor

#: So many holders of a lock are named; the document has all of them.
_MAX_HOLDERS_NAMED = 3


def with_sentence(waits: WaitsFor) -> WaitsFor:
    """The same value with the sentence that its parts make."""
    return waits._replace(sentence=sentence(waits))


def sentence(waits: WaitsFor) -> str:
    """``waits for postgresql at 10.0.0.5:5432 (our port 33438): SELECT total FROM orders WHERE id = ?``."""
    make = _SENTENCES.get(waits.kind)
    made = make(waits) if make is not None else f"waits ({waits.kind})"
    return f"{made}; the client has gone" if waits.client_gone and waits.kind != "client_gone" else made


def beside(told: str, frame: Frame | None) -> str:
    """A sentence for a reader who sees the place of this frame beside it: that place is not named again."""
    # A deadlock has the places of several requests, and needs all of them.
    if frame is None or told.startswith("deadlock"):
        return told
    name = place_name(frame.filename, frame.lineno)
    return told.replace(f" (called at {name})", "", 1).replace(f" ({name})", "", 1)


def place_name(filename: str, lineno: int | None) -> str:
    """A file and line of the source: ``cart.py:105``, and ``shop/__init__.py:7``, because many files have that name."""
    folder, name = os.path.split(filename)
    if name == "__init__.py":
        name = os.path.join(os.path.basename(folder), name)
    return f"{name}:{'?' if lineno is None else lineno}"


# ---------------------------------------------------------------------------------------------------- other machines


def _service(waits: WaitsFor) -> str:
    """A database or another service, with what it was asked."""
    asked = f": {waits.statement}" if waits.statement else ""
    return _connection(waits) + asked


def _connection(waits: WaitsFor) -> str:
    if waits.connecting:
        name = waits.host or waits.service
        to = f"{name} ({waits.peer})" if name and waits.peer else name or waits.peer or "another host"
        return f"connects to {to}"
    peer = waits.peer or waits.host
    if waits.service and peer:
        where = f"{waits.service} at {peer}"
    else:
        where = waits.service or peer or ("the database" if waits.kind == "database" else "a socket")
    return f"waits for {where}{_own_port(waits)}"


def _own_port(waits: WaitsFor) -> str:
    return f" (our port {waits.own_port})" if waits.own_port is not None else ""


def _http(waits: WaitsFor) -> str:
    target = " ".join(part for part in (waits.method, waits.url or waits.host) if part) or "an HTTP server"
    if waits.connecting:
        state = "not connected yet"
    elif waits.connecting is None:
        # Where the socket is not known, neither is whether it is connected.
        state = ""
    else:
        state = "no answer yet"
    known = ", ".join(part for part in (waits.peer, state) if part)
    return f"waits for {target}" + (f" ({known})" if known else "")


def _send(waits: WaitsFor) -> str:
    return f"sends to {waits.peer or 'a socket'}{_own_port(waits)}, which reads slowly"


def _dns(waits: WaitsFor) -> str:
    return f"resolves {waits.host or 'a host name'}"


def _client_slow(waits: WaitsFor) -> str:
    return f"the client {waits.peer} reads slowly" if waits.peer else "the client reads slowly"


def _client_gone(waits: WaitsFor) -> str:
    return f"the client {waits.peer} has gone" if waits.peer else "the client has gone"


# ------------------------------------------------------------------------------------------------------ this process


def _lock(waits: WaitsFor) -> str:
    place = f" ({waits.lock_place})" if waits.lock_place else ""
    name = f"lock {waits.lock}" if waits.lock else "a lock"
    return f"waits for {name}{place}{_inside(waits.holders)}{_called_at(waits) if not waits.lock_place else ''}"


def _inside(holders: tuple[Holder, ...]) -> str:
    if not holders:
        return ""
    named = "; ".join(holder_name(holder) for holder in holders[:_MAX_HOLDERS_NAMED])
    more = len(holders) - _MAX_HOLDERS_NAMED
    return f"; inside it: {named}" + (f" and {more} more" if more > 0 else "")


def holder_name(holder: Holder) -> str:
    """``GET /refund, 12.0 s, core 3``, or ``thread "indexer"``."""
    if holder.thread is not None:
        return f'thread "{holder.thread}"'
    core = f", core {holder.core}" if holder.core is not None else ""
    worker = f" of worker {holder.worker}" if holder.worker is not None else ""
    return f"{holder.method} {holder.path}, {duration(holder.age_seconds)}{core}{worker}"


def _deadlock(waits: WaitsFor) -> str:
    chain = "; ".join(
        f"{_party(holder)} has {holder.has or 'a lock'} and waits for {holder.wants or 'a lock'}"
        for holder in waits.holders
    )
    return f"deadlock: {chain}" if chain else "deadlock"


def _party(holder: Holder) -> str:
    if holder.thread is not None:
        return f'thread "{holder.thread}"'
    return f"{holder.method} {holder.path} (core {'?' if holder.core is None else holder.core})"


def _pool(waits: WaitsFor) -> str:
    name = waits.pool or "a pool"
    if waits.pool_in_use is not None and waits.pool_in_use == waits.pool_size:
        return f"waits for a connection of {name}: all {waits.pool_size} are out"
    if waits.pool_in_use is not None and waits.pool_size is not None:
        return f"waits for a connection of {name}: {waits.pool_in_use} of {waits.pool_size} are out"
    return f"waits for a connection of {name}"


def _thread(waits: WaitsFor) -> str:
    return (f'waits for thread "{waits.thread}" to end' if waits.thread else "waits for a thread to end") + _called_at(
        waits
    )


def _call(waits: WaitsFor) -> str:
    return f"waits for {waits.call or 'another thread'}{_called_at(waits)}"


def _called_at(waits: WaitsFor) -> str:
    return f" (called at {waits.called_at})" if waits.called_at else ""


def _import(waits: WaitsFor) -> str:
    name = f"the import of {waits.call}" if waits.call else "an import"
    if not waits.holders:
        return f"waits for {name}"
    [holder, *_] = waits.holders
    who = f'thread "{holder.thread}"' if holder.core is None else f"core {holder.core}"
    return f"waits for {name}, which {who} does"


def _sleep(waits: WaitsFor) -> str:
    return f"sleeps{_called_at(waits)}"


def _other_thread(waits: WaitsFor) -> str:
    return f"works on another thread: {waits.thread}" if waits.thread else "works on another thread"


def _garbage(waits: WaitsFor) -> str:
    if waits.share is None or waits.since_seconds is None:
        return "garbage collections take most of the time"
    return f"garbage collections took {waits.share:.0%} of the last {waits.since_seconds:.1f} s"


def _repeated_statement(waits: WaitsFor) -> str:
    asked = f": {waits.statement}" if waits.statement else ""
    counted = f" (a new call at {waits.new_calls} of {waits.looks} looks)" if waits.new_calls and waits.looks else ""
    return f"runs the same statement again and again{asked}{counted}"


# ---------------------------------------------------------------------------------------------------- this machine


def _file_lock(waits: WaitsFor) -> str:
    file = waits.file or "a file"
    whose = f"SQLite waits for a lock of {file}" if waits.service == "sqlite" else f"waits for the lock of {file}"
    if waits.holders:
        return whose + "; " + holder_name(waits.holders[0]) + " has it"
    return whose + (f"; {_process(waits)} has it" if waits.pid is not None else "")


def _process(waits: WaitsFor) -> str:
    return f"pid {waits.pid}" + (f" ({waits.program})" if waits.program else "")


def _file(waits: WaitsFor) -> str:
    return f"waits for {waits.file or 'a file'}"


def _pipe(waits: WaitsFor) -> str:
    return f"waits for the other end of {waits.file or 'a pipe'}"


def _child(waits: WaitsFor) -> str:
    if waits.pid is None:
        return f"waits for a child process{f' ({waits.program})' if waits.program else ''}"
    return f"waits for child process {waits.pid}" + (f" ({waits.program})" if waits.program else "")


_SENTENCES: dict[str, Callable[[WaitsFor], str]] = {
    "database": _service,
    "http": _http,
    "service": _service,
    "connection": _connection,
    "send": _send,
    "lock": _lock,
    "deadlock": _deadlock,
    "pool": _pool,
    "file_lock": _file_lock,
    "file": _file,
    "pipe": _pipe,
    "child": _child,
    "thread": _thread,
    "queue": _call,
    "signal": _call,
    "future": _call,
    "import": _import,
    "dns": _dns,
    "sleep": _sleep,
    "client_slow": _client_slow,
    "client_gone": _client_gone,
    "other_thread": _other_thread,
    "garbage": _garbage,
    "repeated_statement": _repeated_statement,
}
