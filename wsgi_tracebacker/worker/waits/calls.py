"""What threads wait for by the system call that each is in, and by the known functions that it is inside of.

Where both know something, the frames say what was asked and the kernel of whom.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from wsgi_tracebacker.linux import file_locks, proc
from wsgi_tracebacker.linux.system_calls import parse
from wsgi_tracebacker.model.waits import WaitsFor
from wsgi_tracebacker.text.waits import place_name
from wsgi_tracebacker.worker.code_places import position
from wsgi_tracebacker.worker.options import frame_entries
from wsgi_tracebacker.worker.waits import masking, system_calls
from wsgi_tracebacker.worker.waits.frames import frame_texts, native_calls
from wsgi_tracebacker.worker.waits.frames.known_frames import KnownFrames, own_entry, rank
from wsgi_tracebacker.worker.waits.system_calls import Kernel, KernelWait

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import CodeType

    from wsgi_tracebacker.linux.source import SourceFile
    from wsgi_tracebacker.model.code_ownership import CodeOwnership
    from wsgi_tracebacker.model.waits import Holder
    from wsgi_tracebacker.worker.waits.frames.expressions import Expressions
    from wsgi_tracebacker.worker.waits.frames.frame_texts import Text, Wanted
    from wsgi_tracebacker.worker.waits.frames.held_frames import HeldFrame
    from wsgi_tracebacker.worker.waits.frames.known_frames import Known
    from wsgi_tracebacker.worker.waits.look import Look

#: So many calls of libraries, from the innermost one, are looked at.
_MAX_DEPTH = 60

_NETWORK = frozenset((system_calls.SOCKET, system_calls.SEVERAL))
_OF_THREADS = frozenset((system_calls.FUTEX,))
#: In what a thread waits that waits for something of this kind. For others it may be anything.
_FAMILIES = {
    **dict.fromkeys(("database", "http", "service", "connection"), _NETWORK),
    "dns": frozenset((*_NETWORK, system_calls.FILE, system_calls.FUTEX)),
    **dict.fromkeys(("signal", "queue", "future", "thread", "import", "pool"), _OF_THREADS),
    "child": frozenset(
        (system_calls.CHILD, system_calls.PIPE, system_calls.SEVERAL, system_calls.SLEEP, system_calls.FUTEX)
    ),
    "sleep": frozenset((system_calls.SLEEP,)),
}
#: grpc waits for its own threads, in turns with the network.
_FAMILIES_OF_SERVICES = {"grpc": _NETWORK | _OF_THREADS}
#: Of these the place where the application calls is a part of what is said.
_WITH_PLACE = frozenset(("queue", "signal", "future", "thread", "sleep"))
_MASKS = {"statement": masking.mask_statement, "url": masking.mask_url}
_MAX_CHARACTERS = 200

#: An application wraps itself once, or anew for each request with the same options.
_MAX_TABLES = 16


class Subject(NamedTuple):
    """A thread or greenlet that serves a request."""

    #: As in Look.
    ident: int
    #: None for a suspended greenlet: its thread does something else.
    native_id: int | None
    #: The greenlet that is suspended; None for what its thread runs.
    greenlet: object | None
    #: As it was a moment ago, innermost frame first.
    stack: Sequence[tuple[CodeType, int]]
    #: Whether variables of its frames may be read.
    reads_frames: bool = True
    #: The application's own entries, as in Settings.
    known_frames: tuple[str, ...] = ()


class Statement(NamedTuple):
    """What a thread or greenlet runs on a database, at one instant."""

    #: Masked; empty if it runs none.
    text: str
    #: Which call it is: the ids of the frames from the library's function outwards. They are the same objects as long
    #: as the call runs.
    call: tuple[int, ...]


class _Match(NamedTuple):
    """A known function that a subject is inside of, and where its texts are among those that were read."""

    known: Known
    number: int


class Calls:
    """Finds what threads wait for. Several threads may ask at the same time."""

    def __init__(self, expressions: Expressions, ownership: CodeOwnership) -> None:
        """Nothing is read before find()."""
        # By the application's own entries in them.
        self._tables: dict[tuple[str, ...], KnownFrames] = {}
        self._expressions = expressions
        self._ownership = ownership

    def find(
        self,
        look: Look,
        subjects: Sequence[Subject],
        files: dict[str, SourceFile | None],
        holder_of: Callable[[int], Holder],
    ) -> list[WaitsFor | None]:
        """What each of them waits for, without its sentence; None where that is not known.

        :param look: asks the kernel what their threads are in. It counts only if they are still in it afterwards.
        :param holder_of: names the thread of this ident.
        """
        lines = [look.line(subject.ident) for subject in subjects]
        wanted: list[Wanted] = []
        matches = [self._matches(subject, wanted) for subject in subjects]
        natives = [
            self._native(subject, wanted, files) if not known else None
            for subject, known in zip(subjects, matches, strict=True)
        ]
        texts = frame_texts.read(wanted)
        with contextlib.closing(Kernel()) as kernel:
            return [
                self._explain(subject, kernel, line, matches[number], natives[number], texts, holder_of)
                for number, (subject, line) in enumerate(zip(subjects, lines, strict=True))
            ]

    def statement(self, look: Look, subject: Subject) -> Statement | None:
        """The statement that a subject runs; None if that is not known."""
        wanted: list[Wanted] = []
        asked = [
            (wanted[number].depth, expression)
            for known, number in self._matches(subject, wanted)
            for attribute, expression in known.variables
            if known.kind == "database" and attribute == "statement"
        ]
        if not asked:
            return Statement("", ()) if subject.stack else None
        frames = look.hold((subject.ident,)).pop(subject.ident, [])
        found: tuple[frame_texts.Text | None, tuple[int, ...]] = None, ()
        # The innermost one that is a plain text counts; an outer one has it as a text where that is an object.
        for depth, expression in asked:
            if depth < len(frames) and frames[depth].code is subject.stack[depth][0]:
                found = frame_texts.plain(frames[depth].evaluate(expression)), tuple(map(_id_of_frame, frames[depth:]))
                if found[0] is not None:
                    break
        frames.clear()
        text, call = found
        return Statement(masking.mask_statement(text), call) if isinstance(text, (str, bytes)) else None

    # --- frames

    def _matches(self, subject: Subject, wanted: list[Wanted]) -> list[_Match]:
        """The known functions from the innermost frame out through the application's own innermost calls."""
        found: list[_Match] = []
        if not subject.reads_frames or not frame_texts.IS_SUPPORTED:
            return found
        table = self._table(subject.known_frames)
        was_own = False
        for depth, (code, lasti) in enumerate(subject.stack[:_MAX_DEPTH]):
            is_own = self._ownership.is_own(code.co_filename)
            if was_own and not is_own:
                # From here on outwards is what called the application.
                break
            was_own = is_own
            known = table.of(code)
            if known is not None:
                found.append(_Match(known, len(wanted)))
                expressions = tuple([expression for _, expression in known.variables])
                wanted.append(frame_texts.Wanted(subject.ident, subject.greenlet, depth, code, lasti, expressions))
            if is_own and (known is not None or not subject.known_frames):
                # Of the application's own functions only the innermost one that it names counts.
                break
        return found

    def _table(self, own: tuple[str, ...]) -> KnownFrames:
        """The table with an application's own entries."""
        found = self._tables.get(own)
        if found is None:
            if len(self._tables) >= _MAX_TABLES:
                self._tables.clear()
            found = self._tables[own] = KnownFrames(own_entry(frame_entries.parse(line)) for line in own)
        return found

    def _native(
        self, subject: Subject, wanted: list[Wanted], files: dict[str, SourceFile | None]
    ) -> native_calls.Asked | None:
        """What to ask of the innermost frame: in which method in C it waits, and in any case whether it is there."""
        if not subject.stack:
            return None
        code, lasti = subject.stack[0]
        call = self._expressions.call(code, lasti, files) if subject.reads_frames else None
        asked = native_calls.ask(call, len(wanted)) if call is not None else None
        expressions = asked.expressions if asked is not None else ()
        # Without expressions it says whether the innermost frame is still where the stack has it.
        wanted.append(
            frame_texts.Wanted(
                *(subject.ident, subject.greenlet, 0, code, lasti, expressions),
                describe=native_calls.service_of if asked is not None and asked.first_is_receiver else None,
            )
        )
        return asked or native_calls.Asked(len(wanted) - 1)

    # --- both

    def _explain(
        self,
        subject: Subject,
        kernel: Kernel,
        line: bytes,
        matches: list[_Match],
        native: native_calls.Asked | None,
        texts: list[tuple[Text | None, ...] | None],
        holder_of: Callable[[int], Holder],
    ) -> WaitsFor | None:
        numbers = [number for _, number in matches] or ([native.number] if native is not None else [])
        if numbers and frame_texts.IS_SUPPORTED and all(texts[number] is None for number in numbers):
            # It has gone on since its stack was walked.
            return None
        call = parse(line)
        kernel_wait = kernel.explain(call) if call is not None else None
        if subject.native_id is not None and call is None and not _sleeps(subject.native_id, line):
            return None
        family = kernel_wait.family if kernel_wait is not None else None
        if family == system_calls.GIL:
            return None
        asked = _merged(matches, texts, holder_of)
        if native is not None and asked is None:
            asked = native_calls.answer(native, texts[native.number], _database_seen(kernel_wait))
        if family == system_calls.SLEEP and asked is not None and asked.service in (None, "sqlite"):
            # No other database sleeps in a statement: SQLite tries again and again.
            locked = _sqlite(kernel, asked) if asked.kind == "database" else None
            if locked is not None:
                return locked
        if asked is not None and kernel_wait is not None:
            families = _FAMILIES_OF_SERVICES.get(asked.service or "") or _FAMILIES.get(asked.kind)
            if families is not None and kernel_wait.family not in families:
                asked = None
        waits = _both(asked, kernel_wait)
        if waits is not None and waits.kind in _WITH_PLACE:
            waits = waits._replace(called_at=self._place(subject.stack))
        return waits

    def _place(self, stack: Iterable[tuple[CodeType, int]]) -> str | None:
        """Where the application's own code is."""
        for code, lasti in stack:
            if self._ownership.is_own(code.co_filename):
                return place_name(code.co_filename, position(code, lasti)[0])
        return None


def _id_of_frame(held: HeldFrame) -> int:
    return id(held.frame)


def _sleeps(native_id: int, line: bytes) -> bool:
    """Whether a thread waits, where the kernel does not show its system call."""
    if line:
        return False
    status = proc.stat(f"/proc/self/task/{native_id}")
    return status is not None and status.letter in ("S", "D")


def _merged(
    matches: list[_Match], texts: list[tuple[Text | None, ...] | None], holder_of: Callable[[int], Holder]
) -> WaitsFor | None:
    """What the known functions say together, from the innermost one outwards."""
    merged: WaitsFor | None = None
    for known, number in matches:
        values = texts[number]
        if values is None:
            continue
        found = _of_entry(known, values, holder_of)
        if merged is None or rank(found.kind) > rank(merged.kind):
            # What is inside says how: a database that is being connected to.
            merged = found if merged is None or merged.host is None else found._replace(host=found.host or merged.host)
        elif found.kind == merged.kind:
            merged = found if found.kind == "signal" else _added(merged, found)
    return merged


def _of_entry(known: Known, values: tuple[Text | None, ...], holder_of: Callable[[int], Holder]) -> WaitsFor:
    parts: dict[str, Any] = dict(known.constants)
    for (attribute, _), value in zip(known.variables, values, strict=True):
        if attribute == "holders":
            # The ident of a thread.
            parts[attribute] = (holder_of(value),) if isinstance(value, int) else ()
            continue
        text = _part(attribute, value)
        if text:
            parts[attribute] = text
    return WaitsFor(known.kind, **parts)


def _part(attribute: str, value: Text | None) -> str | int | None:
    """A text that may be shown; None for one of another type than the attribute has."""
    if attribute == "pid":
        return value if isinstance(value, int) else None
    if value is None or isinstance(value, int):
        return None
    mask = _MASKS.get(attribute)
    if mask is not None:
        return mask(value)
    if isinstance(value, bytes):
        value = value[:_MAX_CHARACTERS].decode("utf-8", "backslashreplace")
    # A host that was given as a part of a URL may have a user before it.
    value = value.rpartition("@")[2] if attribute == "host" else value
    return value if len(value) <= _MAX_CHARACTERS else value[:_MAX_CHARACTERS] + "..."


def _added(inner: WaitsFor, outer: WaitsFor) -> WaitsFor:
    """The inner one with what only the outer one knows; of two URLs the one with a host."""
    url = inner.url
    if outer.url and (not url or ("://" in outer.url and "://" not in url)):
        url = outer.url
    return inner._replace(
        service=inner.service or outer.service,
        host=inner.host or outer.host,
        statement=inner.statement or outer.statement,
        method=inner.method or outer.method,
        url=url,
        pid=inner.pid or outer.pid,
    )


def _both(asked: WaitsFor | None, kernel_wait: KernelWait | None) -> WaitsFor | None:
    """What frames say and what the kernel says, together."""
    seen = kernel_wait.waits if kernel_wait is not None else None
    if asked is None:
        return seen
    if asked.kind == "child":
        pid = (seen.pid if seen is not None else None) or asked.pid
        return asked._replace(pid=pid, program=proc.program(f"/proc/{pid}") if pid else None)
    if asked.kind == "http" and asked.url and asked.url.startswith("/") and asked.host:
        asked = asked._replace(url=asked.host + asked.url)
    if seen is None or kernel_wait is None or kernel_wait.family != system_calls.SOCKET or asked.kind == "dns":
        return asked
    return asked._replace(
        peer=seen.peer,
        own_port=seen.own_port,
        connecting=seen.connecting,
        service=asked.service or seen.service,
    )


def _database_seen(kernel_wait: KernelWait | None) -> str | None:
    """The database that the kernel sees a thread waiting for, as far as that can be."""
    if kernel_wait is None:
        return None
    if kernel_wait.family == system_calls.SLEEP:
        return "sqlite"
    service = kernel_wait.waits.service if kernel_wait.waits is not None else None
    return service if service in native_calls.DATABASES else None


def _sqlite(kernel: Kernel, asked: WaitsFor) -> WaitsFor | None:
    """The database whose lock SQLite waits for, if another process has a lock on just one that is open here."""
    blocking: dict[str, int | None] = {}
    locks = [lock for lock in kernel.locks() if lock.pid != os.getpid() and native_calls.is_lock_of_sqlite(lock)]
    for number in proc.descriptors() if locks else ():
        try:
            status = os.fstat(number)
        except OSError:
            continue
        for lock in locks:
            if file_locks.is_of(lock, status):
                path = proc.descriptor_target(number)
                if path is not None and path.startswith("/"):
                    blocking[path.removesuffix("-shm")] = lock.pid
    if not blocking:
        return None
    waits = WaitsFor("file_lock", service="sqlite", statement=asked.statement)
    if len(blocking) > 1:
        return waits
    [(path, pid)] = blocking.items()
    return waits._replace(file=path, pid=pid, program=proc.program(f"/proc/{pid}") if pid is not None else None)
