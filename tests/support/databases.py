"""Real databases for tests: each its own instance, in a temporary folder, ended by its pid."""

from __future__ import annotations

import contextlib
import glob
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.programs import require_program
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_READY_SECONDS = 60.0
_END_SECONDS = 20.0


def free_port() -> int:
    """A port that nobody listened at a moment ago."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _can_connect(address: str | tuple[str, int]) -> bool:
    kind = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(kind) as asked:
        try:
            asked.connect(address)
        except OSError:
            return False
        return True


def _require(program: str, folders: str = "") -> str:
    """The path of a program, which may be in a folder that is not on the path."""
    found = shutil.which(program) or next(iter(sorted(glob.glob(f"{folders}/{program}"), reverse=True)), None)
    return found or require_program(program)


@contextlib.contextmanager
def _folder(user: str) -> Iterator[tuple[Path, dict[str, int]]]:
    """A folder for a server, and the user as which it runs: no database runs as root."""
    with tempfile.TemporaryDirectory(prefix="db-", dir="/tmp") as name:
        folder = Path(name)
        if os.geteuid() != 0:
            yield folder, {}
            return
        try:
            found = pwd.getpwnam(user)
        except KeyError:
            found = pwd.getpwnam("nobody")
        os.chown(folder, found.pw_uid, found.pw_gid)
        yield folder, {"user": found.pw_uid, "group": found.pw_gid}


@contextlib.contextmanager
def _running(
    command: Sequence[str], folder: Path, identity: dict[str, int], address: str | tuple[str, int], end: signal.Signals
) -> Iterator[int]:
    """A server that accepts connections at an address; its pid."""
    log = folder / "server.log"
    with (
        open(log, "wb") as output,
        subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            extra_groups=[] if identity else None,
            **identity,  # type: ignore[call-overload]
        ) as server,
    ):
        try:

            def is_ready() -> bool:
                assert server.poll() is None, log.read_text(errors="replace")
                return _can_connect(address)

            wait_until(is_ready, f"{command[0]} accepts connections", timeout_seconds=_READY_SECONDS)
            yield server.pid
        finally:
            server.send_signal(end)
            try:
                server.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """An instance of PostgreSQL; the address of a database with the tables ``orders``, of one row, and ``locked``."""
    initdb = _require("initdb", "/usr/lib/postgresql/*/bin")
    server, client = _require("postgres", "/usr/lib/postgresql/*/bin"), _require("psql")
    with _folder("postgres") as (folder, identity):
        run = {**identity, "extra_groups": []} if identity else {}
        data = folder / "data"
        subprocess.run(
            [initdb, "-D", data, "-U", "shop", "--auth=trust", "--no-sync", "-E", "UTF8", "--no-locale"],
            cwd=folder,
            check=True,
            capture_output=True,
            **run,  # type: ignore[call-overload]
        )
        port = free_port()
        settings = ("-c", "fsync=off", "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}")
        command = [server, "-D", str(data), "-p", str(port), *settings]
        with _running(command, folder, identity, ("127.0.0.1", port), signal.SIGINT):
            address = f"postgresql://shop@127.0.0.1:{port}/postgres"

            def makes_tables() -> bool:
                make = [
                    client,
                    address,
                    "-q",
                    "-c",
                    "CREATE TABLE orders AS SELECT 4711 AS id; CREATE TABLE locked (id int)",
                ]
                return subprocess.run(make, check=False, capture_output=True).returncode == 0

            # It accepts a moment before it can answer.
            wait_until(makes_tables, "PostgreSQL answers", timeout_seconds=_READY_SECONDS)
            yield address


@contextlib.contextmanager
def mariadb() -> Iterator[str]:
    """An instance of MariaDB; the path of its UNIX socket. Whoever says that he is root is root."""
    server, install = _require("mariadbd", "/usr/sbin"), _require("mariadb-install-db")
    with _folder("mysql") as (folder, identity):
        run = {**identity, "extra_groups": []} if identity else {}
        data, path = folder / "data", str(folder / "mysqld.sock")
        subprocess.run(
            [
                install,
                "--no-defaults",
                f"--datadir={data}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
            ],
            cwd=folder,
            check=True,
            capture_output=True,
            **run,  # type: ignore[call-overload]
        )
        options = (f"--datadir={data}", f"--socket={path}", "--skip-networking", f"--pid-file={folder}/pid")
        command = [server, "--no-defaults", *options, "--skip-grant-tables", "--innodb-flush-log-at-trx-commit=0"]
        with _running(command, folder, identity, path, signal.SIGTERM):
            yield path


@contextlib.contextmanager
def redis() -> Iterator[int]:
    """An instance of Redis; its port."""
    server = _require("redis-server")
    with _folder("redis") as (folder, identity):
        port = free_port()
        command = [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
        with _running(command, folder, identity, ("127.0.0.1", port), signal.SIGTERM):
            yield port
