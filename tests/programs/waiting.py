"""A wrapped WSGI callable with a planted cause behind each path: requests that wait for something, and never end."""

from __future__ import annotations

import fcntl
import importlib
import itertools
import os
import queue
import select
import smtplib
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from wsgi_tracebacker import TracebackerMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

#: Set by the test: ports of servers on this machine that accept and never answer, or never accept; files.
SILENT_PORT = int(os.environ.get("SILENT_PORT", "0"))
FULL_PORT = int(os.environ.get("FULL_PORT", "0"))
LOCKED_FILE = os.environ.get("LOCKED_FILE", "")
LOCKED_DATABASE = os.environ.get("LOCKED_DATABASE", "")
FIFO = os.environ.get("FIFO", "")
POSTGRESQL = os.environ.get("POSTGRESQL", "")
MARIADB = os.environ.get("MARIADB", "")
REDIS_PORT = int(os.environ.get("REDIS_PORT", "0"))

#: What nobody may ever see outside of this process.
SECRET = os.environ.get("PLANTED_SECRET", "hunter2")

_configuring = threading.Lock()

_SILENT = f"127.0.0.1:{SILENT_PORT}"


def _start(function: Callable[[], object], name: str) -> threading.Thread:
    thread = threading.Thread(target=function, name=name, daemon=True)
    thread.start()
    return thread


# Not in the requests: on a busy machine it takes seconds, in which they wait for nothing.
for _module in os.environ.get("PRELOADED", "").split():
    importlib.import_module(_module)

# ------------------------------------------------------------------------------------------- this process and machine


def sleep() -> None:
    time.sleep(600)


def event() -> None:
    threading.Event().wait()


def condition() -> None:
    with (found := threading.Condition()):
        found.wait(600)


def semaphore() -> None:
    threading.Semaphore(0).acquire()


def queue_get() -> None:
    queue.Queue[str]().get()


def simple_queue() -> None:
    jobs = queue.SimpleQueue[str]()
    jobs.get()


def imports_first() -> None:
    importlib.import_module("tests.programs.sleeps_on_import")


def imports_second() -> None:
    importlib.import_module("tests.programs.sleeps_on_import")


def future() -> None:
    Future[str]().result()


def join() -> None:
    _start(sleep, "indexer").join()


def child_wait() -> None:
    subprocess.run([sys.executable, "-c", "import time; time.sleep(600)", SECRET], check=False)


def child_output() -> None:
    subprocess.run([sys.executable, "-c", "import time; time.sleep(600)", SECRET], check=False, capture_output=True)


def child_pipe() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", SECRET], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.read()


def fifo() -> None:
    with open(FIFO) as found:
        found.read()


def flock() -> None:
    with open(LOCKED_FILE) as found:
        fcntl.flock(found, fcntl.LOCK_EX)


def lockf() -> None:
    with open(LOCKED_FILE + ".posix", "w") as found:
        fcntl.lockf(found, fcntl.LOCK_EX)


def pool() -> None:
    import sqlalchemy

    engine = sqlalchemy.create_engine(
        "sqlite://", poolclass=sqlalchemy.QueuePool, pool_size=1, max_overflow=0, pool_timeout=600
    )
    with engine.connect():
        engine.connect()


def lock() -> None:
    taken = threading.Lock()
    taken.acquire()
    with taken:
        pass


def sqlite() -> None:
    connection = sqlite3.connect(LOCKED_DATABASE, timeout=600)
    connection.execute(f"UPDATE accounts SET owner = '{SECRET}' WHERE id = 4711")


def sqlite_statement() -> None:
    connection = sqlite3.connect(LOCKED_DATABASE, timeout=600)
    statement = f"UPDATE accounts SET owner = '{SECRET}' WHERE id = 4711"
    connection.cursor().execute(statement)


# ------------------------------------------------------------------------------------------------------- other machines


def urllib_answer() -> None:
    url = f"http://{_SILENT}/v2/charge?token={SECRET}#{SECRET}"
    headers = {"Authorization": SECRET}
    urllib.request.urlopen(urllib.request.Request(url, data=SECRET.encode(), headers=headers))


def requests_answer() -> None:
    import requests

    url = f"http://user:{SECRET}@{_SILENT}/v2/charge?token={SECRET}"
    requests.post(url, json={"card": SECRET}, headers={"X-Token": SECRET}, timeout=600)


def requests_without_limit() -> None:
    import requests

    requests.get(f"http://{_SILENT}/v2/rates?token={SECRET}", timeout=None)


def httpx_answer() -> None:
    import httpx

    httpx.put(f"http://user:{SECRET}@{_SILENT}/v2/stock?token={SECRET}", content=SECRET, timeout=600)


def urllib3_answer() -> None:
    import urllib3

    urllib3.PoolManager().request("DELETE", f"http://{_SILENT}/v2/cart?token={SECRET}", body=SECRET, retries=False)


def http_connect() -> None:
    urllib.request.urlopen(f"http://127.0.0.1:{FULL_PORT}/late", timeout=600)


def bare_connect() -> None:
    socket.create_connection(("127.0.0.1", FULL_PORT))


def bare_receive() -> None:
    connection = socket.create_connection(("127.0.0.1", SILENT_PORT))
    connection.sendall(SECRET.encode())
    connection.recv(1)


def bare_send() -> None:
    connection = socket.create_connection(("127.0.0.1", SILENT_PORT))
    connection.sendall(SECRET.encode() * 10_000_000)


def selecting() -> None:
    connection = socket.create_connection(("127.0.0.1", SILENT_PORT))
    select.select([connection], [], [])


def epolling() -> None:
    connection = socket.create_connection(("127.0.0.1", SILENT_PORT))
    poller = select.epoll()
    poller.register(connection, select.EPOLLIN)
    poller.poll()


def mail() -> None:
    smtplib.SMTP("127.0.0.1", SILENT_PORT)


def grpc_call() -> None:
    import grpc

    call = grpc.insecure_channel(_SILENT).unary_unary("/bank.Bank/Charge")
    call(SECRET.encode(), metadata=[("x-token", SECRET)], timeout=600, wait_for_ready=True)


def own_client() -> None:
    connection = socket.create_connection(("127.0.0.1", SILENT_PORT))
    ask_the_bank(connection, f"SELECT balance('{SECRET}')", SECRET)


def ask_the_bank(connection: socket.socket, operation: str, password: str) -> None:
    """Named to the middleware by the option known_frames."""
    connection.sendall(f"{password} {operation}".encode())
    answer_of(connection)


def answer_of(connection: socket.socket) -> bytes:
    return connection.recv(1)


def quick() -> None:
    pass


# ----------------------------------------------------------------------------------------------------------- databases


def psycopg3() -> None:
    import psycopg

    with psycopg.connect(POSTGRESQL) as connection:
        connection.execute("SELECT pg_sleep(600), %s, 'literal " + SECRET + "' FROM orders WHERE id = 4711", (SECRET,))


def psycopg2_statement() -> None:
    import psycopg2

    connection = psycopg2.connect(POSTGRESQL)
    statement = f"SELECT pg_sleep(600), '{SECRET}' FROM orders WHERE id = 4711"
    connection.cursor().execute(statement)


def postgresql_lock() -> None:
    import psycopg

    with psycopg.connect(POSTGRESQL) as connection:
        connection.execute("LOCK TABLE locked")


def sqlalchemy_statement() -> None:
    import sqlalchemy

    engine = sqlalchemy.create_engine(POSTGRESQL.replace("postgresql://", "postgresql+psycopg://"))
    statement = sqlalchemy.text("SELECT pg_sleep(600), :secret FROM orders WHERE id = 4711")
    with engine.connect() as connection:
        connection.execute(statement, {"secret": SECRET})


def django_statement() -> None:
    _django().cursor().execute("SELECT pg_sleep(600), %s FROM orders WHERE id = 4711", [SECRET])


def _django(alias: str = "default") -> Any:
    from urllib.parse import urlsplit

    from django.conf import settings
    from django.db import connections

    with _configuring:
        place = urlsplit(POSTGRESQL)
        if not settings.configured:
            settings.configure(
                DATABASES={
                    "default": {
                        "ENGINE": "django.db.backends.postgresql",
                        "NAME": place.path[1:],
                        "USER": place.username,
                        "PASSWORD": SECRET,
                        "HOST": place.hostname,
                        "PORT": place.port,
                    },
                    "memory": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
                }
            )
    return connections[alias]


def sqlalchemy_loop() -> None:
    _ask_sqlalchemy_again_and_again(POSTGRESQL.replace("postgresql://", "postgresql+psycopg://"))


def sqlalchemy_sqlite_loop() -> None:
    _ask_sqlalchemy_again_and_again("sqlite://")


def _ask_sqlalchemy_again_and_again(address: str) -> None:
    import sqlalchemy
    from sqlalchemy import orm

    class Order:
        pass

    registry, number = orm.registry(), sqlalchemy.Column("id", sqlalchemy.Integer, primary_key=True)
    registry.map_imperatively(Order, sqlalchemy.Table("orders", registry.metadata, number))
    engine = sqlalchemy.create_engine(address)
    registry.metadata.create_all(engine)
    with orm.Session(engine) as session:
        for each in itertools.count():
            session.get(Order, each)


def django_loop() -> None:
    _ask_django_again_and_again("default")


def django_sqlite_loop() -> None:
    _django("memory").cursor().execute("CREATE TABLE orders (id INTEGER)")
    _ask_django_again_and_again("memory")


def _ask_django_again_and_again(alias: str) -> None:
    for each in itertools.count():
        with _django(alias).cursor() as cursor:
            cursor.execute(f"SELECT id, '{SECRET}' FROM orders WHERE id = %s", [each])
            cursor.fetchall()


def mariadb() -> None:
    import pymysql

    connection = pymysql.connect(unix_socket=MARIADB, user="root", password=SECRET)
    connection.cursor().execute("SELECT SLEEP(600), %s, 4711", (SECRET,))


def redis_pop() -> None:
    import redis

    # redis-py gives up after some seconds by itself.
    redis.Redis(port=REDIS_PORT, socket_timeout=None).blpop([SECRET], 600)


PAGES: dict[str, Callable[[], None]] = {
    f"/{function.__name__}": function
    for function in (
        *(sleep, event, condition, semaphore, queue_get, simple_queue, future, join, child_wait, child_output),
        *(child_pipe, fifo, flock, lockf, pool, lock, sqlite, sqlite_statement, urllib_answer, requests_answer),
        *(requests_without_limit, httpx_answer, urllib3_answer, http_connect, bare_connect, bare_receive, bare_send),
        *(selecting, epolling, mail, psycopg3, psycopg2_statement, postgresql_lock, sqlalchemy_statement),
        *(sqlalchemy_loop, sqlalchemy_sqlite_loop, django_loop, django_sqlite_loop),
        *(django_statement, mariadb, redis_pop, quick, own_client, grpc_call, imports_first, imports_second),
    )
}


def page(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    PAGES[environ["PATH_INFO"]]()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"at last\n"]


application = TracebackerMiddleware(page)
