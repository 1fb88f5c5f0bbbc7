"""The page, the probes and the metrics as one WSGI application: what is asked, and who may ask it.

``GET`` and ``HEAD`` only, and ``POST`` to ``/login`` and ``/record``. It writes nothing, signals nobody and starts
nothing.
"""

from __future__ import annotations

import hashlib
from http import HTTPStatus
from importlib import resources
from typing import TYPE_CHECKING

from wsgi_tracebacker.errors import LibraryMissing, Misuse, TracebackerError

try:
    from werkzeug.exceptions import HTTPException
    from werkzeug.wrappers import Request, Response
except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] not in ("werkzeug", "markupsafe"):
        raise
    raise LibraryMissing("web needs werkzeug: pip install 'wsgi-tracebacker[web]'") from None

from wsgi_tracebacker.reader.elsewhere.gathered import document_of
from wsgi_tracebacker.text import flame_page
from wsgi_tracebacker.text.screens.page import CSS
from wsgi_tracebacker.web import probes, views
from wsgi_tracebacker.web.guard import COOKIE, HEADERS, Guard, is_from_our_page
from wsgi_tracebacker.web.live import Live
from wsgi_tracebacker.web.opened import name_of
from wsgi_tracebacker.web.recorder import Recorder, seconds_of
from wsgi_tracebacker.web.shared import Shared
from wsgi_tracebacker.web.workers import OfThisMachine
from wsgi_tracebacker.wire import prometheus_text
from wsgi_tracebacker.wire.escape import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    from wsgi_tracebacker.web.workers import Workers

_HTML, _TEXT, _JSON = "text/html; charset=utf-8", "text/plain; charset=utf-8", "application/json"

#: A form has a token, or what is to be recorded.
_MAX_FORM_BYTES = 4096

_STYLE, _SCRIPT = "text/css; charset=utf-8", "text/javascript; charset=utf-8"

#: What is loaded by the page, with its type and its package. It has nothing in it that needs a login.
_ASSETS = {
    "/live.css": (_STYLE, "wsgi_tracebacker.web"),
    "/live.js": (_SCRIPT, "wsgi_tracebacker.web"),
    "/flame_graph.css": (_STYLE, "wsgi_tracebacker.text"),
    "/flame_graph.js": (_SCRIPT, "wsgi_tracebacker.text"),
}


class Site:
    """The WSGI application. Several threads may call it."""

    def __init__(
        self,
        bases: Sequence[str] = (),
        timeout_seconds: float = 1.0,
        *,
        guard: Guard | None = None,
        workers: Workers | None = None,
    ) -> None:
        """``workers``: what is shown, instead of those behind ``bases``."""
        self.guard = guard or Guard()
        self._workers = workers or OfThisMachine(lambda: _default(bases), timeout_seconds)
        self.live = Live(self._workers.ask)
        self._recorder = Recorder(self._workers.record)
        self._metrics = Shared(self._workers.measure)
        self._assets = {path: _content(path) for path in _ASSETS}
        # The page is the one of ``wsgi-tb read --format html``, and more.
        self._assets["/live.css"] = CSS.encode() + self._assets["/live.css"]
        self._version = hashlib.blake2b(b"".join(self._assets.values()), digest_size=6).hexdigest()
        self._pages: dict[str, Callable[[Request], Response]] = {
            "/": lambda request: Response(self._page(request), content_type=_HTML),
            "/fragment": lambda request: Response(self._fragment(request), content_type=_HTML),
            "/metrics": lambda _: Response(self._metrics.get(), content_type=prometheus_text.CONTENT_TYPE),
            "/live": self._probe,
            "/ready": self._probe,
            "/api/readings": lambda _: Response(document_of(self.live.moment().found), content_type=_JSON),
        }

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = Request(environ)
        # A larger body is not read, whatever its length is said to be.
        request.max_content_length = request.max_form_memory_size = _MAX_FORM_BYTES
        try:
            response = self._answer(request)
        except HTTPException as error:
            # A form that is too long, or none.
            response = _text(HTTPStatus(error.code or HTTPStatus.BAD_REQUEST), error.name)
        except TracebackerError as error:
            status = HTTPStatus.BAD_REQUEST if isinstance(error, Misuse) else HTTPStatus.SERVICE_UNAVAILABLE
            response = _text(status, printable(str(error)))
        response.headers.extend(HEADERS)
        return response(environ, start_response)

    def _answer(self, request: Request) -> Response:
        path = request.path
        if not self.guard.names_us(request):
            return _text(HTTPStatus.MISDIRECTED_REQUEST, "this is not the host that is listened on")
        if not self.guard.is_of_user(request):
            return _text(HTTPStatus.FORBIDDEN, "without a token only the user that this runs as, and root, may ask")
        if not request.environ.get("PATH_INFO"):
            # Where it is mounted: the page's links begin at its folder.
            return Response("", HTTPStatus.PERMANENT_REDIRECT, {"Location": f"{request.root_path}/"})
        is_login = path == "/login" and self.guard.token is not None
        allowed = ("GET", "HEAD", "POST") if is_login else ("POST",) if path == "/record" else ("GET", "HEAD")
        if request.method not in allowed:
            response = _text(HTTPStatus.METHOD_NOT_ALLOWED, "this cannot be done here")
            response.headers["Allow"] = ", ".join(allowed)
            return response
        if path in _ASSETS:
            return Response(self._assets[path], content_type=_ASSETS[path][0])
        if is_login:
            return self._login(request)
        if path not in self._pages and path != "/record":
            return _text(HTTPStatus.NOT_FOUND, "there is no such page")
        if not self.guard.may_read(request):
            if path == "/":
                return Response("", HTTPStatus.SEE_OTHER, {"Location": "login"})
            return _text(HTTPStatus.UNAUTHORIZED, "a token is needed", {"WWW-Authenticate": "Bearer"})
        if path == "/record":
            return self._record(request)
        return self._pages[path](request)

    def _record(self, request: Request) -> Response:
        """Answers when the recording is over: for the script with the graph, else with a page of its own."""
        if not is_from_our_page(request):
            return _text(HTTPStatus.FORBIDDEN, "this form was sent by another page")
        seconds = seconds_of(request.form.get("seconds", ""))
        named = request.form.get("worker")
        worker = None
        if named:
            workers = self.live.moment().picture.reading.workers
            worker = next((each for each in workers if name_of(each) == named), None)
            if worker is None:
                return _text(HTTPStatus.NOT_FOUND, "this worker is not there any more")
        recorded = self._recorder.record(seconds, worker)
        if recorded is None:
            return _text(HTTPStatus.CONFLICT, "another recording is being made: try again when it is over")
        if request.headers.get("X-Requested-With") == "live.js":
            return Response(flame_page.graph(recorded.recording, level=2, missing=recorded.missing), content_type=_HTML)
        script, style = (f"{name}?{self._version}" for name in ("flame_graph.js", "flame_graph.css"))
        page = flame_page.linked_page(recorded.recording, script, style, recorded.missing)
        return Response(page, content_type=_HTML)

    def _login(self, request: Request) -> Response:
        if request.method != "POST":
            return Response(views.login_page(self._version, has_failed=False), content_type=_HTML)
        if not is_from_our_page(request):
            return _text(HTTPStatus.FORBIDDEN, "this form was sent by another page")
        if not self.guard.is_token(request.form.get("token", "")):
            return Response(views.login_page(self._version, has_failed=True), HTTPStatus.FORBIDDEN, content_type=_HTML)
        response = Response("", HTTPStatus.SEE_OTHER, {"Location": "."})
        response.set_cookie(
            COOKIE, self.guard.cookie(), httponly=True, samesite="Strict", path=f"{request.root_path}/", secure=False
        )
        return response

    def _page(self, request: Request) -> str:
        return views.page(self.live.moment().picture, views.Choice.of_query(request.args), self._version)

    def _fragment(self, request: Request) -> str:
        return views.fragment(self.live.moment().picture, views.Choice.of_query(request.args))

    def _probe(self, request: Request) -> Response:
        limits, allows_none = probes.limits_of(request.args)
        # Before the first request nobody is there, and that is no reason for a restart.
        allows_none = allows_none or request.path == "/live"
        is_healthy, line = self._workers.judge(limits, allows_none=allows_none)
        return _text(HTTPStatus.OK if is_healthy else HTTPStatus.SERVICE_UNAVAILABLE, line)


def _default(bases: Sequence[str]) -> Sequence[str]:
    # Imported only here: it is needed only where nothing is named.
    from wsgi_tracebacker.reader.finding.everywhere import default_arguments, sockets_of  # noqa: PLC0415

    if not bases:
        return default_arguments()
    return [each for base in bases for each in (sockets_of(int(base)) if base.isdecimal() else (base,))]


def _content(path: str) -> bytes:
    return (resources.files(_ASSETS[path][1]) / path.removeprefix("/")).read_bytes()


def _text(status: HTTPStatus, line: str, headers: dict[str, str] | None = None) -> Response:
    return Response(f"{line}\n", status, headers, content_type=_TEXT)
