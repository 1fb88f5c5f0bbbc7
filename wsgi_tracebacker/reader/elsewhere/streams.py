"""Keeps a connection to each host, over which a reading comes every second or so, a line each.

On each host a program of ours runs for a minute and is then started anew, so that none is left behind where a
connection breaks unseen. Nothing runs while nobody asks.
"""

from __future__ import annotations

import selectors
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.reader.elsewhere.hosts import Process, Ran, cannot_start

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsgi_tracebacker.reader.elsewhere.hosts import Hosts

#: How long the program on a host lives.
LIFE_SECONDS = 60
#: A host is tried again so long after it has failed, or has begun if it ended well.
_RETRY_SECONDS = 3.0
_LEAST_SECONDS = 1.0
#: After so long without a question nothing is kept running.
UNASKED_SECONDS = 15.0
#: How often the thread looks whether it shall end, or start a program.
_TICK_SECONDS = 0.2


class Latest(NamedTuple):
    """What a host sent last."""

    #: The line; empty if none has come.
    line: bytes = b""
    #: When it came (monotonic).
    at: float = 0.0
    #: How its last program failed; None if that has sent a line, or has not ended.
    failure: Ran | None = None


class Streams:
    """The connections. Stop them in the end."""

    def __init__(self, hosts: Hosts, arguments: Sequence[str], unasked_seconds: float = UNASKED_SECONDS) -> None:
        """The programs are started by the first question.

        :param arguments: the words of a command that prints lines, and ends by itself after LIFE_SECONDS.
        :param unasked_seconds: how long after the last question the programs are ended.
        """
        self._hosts = hosts
        self._unasked_seconds = unasked_seconds
        self._arguments = arguments
        self._changed = threading.Condition()
        self._latest: dict[str, Latest] = {}
        self._asked_at = 0.0
        self._thread: threading.Thread | None = None
        self._is_stopped = False

    def ask(self, known: dict[str, Latest], patience_seconds: float) -> dict[str, Latest]:
        """What each host sent last; one of which nothing is known yet is left out.

        It waits until each host has sent another line than the one that is known of it, but only so long.
        """
        with self._changed:
            self._asked_at = time.monotonic()
            if self._thread is None and not self._is_stopped:
                self._latest = {}
                self._thread = threading.Thread(target=self._run, name="wsgi-tb hosts", daemon=True)
                self._thread.start()
            targets = self._hosts.targets

            def is_news(target: str) -> bool:
                now, before = self._latest.get(target), known.get(target)
                return now is not None and (before is None or now.at != before.at or now.failure is not None)

            self._changed.wait_for(lambda: self._is_stopped or all(map(is_news, targets)), patience_seconds)
            return {target: self._latest[target] for target in targets if target in self._latest}

    def stop(self) -> None:
        """End all programs, and wait until they have ended."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        running: dict[str, _Stream] = {}
        due = dict.fromkeys(self._hosts.targets, 0.0)
        with selectors.DefaultSelector() as selector:
            try:
                while self._is_wanted():
                    now = time.monotonic()
                    connecting = sum(stream.lines == 0 for stream in running.values())
                    waiting = [target for target in due if target not in running and due[target] <= now]
                    for target in waiting[: max(0, self._hosts.at_once - connecting)]:
                        try:
                            running[target] = _Stream(self, target, self._hosts, self._arguments, selector)
                        except (OSError, ValueError) as error:
                            due[target] = now + _RETRY_SECONDS
                            self.note_failure(cannot_start(self._hosts, target, error))
                    for key, _ in selector.select(_TICK_SECONDS):
                        key.data()
                    now = time.monotonic()
                    for stream in [each for each in running.values() if each.is_over(now)]:
                        del running[stream.target]
                        ran = stream.end()
                        has_lived = stream.lines and ran.exit_code == 0
                        due[stream.target] = stream.began + _LEAST_SECONDS if has_lived else now + _RETRY_SECONDS
                        if not has_lived:
                            self.note_failure(ran)
            finally:
                for stream in running.values():
                    stream.end()

    def _is_wanted(self) -> bool:
        with self._changed:
            wanted = not self._is_stopped and time.monotonic() < self._asked_at + self._unasked_seconds
            if not wanted:
                # Under the lock, so that whoever asks from now on starts another one.
                self._thread = None
            return wanted

    def note_line(self, target: str, line: bytes) -> None:
        with self._changed:
            self._latest[target] = Latest(line, time.monotonic())
            self._changed.notify_all()

    def note_failure(self, ran: Ran) -> None:
        with self._changed:
            self._latest[ran.target] = self._latest.get(ran.target, Latest())._replace(failure=ran)
            self._changed.notify_all()


class _Stream(Process):
    """The program on one host: only its latest line is kept, and it has its time for each."""

    def __init__(
        self,
        streams: Streams,
        target: str,
        hosts: Hosts,
        arguments: Sequence[str],
        selector: selectors.BaseSelector,
    ) -> None:
        super().__init__(target, hosts.words(target, arguments), hosts.seconds, selector)
        self._streams = streams
        self._line_seconds = hosts.seconds
        self.began = time.monotonic()
        self.lines = 0

    def take(self, chunk: bytes) -> None:
        *lines, rest = chunk.split(b"\n")
        if lines:
            super().take(lines[0])
            lines[0] = self.taken()
            self.lines += len(lines)
            self.deadline = time.monotonic() + self._line_seconds
            self._streams.note_line(self.target, lines[-1])
        super().take(rest)
