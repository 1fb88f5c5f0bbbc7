"""Planted causes behind real gunicorn: snapshot, command and report say what each waits for, and tell no secret."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.servers import asking
from tests.support import black_boxes, databases, silent_servers
from tests.support.programs import PROJECT, require_module
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from tests.conftest import StartGunicorn
    from tests.support.servers import Gunicorn

#: Stands in parameters, headers, bodies, URLs, command lines, statements and connection strings of the application.
SECRET = "hunter2-f00dcafe"

#: Its requests never end, so its workers are not waited for.
GTHREAD = ("--worker-class", "gthread", "--threads", "40", "--timeout", "60", "--graceful-timeout", "1")

#: The verdicts on a request that does something all the time; beside others it may not get a CPU.
_MOVES = ("progressing", "busy", "starved")

#: By path: the kind, and the parts that the answer must have; ``SILENT`` and others are filled in. At most twenty, as
#: a worker logs twenty reports a minute.
HERE: dict[str, dict[str, Any]] = {
    "/sleep": {"kind": "sleep"},
    "/event": {"kind": "signal", "call": "Event.wait"},
    "/condition": {"kind": "signal", "call": "Condition.wait"},
    "/semaphore": {"kind": "signal", "call": "Semaphore.acquire"},
    "/queue_get": {"kind": "queue", "call": "queue.get"},
    "/simple_queue": {"kind": "queue", "call": "SimpleQueue.get"},
    "/future": {"kind": "future", "call": "Future.result"},
    "/join": {"kind": "thread", "thread": "indexer"},
    "/child_wait": {"kind": "child", "program": "CHILD"},
    "/child_output": {"kind": "child", "program": "CHILD"},
    "/child_pipe": {"kind": "child", "program": "CHILD"},
    "/fifo": {"kind": "pipe", "file": "FIFO"},
    "/flock": {"kind": "file_lock", "file": "LOCKED_FILE", "pid": "PID"},
    "/lockf": {"kind": "file_lock", "file": "LOCKED_POSIX", "pid": "PID"},
    "/sqlite": {"kind": "file_lock", "service": "sqlite", "file": "LOCKED_DATABASE", "pid": "PID"},
    "/sqlite_statement": {"kind": "file_lock", "service": "sqlite", "file": "LOCKED_DATABASE", "pid": "PID"},
    "/pool": {"kind": "pool", "pool": "QueuePool", "pool_size": 1, "pool_in_use": 1},
    "/lock": {"kind": "lock", "lock": "taken"},
}
ELSEWHERE: dict[str, dict[str, Any]] = {
    "/urllib_answer": {"kind": "http", "method": "POST", "url": "SILENT/v2/charge", "connecting": False},
    "/requests_answer": {"kind": "http", "method": "POST", "url": "http://SILENT/v2/charge", "peer": "SILENT"},
    "/requests_without_limit": {"kind": "http", "method": "GET", "url": "http://SILENT/v2/rates", "peer": "SILENT"},
    "/httpx_answer": {"kind": "http", "method": "PUT", "url": "http://SILENT/v2/stock", "peer": "SILENT"},
    "/urllib3_answer": {"kind": "http", "method": "DELETE", "url": "http://SILENT/v2/cart", "peer": "SILENT"},
    "/http_connect": {"kind": "http", "method": "GET", "url": "http://FULL/late", "connecting": True},
    "/bare_connect": {"kind": "connection", "peer": "FULL", "connecting": True},
    "/bare_receive": {"kind": "connection", "peer": "SILENT", "connecting": False},
    "/bare_send": {"kind": "send", "peer": "SILENT"},
    "/selecting": {"kind": "connection", "peer": "SILENT"},
    "/epolling": {"kind": "connection", "peer": "SILENT"},
    "/mail": {"kind": "service", "service": "smtp", "peer": "SILENT"},
    "/grpc_call": {"kind": "service", "service": "grpc", "statement": "/bank.Bank/Charge"},
    "/own_client": {"kind": "service", "service": "bank", "peer": "SILENT", "statement": "SELECT balance(?)"},
}
_POSTGRESQL_MODULES = ("psycopg", "psycopg2", "sqlalchemy", "sqlalchemy.orm", "django.db.backends.postgresql.base")
_SLEEPS = "SELECT pg_sleep(?), %s FROM orders WHERE id = ?"
POSTGRESQL: dict[str, dict[str, Any]] = {
    "/psycopg3": {"statement": "SELECT pg_sleep(?), %s, ? FROM orders WHERE id = ?"},
    "/psycopg2_statement": {"statement": "SELECT pg_sleep(?), ? FROM orders WHERE id = ?"},
    "/postgresql_lock": {"statement": "LOCK TABLE locked"},
    "/sqlalchemy_statement": {"statement": "SELECT pg_sleep(?), %(secret)s FROM orders WHERE id = ?"},
    "/django_statement": {"statement": _SLEEPS},
}
LOOPS: dict[str, dict[str, Any]] = {
    "/sqlalchemy_loop": {"statement": " FROM orders WHERE orders.id = %(pk_1)s::INTEGER"},
    "/sqlalchemy_sqlite_loop": {"statement": " FROM orders WHERE orders.id = ?"},
    "/django_loop": {"statement": "SELECT id, ? FROM orders WHERE id = %s"},
    "/django_sqlite_loop": {"statement": "SELECT id, ? FROM orders WHERE id = %s"},
}
for _planted in LOOPS.values():
    _planted["kind"] = "repeated_statement"
OTHERS: dict[str, dict[str, Any]] = {
    "/mariadb": {"service": "mysql", "statement": "SELECT SLEEP(?), ?, ..."},
    "/redis_pop": {"service": "redis", "statement": "BLPOP"},
}


def _serve(gunicorn: StartGunicorn, env: Mapping[str, str], *modules: str) -> Gunicorn:
    for module in modules:
        require_module(module)
    own = "tests/programs/waiting.py:ask_the_bank service service='bank' statement=operation"
    # A busy machine needs a second to start a child or to load a driver.
    ours = {
        "PRELOADED": " ".join(modules),
        "PLANTED_SECRET": SECRET,
        "WSGI_TB_HARAKIRI": "4",
        "WSGI_TB_KNOWN_FRAMES": own,
    }
    return gunicorn("tests.programs.waiting:application", *GTHREAD, env={**ours, **env})


def _waits(server: Gunicorn, base: str, planted: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What each request waits for, once all of them have stood there long enough."""

    def seen() -> dict[str, dict[str, Any]]:
        return {each["request"]["path"]: each["request"]["waits_for"] for each in asking.serving(base)}

    def all_seen() -> dict[str, dict[str, Any]]:
        found = seen()
        # One that still connects to a database has no statement yet.
        are_known = all(
            found.get(path)
            and all(found[path][part] is not None for part in parts)
            and found[path]["kind"] == parts.get("kind", found[path]["kind"])
            for path, parts in planted.items()
        )
        return found if are_known else {}

    with contextlib.ExitStack() as requests:
        for path in planted:
            requests.enter_context(server.in_flight(path))
        found = wait_until(all_seen, lambda: f"all are known: {seen()}")
        wait_until(
            lambda: {path for path, _, _ in _reasons(server)} == set(planted),
            lambda: f"all are reported, not only {_reasons(server)}",
            timeout_seconds=40.0,
        )

        def unnamed() -> str:
            return f"read names {[found[path]['sentence'] for path in _unnamed(base, found, planted)]}:\n{_read(base)}"

        wait_until(lambda: not _unnamed(base, found, planted), unnamed)
        text = json.dumps(asking.snapshots(base))
        # The frames have lines of the source, which the application's owner wrote.
        outputs = [text, _read(base), server.log_text(), *map(_text_of, black_boxes.files_of(base))]
        assert not [output for output in outputs if SECRET in output]
    for path, sentence, verdict in _reasons(server):
        assert _steady(sentence) == _steady(found[path]["sentence"]), path
        assert verdict in (_MOVES if found[path]["kind"] == "repeated_statement" else ("waiting",)), path
    return found


def _read(base: str) -> str:
    command = [sys.executable, "-m", "wsgi_tracebacker", "read", base, "--limit", "0"]
    return subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True).stdout


def _unnamed(base: str, found: Mapping[str, dict[str, Any]], planted: Iterable[str]) -> list[str]:
    """The requests of which the command does not say what they wait for."""
    # Sentences go on in the next line.
    words = " ".join(_read(base).split())
    return [path for path in planted if " ".join(_steady(found[path]["sentence"]).split()) not in words]


def _steady(sentence: str) -> str:
    """A sentence without what is another number at each look, and without the place, which may stand beside it."""
    return re.sub(r" \((a new call at \d+ of \d+ looks|(called at )?\w+\.py:\d+)\)", "", sentence)


def _reasons(server: Gunicorn) -> list[tuple[str, str, str]]:
    """Of each report in the log: the path, what it waits for, and the verdict."""
    pattern = r"harakiri: GET (\S+) [^\n]*\n  because: ([^\n]*)\n(?:  [^\n]*\n)*?  verdict: (\w+)"
    return re.findall(pattern, server.log_text())


def _check_postmortem(server: Gunicorn, base: str, paths: Iterable[str]) -> None:
    """Kill the worker while its requests wait: what is told of its end names them and no secret."""
    [(number, pid)] = asking.pids(base).items()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pid not in server.workers() and server.workers(), "there is another worker")
    server.get("/quick")
    server.wait_for_log(rf"postmortem: worker {number}, pid {pid}, died with \d+ requests? in flight")
    command = [sys.executable, "-m", "wsgi_tracebacker", "postmortem", base]
    outputs = [server.log_text(), *map(_text_of, black_boxes.files_of(base))]
    for form in ("text", "json"):
        told = subprocess.run([*command, "--format", form], cwd=PROJECT, check=True, capture_output=True, text=True)
        assert not [path for path in paths if path not in told.stdout]
        outputs.append(told.stdout)
    assert not [output for output in outputs if SECRET in output]


def _text_of(path: Path) -> str:
    return path.read_bytes().decode("latin-1")


def _has(found: dict[str, Any], expected: dict[str, Any], names: Mapping[str, str]) -> bool:
    def fill(value: Any) -> Any:
        for name, replacement in names.items():
            value = value.replace(name, replacement) if isinstance(value, str) else value
        return value

    return all(str(found[key]) == str(fill(value)) for key, value in expected.items())


@pytest.fixture
def planted(short_path: Path) -> Iterator[dict[str, str]]:
    """What the application waits for on this machine, as its environment."""
    lock, database, fifo = short_path / "import.lock", short_path / "db.sqlite", short_path / "fifo"
    os.mkfifo(fifo)
    with contextlib.ExitStack() as opened:
        silent = opened.enter_context(silent_servers.never_answers())
        full = opened.enter_context(silent_servers.never_accepts())
        fcntl.flock(opened.enter_context(open(lock, "w")), fcntl.LOCK_EX)
        fcntl.lockf(opened.enter_context(open(f"{lock}.posix", "w")), fcntl.LOCK_EX)
        with contextlib.closing(sqlite3.connect(database)) as connection:
            connection.execute("CREATE TABLE accounts (id, owner)")
            connection.execute("BEGIN EXCLUSIVE")
            yield {
                "SILENT_PORT": str(silent),
                "FULL_PORT": str(full),
                "LOCKED_FILE": str(lock),
                "LOCKED_DATABASE": str(database),
                "FIFO": str(fifo),
            }
    for path in (lock, database, fifo, Path(f"{lock}.posix")):
        path.unlink()


@pytest.mark.parametrize("causes", [HERE, ELSEWHERE], ids=["here", "elsewhere"])
def test_every_planted_cause_is_named(
    causes: dict[str, dict[str, Any]], gunicorn: StartGunicorn, base: str, planted: dict[str, str]
) -> None:
    """By snapshot, command and report with peer, file, holder, child, URL or call, and none of them tells a secret."""
    server = _serve(gunicorn, planted, "requests", "httpx", "urllib3", "sqlalchemy", "grpc")
    found = _waits(server, base, causes)
    _check_postmortem(server, base, causes)
    for waits in found.values():
        if waits["kind"] == "child":
            # The application's children outlive it.
            with contextlib.suppress(ProcessLookupError):
                os.kill(waits["pid"], signal.SIGKILL)
    names = {
        "SILENT": f"127.0.0.1:{planted['SILENT_PORT']}",
        "FULL": f"127.0.0.1:{planted['FULL_PORT']}",
        "PID": str(os.getpid()),
        "CHILD": Path(sys.executable).name[:15],
        "LOCKED_POSIX": f"{planted['LOCKED_FILE']}.posix",
        **planted,
    }
    wrong = {path: found[path] for path, expected in causes.items() if not _has(found[path], expected, names)}
    assert not wrong


def test_postgresql_is_named_with_our_port_and_the_statement(gunicorn: StartGunicorn, base: str) -> None:
    """By psycopg 3 and 2, SQLAlchemy and Django; its session in ``pg_stat_activity`` has that port."""
    with databases.postgresql() as address:
        lock = subprocess.Popen(
            ["psql", address, "-q", "-c", "BEGIN; LOCK TABLE locked; SELECT pg_sleep(600)"], stdout=subprocess.DEVNULL
        )
        try:
            server = _serve(gunicorn, {"POSTGRESQL": address.replace("@", f":{SECRET}@")}, *_POSTGRESQL_MODULES)
            found = _waits(server, base, POSTGRESQL)
            query = "SELECT client_port FROM pg_stat_activity WHERE client_port > 0 AND state = 'active'"
            sessions = subprocess.run(
                ["psql", address, "-At", "-c", query], check=True, capture_output=True, text=True
            ).stdout.split()
            _check_postmortem(server, base, POSTGRESQL)
        finally:
            lock.kill()
            lock.wait()
    peer = re.findall(r"@([^/]*)", address)[0]
    for path, expected in POSTGRESQL.items():
        assert (found[path]["kind"], found[path]["service"]) == ("database", "postgresql"), path
        assert (found[path]["peer"], found[path]["statement"]) == (peer, expected["statement"])
        assert str(found[path]["own_port"]) in sessions


def test_one_statement_again_and_again_is_told_from_one_that_takes_long(gunicorn: StartGunicorn, base: str) -> None:
    """Each with its statement, by snapshot, command and report: SQLAlchemy and Django, over PostgreSQL and SQLite."""
    with databases.postgresql() as address:
        patient = {"WSGI_TB_SLOW": "0.3"}
        server = _serve(gunicorn, {"POSTGRESQL": address.replace("@", f":{SECRET}@"), **patient}, *_POSTGRESQL_MODULES)
        found = _waits(server, base, {**LOOPS, "/psycopg3": {"statement": "SELECT"}})
    assert found.pop("/psycopg3")["kind"] == "database"
    for path, waits in found.items():
        assert waits["statement"].endswith(LOOPS[path]["statement"]), path
        assert waits["looks"] >= waits["new_calls"], path


def test_mariadb_and_redis_are_named_with_the_statement(gunicorn: StartGunicorn, base: str) -> None:
    """Also over a UNIX socket; of a command of Redis only its name is known."""
    with databases.mariadb() as path, databases.redis() as port:
        server = _serve(gunicorn, {"MARIADB": path, "REDIS_PORT": str(port)}, "pymysql", "redis")
        found = _waits(server, base, OTHERS)
        _check_postmortem(server, base, OTHERS)
    for name, expected in OTHERS.items():
        assert _has(found[name], expected, {}), found[name]
    assert (found["/mariadb"]["peer"], found["/redis_pop"]["peer"]) == (path, f"127.0.0.1:{port}")
