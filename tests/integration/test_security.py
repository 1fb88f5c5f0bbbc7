"""What docs/security.md promises, tried by a real second user, and by whoever can plant files and sockets.

The folder of the sockets is as bad as it may be: everybody may write there, and only the sticky bit is between them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import black_boxes, clients
from tests.support.interpreters import needs_outside_help, needs_raise
from tests.support.listeners import answering, http, listener, silent
from tests.support.programs import PROJECT
from tests.support.strangers import BYSTANDER, STRANGER, Watched, as_stranger, needs_root, tries, watched
from tests.support.waiting import wait_until
from tests.unit.wire.black_box.test_table_rows import HEADER, row, table
from tests.unit.wire.hostile import is_fit
from tests.unit.wsgi import environ, serve
from wsgi_tracebacker import TracebackerMiddleware
from wsgi_tracebacker.model.card import Card
from wsgi_tracebacker.model.snapshot import Counters, Frame, LastRequest, Request, Snapshot, Stack, Worker
from wsgi_tracebacker.reader.asking import client
from wsgi_tracebacker.reader.asking.reply import Reply
from wsgi_tracebacker.reader.finding.processes import Processes
from wsgi_tracebacker.reader.unanswered import dump_request
from wsgi_tracebacker.wire.black_box import dead_table, file_names
from wsgi_tracebacker.wire.documents import card_json as cards
from wsgi_tracebacker.wire.documents import postmortem_json as postmortems
from wsgi_tracebacker.wire.documents import snapshot_json as snapshots
from wsgi_tracebacker.worker.blackbox import box_files
from wsgi_tracebacker.worker.options import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS = (file_names.TABLE, file_names.STACKS, file_names.POSTMORTEM)


@pytest.fixture
def sticky(short_path: Path, base: str) -> str:
    """A base in a folder like ``/tmp``."""
    short_path.chmod(0o1777)
    return base


@contextlib.contextmanager
def held(base: str, **options: Any) -> Iterator[TracebackerMiddleware]:
    """A worker, this process, with a request in flight and all the files that it can have."""
    go_on, there = threading.Event(), threading.Event()

    def wait(_: Any, __: Any) -> list[bytes]:
        there.set()
        go_on.wait(60)
        return []

    wrapped = TracebackerMiddleware(wait, base, **options)
    thread = threading.Thread(target=serve, args=(wrapped, environ("/held")))
    thread.start()
    try:
        assert there.wait(30)
        yield wrapped
    finally:
        go_on.set()
        thread.join(30)


def start_ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])


def card_of(base: str, number: int, pid: int, uid: int = STRANGER, **changes: Any) -> Card:
    """What a stranger writes: true of some process, as far as it is to be believed."""
    own = Card(
        number=number,
        base=base,
        pid=pid,
        start_ticks=start_ticks(pid) if pid > 0 else 0,
        boot_id=Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(),
        pid_namespace=os.stat("/proc/self/ns/pid").st_ino,
        uid=uid,
        server=None,
        application="forged",
        cwd="/",
        started_at=0.0,
    )
    return own._replace(**changes)


def give(path: str | Path, uid: int = STRANGER) -> None:
    os.chown(path, uid, uid, follow_symlinks=False)


def write_card(base: str, card: Card, owner: int = STRANGER) -> None:
    """Whoever the card says it is of, its file is the owner's."""
    path = cards.card_path(base, card.number)
    # Not by encode(), which refuses to write what a forger may: a start time that is no number.
    Path(path).write_text(json.dumps({"card": cards.CARD_VERSION, **card._asdict()}) + "\n", encoding="ascii")
    give(path, owner)


# ------------------------------------------------------------------------------------------------- who gets in


def test_another_user_gets_nothing(sticky: str) -> None:
    """Not a byte of socket, card, table, stacks and postmortem, and no way to change, remove or replace one of them."""
    needs_root()
    with held(sticky):
        for kind in (file_names.STACKS, file_names.POSTMORTEM):
            # As a report and a successor make them.
            assert box_files.write(box_files.path_of(sticky, 1, kind), b"secret")
        files = [str(black_boxes.path_of(sticky, 1, kind)) for kind in KINDS]
        paths = [f"{sticky}1", f"{sticky}1.worker", *files]
        before = {path: (os.lstat(path).st_ino, os.lstat(path).st_size) for path in paths}
        found = tries(*paths)
        for path in paths:
            assert "got" not in " ".join(found[path].values()), (path, found[path])
            denied = {"read": "PermissionError", "write": "PermissionError", "both": "PermissionError"}
            denied |= {"unlink": "PermissionError", "rename": "PermissionError", "connect": "PermissionError"}
            assert found[path] == denied, path
            assert os.lstat(path).st_mode & 0o777 == 0o600
        assert {path: (os.lstat(path).st_ino, os.lstat(path).st_size) for path in paths} == before


def test_the_kernel_says_who_connects(sticky: str) -> None:
    """Also where somebody has opened the socket's mode to everybody: another user is closed on without a byte."""
    needs_root()
    with held(sticky):
        os.chmod(f"{sticky}1", 0o666)
        assert tries(f"{sticky}1")[f"{sticky}1"]["connect"] in ("got b''", "ConnectionResetError")
        # Root, which this process is.
        assert clients.request(f"{sticky}1", "/snapshot").status == 200


def test_another_users_command_shows_nothing(sticky: str) -> None:
    """It says that it may not, and nothing of what is served."""
    needs_root()
    program = (
        "import os, sys\n"
        "from wsgi_tracebacker.cli.main import main\n"
        "import click, json, wsgi_tracebacker.cli.verbs.read, wsgi_tracebacker.cli.verbs.list_workers\n"
        "import wsgi_tracebacker.cli.verbs.postmortem, wsgi_tracebacker.reader.dead.postmortems\n"
        "import wsgi_tracebacker.reader.survey, wsgi_tracebacker.reader.usage\n"
        "import wsgi_tracebacker.reader.finding.everywhere\n"
        "import wsgi_tracebacker.reader.unanswered.examine, wsgi_tracebacker.text.screens.worker_list\n"
        "import wsgi_tracebacker.reader.elsewhere.hosts\n"
        f"os.setgroups([]); os.setresgid({STRANGER}, {STRANGER}, {STRANGER})\n"
        f"os.setresuid({STRANGER}, {STRANGER}, {STRANGER})\n"
        "main()\n"
    )
    with held(sticky):
        for verb in ("read", "list", "postmortem"):
            command = [sys.executable, "-c", program, verb, sticky]
            done = subprocess.run(command, cwd=PROJECT, capture_output=True, check=False, timeout=60)
            assert b"held" not in done.stdout + done.stderr
            assert b"Traceback" not in done.stderr
            assert done.returncode in (0, 1)
            if verb != "postmortem":
                assert b"no permission" in done.stderr


def test_nothing_listens_on_a_network(sticky: str) -> None:
    """Of all sockets that the worker gained, each is a UNIX socket."""

    def sockets() -> set[str]:
        links = set()
        for number in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):
                links.add(os.readlink(f"/proc/self/fd/{number}"))
        return {link[8:-1] for link in links if link.startswith("socket:[")}

    before = sockets()
    with held(sticky, harakiri=3600):
        gained = sockets() - before
        known = {line.split()[6] for line in Path("/proc/self/net/unix").read_text().splitlines()[1:]}
        assert gained
        assert gained <= known


#: Serves a quick request, then one that is reported as overdue and read, under an eye on every socket.
TALKS = """
import logging, sys, threading
noted = []
def note(event, arguments):
    if event.startswith("socket."):
        noted.append((event, [str(int(each)) if isinstance(each, int) else str(each) for each in arguments]))
sys.addaudithook(note)
from wsgi_tracebacker import TracebackerMiddleware, stop
class Reported(logging.Handler):
    def emit(self, record):
        print("reported", flush=True)
logging.getLogger("wsgi_tracebacker.harakiri").addHandler(Reported())
def application(environ, start_response):
    if environ["PATH_INFO"] == "/overdue":
        sys.stdin.readline()
    return []
wrapped = TracebackerMiddleware(application, sys.argv[1], harakiri=0.2)
for path in ("/quick", "/overdue"):
    wrapped({"REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": path}, lambda *_: lambda _: None)
stop()
import json
print(json.dumps(noted))
"""


def test_nothing_is_sent_over_a_network(base: str) -> None:
    """No socket is ever made but UNIX sockets, and no name looked up: not while it starts, is read, reports or ends."""
    command = [sys.executable, "-c", TALKS, base]
    with subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        try:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "reported\n"
            assert clients.request(f"{base}1", "/snapshot").status == 200
            out, _ = worker.communicate("go on\n", timeout=60)
        finally:
            worker.kill()
    noted = json.loads(out)
    # -1: around a descriptor that there is already, of a client that was accepted.
    families = {arguments[1] for event, arguments in noted if event == "socket.__new__"} - {"-1"}
    assert families == {str(int(socket.AF_UNIX))}
    assert {event for event, _ in noted} <= {"socket.__new__", "socket.bind", "socket.connect"}
    assert {arguments[1] for event, arguments in noted if event == "socket.bind"} == {f"{base}1"}


#: Serves a request until it is told to go on, under an eye on whatever is opened for writing or changed by its path.
#: What is reached through a descriptor is noted by what that one stands for; O_PATH opens nothing.
CAREFUL = """
import json, os, sys
changes = []
O_PATH = getattr(os, "O_PATH", 0o10000000)
def note(event, arguments):
    if event == "open" and isinstance(arguments[2], int):
        if arguments[2] & O_PATH or not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
    elif event not in ("os.remove", "os.rename", "os.link", "os.truncate", "os.chmod", "os.chown", "os.utime"):
        return
    path = str(arguments[0])
    changes.append(os.readlink(path) if path.startswith("/proc/self/fd/") else path)
sys.addaudithook(note)
from wsgi_tracebacker import TracebackerMiddleware, stop
def application(environ, start_response):
    print("ready", flush=True)
    sys.stdin.readline()
    return []
wrapped = TracebackerMiddleware(application, sys.argv[1])
wrapped({"REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": "/held"}, lambda *_: lambda _: None)
stop()
print(json.dumps(changes))
"""


@pytest.mark.parametrize("what", ["link", "dangling link", "pipe", "folder", "file", "second name", "socket"])
@pytest.mark.parametrize("suffix", ["", ".worker"], ids=["socket", "card"])
def test_what_a_stranger_planted_costs_a_number_and_nothing_else(what: str, suffix: str, sticky: str) -> None:
    """At the path of socket or card of a worker of root's: it is not followed, opened for writing or removed, the
    worker takes another number, and who reads finds it there.
    """
    needs_root()
    victim, planted = Path(f"{sticky}.victim"), Path(f"{sticky}1{suffix}")
    victim.write_bytes(SECRET)
    victim.chmod(0o600)
    if what == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(planted))
    elif what == "second name":
        # Root's own file: where the kernel protects hard links, no stranger can do that.
        os.link(victim, planted)
    elif what == "link":
        planted.symlink_to(victim)
    elif what == "dangling link":
        planted.symlink_to(f"{sticky}.made")
    elif what == "pipe":
        os.mkfifo(planted)
    elif what == "folder":
        planted.mkdir()
    else:
        planted.write_bytes(cards.encode(card_of(sticky, 1, 1)))
    if what != "second name":
        give(planted)
    before = planted.lstat()
    command = [sys.executable, "-c", CAREFUL, sticky]
    with subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        try:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
            assert clients.request(f"{sticky}2", "/worker").status == 200
            done = watched("read", sticky, "--timeout", "0.3")
            assert b"GET /held" in done.out
            assert b"Traceback" not in done.err
            assert b"is on every line" not in done.out + done.err
            out, _ = worker.communicate("go on\n", timeout=60)
        finally:
            worker.kill()
    changed = json.loads(out)
    assert f"{sticky}2.worker" in changed
    assert {str(planted), str(victim), f"{sticky}.made"}.isdisjoint(changed)
    after = planted.lstat()
    assert (before.st_ino, before.st_mode, before.st_uid, before.st_size, before.st_mtime_ns) == (
        after.st_ino,
        after.st_mode,
        after.st_uid,
        after.st_size,
        after.st_mtime_ns,
    )
    assert victim.read_bytes() == SECRET
    assert not os.path.lexists(f"{sticky}.made")


# ---------------------------------------------------------------------------------- what a reader is led to do


class Forger:
    """Puts forged cards, tables and sockets of STRANGER's into a folder; its sockets accept and never answer."""

    def __init__(self, base: str, own_pid: int, stack: contextlib.ExitStack, done: threading.Event) -> None:
        self.base = base
        self.pid = own_pid
        self._stack = stack
        self._done = done
        self.count = 0

    def forge(self, *, pid: int | None = None, answer: Any = None, **changes: Any) -> int:
        self.count += 1
        path = f"{self.base}{self.count}"
        self._stack.enter_context(listener(path, answer or silent(self._done)))
        give(path)
        write_card(self.base, card_of(self.base, self.count, pid or self.pid, **changes))
        return self.count

    def put(self, name: str, content: bytes, uid: int = STRANGER) -> str:
        path = f"{self.base}.{name}"
        Path(path).write_bytes(content)
        os.chmod(path, 0o600)
        give(path, uid)
        return path


@pytest.fixture
def forger(sticky: str) -> Iterator[Forger]:
    needs_root()
    done = threading.Event()
    with contextlib.ExitStack() as stack:
        own = stack.enter_context(subprocess.Popen(["sleep", "3600"], user=STRANGER, group=STRANGER, extra_groups=[]))
        stack.callback(own.kill)
        yield Forger(sticky, own.pid, stack, done)
        done.set()


@contextlib.contextmanager
def planted(base: str, *claims: tuple[dict[str, Any], dict[str, Any]], first: int = 1) -> Iterator[int]:
    """Workers of a stranger's, each with changes of an honest card and of an honest reply."""
    paths = [f"{base}{number}" for number in range(first, first + len(claims))]
    with subprocess.Popen(
        as_stranger("answer", *paths), cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            replies = {}
            for number, (card, worker) in enumerate(claims, first):
                write_card(base, card_of(base, number, process.pid)._replace(**card))
                request = Request("GET", "/never-was", None, None, None, 0.0, 9.0, "app")
                stack = Stack(f"WSGIWorker{number}Core0", core=0, request=request, frames=(Frame("a.py", 1, "f"),))
                own = Worker(number=number, pid=process.pid, uid=STRANGER, requests_in_flight=1)
                snapshot = Snapshot(own._replace(**worker), 5.0, (stack,))
                document = json.loads(snapshots.encode(snapshot)) | {"counters": Counters()._asdict()}
                replies[paths[number - first]] = f"HTTP/1.0 200 OK\r\n\r\n{json.dumps(document)}"
            process.stdin.write(json.dumps(replies) + "\n")
            process.stdin.flush()
            yield process.pid
        finally:
            process.kill()


def test_a_worker_is_the_process_that_the_kernel_says(sticky: str) -> None:
    """A card or a reply that names another pid or uid is refused by name; nothing of it is shown."""
    needs_root()
    other = {"pid": os.getpid()}
    with planted(sticky, ({}, other), (other, {}), ({}, {"uid": 0}), ({"uid": 0}, {}), (other, {**other, "uid": 0})):
        done = watched("read", "--format", "json", sticky)
    document = json.loads(done.out)
    assert (done.code, document["workers"]) == (1, [])
    assert {each["reason"] for each in document["unanswered"]} == {"bad reply"}
    assert [line.partition("says ")[0].split(" ")[-2] for line in done.err.decode().splitlines()] == [
        *("reply", "card", "reply", "card", "reply")
    ]


def test_what_is_another_users_is_marked_in_every_output(sticky: str) -> None:
    """Text, JSON and uWSGI's text, of those that answer and of those that do not; our own worker is not marked."""
    needs_root()
    with held(f"{sticky}-own"), planted(sticky, ({}, {}), ({}, {"uid": 0})):
        outputs = {
            command: watched(*command.split(" "), sticky, f"{sticky}-own")
            for command in ("read", "read --format json", "read --format uwsgi", "list", "list --format json")
        }
    mark = f"another user's: uid {STRANGER}"
    # The message on the one that lies names the user, too.
    counts = {"read": 1, "read --format uwsgi": 1, "read --format json": 3}
    for command, done in outputs.items():
        assert done.out.decode().count(str(STRANGER)) == counts.get(command, 2), command
        assert [mark in line for line in done.err.decode().splitlines()] == [True], command
    assert mark in outputs["read"].out.decode()
    assert f"WSGIWorker1Core0 (uid {STRANGER})" in outputs["read --format uwsgi"].out.decode()
    document = json.loads(outputs["read --format json"].out)
    assert [each["worker"]["uid"] for each in document["workers"]] == [STRANGER, os.geteuid()]
    assert [each["other_uid"] for each in document["unanswered"]] == [STRANGER]
    listed = json.loads(outputs["list --format json"].out)["workers"]
    assert [each["other_uid"] for each in listed] == [STRANGER, STRANGER, None]


SECRET = b"root's own secret\nis on every line\nof this file\n"


#: What the kernel says of the machine, and of a process or one of its threads.
OF_THE_KERNEL = re.compile(
    r"/proc/(?:stat|sys/kernel/random/boot_id|([0-9]+)/(?:task/[0-9]+/)?(?:schedstat|stat|statm|status))"
)


def touched(done: Watched, base: str, *pids: int) -> set[str]:
    """What a reader opened beside what it may: the kernel's word on these processes, the cards of the base, and the
    program itself (that is Python's doing).
    """

    def allowed(path: str) -> bool:
        of_the_kernel = OF_THE_KERNEL.fullmatch(path)
        if of_the_kernel:
            return of_the_kernel[1] is None or int(of_the_kernel[1]) in pids
        if os.path.dirname(path) == os.path.dirname(base):
            return re.fullmatch(re.escape(base) + r"[0-9]+\.worker", path) is not None
        return path.endswith((".py", ".pyc", ".so"))

    return {path for path in done.opened if not allowed(path)}


def test_no_card_has_root_open_what_it_names(forger: Forger, tmp_path: Path) -> None:
    """A black box that is somebody else's, a link, a pipe, a device, a folder, endless, of two names, or no path at
    all: none is opened, nothing of it is shown, and the others are.
    """
    secret = forger.put("secret", SECRET, 0)
    own_table = forger.put("roots", table(row(), header=HEADER._replace(pid=1, uid=0)), 0)
    link, pipe, endless = (f"{forger.base}.{name}" for name in ("link", "pipe", "endless"))
    os.symlink(secret, link)
    os.mkfifo(pipe)
    two = forger.put("two", table(row()))
    os.link(two, f"{forger.base}.names")
    Path(endless).touch()
    os.truncate(endless, 1 << 40)
    for path in (link, pipe, endless):
        give(path)
    named = [
        *("/etc/shadow", secret, own_table, link, pipe, two, "/dev/zero", "/dev/kmsg", "/", "/proc/self/mem"),
        *("/proc/1/environ", "relative", "", "x" * 5000),
        # Such as a reader opens by itself, but not these.
        *("/proc/1/stat", "/proc/self/status", "/proc/self/fd/0"),
        *(forger.put(name, SECRET, 0) for name in ("x.worker", "x.py")),
    ]
    numbers = {forger.forge(black_box=path, stacks=path, dump_signal=signal.SIGTERM): path for path in named}
    # These say that they are root's, and root's are the files that they name; the cards' own files are the stranger's.
    lies = [forger.forge(uid=0, black_box=path, stacks=path) for path in (secret, own_table)]
    last = forger.forge(black_box=endless)
    # These are no cards at all.
    for wrong in ({"black_box": "/etc/\0shadow"}, {"cwd": "\ud800"}, {"pid": -1}, {"started_at": float("nan")}):
        forger.forge(**wrong)
    honest = forger.count + 1
    with planted(forger.base, ({}, {}), first=honest) as honest_pid:
        done = watched("read", forger.base, "--timeout", "1.2", "--all")
        listed = watched("list", forger.base, "--timeout", "0.3", "--format", "json")
    assert (done.code, b"Traceback" in done.err, b"/never-was" in done.out) == (1, False, True), done.err.decode()
    assert b"secret" not in done.out + done.err.replace(secret.encode(), b"")
    assert not done.sent
    # Those of the cards, of whoever holds the sockets, and the honest one's.
    pids = (forger.pid, os.getpid(), honest_pid)
    # It is the stranger's own, and as large as it likes; of it no more than a table is read.
    assert touched(done, forger.base, *pids) <= {endless}
    assert done.opened.isdisjoint(named)
    assert all(f"worker {number} (" in done.err.decode() for number in (*numbers, *lies, last))
    assert f"worker {honest} (" not in done.err.decode()
    assert (listed.code, len(json.loads(listed.out)["workers"]), listed.sent) == (1, honest, [])
    assert touched(listed, forger.base, *pids) <= {endless}
    assert listed.opened.isdisjoint(named)


class Victim:
    """A process that any signal would reach, and that counts them."""

    def __init__(self, user: int) -> None:
        program = (
            "import os, signal, sys, time\n"
            f"os.setgroups([]); os.setresgid({user}, {user}, {user}); os.setresuid({user}, {user}, {user})\n"
            "def tell(number, _): print(number, flush=True)\n"
            "for number in set(range(1, 65)) - {9, 19, 32, 33, 17}: signal.signal(number, tell)\n"
            "print('ready', flush=True)\n"
            # Until it is killed.
            "while True: time.sleep(3600)\n"
        )
        self.process = subprocess.Popen([sys.executable, "-I", "-S", "-c", program], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def end(self) -> str:
        """All that it got."""
        self.process.kill()
        return self.process.communicate()[0]


def test_no_card_has_root_signal_whom_it_names(forger: Forger) -> None:
    """Cards that name root's process, another user's, init and the reader's parent: called dead, none gets a signal."""
    victims = [Victim(0), Victim(BYSTANDER)]
    try:
        box = forger.put("box", table(row(), header=HEADER._replace(uid=STRANGER)))
        for pid in (*(victim.process.pid for victim in victims), 1, os.getpid()):
            forger.forge(pid=pid, black_box=box, stacks=box, dump_signal=signal.SIGUSR1)
        # One that says that it is root's, as the process is: the card's file is still the stranger's.
        forger.forge(pid=victims[0].process.pid, uid=0, black_box=box, stacks=box, dump_signal=signal.SIGUSR1)
        done = watched("read", forger.base, "--timeout", "3", "--format", "json")
        assert not done.sent
        states = [worker["state"] for worker in json.loads(done.out)["unanswered"]]
        assert states == ["dead"] * forger.count
        assert box not in done.opened or not json.loads(done.out)["workers"]
    finally:
        assert [victim.end() for victim in victims] == ["", ""]


@needs_outside_help
def test_a_daemon_of_roots_is_not_signalled_for_the_user_that_it_acts_as(forger: Forger) -> None:
    """The stranger could not signal it, so the stranger's card cannot have root do it, whatever else is proven."""
    command = as_stranger("act")
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as daemon:
        try:
            assert daemon.stdout is not None
            assert daemon.stdout.readline() == "ready\n"
            processes = Processes()
            number = settings.OPTIONS["dump_signal"].default
            card = card_of(forger.base, 1, daemon.pid, stacks=forger.put("stacks", b""), dump_signal=number)
            assert processes.standing(card, STRANGER) == "same"
            asking = dump_request.ask(card, processes, lambda: None)
            with pytest.raises(dump_request.Refused, match="not wholly"):
                next(asking)
        finally:
            daemon.kill()
            assert daemon.communicate()[0] == ""


@needs_outside_help
def test_root_empties_no_file_that_a_card_names(forger: Forger) -> None:
    """A large file of the card's user may be where that one cannot reach it: it is left alone, and so is the worker."""
    processes = Processes()
    content = b"x" * (dump_request.MAX_STACKS_BYTES + 1)
    path = forger.put("home.bak", content)
    name = os.path.join(os.path.dirname(path), file_names.file_name(forger.base, 1, STRANGER, file_names.STACKS))
    os.rename(path, name)
    card = card_of(forger.base, 1, forger.pid, stacks=name, dump_signal=signal.SIGUSR1)
    with pytest.raises(dump_request.Refused, match=f"its stacks file is full, and only a reader of uid {STRANGER} may"):
        next(dump_request.ask(card, processes, lambda: None))
    assert Path(name).read_bytes() == content


@needs_outside_help
def test_a_full_stacks_file_starts_anew_for_root_too(sticky: str, short_path: Path) -> None:
    """However often root reads a stalled worker of another user, its file keeps its bound and its stacks are shown."""
    needs_root()
    path = short_path / "public.py"
    path.write_bytes(SECRET)
    path.chmod(0o644)
    command = as_stranger("run", sticky)
    with subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        try:
            assert worker.stdin is not None
            assert worker.stdout is not None
            worker.stdin.write(f"{path}\n")
            worker.stdin.flush()
            assert worker.stdout.readline() == "ready\n"
            stacks = json.loads(Path(f"{sticky}1.worker").read_bytes())["stacks"]
            os.truncate(stacks, dump_request.MAX_STACKS_BYTES + 1)
            done = watched("read", sticky, "--format", "json", "--timeout", "10", "--no-memory")
            [document] = json.loads(done.out)["workers"]
            assert document["source"] == "faulthandler", done.err
            assert os.stat(stacks).st_size < dump_request.MAX_STACKS_BYTES
        finally:
            worker.kill()
            worker.communicate()


@needs_outside_help
def test_root_reads_no_file_to_a_worker(sticky: str, short_path: Path) -> None:
    """A stalled worker names a file of root's as its source: its stack is shown, without a line of it; and its own
    file's lines are.
    """
    needs_root()
    for name, mode in (("secret.py", 0o600), ("public.py", 0o644)):
        path = short_path / name
        path.write_bytes(SECRET)
        path.chmod(mode)
        with subprocess.Popen(
            as_stranger("run", sticky), cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as worker:
            try:
                assert worker.stdin is not None
                assert worker.stdout is not None
                worker.stdin.write(f"{path}\n")
                worker.stdin.flush()
                assert worker.stdout.readline() == "ready\n"
                done = watched("read", sticky, "--full", "--timeout", "10", "--no-memory")
                assert f'File "{path}", line 2, in <module>' in done.out.decode(), done.err.decode()
                assert (b"is on every line" in done.out) == (name == "public.py")
                assert b"stalled" in done.out
                # Its own signal, to it alone.
                assert len(done.sent) == 1
            finally:
                worker.kill()
                worker.communicate()


@pytest.mark.parametrize("kind", [file_names.TABLE, file_names.POSTMORTEM])
def test_no_file_of_the_dead_has_root_open_what_it_leads_to(forger: Forger, kind: str) -> None:
    """Links, pipes, folders, second names, sparse files and garbage in shared memory and beside the socket."""
    secret = forger.put("secret", SECRET, 0)
    whole = table(row(path=b"/told"), header=HEADER._replace(pid=1 << 22, uid=STRANGER, number=9))
    if kind == file_names.POSTMORTEM:
        found = dead_table.read_postmortem(table(row(path=b"/told")), forger.base, 3.0, None)
        assert found is not None
        whole = postmortems.encode(found)
    made = []

    def place(number: int, beside: bool) -> str:
        name = file_names.file_name(forger.base, number, STRANGER, kind)
        path = file_names.beside_socket(forger.base, number, kind) if beside else f"{box_files.SHARED_MEMORY}/{name}"
        made.append(path)
        return path

    try:
        for beside, first in ((False, 1), (True, 11)):
            os.symlink(secret, place(first, beside))
            os.mkfifo(place(first + 1, beside))
            os.mkdir(place(first + 2, beside))
            Path(place(first + 3, beside)).write_bytes(whole)
            os.link(made[-1], place(first + 4, beside))
            Path(place(first + 5, beside)).touch()
            os.truncate(made[-1], 1 << 40)
            Path(place(first + 6, beside)).write_bytes(b"\x1b[2J\xff" * 1000)
            Path(place(first + 7, beside)).write_bytes(whole)
        for path in made:
            give(path)
        done = watched("postmortem", forger.base)
        assert b"Traceback" not in done.err, done.err
        assert b"secret\n" not in done.out + done.err
        assert b"is on every line" not in done.out + done.err
        # One in each place is as it should be, of a stranger who may tell tales of itself.
        assert done.out.count(b"died with 1 request in flight") == 2
        regular = {path for path in made if not os.path.islink(path) and os.path.isfile(path)}
        assert touched(done, forger.base) <= regular
        assert not done.sent
        assert all(is_fit(line) for line in (done.out + done.err).decode().splitlines())
    finally:
        for path in made:
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)


# ------------------------------------------------------------------------------------- what reaches a terminal

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\n\u202e\u2028\x08\x7f\ud800"


def evil_snapshot() -> Snapshot:
    request = Request(EVIL, EVIL, EVIL, EVIL, EVIL, 0.0, 9.0, EVIL)
    request = request._replace(nested=(request,))
    frame = Frame(EVIL, 1, EVIL, f"x{EVIL}", 1, 0, 1)
    serving = Stack(EVIL, core=0, kind=EVIL, state=EVIL, wait_channel=EVIL, request=request, frames=(frame,))
    idle = serving._replace(core=1, request=None, last_request=LastRequest(EVIL, EVIL, 1.0))
    other = idle._replace(core=None)
    worker = Worker(1, os.getpid(), 5, os.geteuid(), 0.0, EVIL, EVIL, EVIL, EVIL, EVIL, EVIL, 1, 1)
    return Snapshot(worker, 5.0, (serving, idle, other), source=EVIL, state=EVIL)


@pytest.mark.parametrize(
    "arguments",
    [
        ("read",),
        ("read", "--all", "--color", "always"),
        ("read", "--format", "uwsgi"),
        ("read", "--format", "json"),
        ("list",),
        ("list", "--format", "json"),
    ],
    ids=" ".join,
)
def test_no_answer_drives_the_terminal(arguments: tuple[str, ...], base: str) -> None:
    """Every text of a snapshot, a refusal's status line, a uWSGI dump and a card, on stdout and stderr."""
    evil = EVIL.encode("utf-8", "surrogatepass")
    record = b"thread_id = " + evil.replace(b"\n", b"") + b" filename = a lineno = 1 function = f line = " + evil
    # A base with such a name is the operator's own, but the folder may be full of them.
    weird = f"{base}\x1b[2J\u202e"
    with contextlib.ExitStack() as stack:
        for number, content in enumerate(
            (
                http(evil_snapshot()),
                b"HTTP/1.0 500 " + evil + b"\r\n\r\n",
                b"*** uWSGI Python tracebacker output ***\n\n" + record + b"\n",
                evil * 100,
            ),
            1,
        ):
            stack.enter_context(listener(f"{weird}{number}", answering(content)))
        own = Card(9, weird, 1, 0, EVIL, 0, os.geteuid(), EVIL, EVIL, "/\x1b[2J", 0.0)
        Path(cards.card_path(weird, 9)).write_bytes(cards.encode(own))
        done = watched(*arguments, weird, "--timeout", "2")
    assert b"Traceback" not in done.err, done.err
    out = done.out.decode()
    if "always" in arguments:
        for colour in ("1", "2", "31", "33", "1;31", "1;36", "0"):
            out = out.replace(f"\x1b[{colour}m", "")
    lines = [*out.split("\n"), *done.err.decode().split("\n")]
    assert [line for line in lines if not is_fit(line)] == []
    assert len(done.out) > 300


def test_a_flood_of_one_user_fills_no_memory_and_costs_no_other_one(
    sticky: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many sockets one user answers on: together they have a bound, and another user's answer is whole."""
    needs_root()
    monkeypatch.setattr(client, "MAX_USER_BYTES", 3 << 20)
    honest = http(Snapshot(Worker(number=1, pid=5), 5.0, (Stack("honest"),)))
    path, *paths = (f"{sticky}{number}" for number in range(1, 8))
    with (
        listener(path, answering(honest)),
        subprocess.Popen(
            as_stranger("flood", *paths), cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as flood,
    ):
        try:
            assert flood.stdout is not None
            assert flood.stdout.readline() == "ready\n"
            first, *others = client.ask_all([(each, 10.0) for each in (path, *paths)])
        finally:
            flood.kill()
    assert isinstance(first, Reply)
    assert first.content == honest
    for other in others:
        assert isinstance(other, client.Failure)
        assert f"the replies of uid {STRANGER} together are larger than 3 MiB" in str(other.error)


# ------------------------------------------------------------------------------------------- what is not told

STORY = """
import io, logging, os, sys, threading, time
from wsgi_tracebacker import TracebackerMiddleware
base, action, show_query = sys.argv[1:]
form = "%(levelname)s %(name)s: %(message)s %(wsgi_tracebacker)s"
handler = logging.StreamHandler()
handler.setFormatter(logging.Formatter(form, defaults={"wsgi_tracebacker": ""}))
logging.basicConfig(handlers=[handler])
secrets = dict(line.split() for line in sys.stdin)
def view_that_hangs(environ, start_response):
    body = environ["wsgi.input"].read()
    password = secrets["local"]
    class Held:
        def __repr__(self): return secrets["repr"]
    held = Held()
    try:
        raise ValueError(secrets["exception"])
    except ValueError as error:
        kept = error
        if environ["PATH_INFO"].startswith("/first"):
            return []
        handle = environ["wsgi_tracebacker.request"]
        def be_overdue_when_told():
            while not os.path.exists(base + ".go"):
                time.sleep(0.01)  # between two looks
            handle.set_harakiri(0.1)
        threading.Thread(target=be_overdue_when_told, daemon=True).start()
        print("ready", flush=True)
        # It hangs: killed in the end, or raised into.
        time.sleep(3600 if action == "log" else 30)
    return [password.encode(), body, repr(held).encode(), str(kept).encode()]
wrapped = TracebackerMiddleware(
    view_that_hangs, socket=base, harakiri=3600, slow=0.2, harakiri_action=action, show_query=show_query == "yes",
    application="app\\x1b[2J\\u202e",
)
for path in ("/first", "/shown\\x1b]0;owned\\x07\\x9b2J"):
    threading.current_thread().name = "name\\x1b[2J\\x9b\\r"
    list(wrapped({
        "REQUEST_METHOD": "POST", "SCRIPT_NAME": "", "PATH_INFO": path, "QUERY_STRING": "token=" + secrets["query"],
        "HTTP_AUTHORIZATION": "Bearer " + secrets["header"], "HTTP_COOKIE": "session=" + secrets["cookie"],
        "HTTP_X_REQUEST_ID": "shown-id\\x1b[2J\\x9b", "REMOTE_ADDR": "192.0.2.7\\x1b[2J",
        "REQUEST_URI": path + "?token=" + secrets["query"], "RAW_URI": path + "?token=" + secrets["query"],
        "HTTP_REFERER": "http://x/?" + secrets["referer"], "REMOTE_USER": secrets["user"], "wsgi.url_scheme": "http",
        "CONTENT_LENGTH": "100", "wsgi.input": io.BytesIO(secrets["body"].encode()),
    }, lambda *_: lambda _: None))
"""


def serve_on(base: str, action: str, stdin: str) -> bytes:
    """What a successor that serves one request says."""
    story = STORY.replace('path in ("/first", ', 'path in ("/first",) or (')
    done = subprocess.run(
        [sys.executable, "-c", story, base, action, "no"],
        cwd=PROJECT,
        input=stdin.encode(),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


KINDS_OF_SECRETS = ("query", "header", "cookie", "referer", "user", "body", "local", "repr", "exception")


@pytest.mark.parametrize("show_query", ["no", "yes"])
@pytest.mark.parametrize("action", ["log", pytest.param("raise", marks=needs_raise), "kill"])
def test_secrets_are_nowhere_and_escapes_are_escaped(action: str, show_query: str, base: str, tmp_path: Path) -> None:
    """Query, headers, cookies, user, body, locals, reprs and messages: in no log, dump, file, report or postmortem; the
    query only if it was asked for. What is shown of the request has no raw control character there.
    """
    secrets = {kind: f"{kind}-{os.urandom(8).hex()}" for kind in KINDS_OF_SECRETS}
    stdin = "".join(f"{kind} {secret}\n" for kind, secret in secrets.items())
    outputs: dict[str, bytes] = {}
    errors = tmp_path / "errors"
    command = [sys.executable, "-c", STORY, base, action, show_query]
    with (
        errors.open("wb") as log,
        subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log) as worker,
    ):
        try:
            assert worker.stdin is not None
            assert worker.stdout is not None
            worker.stdin.write(stdin.encode())
            worker.stdin.close()
            assert worker.stdout.readline() == b"ready\n"
            for target in ("/", "/snapshot", "/snapshot.txt", "/worker"):
                outputs[target] = clients.request(f"{base}1", target).body
            for form in ("text", "json", "uwsgi"):
                done = watched("read", base, "--all", "--format", form)
                outputs[f"read {form}"] = done.out + done.err
            outputs["card"] = Path(f"{base}1.worker").read_bytes()
            for path in black_boxes.files_of(base):
                outputs[f"early {path.suffix}"] = path.read_bytes()
            # As late as it takes to look at it.
            Path(f"{base}.go").touch()
            wait_until(
                lambda: b"wsgi_tracebacker.harakiri" in errors.read_bytes(),
                "the report is logged",
                20,
            )
            if action == "kill":
                assert worker.wait(20) == -signal.SIGKILL
            for path in black_boxes.files_of(base):
                outputs[f"late {path.suffix}"] = path.read_bytes()
        finally:
            worker.kill()
            worker.wait()
    for form in ("text", "json"):
        done = watched("postmortem", base, "--format", form)
        outputs[f"postmortem {form}"] = done.out + done.err
    # Its successor says and keeps what it was doing.
    outputs["log of the successor"] = serve_on(base, action, stdin)
    outputs["log"] = errors.read_bytes()
    for path in black_boxes.files_of(base):
        outputs[f"kept {path.suffix}"] = path.read_bytes()
    look_through(outputs, secrets, action, shows_query=show_query == "yes")


def look_through(outputs: dict[str, bytes], secrets: dict[str, str], action: str, *, shows_query: bool) -> None:
    # It is all there that should be, or nothing is proven.
    assert b"view_that_hangs" in outputs["/"]
    assert b"/shown" in outputs["/snapshot"]
    assert b"shown-id" in outputs["read text"]
    assert b"/shown" in outputs["log"]
    assert any(b"/shown" in content for name, content in outputs.items() if name.startswith("late"))
    if action != "raise":
        assert b"/shown" in outputs["postmortem text"]
        assert b"/shown" in outputs["log of the successor"]
    for kind, secret in secrets.items():
        told = [name for name, content in outputs.items() if secret.encode() in content]
        if kind != "query" or not shows_query:
            assert told == [], kind
        else:
            assert "read text" in told
            assert "late .table" not in told
    assert shows_query or not any(b"token=" in content for content in outputs.values())
    # The table and the structured record are data, and not for a terminal; everything else is.
    for name, content in outputs.items():
        if name.endswith(".table"):
            continue
        for line in content.decode("utf-8").split("\n"):
            assert is_fit(line), (name, line)
