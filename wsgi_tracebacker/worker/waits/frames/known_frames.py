"""The functions of libraries in which requests wait, and which of their variables say for what.

One table, one line a function. Of a function only the variables that its line names are read, never parameters,
headers, bodies or connection strings; what is read is masked at once. Functions are listed only if they wait at their
end, and the variables only if they are arguments or do not change: so what was read is what is waited for.
"""

from __future__ import annotations

import os
import sys
from types import FunctionType
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.worker.waits.frames.expressions import path_of
from wsgi_tracebacker.worker.waits.frames.values import class_dict

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import CodeType

    from wsgi_tracebacker.worker.options.frame_entries import FrameEntry
    from wsgi_tracebacker.worker.waits.frames.expressions import Expression

_STANDARD_FOLDER = os.path.join(os.path.dirname(os.__file__), "")

#: Code objects that are remembered; if there are more, all are forgotten.
_MAX_CACHED = 16_384
_MAX_DECORATORS = 10


class Known(NamedTuple):
    """A function in which requests wait."""

    #: The end of its file's path, from the name of a package or module.
    file: str
    #: Its qualified name without ``<locals>``; a plain name is that of any function or method of the file.
    function: str
    #: One of model.waits.KINDS.
    kind: str
    #: By attribute of WaitsFor: the variable that has it.
    variables: tuple[tuple[str, Expression], ...] = ()
    #: By attribute of WaitsFor: what is the same for each call.
    constants: tuple[tuple[str, str], ...] = ()
    #: The package or module that its file begins with.
    library: str = ""


def entry(file: str, function: str, kind: str, *, says: dict[str, str] | None = None, **variables: str) -> Known:
    """One line of the table. ``says``: attributes that are always the same. Others are paths such as ``self.pid``."""
    paths = tuple((attribute, path_of(path)) for attribute, path in variables.items())
    return Known(file, function, kind, paths, tuple((says or {}).items()), file.partition("/")[0].removesuffix(".py"))


def own_entry(given: FrameEntry) -> Known:
    """An entry of the application's own."""
    variables = tuple((attribute, path_of(path)) for attribute, path in given.variables)
    # No library: a module of the application may have the name of one of the standard library.
    return Known(given.file, given.function, given.kind, variables, given.constants)


_PG = {"service": "postgresql"}
_MYSQL = {"service": "mysql"}
_COMMIT = {"statement": "COMMIT"}

KNOWN: tuple[Known, ...] = (
    # Databases. The innermost one of a library is last on the way in, and its statement counts.
    entry("sqlalchemy/engine/default.py", "do_execute", "database", statement="statement"),
    entry("sqlalchemy/engine/default.py", "do_executemany", "database", statement="statement"),
    entry("sqlalchemy/engine/default.py", "do_execute_no_params", "database", statement="statement"),
    entry("sqlalchemy/engine/default.py", "do_commit", "database", says=_COMMIT),
    entry("django/db/backends/utils.py", "_execute", "database", statement="sql"),
    entry("django/db/backends/utils.py", "_executemany", "database", statement="sql"),
    entry("django/db/backends/base/base.py", "_commit", "database", says=_COMMIT),
    entry("psycopg/cursor.py", "execute", "database", says=_PG, statement="query"),
    entry("psycopg/cursor.py", "executemany", "database", says=_PG, statement="query"),
    entry("psycopg/_server_cursor.py", "execute", "database", says=_PG, statement="query"),
    entry("psycopg/connection.py", "commit", "database", says={**_PG, **_COMMIT}),
    entry("psycopg/connection.py", "connect", "database", says=_PG),
    entry("psycopg2/__init__.py", "connect", "database", says=_PG),
    entry("psycopg2/extras.py", "execute", "database", says=_PG, statement="query"),
    entry("pymysql/connections.py", "query", "database", says=_MYSQL, statement="sql"),
    entry("pymysql/connections.py", "commit", "database", says={**_MYSQL, **_COMMIT}),
    entry("pymysql/connections.py", "connect", "database", says=_MYSQL, host="self.host"),
    entry("MySQLdb/cursors.py", "_query", "database", says=_MYSQL, statement="q"),
    entry("MySQLdb/connections.py", "query", "database", says=_MYSQL, statement="query"),
    # Caches and document stores: the command's name.
    entry("redis/client.py", "parse_response", "database", says={"service": "redis"}, statement="command_name"),
    entry("redis/connection.py", "connect", "database", says={"service": "redis"}, host="self.host"),
    entry(
        "pymongo/synchronous/command_runner.py",
        "_run_command",
        "database",
        says={"service": "mongodb"},
        statement="name",
    ),
    entry("pymongo/synchronous/network.py", "command", "database", says={"service": "mongodb"}, statement="name"),
    entry("pymemcache/client/base.py", "_fetch_cmd", "database", says={"service": "memcached"}, statement="name"),
    entry("pymemcache/client/base.py", "_store_cmd", "database", says={"service": "memcached"}, statement="name"),
    # HTTP. The outer ones have the whole URL, the inner ones the path or the host.
    entry("requests/sessions.py", "request", "http", method="method", url="url"),
    entry("urllib3/poolmanager.py", "urlopen", "http", method="method", url="url"),
    entry("urllib3/connectionpool.py", "urlopen", "http", method="method", url="url", host="self.host"),
    entry("urllib3/connectionpool.py", "_make_request", "http", method="method", url="url", host="self.host"),
    entry("httpx/_client.py", "request", "http", method="method", url="url"),
    entry("httpx/_client.py", "stream", "http", method="method", url="url"),
    entry("urllib/request.py", "urlopen", "http", url="url"),
    entry("urllib/request.py", "open", "http", url="fullurl"),
    entry("urllib/request.py", "do_open", "http", host="host", url="req.selector"),
    entry("http/client.py", "_send_request", "http", method="method", url="url"),
    entry("http/client.py", "getresponse", "http", method="self._method"),
    entry("http/client.py", "connect", "http", host="self.host"),
    # Other services.
    entry("botocore/client.py", "_make_api_call", "service", says={"service": "AWS"}, statement="operation_name"),
    entry("grpc/_channel.py", "_blocking", "service", says={"service": "grpc"}, statement="self._method"),
    entry("grpc/_channel.py", "_next", "service", says={"service": "grpc"}, statement="self._state.method"),
    entry("smtplib.py", "getreply", "service", says={"service": "smtp"}),
    entry("ftplib.py", "getline", "service", says={"service": "ftp"}),
    entry("imaplib.py", "_get_response", "service", says={"service": "imap"}),
    # Names and connections.
    entry("socket.py", "getaddrinfo", "dns", host="host"),
    entry("socket.py", "create_connection", "connection", host="host"),
    entry("urllib3/util/connection.py", "create_connection", "connection", host="host"),
    entry("gevent/_socketcommon.py", "getaddrinfo", "dns", host="host"),
    entry("gevent/_socketcommon.py", "gethostbyname", "dns", host="hostname"),
    # Pools: how many connections they have is read by ``pools``.
    entry("sqlalchemy/pool/impl.py", "QueuePool._do_get", "pool", says={"pool": "QueuePool"}),
    entry("psycopg_pool/pool.py", "getconn", "pool", says={"pool": "ConnectionPool"}),
    entry("urllib3/connectionpool.py", "_get_conn", "pool", says={"pool": "HTTPConnectionPool"}),
    entry(
        "redis/connection.py", "BlockingConnectionPool.get_connection", "pool", says={"pool": "BlockingConnectionPool"}
    ),
    # Children.
    entry("subprocess.py", "_wait", "child", pid="self.pid"),
    entry("subprocess.py", "wait", "child", pid="self.pid"),
    entry("subprocess.py", "_communicate", "child", pid="self.pid"),
    entry("subprocess.py", "communicate", "child", pid="self.pid"),
    entry("multiprocessing/popen_fork.py", "wait", "child", pid="self.pid"),
    # Other threads.
    entry("queue.py", "get", "queue", says={"call": "queue.get"}),
    entry("queue.py", "put", "queue", says={"call": "queue.put"}),
    entry("queue.py", "join", "queue", says={"call": "queue.join"}),
    entry("threading.py", "Condition.wait", "signal", says={"call": "Condition.wait"}),
    entry("threading.py", "Condition.wait_for", "signal", says={"call": "Condition.wait"}),
    entry("threading.py", "Event.wait", "signal", says={"call": "Event.wait"}),
    entry("threading.py", "Barrier.wait", "signal", says={"call": "Barrier.wait"}),
    entry("threading.py", "Semaphore.acquire", "signal", says={"call": "Semaphore.acquire"}),
    entry("threading.py", "Thread.join", "thread", thread="self._name"),
    entry("threading.py", "Thread.start", "signal", says={"call": "Thread.start"}),
    entry("concurrent/futures/_base.py", "Future.result", "future", says={"call": "Future.result"}),
    entry("concurrent/futures/_base.py", "Future.exception", "future", says={"call": "Future.exception"}),
    entry("concurrent/futures/_base.py", "wait", "future", says={"call": "concurrent.futures.wait"}),
    entry("concurrent/futures/_base.py", "as_completed", "future", says={"call": "as_completed"}),
    entry("concurrent/futures/thread.py", "shutdown", "future", says={"call": "ThreadPoolExecutor.shutdown"}),
    entry("multiprocessing/pool.py", "ApplyResult.get", "future", says={"call": "Pool.get"}),
    entry("gevent/hub.py", "sleep", "sleep"),
    # Imports: the lock of a module, and inside the import its name.
    entry("<frozen importlib._bootstrap>", "_ModuleLock.acquire", "import", call="self.name", holders="self.owner"),
)

#: How much a kind says: of the entries that a request is inside of, those that say more count more.
_RANKS = {"connection": 0, "signal": 0, "database": 2, "service": 2, "pool": 2, "dns": 3, "import": 3}


def rank(kind: str) -> int:
    """How much a kind says; of equal ones the innermost counts."""
    return _RANKS.get(kind, 1)


class KnownFrames:
    """The table, with an application's own entries, and what was found of code objects so far."""

    def __init__(self, own: Iterable[Known] = ()) -> None:
        self._by_function: dict[str, list[Known]] = {}
        for known in (*own, *KNOWN):
            self._by_function.setdefault(known.function.rpartition(".")[2], []).append(known)
        # By id, with the code object, so that no other one gets its id.
        self._found: dict[int, tuple[CodeType, Known | None]] = {}

    def of(self, code: CodeType) -> Known | None:
        """The entry of a function, if it has one."""
        found = self._found.get(id(code))
        if found is None:
            if len(self._found) >= _MAX_CACHED:
                self._found.clear()
            found = self._found[id(code)] = code, self._match(code)
        return found[1]

    def _match(self, code: CodeType) -> Known | None:
        filename = code.co_filename
        for known in self._by_function.get(code.co_name, ()):
            if _is_file(filename, known) and ("." not in known.function or _has_qualified_name(code, known)):
                return known
        return None


def _is_file(filename: str, known: Known) -> bool:
    if known.library in sys.stdlib_module_names:
        # An application may have a queue.py too.
        return filename == _STANDARD_FOLDER + known.file
    return filename == known.file or filename.endswith("/" + known.file)


def _has_qualified_name(code: CodeType, known: Known) -> bool:
    if sys.version_info >= (3, 11):
        return code.co_qualname == known.function
    # It keeps the plain name only: look whether the class's method has this code.
    owner, _, name = known.function.rpartition(".")
    module = "importlib._bootstrap" if known.file.startswith("<") else known.file.removesuffix(".py").replace("/", ".")
    loaded = sys.modules.get(module)
    found = vars(loaded).get(owner) if loaded is not None else None
    method = class_dict(found).get(name) if issubclass(type(found), type) else None
    # Within its decorators, of which there are a few.
    for _ in range(_MAX_DECORATORS):
        if type(method) is not FunctionType or method.__code__ is code:
            break
        method = vars(method).get("__wrapped__")
    return type(method) is FunctionType and method.__code__ is code
