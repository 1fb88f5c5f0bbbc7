"""The objects that the server gets for a body that is still being made: closing one ends its request.

A body that exists already (a list, what ``wsgi.file_wrapper`` made) reaches the server as it is, see
``worker.tracking.responses``. Everything else is read through one of these classes. They cost nothing per chunk,
because ``__iter__`` gives the application's own iterator.
"""

from __future__ import annotations

from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, Final
from weakref import ref

from wsgi_tracebacker.linux.clock import monotonic
from wsgi_tracebacker.worker.tracking.admission import get_ident
from wsgi_tracebacker.worker.tracking.core import CLOSE, value_in
from wsgi_tracebacker.worker.tracking.responses import depends_only_on_type
from wsgi_tracebacker.worker.tracking.stand_in import StandIns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed.wsgi import WSGIEnvironment

    from wsgi_tracebacker.worker.tracking.core import Core

#: Marks a body as closed; never equal to a core's ``started``, not even to that of an idle one.
_CLOSED = -2.0


class TrackedBody:
    """What all bodies have: the request that they belong to, and its end. No ``__getattr__``: see GeneratorBody."""

    # A generator can be referred to weakly, and so can the objects of frameworks.
    __slots__ = ("__weakref__", "tb_core", "tb_iterable", "tb_lease", "tb_started")

    tb_core: Core
    tb_iterable: Any
    tb_lease: object
    tb_started: float

    # No __init__: it would cost every request 35 ns. The middleware stores the four. Their prefix keeps them apart from
    # the attributes of the application's iterable.

    def __iter__(self) -> Iterator[bytes]:
        core = self.tb_core
        core.reader_ident = get_ident()
        iterator: Iterator[bytes] = iter(self.tb_iterable)
        try:
            core.reading = ref(iterator)
        except TypeError:
            # What map() makes, a list's iterator, … It gets the lease as an empty second part: 10 ns a chunk.
            core.reading = None
            iterator = chain(iterator, repeat(core.lease, 0))  # type: ignore[arg-type]
        return iterator

    def __next__(self) -> bytes:
        # For a server that calls next() without iter(), which PEP 3333 does not allow.
        chunk: bytes = next(self.tb_iterable)
        return chunk

    def close(self) -> None:
        """Close the application's iterable, and end the request in any case."""
        core, started = self.tb_core, self.tb_started
        if started == _CLOSED:
            return
        # Whatever happens from here on, a second close() does nothing: the application's is called once.
        self.tb_started = _CLOSED
        if core.started == started:
            core.phase = CLOSE
        try:
            close = getattr(self.tb_iterable, "close", None)
            if close is not None:
                close()
        finally:
            # A server that keeps this object must not keep the lease of the core's next body.
            self.tb_lease = None
            if core.started == started:
                # Another thread may have read this body.
                core.reader_ident = core.ident
                core.environ = None
                core.marks[0] = 0.0
                core.started = 0.0
                # A signal handler that raises out of this call finds the request over.
                core.ended = monotonic()
                if core.reports_end:
                    core.report_end()


class Body(TrackedBody):
    """The iterable of a request whose body is made while it is read.

    Attributes that it does not have are those of the application's iterable. Others can be set, above all a ``close``
    of other middleware's in place of its own; that costs 30 ns.
    """

    __slots__ = ("__dict__",)

    def __getattr__(self, name: str) -> Any:
        # A slot that was never stored, as in a copy: there is no iterable to ask.
        if name in TrackedBody.__slots__:
            raise AttributeError(name)
        return getattr(self.tb_iterable, name)


def _of_the_generator(name: str) -> Any:
    return property(lambda body: getattr(body.tb_iterable, name))


class GeneratorBody(TrackedBody):
    """The same for a generator, which most bodies are: it is its own iterator, and always has a ``close()``.

    The other attributes of a generator are known, so it needs no ``__getattr__``: up to CPython 3.11 that makes every
    attribute of an object slow, the slots too (21 ns instead of 4, and 48 instead of 18 on 3.10).
    ``__qualname__`` is left out, which a class cannot give its objects.
    """

    __slots__ = ()

    send = _of_the_generator("send")
    throw = _of_the_generator("throw")
    gi_code = _of_the_generator("gi_code")
    gi_frame = _of_the_generator("gi_frame")
    gi_running = _of_the_generator("gi_running")
    gi_state = _of_the_generator("gi_state")
    gi_suspended = _of_the_generator("gi_suspended")
    gi_yieldfrom = _of_the_generator("gi_yieldfrom")
    __name__ = _of_the_generator("__name__")

    def __iter__(self) -> Iterator[bytes]:
        iterator: Iterator[bytes] = self.tb_iterable
        # Which thread reads it is seen in the threads' stacks: see Core.reading_frame_id().
        self.tb_core.reading = ref(iterator)
        return iterator

    def close(self) -> None:
        """Close the generator, and end the request in any case."""
        core, started = self.tb_core, self.tb_started
        if core.started != started:
            # Closed before, or ended in another way.
            TrackedBody.close(self)
            return
        core.phase = CLOSE
        self.tb_started = _CLOSED
        try:
            self.tb_iterable.close()
        finally:
            self.tb_lease = None
            if core.started == started:
                core.environ = None
                core.marks[0] = 0.0
                core.started = 0.0
                core.ended = monotonic()
                if core.reports_end:
                    core.report_end()


#: By the kind of response: bodies with the special methods that it has, a length above all, of which servers make a
#: Content-Length if it is 1.
_BODIES = StandIns(Body, "tb_iterable")


class FollowedKind:
    """A kind of response whose body is not finished, with its body class: to find that again costs 0.4 µs."""

    __slots__ = ("body", "file_wrapper", "kind")

    def __init__(self, kind: type | None, file_wrapper: object, body: type[Body]) -> None:
        self.kind = kind
        self.file_wrapper = file_wrapper
        self.body = body


NO_KIND: Final = FollowedKind(None, None, Body)


def followed_kind(kind: type, environ: WSGIEnvironment) -> FollowedKind:
    """The body class for this response; ``kind`` is None if the next response of its type may need another one."""
    file_wrapper = value_in(environ, "wsgi.file_wrapper")
    body = _BODIES.of(kind)
    # Where the server's wrapper is no class, each response must be checked.
    return FollowedKind(kind if depends_only_on_type(file_wrapper) else None, file_wrapper, body)
