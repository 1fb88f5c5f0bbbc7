"""Follows the workers of other hosts: one reading after the other, over connections that are kept."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.model.reading import Document, Unanswered
from wsgi_tracebacker.reader.elsewhere import hosts
from wsgi_tracebacker.reader.elsewhere.gathered import gather, printed
from wsgi_tracebacker.reader.elsewhere.streams import LIFE_SECONDS, Streams
from wsgi_tracebacker.wire.documents import reading_json

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from wsgi_tracebacker.reader.elsewhere.gathered import Gathered
    from wsgi_tracebacker.reader.elsewhere.hosts import Hosts
    from wsgi_tracebacker.reader.elsewhere.streams import Latest

#: A host is behind if its last reading is older than so many intervals, and than so many seconds.
_BEHIND_INTERVALS = 3
_BEHIND_SECONDS = 3.0
#: What it served longer ago than this is not shown.
_FORGOTTEN_SECONDS = 30.0

#: What each document of nobody is.
_NONE = Document((), ())


class Followed:
    """The workers behind these bases on each host. Stop it in the end."""

    def __init__(
        self,
        there: Hosts,
        bases: Sequence[str],
        numbers: Collection[int],
        timeout_seconds: float,
        every_seconds: float,
    ) -> None:
        # No worker is signalled, as by the views of this machine.
        words = ["read", "--format", "json", "--no-signal", "--timeout", f"{timeout_seconds:.3f}"]
        words += ["--every", f"{every_seconds:.3f}", "--for", str(LIFE_SECONDS)]
        words += ["--percent-encoded", *map(hosts.encode, bases)]
        self._there = there
        self._numbers = numbers
        self._every_seconds = every_seconds
        self._streams = Streams(there, words)
        self._known: dict[str, Latest] = {}
        self._documents: dict[str, Document] = {}

    def gather(self) -> Gathered:
        """The last reading of each host. The first time it waits until each has answered or failed.

        Raises NoWorkersFound if no host has a worker.
        """
        latest = self._streams.ask(self._known, self._every_seconds if self._known else self._there.seconds)
        for target, each in latest.items():
            if each.line and (target not in self._known or self._known[target].at != each.at):
                self._documents[target] = _decoded(each.line, target)
        self._known = latest
        now = time.monotonic()
        return gather((self._document(target, now) for target in self._there.targets), self._numbers)

    def stop(self) -> None:
        self._streams.stop()

    def _document(self, target: str, now: float) -> Document:
        latest = self._known.get(target)
        if latest is None:
            return Document((), (Unanswered(host=target, message="it has not answered yet"),))
        if not latest.line:
            return _NONE if latest.failure is None else printed(latest.failure)
        document, age = self._documents[target], now - latest.at
        if age <= max(_BEHIND_SECONDS, _BEHIND_INTERVALS * self._every_seconds):
            return document
        why = "" if latest.failure is None or not latest.failure.complaint else f": {latest.failure.complaint}"
        behind = Unanswered(reason="behind", host=target, message=f"its last reading is {age:.0f} s old{why}")
        workers = document.workers if age <= _FORGOTTEN_SECONDS else ()
        return Document(workers, (*document.unanswered, behind))


def _decoded(line: bytes, target: str) -> Document:
    try:
        return reading_json.decode(line, target)
    except FormatError as error:
        return Document((), (Unanswered(reason="bad reply", host=target, message=str(error)),))
