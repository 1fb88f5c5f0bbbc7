"""Who may ask wsgi-tb web, and what it costs the workers; and the page inside another application."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

from tests.support import clients
from tests.support.exposition import values
from tests.support.programs import PROJECT, cannot_be_tried, require_program
from tests.support.servers import Server
from tests.support.waiting import wait_until
from tests.unit.wsgi import environ, serve
from wsgi_tracebacker import TracebackerMiddleware
from wsgi_tracebacker.reader import sources
from wsgi_tracebacker.web import application
from wsgi_tracebacker.wire.documents import snapshot_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    from tests.conftest import StartGunicorn

COMMAND = (sys.executable, "-m", "wsgi_tracebacker", "web")
CONFIGURATION = ("-c", "python:wsgi_tracebacker.servers.gunicorn")
TOKEN = "0123456789abcdef"


def start(log: Path, *arguments: str) -> Server:
    return Server([*COMMAND, "--listen", "127.0.0.1:0", *arguments], log)


def port_of(server: Server) -> int:
    return int(server.wait_for_log(r"http://127\.0\.0\.1:(\d+)/ shows")[1])


def ask(
    port: int, path: str, method: str = "GET", body: str | None = None, **headers: str
) -> tuple[int, str, dict[str, str]]:
    """Status, text and headers. An underscore in the name of a header is a dash."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), dict(answer.getheaders())
    finally:
        connection.close()


@pytest.fixture(autouse=True)
def source_files_as_before() -> Iterator[None]:
    """The page inside an application changes how the whole process opens them."""
    yield
    sources.open_by(sources.open_here)


@pytest.fixture
def port(base: str, tmp_path: Path) -> Iterator[int]:
    with start(tmp_path / "web.log", base) as server:
        yield port_of(server)


@pytest.fixture
def guarded(base: str, tmp_path: Path) -> Iterator[int]:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o600)
    with start(tmp_path / "web.log", base, "--token-file", str(file)) as server:
        yield port_of(server)


def test_only_the_host_that_is_listened_on(port: int) -> None:
    """A name that leads to a loopback address is another site's: nothing is answered, whatever the path."""
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"LocalHost:{port}"):
        assert ask(port, "/", Host=host)[0] == 200
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port}.evil.example", ""):
        for path in ("/", "/live.js", "/metrics", "/nowhere"):
            assert ask(port, path, Host=host)[0] == 421


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_nothing_can_be_done(port: int, method: str) -> None:
    """Every other method than GET and HEAD is refused, on every path."""
    for path in ("/", "/fragment", "/metrics", "/live", "/login", "/nowhere"):
        status, _, headers = ask(port, path, method)
        assert (status, headers["Allow"]) == (405, "GET, HEAD")
    if method != "POST":
        status, _, headers = ask(port, "/record", method)
        assert (status, headers["Allow"]) == (405, "POST")
    status, text, _ = ask(port, "/metrics", "HEAD")
    assert (status, text) == (200, "")


def test_every_answer_has_the_headers_that_keep_it_apart(guarded: int) -> None:
    """No script but ours, no frame, no sniffing, no referrer for others, no copy; errors too."""
    for path in ("/login", "/live.js", "/nowhere", "/metrics"):
        _, _, headers = ask(guarded, path)
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert (headers["X-Frame-Options"], headers["X-Content-Type-Options"]) == ("DENY", "nosniff")
        assert (headers["Referrer-Policy"], headers["Cache-Control"]) == ("same-origin", "no-store")


def test_without_the_token_there_is_nothing(guarded: int) -> None:
    """The page leads to the form, everything else says that a token is needed; a bearer token opens all of it."""
    status, _, headers = ask(guarded, "/")
    assert (status, headers["Location"]) == (303, "login")
    for path in ("/fragment", "/metrics", "/live", "/ready", "/api/readings"):
        assert ask(guarded, path)[0] == 401
        assert ask(guarded, path, Authorization="Bearer wrong")[0] == 401
        assert ask(guarded, path, Cookie=f"wsgi_tb={TOKEN}")[0] == 401
        assert ask(guarded, path, Authorization=f"Bearer {TOKEN}")[0] in (200, 503)
    assert ask(guarded, "/record", "POST", "seconds=1", Origin=f"http://127.0.0.1:{guarded}")[0] == 401


def test_only_our_own_form_logs_in(guarded: int) -> None:
    """Browsers say which site a form was on; who says nothing is refused, and so is a wrong token."""
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    right = f"token={TOKEN}"
    for where in (
        {},
        {"Origin": "http://evil.example"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "none", "Origin": f"http://127.0.0.1:{guarded}"},
    ):
        assert ask(guarded, "/login", "POST", right, **form, **where)[0] == 403
    ours = {"Origin": f"http://127.0.0.1:{guarded}"}
    status, _, headers = ask(guarded, "/login", "POST", "token=wrong", **form, **ours)
    assert (status, "Set-Cookie" in headers) == (403, False)
    assert ask(guarded, "/login", "POST", "token=" + "x" * 10_000, **form, **ours)[0] in (403, 413)
    for where in (ours, {"Sec_Fetch_Site": "same-origin"}):
        status, _, headers = ask(guarded, "/login", "POST", right, **form, **where)
        assert (status, headers["Location"]) == (303, ".")
        cookie = headers["Set-Cookie"]
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
        assert TOKEN not in cookie
        assert ask(guarded, "/metrics", Cookie=cookie.partition(";")[0])[0] == 200


def test_only_our_own_page_records(port: int) -> None:
    """Nothing is recorded for another site, for a client that says nothing, or by a GET."""
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    for where in (
        {},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "none", "Origin": f"http://127.0.0.1:{port}"},
    ):
        assert ask(port, "/record", "POST", "seconds=1", **form, **where)[0] == 403
    ours = {"Origin": f"http://127.0.0.1:{port}"}
    assert ask(port, "/record", "POST", "seconds=1", Host="evil.example", **form, **ours)[0] == 421
    for seconds in ("", "0", "-1", "61", "nan", "x"):
        assert ask(port, "/record", "POST", f"seconds={seconds}", **form, **ours)[0] == 400
    assert ask(port, "/record", "POST", "seconds=1&worker=/etc/passwd", **form, **ours)[0] == 404
    assert ask(port, "/record", "POST", "seconds=1", **form, **ours)[0] == 503, "there is no worker"
    assert ask(port, "/record?seconds=1", **ours)[0] == 405


def refused(*arguments: str) -> str:
    done = subprocess.run((*COMMAND, *arguments), capture_output=True, text=True, cwd=PROJECT, check=False, timeout=30)
    assert done.returncode == 2, done.stderr
    return done.stderr


def test_what_is_not_begun(tmp_path: Path) -> None:
    """An address that others reach without a token, a token that is short or that others may read, no such user."""
    assert "is no loopback address" in refused("--listen", "0.0.0.0:0")
    assert "is no loopback address" in refused("--listen", "[::]:0")
    file = tmp_path / "token"
    assert "cannot be read" in refused("--token-file", str(file))
    file.write_text(TOKEN)
    file.chmod(0o644)
    assert "others may read" in refused("--token-file", str(file))
    file.chmod(0o600)
    file.write_text("short")
    assert "needs 16 characters" in refused("--token-file", str(file))
    assert "there is no user" in refused("--user", "nobody-of-that-name")


def test_another_user_is_served_only_its_own(base: str, tmp_path: Path) -> None:
    """Root may become another user before it listens; the first line says whose workers are shown."""
    if os.geteuid() != 0:
        cannot_be_tried("only root can become another user")
    with start(tmp_path / "web.log", base, "--user", "nobody") as server:
        assert server.wait_for_log(r"/ shows (.*)")[1] == "the workers that nobody may read"
        assert os.stat(f"/proc/{server.pid}").st_uid != 0
        assert ask(port_of(server), "/")[0] == 200
    with start(tmp_path / "other.log", base) as server:
        assert server.wait_for_log(r"/ shows (.*)")[1] == "the workers of all users, because it runs as root"


def test_other_users_of_the_machine_are_refused(base: str, tmp_path: Path) -> None:
    """Anybody can connect to a loopback address: only the own user and root are answered; with a token, who has it."""
    if os.geteuid() != 0:
        cannot_be_tried("only root can run a program of another user")
    curl = require_program("curl")

    def asked_by_nobody(server: Server, *more: str) -> str:
        command = [
            curl,
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            *more,
            f"http://127.0.0.1:{port_of(server)}/metrics",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, user=65534, group=65534, cwd="/")
        return done.stdout

    with start(tmp_path / "root.log", base) as server:
        assert asked_by_nobody(server) == "403"
    with start(tmp_path / "nobody.log", base, "--user", "nobody") as server:
        assert asked_by_nobody(server) == "200"
        assert ask(port_of(server), "/metrics")[0] == 200
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    with start(tmp_path / "token.log", base, "--token-file", str(file)) as server:
        assert asked_by_nobody(server) == "401"
        assert asked_by_nobody(server, "-H", f"Authorization: Bearer {TOKEN}") == "200"


def test_a_hundred_browsers_cost_the_workers_what_one_costs(gunicorn: StartGunicorn, base: str, tmp_path: Path) -> None:
    """Everybody who asks within a second gets the same reading."""
    gunicorn("example_app.wsgi:application", *CONFIGURATION)

    def connections() -> int:
        answer = clients.request(f"{base}1", "/worker")
        return snapshot_json.decode_worker(answer.body)[1].clients_accepted

    with start(tmp_path / "web.log", base) as server, concurrent.futures.ThreadPoolExecutor(20) as pool:
        port = port_of(server)
        assert ask(port, "/fragment")[0] == 200
        before = connections()
        started = os.times().elapsed
        assert [status for status, _, _ in pool.map(lambda _: ask(port, "/fragment"), range(100))] == [200] * 100
        readings = connections() - before - 1
        # One more for the second that had begun.
        assert readings <= os.times().elapsed - started + 1


def test_probes_and_documents(gunicorn: StartGunicorn, base: str, port: int) -> None:
    """The rules of check as a query; the metrics, and the document of read."""
    assert ask(port, "/live")[0] == 200
    status, line, _ = ask(port, "/ready")
    assert (status, line.startswith("failed: no workers behind")) == (503, True)
    assert ask(port, "/ready?allow-none=1")[0] == 200
    server = gunicorn("example_app.wsgi:application", *CONFIGURATION, "--threads", "2")
    server.get("/")
    healthy = (200, "ok: 1 of 1 worker answers, 0 of 2 slots busy, 0 connections wait\n")
    # A probe may come while the answer is still being sent.
    query = "/ready?silent=0&dead=0&saturated=0.9&waiting=5"
    wait_until(lambda: ask(port, query)[:2] == healthy, lambda: str(ask(port, query)))
    with server.in_flight("/slow?seconds=60"):
        query = "/ready?saturated=0.5"
        wait_until(lambda: ask(port, query)[0] == 503, lambda: str(ask(port, query)))
        assert ask(port, query)[1].startswith("failed: 50% of the slots busy")
    for query in ("x=1", "oldest=nan", "oldest=-1", "waiting=1.5"):
        assert ask(port, f"/ready?{query}")[0] == 400
    assert values(ask(port, "/metrics")[1], "workers", state="alive") == {base: 1}
    [worker] = json.loads(ask(port, "/api/readings")[1])["workers"]
    assert worker["worker"]["number"] == 1


def test_it_is_mounted_in_another_application(base: str) -> None:
    """Behind that one's login, at any folder: its links are relative, and it has no login of its own."""

    def hello(_: WSGIEnvironment, start_response: StartResponse) -> Sequence[bytes]:
        start_response("200 OK", [])
        return [b"hello"]

    serve(TracebackerMiddleware(hello, base), environ("/"))
    client = Client(DispatcherMiddleware(hello, {"/ops/workers": application(base)}))
    assert client.get("/").text == "hello"
    assert client.get("/ops/workers").headers["Location"] == "/ops/workers/"
    page = client.get("/ops/workers/?view=workers")
    assert (page.status_code, "alive" in page.text) == (200, True)
    assert not re.search(r'(?:href|src|action)="/', page.text)
    assert client.get("/ops/workers/live.js").status_code == 200
    assert client.get("/ops/workers/login").status_code == 404
    assert client.post("/ops/workers/").status_code == 405
    assert client.post("/ops/workers/record", data={"seconds": "1"}).status_code == 403


def test_it_records_where_it_is_mounted(gunicorn: StartGunicorn, base: str) -> None:
    """The form answers with a page whose script is not in it."""
    server = gunicorn("example_app.wsgi:application", *CONFIGURATION, "--threads", "2")
    client = Client(DispatcherMiddleware(application(), {"/ops/workers": application(base)}))
    with server.in_flight("/slow?seconds=600"):
        wait_until(lambda: "GET /slow" in client.get("/ops/workers/").text, "it is in flight")
        page = client.post("/ops/workers/record", data={"seconds": "1"}, headers={"Origin": "http://localhost"})
    assert (page.status_code, "1 request in 1 worker" in page.text) == (200, True)
    assert re.search(r'<script src="flame_graph\.js\?\w+"></script>', page.text)
    assert "unsafe" not in page.headers["Content-Security-Policy"]
