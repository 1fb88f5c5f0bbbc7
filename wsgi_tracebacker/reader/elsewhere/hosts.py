"""Runs a command on many hosts, by what the operator already uses to get there: ssh, kubectl, docker.

ssh hands its words to a shell there, kubectl and docker do not. So the words of the command have no character that a
shell would act on: a base travels percent-encoded.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import shlex
import signal
import subprocess
import time
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, unquote_to_bytes

from wsgi_tracebacker.errors import Misuse

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TARGET = "{}"
DEFAULT_COMMAND = "wsgi-tb"
DEFAULT_AT_ONCE = 32
DEFAULT_SECONDS = 10.0

#: What a host may print: the same as what one document may have.
MAX_OUTPUT_BYTES = 128 * 1024 * 1024
#: Of its stderr, the end is kept.
_STDERR_BYTES = 4096
_READ_BYTES = 256 * 1024
#: How long a program may take to end after it has closed its stdout.
_END_SECONDS = 1.0

#: Characters that mean nothing to any shell.
_PLAIN_WORD = re.compile(r"[A-Za-z0-9%/._=,-]+")
#: Not a name that the program takes for an option of its own.
_TARGET_NAME = re.compile(r"[^\s\x00-\x1f\x7f-][^\s\x00-\x1f\x7f]*")


class Hosts(NamedTuple):
    """How to get to hosts, and which ones."""

    #: The words of a command in which ``{}`` stands for the host.
    template: tuple[str, ...]
    targets: tuple[str, ...]
    #: What is run there.
    command: tuple[str, ...] = (DEFAULT_COMMAND,)
    at_once: int = DEFAULT_AT_ONCE
    seconds: float = DEFAULT_SECONDS

    def words(self, target: str, arguments: Sequence[str]) -> list[str]:
        """The whole command for one host."""
        return [*(word.replace(TARGET, target) for word in self.template), *self.command, *arguments]


class Ran(NamedTuple):
    """What a host printed."""

    target: str
    stdout: bytes
    #: The last line of its stderr, or what kept it from printing anything; empty if there is nothing to say.
    complaint: str
    exit_code: int


def parse(via: str, targets: Sequence[str], command: str = DEFAULT_COMMAND, at_once: int = DEFAULT_AT_ONCE) -> Hosts:
    """Check what the operator wrote. Raises Misuse."""
    try:
        template, words = tuple(shlex.split(via)), tuple(shlex.split(command))
    except ValueError as error:
        raise Misuse(f"--via or --remote-command cannot be split into words: {error}") from None
    if not any(TARGET in word for word in template[1:]):
        raise Misuse(f"--via needs {TARGET} where the host stands, as in --via 'ssh {TARGET}'")
    if not words or not all(map(_PLAIN_WORD.fullmatch, words)):
        raise Misuse("--remote-command may have letters, digits and %/._=,- only: a shell there may act on the rest")
    if not targets:
        raise Misuse("--via needs hosts: --host NAME, or --hosts FILE")
    for target in targets:
        if not _TARGET_NAME.fullmatch(target):
            raise Misuse(f"{target!r} is no name of a host")
    return Hosts(template, tuple(dict.fromkeys(targets)), words, at_once)


def encode(argument: str) -> str:
    """A base, socket or pid, so that no shell changes it, and that it is no option."""
    # quote() keeps these four; a shell acts on ~ at the start of a word.
    encoded = quote(os.fsencode(argument), safe="/").replace("~", "%7E")
    return encoded.replace("-", "%2D", 1) if encoded.startswith("-") else encoded


def decode(argument: str) -> str:
    return os.fsdecode(unquote_to_bytes(argument))


def run(hosts: Hosts, arguments: Sequence[str]) -> Iterator[Ran]:
    """Run the command on all hosts, a few at once, and give what each printed as soon as it has ended.

    A host that takes longer than its time is killed. Whatever still runs when this is closed is killed too.
    """
    waiting = list(reversed(hosts.targets))
    running: set[Process] = set()
    selector = selectors.DefaultSelector()
    try:
        while waiting or running:
            while waiting and len(running) < hosts.at_once:
                target = waiting.pop()
                try:
                    running.add(Process(target, hosts.words(target, arguments), hosts.seconds, selector))
                except (OSError, ValueError) as error:
                    yield cannot_start(hosts, target, error)
            if running:
                rest = min(process.deadline for process in running) - time.monotonic()
                for key, _ in selector.select(max(0.0, rest)):
                    key.data()
            now = time.monotonic()
            for process in [each for each in running if each.is_over(now)]:
                running.remove(process)
                yield process.end()
    finally:
        for process in running:
            process.end()
        selector.close()


def cannot_start(hosts: Hosts, target: str, error: OSError | ValueError) -> Ran:
    """What is said of a host whose command could not be run here."""
    return Ran(target, b"", f"{hosts.template[0]}: {getattr(error, 'strerror', None) or error}", 127)


class Process:
    """The command on one host, in a session of its own: no password can be asked for, and all of it can be killed."""

    def __init__(self, target: str, words: Sequence[str], seconds: float, selector: selectors.BaseSelector) -> None:
        self.target = target
        self.deadline = time.monotonic() + seconds
        self._seconds = seconds
        self._selector = selector
        self._chunks: list[bytes] = []
        self._size = 0
        self._stderr = b""
        self._popen = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        assert self._popen.stdout is not None
        assert self._popen.stderr is not None
        self._out, self._err = self._popen.stdout.fileno(), self._popen.stderr.fileno()
        self._is_open = True
        for descriptor, receive in ((self._out, self._receive_output), (self._err, self._receive_complaint)):
            os.set_blocking(descriptor, False)
            selector.register(descriptor, selectors.EVENT_READ, receive)

    def _receive_output(self) -> None:
        chunk = os.read(self._out, _READ_BYTES)
        if not chunk:
            self._is_open = False
            self._selector.unregister(self._out)
        else:
            self.take(chunk)

    def take(self, chunk: bytes) -> None:
        """Keep what it printed, up to the bound."""
        self._size += len(chunk)
        if self._size <= MAX_OUTPUT_BYTES:
            self._chunks.append(chunk)
        else:
            self.deadline = 0.0

    def taken(self) -> bytes:
        """What was kept; it begins anew."""
        content = b"".join(self._chunks)
        self._chunks.clear()
        self._size = 0
        return content

    def _receive_complaint(self) -> bool:
        """Whether there may be more."""
        try:
            chunk = os.read(self._err, _READ_BYTES)
        except BlockingIOError:
            return False
        if not chunk and self._err in self._selector.get_map():
            self._selector.unregister(self._err)
        self._stderr = (self._stderr + chunk)[-_STDERR_BYTES:]
        return bool(chunk)

    def is_over(self, now: float) -> bool:
        """Whether it has printed all, or its time is over.

        stderr need not be at its end: an ssh that stays in the background for the next call keeps it open.
        """
        return not self._is_open or now >= self.deadline

    def end(self) -> Ran:
        """What it printed. Kill it if it still runs."""
        is_late = self._is_open
        if not is_late:
            # It has closed its stdout, and ends now.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(_END_SECONDS)
        if self._popen.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._popen.pid, signal.SIGKILL)
        code = self._popen.wait()
        while self._receive_complaint():
            pass
        for stream in (self._popen.stdout, self._popen.stderr):
            assert stream is not None
            if stream.fileno() in self._selector.get_map():
                self._selector.unregister(stream.fileno())
            stream.close()
        lines = self._stderr.decode("utf-8", "replace").split("\n")
        complaint = next((line.strip() for line in reversed(lines) if line.strip()), "")
        if self._size > MAX_OUTPUT_BYTES:
            complaint, self._chunks = f"it printed more than {MAX_OUTPUT_BYTES >> 20} MiB", []
        elif is_late:
            complaint, self._chunks = f"it did not answer within {self._seconds:g} s", []
        return Ran(self.target, b"".join(self._chunks), complaint, code)
