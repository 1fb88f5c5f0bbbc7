"""How each server is started with the application of the story, in a folder of its own.

Knows the command lines. Refuses to know what is expected of a server: that is in ``cells``.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import random
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support import black_boxes
from tests.support.programs import PROJECT, require_file, require_module, require_program
from tests.support.servers import Gunicorn, Server, SimpleServer, Uwsgi

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.clients import Address

STORY = "tests.programs.story"

#: Below those that the kernel gives to whoever asks for any, so that nobody gets one in the moment before its use.
PORTS = range(20_000, 32_000)

#: Who Apache's children run as when root starts it: it refuses to let them be root.
APACHE_USER = "www-data"


class Place:
    """A folder for the sockets and logs of one server and of its successors."""

    def __init__(self, folder: Path) -> None:
        """The folder's path has to be short: those of sockets have at most 107 bytes."""
        self.folder = folder
        self.base = str(folder / "tb")
        self._logs = itertools.count(1)

    def new_log(self) -> Path:
        return self.folder / f"log{next(self._logs)}"

    @property
    def environment(self) -> dict[str, str]:
        return {"WSGI_TB_SOCKET": self.base}


@contextlib.contextmanager
def place() -> Iterator[Place]:
    """A new folder; it is removed with what workers that were killed have left elsewhere."""
    folder = Path(tempfile.mkdtemp(prefix="tb-", dir="/tmp"))
    try:
        yield Place(folder)
    finally:
        black_boxes.remove(str(folder / "tb"))
        shutil.rmtree(folder)


def free_port() -> int:
    """A port on which nobody listens."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


class Listening(Server):
    """A server that is told its port; when it is made, it can be connected to."""

    address: Address

    def __init__(self, where: Place, port: int, *command: str) -> None:
        super().__init__(command, where.new_log(), env=where.environment)
        self.address = ("127.0.0.1", port)
        try:
            self.wait_until_connectable(self.address)
        except BaseException:
            self.stop()
            raise


#: Any of those that are started: each has an address.
Started = Gunicorn | SimpleServer | Uwsgi | Listening


# ---------------------------------------------------------------------------------------------------------- gunicorn


#: gunicorn must not kill a worker that is about to end: one of gevent looks once a second whether it is to.
_UNHURRIED = ("--graceful-timeout", "5")


def gunicorn(*arguments: str, module: str | None = None) -> Callable[[Place], Started]:
    def start(where: Place) -> Started:
        if module is not None:
            require_module(module)
        options = (*_UNHURRIED, *arguments)
        return _end_by_term(Gunicorn(f"{STORY}:application", *options, log=where.new_log(), env=where.environment))

    return start


def eventlet_python() -> str:
    """The interpreter beside ours that has gunicorn 25, the last one with eventlet: ``make servers`` makes it."""
    return str(require_file(Path(sys.prefix + "-eventlet") / "bin" / "python"))


def gunicorn_eventlet(*arguments: str) -> Callable[[Place], Started]:
    def start(where: Place) -> Started:
        return _end_by_term(
            Gunicorn(
                f"{STORY}:application",
                *("--worker-class", "eventlet", *_UNHURRIED, *arguments),
                log=where.new_log(),
                # What gunicorn itself warns of.
                env={**where.environment, "PYTHONWARNINGS": "ignore"},
                python=eventlet_python(),
            )
        )

    return start


def _end_by_term(server: Gunicorn) -> Gunicorn:
    server.end_signal = signal.SIGTERM
    return server


# ------------------------------------------------------------------------------------------------------------- others


def uwsgi(*arguments: str, enable_threads: bool = True) -> Callable[[Place], Started]:
    def start(where: Place) -> Started:
        return Uwsgi(
            *("--module", f"{STORY}:application", *arguments),
            log=where.new_log(),
            env=where.environment,
            enable_threads=enable_threads,
        )

    return start


def simple(kind: str, module: str | None = None) -> Callable[[Place], Started]:
    def start(where: Place) -> Started:
        if module is not None:
            require_module(module)
        return SimpleServer(kind, where.new_log(), where.environment, STORY)

    return start


def command(module: str, *words: str) -> Callable[[Place], Started]:
    """A server that is run as a module; ``{port}`` and ``{folder}`` in its words are filled in."""

    def start(where: Place) -> Started:
        require_module(module)
        port = free_port()
        filled = (word.format(port=port, folder=where.folder) for word in words)
        return Listening(where, port, sys.executable, "-m", module, *filled)

    return start


def pserve(where: Place) -> Started:
    require_module("pyramid")
    port = free_port()
    ini = where.folder / "story.ini"
    ini.write_text(
        f"[app:main]\npaste.app_factory = {STORY}:make_application\n"
        f"[server:main]\nuse = egg:waitress#main\nlisten = 127.0.0.1:{port}\nthreads = 3\n"
    )
    return Listening(where, port, sys.executable, "-m", "pyramid.scripts.pserve", str(ini))


# ------------------------------------------------------------------------------------------------------------- Apache

_APACHE = """
ServerRoot {folder}
ServerName 127.0.0.1
Listen 127.0.0.1:{port}
PidFile {folder}/apache.pid
DefaultRuntimeDir {folder}
ErrorLog {folder}/{log}
Mutex file:{folder} default
{user}
LoadModule mpm_{mpm}_module {modules}/mod_mpm_{mpm}.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule wsgi_module {modules}/mod_wsgi.so
StartServers 1
ServerLimit 1
{limits}
GracefulShutdownTimeout 1
# sendfile is what is asked for here; on a disk it would be mapped into memory instead.
EnableSendfile On
WSGIEnableSendfile On
EnableMMAP Off
WSGISocketPrefix {folder}/wsgi
<Directory {folder}>
    Require all granted
</Directory>
{wsgi}
"""

#: Embedded, and with threads: as many as requests of the story.
EVENT = ("event", "ThreadsPerChild 3\nThreadLimit 3\nMaxRequestWorkers 3")
PREFORK = ("prefork", "MaxRequestWorkers 1")

#: Debian's mod_wsgi runs Debian's interpreter: it needs no more than the path of what is standard library only.
EMBEDDED = "WSGIPythonPath {folder}/site\nWSGIScriptAlias / {folder}/story.wsgi"
#: Everything in the first interpreter of the process. Otherwise each application has an interpreter of its own.
GLOBAL = "\nWSGIApplicationGroup %{{GLOBAL}}"
DAEMON = (
    "WSGIDaemonProcess story processes=1 threads=3 shutdown-timeout=1 python-path={folder}/site\n"
    "WSGIProcessGroup story\nWSGIScriptAlias / {folder}/story.wsgi"
)


def apache_modules() -> Path:
    return Path(require_program("apache2", also_in="/usr/sbin")).parent.parent / "lib" / "apache2" / "modules"


class Apache(Listening):
    """Apache in the foreground, with the modules that it needs and Debian's mod_wsgi."""

    def __init__(self, where: Place, mpm: tuple[str, str], wsgi: str) -> None:
        program = require_program("apache2", also_in="/usr/sbin")
        require_file(apache_modules() / "mod_wsgi.so")
        user = f"User {APACHE_USER}\nGroup {APACHE_USER}" if os.geteuid() == 0 else ""
        if user:
            account = pwd.getpwnam(APACHE_USER)
            os.chown(where.folder, account.pw_uid, account.pw_gid)
        # Its children need not be able to read the folder of the project.
        site = where.folder / "site"
        if not site.exists():
            ours = shutil.ignore_patterns("__pycache__")
            shutil.copytree(PROJECT / "wsgi_tracebacker", site / "wsgi_tracebacker", ignore=ours)
            (site / "tests" / "programs").mkdir(parents=True)
            shutil.copy(PROJECT / "tests" / "programs" / "story.py", site / "tests" / "programs")
            (where.folder / "story.wsgi").write_text(f"from {STORY} import application\n")
        port, log = free_port(), where.new_log()
        configuration = where.folder / "apache.conf"
        names = {"folder": where.folder, "port": port, "user": user, "mpm": mpm[0], "limits": mpm[1]}
        names |= {"log": log.name, "modules": apache_modules(), "wsgi": wsgi.format(folder=where.folder)}
        configuration.write_text(_APACHE.format_map(names))
        self._error_log = log
        super().__init__(where, port, program, "-f", str(configuration), "-DFOREGROUND")

    def log_text(self) -> str:
        # What is printed before it opens its own log is in the other one.
        own = self._error_log.read_text(encoding="utf-8", errors="replace") if self._error_log.exists() else ""
        return super().log_text() + own


def apache(mpm: tuple[str, str], wsgi: str) -> Callable[[Place], Started]:
    return lambda where: Apache(where, mpm, wsgi)
