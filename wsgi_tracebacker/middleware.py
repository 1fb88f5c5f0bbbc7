"""Wrap a WSGI application, and its workers can be asked what they are doing.

::

    from wsgi_tracebacker import TracebackerMiddleware

    application = TracebackerMiddleware(application, socket="/tmp/tbsocket")

The first request that a worker process serves opens ``/tmp/tbsocket1`` (``2``, ``3``, … in the other workers);
``wsgi-tb read /tmp/tbsocket`` shows every thread of every worker, with the request that it serves.

In production put the socket into a folder that only the service's user can write, such as systemd's
``RuntimeDirectory=``: ``socket="/run/myservice/tb"``. Only that user and root can read it.

This module is on the path of every request, so it stores and allocates as little as possible. A first request, a nested
one, or the first one in a forked process goes through ``agent.admit()``.
"""

from __future__ import annotations

import inspect
from types import CodeType, GeneratorType
from typing import TYPE_CHECKING, Any, Final, NoReturn

from wsgi_tracebacker.bodies import NO_KIND, GeneratorBody, followed_kind
from wsgi_tracebacker.errors import ConfigurationError
from wsgi_tracebacker.linux.clock import monotonic
from wsgi_tracebacker.wire.black_box.table_rows import FLIGHT
from wsgi_tracebacker.worker import agent, disabled, startup_warnings
from wsgi_tracebacker.worker.blackbox import other_interpreters
from wsgi_tracebacker.worker.deadlines.begin import load_timers
from wsgi_tracebacker.worker.deadlines.raising import interrupt, interruptible
from wsgi_tracebacker.worker.options.settings import DEFAULT_DUMP_SIGNAL, from_options, suggestion
from wsgi_tracebacker.worker.reporting import faults
from wsgi_tracebacker.worker.stacks.walk import SERVING_CODE
from wsgi_tracebacker.worker.tracking.admission import STARTED_HERE, NestedCall
from wsgi_tracebacker.worker.tracking.core import APP, BODY, AbandonedCore
from wsgi_tracebacker.worker.tracking.handle import HANDLE_KEY
from wsgi_tracebacker.worker.tracking.responses import is_finished_body

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from wsgi_tracebacker.bodies import TrackedBody
    from wsgi_tracebacker.model.report import HarakiriReport
    from wsgi_tracebacker.worker.deadlines.begin import Begin
    from wsgi_tracebacker.worker.options.settings import Settings

_write_row = FLIGHT.pack_into
#: RFC 9110, and WebDAV's. Others are encoded when they come.
_METHODS = {
    method: method.encode()
    for method in (
        "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
        "PROPFIND", "PROPPATCH", "MKCOL", "COPY", "MOVE", "LOCK", "UNLOCK", "REPORT", "SEARCH",
    )
}  # fmt: skip

#: Used for a thread that has no core yet: ``started`` is not 0.0, so the request goes through admit().
_NO_CORE: Final = AbandonedCore(None, 0, None, None)


class TracebackerMiddleware:
    """A WSGI application that serves another one and knows, at any moment, where each of its requests is.

    Attributes that it does not have are those of the application it wraps.
    """

    #: ``__serve`` is the function that serves a request: see FastCall.
    __slots__ = ("__dict__", "__serve", "__weakref__")

    __serve: WSGIApplication

    def __init__(
        self,
        app: WSGIApplication,
        socket: str | os.PathLike[str] | None = None,
        *,
        group: str | int | None = None,
        application: str | None = None,
        name_threads: bool | None = None,
        show_query: bool | None = None,
        show_statements: bool | None = None,
        known_frames: str | Sequence[str] | None = None,
        remote_address_header: str | None = None,
        request_id_header: str | None = None,
        harakiri: float | Mapping[str, float | None] | Callable[[WSGIEnvironment], float | None] | None = None,
        slow: float | None = None,
        harakiri_action: str | None = None,
        harakiri_grace: float | None = None,
        samples_per_second: float | None = None,
        on_harakiri: Callable[[HarakiriReport], object] | None = None,
        harakiri_margin: float | None = None,
        dump_signal: int | str | None = DEFAULT_DUMP_SIGNAL,
        hub_blocked: float | None = None,
        client_gone: float | None = None,
        **unknown: NoReturn,
    ) -> None:
        """Wrap ``app``. Nothing is opened or started before a request comes.

        An option that is not given comes from its environment variable, then from its default.

        :param app: any WSGI callable.
        :param socket: the base path; worker N listens on ``<socket><N>``. ``WSGI_TB_SOCKET``, ``/tmp/tbsocket``.
        :param group: name or number of a group whose members may read too. ``WSGI_TB_GROUP``, nobody.
        :param application: what to call the application. ``WSGI_TB_APPLICATION``, the callable's own name.
        :param name_threads: name serving threads ``WSGIWorker<N>Core<M>``. ``WSGI_TB_NAME_THREADS``, yes.
        :param show_query: show query strings; they hold secrets. ``WSGI_TB_SHOW_QUERY``, no.
        :param show_statements: say which statement, URL or host a request waits for, by variables of known libraries.
            ``WSGI_TB_SHOW_STATEMENTS``, yes.
        :param known_frames: functions of the application in which its requests wait, one a line:
            ``shop/bank.py:Client.charge service service='bank' statement=operation``. ``WSGI_TB_KNOWN_FRAMES``, none.
        :param remote_address_header: the header to take the client's address from, behind a proxy that sets it.
            ``WSGI_TB_REMOTE_ADDRESS_HEADER``, the address of the connection.
        :param request_id_header: the header that holds the request's id; an empty text looks at none.
            ``WSGI_TB_REQUEST_ID_HEADER``, ``X-Request-ID``.
        :param harakiri: seconds after which a request is overdue; or a mapping of path prefixes to seconds; or a
            callable that is given the environ and returns seconds or None. 0: none. ``WSGI_TB_HARAKIRI``, 60 while the
            application's callable runs, whatever ``harakiri_action`` is: such a request is only reported.
        :param slow: seconds after which a request's flight recorder starts. ``WSGI_TB_SLOW``, half of its limit.
        :param harakiri_action: what is done about an overdue request besides the report: ``log`` (nothing),
            ``raise`` (HarakiriTimeout in its thread) or ``kill`` (SIGKILL to this process).
            ``WSGI_TB_HARAKIRI_ACTION``, ``log``.
        :param harakiri_grace: with ``raise``, seconds after which the process is killed if the request is still
            there. ``WSGI_TB_HARAKIRI_GRACE``, never.
        :param samples_per_second: of the flight recorder. ``WSGI_TB_SAMPLES_PER_SECOND``, 10.
        :param on_harakiri: called with each HarakiriReport, on a thread of ours.
        :param harakiri_margin: with ``kill``, seconds beyond the limit after which the process is killed even if
            Python cannot run in it. ``WSGI_TB_HARAKIRI_MARGIN``, 1.
        :param dump_signal: the signal that faulthandler answers when this worker is proven stalled, a number or a
            name; None: none. ``WSGI_TB_DUMP_SIGNAL``, ``SIGRTMIN+5``.
        :param hub_blocked: under gevent and eventlet, seconds after which a greenlet that does not give way is
            reported: it holds up all others of its worker. 0: never. ``WSGI_TB_HUB_BLOCKED``, 1.
        :param client_gone: seconds that a request has left once its client has closed the connection: then it is
            overdue, and ``harakiri_action`` is done. 0: as many as before. ``WSGI_TB_CLIENT_GONE``, 0.
        :raises ConfigurationError: for an option of the wrong type, or a value that can never work.
        """
        for name in unknown:
            raise TypeError(f"TracebackerMiddleware() got an unexpected keyword argument {name!r}; {suggestion(name)}")
        startup_warnings.warn_of_unknown_variables()
        if not callable(app):
            raise ConfigurationError(f"app must be a WSGI callable, not {app!r}")
        self.__wrapped = app
        self.__settings = from_options(
            socket=socket,
            group=group,
            application=application,
            name_threads=name_threads,
            show_query=show_query,
            show_statements=show_statements,
            known_frames=known_frames,
            remote_address_header=remote_address_header,
            request_id_header=request_id_header,
            harakiri=harakiri,
            slow=slow,
            harakiri_action=harakiri_action,
            harakiri_grace=harakiri_grace,
            samples_per_second=samples_per_second,
            on_harakiri=on_harakiri,
            harakiri_margin=harakiri_margin,
            dump_signal=dump_signal,
            hub_blocked=hub_blocked,
            client_gone=client_gone,
        )
        is_disabled = disabled.reason() is not None
        if is_disabled:
            disabled.log_reason()
        elif self.__settings.harakiri_action == "raise":
            interrupt.prepare()
        elif self.__settings.harakiri_action == "kill":
            load_timers()
        if not is_disabled:
            other_interpreters.clean_up_at_exit(self.__settings.base)
        # If disabled, it costs nothing: the application itself is called.
        self.__serve = app if is_disabled else _serving(app, self.__settings)
        if type(self) is TracebackerMiddleware:
            self.__class__ = FastCall

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_TracebackerMiddleware__"):
            raise AttributeError(name)
        return getattr(self.__wrapped, name)

    def __repr__(self) -> str:
        return f"<TracebackerMiddleware around {self.__wrapped!r}>"

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        return self.__serve(environ, start_response)


class FastCall(TracebackerMiddleware):
    """The class of what ``TracebackerMiddleware(…)`` makes: its ``__call__`` is a slot, which C code looks up.

    Up to CPython 3.11 an attribute costs 21 ns in a class with ``__getattr__``. Classes that are derived from
    TracebackerMiddleware have the method, as their super() expects.
    """

    __slots__ = ()

    if not TYPE_CHECKING:
        __call__ = TracebackerMiddleware._TracebackerMiddleware__serve

    # inspect.signature() cannot read a slot.
    __signature__ = inspect.signature(TracebackerMiddleware.__call__).replace(
        parameters=list(inspect.signature(TracebackerMiddleware.__call__).parameters.values())[1:]
    )


# So that it is printed under the public name.
FastCall.__name__, FastCall.__qualname__ = TracebackerMiddleware.__name__, TracebackerMiddleware.__qualname__


def _serving(  # noqa: PLR0915  (one path: every call more would slow each request)
    app: WSGIApplication, settings: Settings
) -> WSGIApplication:
    """Make the ``__call__`` of one middleware around ``app``.

    It does not refer to the middleware's object, so that this is freed without the help of the cyclic collector.
    """
    #: Where each thread finds its core; the agent's, from the first request on.
    local: Any = None
    is_guarded = settings.harakiri_action == "raise"
    #: What each request calls when it begins, with a limit by callable for instance; the agent's too.
    begin: Begin | None = None
    #: The last kind of response that got a body of ours: most applications have one kind, their framework's.
    followed = NO_KIND

    def __call__(  # noqa: N807, PLR0915  (as above)
        environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        nonlocal local, begin, followed
        try:
            core = local.core
        except AttributeError:
            core = _NO_CORE
        call = app
        if core.started or not STARTED_HERE[0]:
            # It is not the ordinary next request of its thread.
            admitted = agent.admit(app, settings, environ)
            if admitted is None:
                return app(environ, start_response)
            core, local, begin = admitted
            if core.outer is not None:
                call = NestedCall(app, local, core.outer)
        core.begun = begun = core.begun + 1.0
        started = monotonic()
        try:
            environ[HANDLE_KEY] = core.handle
            script, path = environ["SCRIPT_NAME"], environ["PATH_INFO"]
            _write_row(
                core.buffer,
                core.offset,
                started,
                _METHODS[environ["REQUEST_METHOD"]],
                (script + path if script else path).encode(),
                begun,
                started,
            )
        except Exception as error:
            # An unusual method, a server that leaves out what may be empty by PEP 3333, or an environ that is no dict.
            if faults.is_of_signal_handler(error):
                raise
            core.write_row(environ, started)
        core.environ = environ
        core.settings = settings
        core.phase = APP
        core.started = started
        # Around all that follows, and not only around the call: a signal handler may raise anywhere, as time-outs do,
        # and a request that never ends would hide all later ones of its thread.
        try:
            if begin is not None:
                begin(core, environ)
            if is_guarded:
                result = interruptible.serve(core, call, environ, start_response)
            else:
                result = call(environ, start_response)
            kind = type(result)
            body: TrackedBody
            if kind is GeneratorType:
                body = GeneratorBody()
            elif (
                kind is list
                or kind is tuple
                or (
                    (
                        # Read once: other threads store it.
                        kind is not (known := followed).kind
                        or type(environ) is not dict
                        or environ.get("wsgi.file_wrapper") is not known.file_wrapper
                    )
                    and is_finished_body(result, environ)
                )
            ):
                core.environ = None
                core.marks[0] = 0.0
                core.started = 0.0
                core.ended = monotonic()
                if core.reports_end:
                    core.report_end()
                return result
            else:
                if kind is not known.kind:
                    known = followed = followed_kind(kind, environ)
                body = known.body()
            body.tb_core = core
            body.tb_iterable = result
            body.tb_lease = core.lease
            body.tb_started = started
            core.phase = BODY
            return body
        except BaseException:
            core.end(monotonic())
            raise

    return __call__


SERVING_CODE.extend(
    code for code in _serving.__code__.co_consts if isinstance(code, CodeType) and code.co_name == "__call__"
)


def settings_of(app: object) -> Settings | None:
    """The settings of an application that was wrapped by hand; None if it was not.

    Flask's own way counts, ``app.wsgi_app = TracebackerMiddleware(app.wsgi_app)``. Middleware that is wrapped by other
    middleware is not found, and need not be: all of a process share one listener.
    """
    if not isinstance(app, TracebackerMiddleware):
        # Not getattr(): an application may be a proxy that has every attribute, or searches for it elsewhere.
        app = getattr(app, "__dict__", {}).get("wsgi_app")
    return app._TracebackerMiddleware__settings if isinstance(app, TracebackerMiddleware) else None
