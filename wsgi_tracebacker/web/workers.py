"""Whose workers the page shows: those of this machine, or of other hosts. What it asks of either is the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from wsgi_tracebacker.analysis import recordings
from wsgi_tracebacker.analysis.metrics import families
from wsgi_tracebacker.errors import MemoryUnreadable, NoWorkersFound
from wsgi_tracebacker.model.recording import Recording  # noqa: TC001  (a value needs it)
from wsgi_tracebacker.reader.elsewhere import checks, metrics
from wsgi_tracebacker.reader.elsewhere import recordings as of_hosts
from wsgi_tracebacker.reader.measure import measure
from wsgi_tracebacker.reader.recording import record as recording
from wsgi_tracebacker.reader.recording.workers import Recordable
from wsgi_tracebacker.top.readings import Question
from wsgi_tracebacker.web import probes
from wsgi_tracebacker.wire import prometheus_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wsgi_tracebacker.analysis.live import WorkerReading
    from wsgi_tracebacker.model.health import Limits
    from wsgi_tracebacker.reader.elsewhere.hosts import Hosts
    from wsgi_tracebacker.top.other_hosts import HostsQuestion
    from wsgi_tracebacker.top.readings import Taken

#: Looks a second at each request that is recorded.
_RATE = 100


class Recorded(NamedTuple):
    """What was recorded, and what could not be."""

    recording: Recording
    #: A line for each worker or host that is not in it.
    missing: tuple[str, ...]


class Workers(Protocol):
    """What the page asks."""

    def ask(self) -> Taken:
        """A reading, also where there is no worker."""

    def measure(self) -> bytes:
        """The metrics."""

    def judge(self, limits: Limits, *, allows_none: bool) -> tuple[bool, str]:
        """Whether they are healthy, and a line or several that say why."""

    def record(self, seconds: float, worker: WorkerReading | None) -> Recorded:
        """Record one worker, or all.

        Raises MemoryUnreadable if no worker can be recorded, NoWorkersFound if there is none.
        """


class OfThisMachine(NamedTuple):
    """The workers behind what ``find`` finds, anew for each reading."""

    find: Callable[[], Sequence[str]]
    timeout_seconds: float

    def ask(self) -> Taken:
        return Question(self.find(), (), self.timeout_seconds).ask_again()

    def measure(self) -> bytes:
        measured = measure(self.find())
        return prometheus_text.encode(families(measured.workers, measured.missing))

    def judge(self, limits: Limits, *, allows_none: bool) -> tuple[bool, str]:
        return probes.judge(self.find(), limits, allows_none=allows_none)

    def record(self, seconds: float, worker: WorkerReading | None) -> Recorded:
        arguments = self.find() if worker is None else (worker.socket,)
        recordable = Recordable(arguments, (), seconds, _RATE)
        opened = recordable.open_new()
        missing = tuple(f"{name}: {reason}" for name, reason in opened.refused)
        if not opened.engines:
            if missing:
                raise MemoryUnreadable("; ".join(missing))
            raise NoWorkersFound("there is no worker to be recorded")
        find_new = lambda: recordable.open_new().engines  # noqa: E731  (used once)
        made = recording.record(opened.engines, recording.Totals(), seconds, _RATE, find_new=find_new)
        return Recorded(made, missing)


class OfHosts(NamedTuple):
    """The workers behind these bases on other hosts."""

    hosts: Hosts
    bases: Sequence[str]
    timeout_seconds: float
    question: HostsQuestion

    def ask(self) -> Taken:
        return self.question.ask_again()

    def measure(self) -> bytes:
        return metrics.exposition(self.hosts, self.bases, self.timeout_seconds)

    def judge(self, limits: Limits, *, allows_none: bool) -> tuple[bool, str]:
        found = checks.check(self.hosts, self.bases, limits, allows_none=allows_none)
        return all(each.is_healthy for each in found), "\n".join(each.line for each in found)

    def record(self, seconds: float, worker: WorkerReading | None) -> Recorded:
        there, bases = self.hosts, self.bases
        numbers: tuple[int, ...] = ()
        if worker is not None:
            # Its socket is that of its host, and named with it.
            target = next(each for each in there.targets if worker.socket.startswith(f"{each} "))
            socket = worker.socket.removeprefix(f"{target} ")
            there = there._replace(targets=(target,))
            bases = (socket,) if socket.startswith("/") else bases
            numbers = () if worker.number is None else (worker.number,)
        found = of_hosts.record(there, bases, numbers, seconds, _RATE)
        if not found.recordings:
            raise NoWorkersFound("; ".join(found.failures) or "there is no worker to be recorded")
        return Recorded(recordings.merge(found.recordings), found.failures)
