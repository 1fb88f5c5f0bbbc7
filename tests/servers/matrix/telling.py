"""The story: what happens to a server, step by step, and in a few words what was seen.

Knows how to look. Refuses to know what should be seen; but what must be the same on every server (the lines of a stack,
who may read a socket, the system calls and headers without us) is asserted here.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.programs import story
from tests.servers import asking
from tests.support import clients
from tests.support.programs import cannot_be_tried, require_program
from tests.support.servers import END_SECONDS, process_group
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.matrix.kinds import Kind
    from tests.servers.matrix.starting import Place

#: What happens, in this order. What was seen of each step is text, or the exception that came instead.
STEPS = (
    "software",
    "starts",
    "seen",
    "harakiri",
    "stream",
    "disconnect",
    "sendfile",
    "length",
    "warned",
    "killed",
    "SIGTERM",
    "SIGINT",
)

#: Transfers of so many bytes and more are those of the file: headers and log lines are shorter.
LARGE_BYTES = 4096
FILE_BYTES = 1024 * 1024
# Without pread64 and pwrite64: those are of our black boxes, and no server moves a file by them.
_TRANSFERS = "sendfile,splice,read,readv,write,writev,sendto,sendmsg"
_CALL = re.compile(r"^\d+ +(?:<\.\.\. )?(\w+)(?: resumed>|\().* = (\d+)$", re.MULTILINE)

WARNING = re.compile("harakiri will kill this process, and .+")
WARNING_SECONDS = 1.0

_LENGTH_HEADERS = ("content-length", "transfer-encoding", "connection")


def tell(kind: Kind, where: Place) -> dict[str, str | BaseException]:
    """Let everything happen to one server."""
    return _Story(kind, where).tell()


class _Story:
    def __init__(self, kind: Kind, where: Place) -> None:
        self._kind = kind
        self._where = where
        self._base = where.base
        self._names = (str(where.folder / f"file{number}") for number in itertools.count(1))
        self._note = ""
        self._server = kind.start(where)

    def tell(self) -> dict[str, str | BaseException]:
        told: dict[str, str | BaseException] = {}
        try:
            for step in STEPS:
                try:
                    self._wait_until_alone()
                    told[step] = getattr(self, f"_{step.lower()}")()
                except pytest.skip.Exception as skipped:
                    told[step] = skipped
                except Exception as error:
                    if hasattr(error, "add_note"):
                        error.add_note(f"its log is:\n{self._server.log_text()}")
                    told[step] = error
        finally:
            self._kill_all()
        return told

    # --- serving

    def _software(self) -> str:
        """What SERVER_SOFTWARE begins with: versions come and go."""
        assert asking.files(self._base) == []
        software = self._who("/bare/who")["software"]
        # What is not wrapped starts nothing.
        assert asking.files(self._base) == []
        return "nothing" if software is None else re.split(r"[/ ]", software)[0]

    def _starts(self) -> str:
        first = self._who("/who")
        [number] = asking.numbers(self._base)
        assert number == 1 or self._kind.numbers_its_workers
        assert asking.files(self._base) == asking.expected_files(number)
        for name in asking.files(self._base):
            assert os.stat(f"{self._base}{name}").st_mode & 0o777 == 0o600
        if self._kind.forks_for_each_request:
            wait_until(lambda: not os.path.exists(f"/proc/{first['pid']}"), "the request's process has ended")
            return "at each request, and ends with it"
        worker = asking.ask(self._base, number, "/worker")["worker"]
        assert worker["pid"] == first["pid"]
        assert worker["pid"] in process_group(self._server.pid)
        assert worker["server"] == first["software"]
        assert worker["application"] == "tests.programs.story:serve"
        assert (worker["requests_finished"], worker["requests_in_flight"]) == (1, 0)
        return "at the first request"

    def _seen(self) -> str:
        count = self._kind.at_a_time
        with self._gate() as gate, contextlib.ExitStack() as stack:
            connections = [
                stack.enter_context(self._in_flight(f"/slow?{gate}", {"X-Request-ID": f"id-{number}"}))
                for number in range(count)
            ]

            def all_wait() -> list[dict[str, Any]] | None:
                threads = asking.serving(self._base, "/slow")
                return threads if len(threads) == count and all(map(_waits, threads)) else None

            threads = wait_until(all_wait, lambda: f"{count} wait: {asking.serving(self._base)}")
            assert threads is not None

            def text() -> str:
                return "".join(clients.read_to_end(f"{self._base}{number}").decode() for number in self._answering())

            # Each looks at its gate now and then, and may be at that just when it is asked.
            wait_until(
                lambda: all(_is_in(thread, text()) for thread in threads), lambda: f"the text has them: {text()}"
            )
            Path(gate).touch()
            for connection in connections:
                assert connection.getresponse().read() == b"quick\n"
        for thread in threads:
            self._check(thread)
        assert {thread["request"]["request_id"] for thread in threads} == {f"id-{number}" for number in range(count)}
        names = {thread["name"] for thread in threads}
        assert len(names) == count
        return compact(names)

    def _check(self, thread: dict[str, Any]) -> None:
        request = thread["request"]
        assert (request["method"], request["path"], request["query"]) == ("GET", "/slow", None)
        assert (request["remote_address"], request["phase"]) == ("127.0.0.1", "app")
        assert 0 < request["age_seconds"] < 60
        source = Path(story.__file__).read_text(encoding="utf-8").splitlines()
        for frame, (function, line) in zip(_chain(thread), story.CHAIN.items(), strict=True):
            assert frame["function"] == function
            assert frame["filename"].endswith("tests/programs/story.py")
            assert source[frame["lineno"] - 1].strip() == line
            # Apache's children may not be able to read their source, but it is copied for them.
            assert frame["source"].strip() == line
            assert not frame["source_changed"]
        # The greenlets of one thread have its name for the kernel, and their own for us.
        assert (thread.get("kind") == "greenlet") is self._kind.has_greenlets

    def _harakiri(self) -> str:
        with self._gate() as gate, self._in_flight(f"/limited/slow?{gate}") as connection:
            report = rf"harakiri: GET /limited/slow \S+ s \(limit {story.LIMIT_SECONDS:g} s\), worker \d+ core \d+,"
            functions = "".join(rf"{function}\n(?:.*\n)*?.*" for function in story.CHAIN)
            self._server.wait_for_log(rf"{report}.*\n(?:.*\n)*?.*{functions}(?:.*\n)*?.*in flight in this worker")
            Path(gate).touch()
            assert connection.getresponse().read() == b"quick\n"
        return "in the server's log"

    def _stream(self) -> str:
        self._note = next(self._names)
        with self._in_flight(f"/stream?{self._note}") as connection:
            response = connection.getresponse()
            assert response.readline() == b"chunk 1\n"
            if os.path.exists(self._note):
                return "as a whole, when it is complete"

            def flows() -> bool:
                threads = asking.serving(self._base, "/stream")
                return bool(threads) and any(f["function"] == "chunks_with_pauses" for f in threads[0]["frames"])

            wait_until(flows, lambda: f"it is seen: {asking.serving(self._base)}")
            [thread] = asking.serving(self._base, "/stream")
            assert thread["request"]["phase"] == "body"
            assert response.readline() == b"chunk 2\n"
            response.close()
        return "chunk by chunk"

    def _disconnect(self) -> str:
        """The client of the step before has left."""
        wait_until(lambda: os.path.exists(self._note), "the stream has been closed")
        wait_until(lambda: not asking.serving(self._base), lambda: f"it has ended: {asking.serving(self._base)}")
        return "streams on to the end" if int(Path(self._note).read_text()) == story.CHUNKS else "ends the stream"

    def _sendfile(self) -> str:
        file = Path(next(self._names))
        file.write_bytes(os.urandom(FILE_BYTES))
        file.chmod(0o644)
        assert clients.request(self._server.address, f"/file?{file}").body == file.read_bytes()
        self._wait_until_alone()
        bare = self._transfers(f"/bare/file?{file}")
        self._wait_until_alone()
        ours = self._transfers(f"/file?{file}")
        # How many bytes go at a time is between the kernel and the client; but by which calls is the server's choice.
        assert ours.keys() == bare.keys(), (ours, bare)
        assert ours.get("sendfile") == bare.get("sendfile")
        if "sendfile" in ours:
            assert ours["sendfile"] == FILE_BYTES
            return "sendfile"
        return "read and sent" if self._who("/bare/who")["has_file_wrapper"] else "no file_wrapper"

    def _transfers(self, target: str) -> dict[str, int]:
        """By which system calls of the server a response was moved, with the bytes that each moved."""
        output, messages = Path(next(self._names)), Path(next(self._names))
        pids = process_group(self._server.pid)
        command = [require_program("strace"), "-f", "-e", f"trace={_TRANSFERS}", "-e", "signal=none", "-s", "0"]
        with messages.open("wb") as errors:
            tracer = subprocess.Popen(
                [*command, "-o", str(output), *(word for pid in pids for word in ("-p", str(pid)))], stderr=errors
            )
        try:

            def attached() -> bool:
                text = messages.read_text()
                if "Operation not permitted" in text:
                    cannot_be_tried("processes cannot be traced here")
                assert tracer.poll() is None, text
                return all(re.search(rf"Process {pid} attached", text) for pid in pids)

            wait_until(attached, "the server is traced")
            assert len(clients.request(self._server.address, target).body) == FILE_BYTES
            # The client has the last byte before the call that sent it has returned, and strace tells what a call moved
            # when it returns: one that it is detached from has moved nothing.
            wait_until(lambda: _sent(output.read_text()) >= FILE_BYTES, lambda: f"all is sent: {output.read_text()}")
        finally:
            # The kernel detaches what a killed tracer has traced, and the server goes on. Not SIGINT: strace then stops
            # each process to detach from it, and waits for ever for one that has just ended and was reaped.
            tracer.kill()
            tracer.wait()
        moved: dict[str, int] = {}
        for name, count in _CALL.findall(output.read_text()):
            if int(count) >= LARGE_BYTES:
                moved[name] = moved.get(name, 0) + int(count)
        return moved

    def _length(self) -> str:
        bare = clients.request(self._server.address, "/bare/quick").headers
        ours = clients.request(self._server.address, "/quick").headers
        assert [ours.get(name) for name in _LENGTH_HEADERS] == [bare.get(name) for name in _LENGTH_HEADERS]
        return "Content-Length" if "content-length" in ours else "none"

    def _warned(self) -> str:
        clients.request(self._server.address, "/killing/quick")
        # It is logged on a thread of its own, a moment after the request has ended.
        with contextlib.suppress(AssertionError):
            wait_until(lambda: WARNING.search(self._server.log_text()), "it is warned", WARNING_SECONDS)
            return "warned"
        return "not warned"

    # --- its end

    def _killed(self) -> str:
        if self._kind.forks_for_each_request:
            pids = set()
            for _ in range(2):
                self._wait_until_alone()
                with self._gate() as gate, contextlib.suppress(ConnectionError), self._in_flight(f"/slow?{gate}"):
                    wait_until(lambda: asking.serving(self._base, "/slow"), "it is served")
                    [(number, pid)] = asking.pids(self._base).items()
                    assert number == 1
                    pids.add(pid)
                    os.kill(pid, signal.SIGKILL)
                    self._wait_until_dead(pid)
            assert len(pids) == 2
            return "only the request ends"
        victim = self._wait_until_first_worker()
        os.kill(victim, signal.SIGKILL)

        def over() -> str | None:
            if self._server.process.poll() is not None:
                return "the service ends"
            with contextlib.suppress(OSError, http.client.HTTPException):
                clients.request(self._server.address, "/quick", timeout_seconds=5)
            return "the number is kept" if asking.pids(self._base).get(1, victim) != victim else None

        what = wait_until(over, lambda: f"{victim} is replaced, or the service ends: {asking.pids(self._base)}")
        assert what is not None
        assert what == "the service ends" or set(asking.pids(self._base)) <= set(range(1, self._kind.workers + 1))
        return what

    def _wait_until_dead(self, pid: int) -> None:
        wait_until(lambda: pid not in process_group(self._server.pid), f"{pid} is dead")

    def _sigterm(self) -> str:
        return self._ended_by(signal.SIGTERM)

    def _sigint(self) -> str:
        return self._ended_by(signal.SIGINT)

    def _ended_by(self, number: signal.Signals) -> str:
        if self._server.process.poll() is not None:
            # What the one before has left behind, this one takes over.
            self._server.stop()
            self._server = self._kind.start(self._where)
        self._wait_until_first_worker()
        wait_until(lambda: asking.are_idle(self._base), "it is done with the request before")
        wait_until(self._server.is_idle, "it knows that itself")
        before = set(process_group(self._server.pid))
        self._server.process.send_signal(number)

        def over() -> str | None:
            if self._server.process.poll() is not None and not process_group(self._server.pid):
                return "nothing is left" if asking.files(self._base) == [] else "files stay"
            # A server that ends has fewer processes, and no new ones.
            return "it reloads" if set(process_group(self._server.pid)) - before else None

        what = wait_until(over, lambda: f"it has ended: {process_group(self._server.pid)}", END_SECONDS)
        assert what is not None
        if what == "it reloads":
            self._kill_all()
        return what

    # --- asking

    def _who(self, path: str) -> dict[str, Any]:
        answer = json.loads(clients.request(self._server.address, path).body)
        assert isinstance(answer, dict)
        return answer

    def _answering(self) -> list[int]:
        return sorted(asking.pids(self._base))

    def _wait_until_first_worker(self) -> int:
        """The pid of worker 1; each of several workers has its first request when it comes to it."""
        if self._kind.forks_for_each_request:
            clients.request(self._server.address, "/quick")
            return 0

        def there() -> int | None:
            with contextlib.suppress(OSError):
                clients.request(self._server.address, "/quick")
            return asking.pids(self._base).get(1)

        pid = wait_until(there, lambda: f"there is a worker 1: {asking.pids(self._base)}")
        assert pid is not None
        return pid

    def _wait_until_alone(self) -> None:
        """Where each request is a process, none of those that were has to be there: it would still have its number."""
        if self._kind.forks_for_each_request and self._server.process.poll() is None:
            wait_until(lambda: process_group(self._server.pid) == [self._server.pid], "the forks have ended")

    @contextlib.contextmanager
    def _gate(self) -> Iterator[str]:
        """The name of a file that is there at the end, so that whoever waits for it does not wait longer."""
        gate = next(self._names)
        try:
            yield gate
        finally:
            Path(gate).touch()

    def _in_flight(self, target: str, headers: dict[str, str] | None = None) -> Any:
        return clients.in_flight(self._server.address, target, headers=headers)

    def _kill_all(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._server.pid, signal.SIGKILL)
        self._server.end_signal = signal.SIGKILL
        self._server.stop()


def _sent(trace: str) -> int:
    """The bytes that the calls in what strace wrote have moved, those that read left out."""
    return sum(int(count) for name, count in _CALL.findall(trace) if not name.startswith("read"))


def _chain(thread: dict[str, Any]) -> list[dict[str, Any]]:
    """The frames of our functions; below them there may be those of a patched sleep."""
    frames = [frame for frame in thread["frames"] if frame["filename"].endswith("tests/programs/story.py")]
    # The first two are the callable that the server knows and what is wrapped.
    return frames[-len(story.CHAIN) :]


def _waits(thread: dict[str, Any]) -> bool:
    chain = _chain(thread)
    return len(chain) == len(story.CHAIN) and (chain[-1]["source"] or "").strip() == story.CHAIN["wait_at_the_gate"]


def _is_in(thread: dict[str, Any], text: str) -> bool:
    """Whether every line of a waiting request stands in uWSGI's text, under the name of its thread."""
    lines = [line for line in text.splitlines() if line.startswith(f"thread_id = {thread['name']} ")]
    functions = [line.partition(" function = ")[2] for line in lines]
    expected = [f"{function} line = {line}" for function, line in story.CHAIN.items()]
    return [function for function in functions if function in expected] == expected


def compact(names: set[str]) -> str:
    """Thread names in short: one span of worker numbers, one of core numbers."""
    pairs = [re.fullmatch(r"WSGIWorker(\d+)Core(\d+)", name) for name in names]
    assert all(pairs), names
    workers = sorted({int(pair[1]) for pair in pairs if pair is not None})
    cores = sorted({int(pair[2]) for pair in pairs if pair is not None})
    assert len(workers) * len(cores) == len(names), names
    return f"WSGIWorker{_span(workers)}Core{_span(cores)}"


def _span(numbers: list[int]) -> str:
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}–{numbers[-1]}"  # noqa: RUF001
