"""``wsgi-tb web``: the live page in a browser, with the probes and the metrics."""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
from typing import TYPE_CHECKING

import click

from wsgi_tracebacker.cli import output
from wsgi_tracebacker.cli.options.arguments import bases_or_default
from wsgi_tracebacker.cli.options.hosts import hosts_options
from wsgi_tracebacker.cli.options.read import TIMEOUT
from wsgi_tracebacker.cli.options.shared import as_click, bases_argument, parse_address
from wsgi_tracebacker.cli.sources_beside import open_sources_beside
from wsgi_tracebacker.errors import Misuse
from wsgi_tracebacker.text.units import plural

if TYPE_CHECKING:
    from wsgi_tracebacker.reader.elsewhere.hosts import Hosts
    from wsgi_tracebacker.web.workers import Workers

DEFAULT_TIMEOUT_SECONDS = 1.0

#: Of browsers, each of which has a few connections.
_BACKLOG = 128

EPILOG = """\b
Examples:
  wsgi-tb web                          http://127.0.0.1:9181/
  wsgi-tb web /run/app/tb --listen 127.0.0.1:8080
  wsgi-tb web --listen 0.0.0.0:9181 --token-file /etc/wsgi-tb.token
  wsgi-tb web /run/app/tb --via 'ssh {}' --hosts FILE
  ssh -L 9181:127.0.0.1:9181 web1 wsgi-tb web     that of another host

\b
Exit codes:
  2    the command was not understood, or werkzeug is not installed
  3    there is no process with that PID, or it has no worker
  4    the address cannot be used
  130  ended by ^C
"""


@click.command(epilog=EPILOG)
@bases_argument
@click.option(
    "--listen",
    "address",
    metavar="HOST:PORT",
    default="127.0.0.1:9181",
    show_default=True,
    callback=parse_address,
    help="Other than a loopback address needs --token-file.",
)
@click.option(
    "--token-file",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Ask for the token in this file: in a form, or in the header Authorization: Bearer.",
)
@click.option("--user", metavar="NAME", help="Become this user first: then its workers are shown, and no others.")
@as_click(TIMEOUT._replace(help="How long each worker may take to answer; all are asked at once.  [default: 1]"))
@hosts_options
def web(
    bases: tuple[str, ...],
    address: tuple[str, int],
    token_file: str | None,
    user: str | None,
    timeout_seconds: float | None,
    hosts: Hosts | None,
) -> int:
    """Serve the live page: every request in flight, its age, what it waits for and where it stands.

    Beside it are /metrics, /live, /ready and /api/readings. BASE, SOCKET and PID are as for list.
    """
    # The site first: it says what to install if werkzeug is not there.
    from wsgi_tracebacker.web.site import Site  # isort: skip
    from wsgi_tracebacker.web.guard import Guard, hosts_of, is_loopback
    from wsgi_tracebacker.web.server import bind, server

    # Not at the first page: what is named wrongly is said now.
    if bases and hosts is None:
        bases_or_default(bases)
    host, port = address
    token = None if token_file is None else _token(token_file)
    if token is None and not is_loopback(host):
        raise Misuse(f"{host} is no loopback address: whoever reaches it would see the source of the application. Use"
                     " --token-file, or listen on 127.0.0.1 and go there through ssh -L")  # fmt: skip

    seconds = timeout_seconds or DEFAULT_TIMEOUT_SECONDS
    with contextlib.ExitStack() as opened:
        # Before the socket, which the helper must not keep open, and before the threads.
        if hosts is None and user is None:
            opened.enter_context(open_sources_beside())
        bound = opened.enter_context(bind(host, port))
        if hosts is None:
            from wsgi_tracebacker.web.workers import OfThisMachine

            workers: Workers = OfThisMachine(lambda: bases_or_default(bases), seconds)
        else:
            from wsgi_tracebacker.reader.elsewhere.followed import Followed
            from wsgi_tracebacker.top.other_hosts import HostsQuestion
            from wsgi_tracebacker.web.workers import OfHosts

            question = HostsQuestion(Followed(hosts, bases, (), seconds, 1.0))
            opened.callback(question.stop)
            workers = OfHosts(hosts, bases, seconds, question)
        # The port may have been 0.
        port = bound.getsockname()[1]
        site = Site(workers=workers)
        # Before it becomes another user, who may not be able to read root's Python; and that before it listens.
        with server(bound, site) as serving:
            if user is not None:
                _become(user)
            # Who has the token may be anybody.
            users = frozenset((0, os.geteuid())) if token is None else None
            site.guard = Guard(hosts_of(host, port) if is_loopback(host) else None, token, users)
            bound.listen(_BACKLOG)
            shown = f"[{host}]" if ":" in host else host
            whose = _whose() if hosts is None else f"the workers of {plural(len(hosts.targets), 'host')}"
            output.fail(f"http://{shown}:{port}/ shows {whose}{'; it asks for the token' if token else ''}")
            serving.serve_forever()
    return 0


def _whose() -> str:
    uid = os.geteuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = f"uid {uid}"
    return "the workers of all users, because it runs as root" if uid == 0 else f"the workers that {name} may read"


def _token(path: str) -> str:
    from wsgi_tracebacker.web.guard import LEAST_TOKEN_CHARACTERS

    try:
        with open(path, encoding="ascii") as file:
            mode, token = os.fstat(file.fileno()).st_mode, file.read(4096).strip()
    except (OSError, ValueError) as error:
        raise Misuse(f"the token in {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if stat.S_ISREG(mode) and mode & 0o077:
        raise Misuse(f"others may read {path}: chmod 600 {path}")
    if len(token) < LEAST_TOKEN_CHARACTERS or not token.isprintable() or " " in token:
        raise Misuse(
            f"the token in {path} needs {LEAST_TOKEN_CHARACTERS} characters, without spaces: openssl rand -hex 16"
        )
    return token


def _become(name: str) -> None:
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise Misuse(f"there is no user {name!r}") from None
    if found.pw_uid == os.geteuid():
        return
    try:
        os.initgroups(name, found.pw_gid)
        os.setgid(found.pw_gid)
        os.setuid(found.pw_uid)
    except PermissionError:
        raise Misuse(f"only root can become {name}") from None
