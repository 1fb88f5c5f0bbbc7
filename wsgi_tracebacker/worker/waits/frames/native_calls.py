"""Methods of classes in C that requests wait in: they have no frame, so the calling line says what is asked.

The line's receiver must be of the class itself, and its first argument a string in the source or a path of names.
If the receiver is no path of names, the kernel has to say that the thread waits for a database.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from wsgi_tracebacker.model.waits import WaitsFor
from wsgi_tracebacker.worker.waits.masking import mask_statement

if TYPE_CHECKING:
    from wsgi_tracebacker.linux.file_locks import FileLock
    from wsgi_tracebacker.worker.waits.frames.expressions import Call, Expression
    from wsgi_tracebacker.worker.waits.frames.frame_texts import Text

QUEUE = "queue"
#: The services of databases whose drivers have methods in C.
DATABASES = frozenset(("sqlite", "postgresql", "pgbouncer", "mysql"))
#: By module and class: the service.
_CLASSES = {
    ("sqlite3", "Connection"): "sqlite",
    ("sqlite3", "Cursor"): "sqlite",
    ("psycopg2.extensions", "connection"): "postgresql",
    ("psycopg2.extensions", "cursor"): "postgresql",
    ("_queue", "SimpleQueue"): QUEUE,
}
#: The methods that wait, and those of them whose first argument is a statement.
_METHODS = {
    *("execute", "executemany", "executescript", "commit", "rollback", "fetchone", "fetchmany", "fetchall"),
    *("close", "backup", "get", "callproc", "copy_expert"),
}
_STATEMENTS = {"execute", "executemany", "executescript", "copy_expert"}
_FIXED = {"commit": "COMMIT", "rollback": "ROLLBACK"}

#: Bytes of a database file that SQLite locks (pending, reserved, shared), and of its "-shm" file (https://sqlite.org).
_PENDING_BYTE, _SHARED_END = 0x40000000, 0x40000000 + 512
_SHM_FIRST, _SHM_LAST = 120, 128

_mro = type.__dict__["__mro__"].__get__


class Asked(NamedTuple):
    """What was asked of the innermost frame, and where the answer is among what was read."""

    number: int
    call: Call | None = None

    @property
    def first_is_receiver(self) -> bool:
        """Whether the first of the expressions is the receiver."""
        return self.call is not None and self.call.receiver is not None

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """What to evaluate: the receiver, and the first argument, as far as they are paths."""
        call = self.call
        if call is None:
            return ()
        first = call.first_argument if call.method in _STATEMENTS else None
        return tuple([each for each in (call.receiver, first) if each is not None])


def ask(call: Call, number: int) -> Asked | None:
    """What to ask of a frame that is in this call; None if no such method is known."""
    return Asked(number, call) if call.method in _METHODS else None


def service_of(value: Any) -> str | None:
    """The service of an object of one of the classes; nothing of the object is read but its type."""
    classes = _mro(type(value))
    for (module, name), service in _CLASSES.items():
        loaded = sys.modules.get(module)
        known = vars(loaded).get(name) if loaded is not None else None
        if known is not None and any(each is known for each in classes):
            return service
    return None


def answer(asked: Asked, texts: tuple[Text | None, ...] | None, seen: str | None) -> WaitsFor | None:
    """What the call waits for.

    :param texts: the service of the receiver if that is a path, and the first argument if that is one.
    :param seen: the service that the kernel knows, for a receiver that is no path.
    """
    call = asked.call
    if call is None or texts is None:
        return None
    service: Text | None = texts[0] if asked.first_is_receiver else seen
    if not isinstance(service, str) or (call.method == "get") != (service == QUEUE):
        return None
    if service == QUEUE:
        return WaitsFor("queue", call="SimpleQueue.get")
    arguments = texts[1:] if asked.first_is_receiver else texts
    text: Text | None = arguments[0] if arguments else call.first_text
    statement = _FIXED.get(call.method)
    if call.method in _STATEMENTS and text is not None and not isinstance(text, int):
        statement = mask_statement(text)
    return WaitsFor("database", service=service, statement=statement)


def is_lock_of_sqlite(lock: FileLock) -> bool:
    """Whether a lock is on bytes that SQLite locks, and nobody else has a reason to."""
    if lock.is_waiting or lock.kind not in ("POSIX", "OFDLCK"):
        return False
    return (lock.start >= _PENDING_BYTE and lock.end < _SHARED_END) or (
        lock.start >= _SHM_FIRST and lock.end <= _SHM_LAST
    )
