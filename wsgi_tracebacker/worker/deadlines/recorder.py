"""The flight recorder of one slow request: where its time went, in bounded memory.

Knows stacks as samples, and how to say "the same place" of two. Refuses to know clocks, threads and the kernel: ages,
CPU times and stacks are passed in.

A single stack at the end blames whatever line happened to run then. So a slow request's thread is sampled, and
samples in the same place are one run. The same place: the same line of the innermost frame of the application's own
code, calling the same innermost function. When there are more runs than fit, neighbours are merged, first those in
the same function, then the shortest: what is lost is detail within short stretches, never a stretch.
"""

from __future__ import annotations

import itertools
import os
import sysconfig
from typing import TYPE_CHECKING, NamedTuple

import wsgi_tracebacker
from wsgi_tracebacker.model.report import Span, Verdict
from wsgi_tracebacker.text.units import plural

if TYPE_CHECKING:
    from wsgi_tracebacker.linux.source import SourceFile
    from wsgi_tracebacker.model.snapshot import Frame
    from wsgi_tracebacker.worker.stacks.places import Places
    from wsgi_tracebacker.worker.stacks.walk import RawStack

#: Runs that are kept while a request runs, at some 500 bytes each, however long it runs.
MAX_RUNS = 48
#: Lines of a timeline: what fits on a screen beside the stack.
MAX_SPANS = 8
#: Different places that a merged run remembers.
_MAX_PLACES = 8
#: A run shorter than this share of the whole is an episode: several of them in a row in one function become one line.
_EPISODE_SHARE = 0.05

#: Fewer samples prove nothing.
_MIN_SAMPLES = 3
#: Below this share of a CPU, a thread does nothing; above that one, it is busy.
_IDLE_SHARE = 0.02
_BUSY_SHARE = 0.5
#: Runnable without a CPU for more than half the time: the machine is full, or a container's quota is used up.
_STARVED_SHARE = 0.5
#: Our own thread, which needs the GIL for a moment, waited for it so much of the time: so did everybody else.
_LATE_SHARE = 0.3


#: Ends with a slash. As the interpreter has it, which names the files of code objects in the same way: made absolute,
#: it would match none of them where the package was found by a relative path.
_PACKAGE_FOLDER = os.path.join(os.path.dirname(wsgi_tracebacker.__file__), "")


class CodeOwnership:
    """Tells an application's own code from libraries and from this package, by where its files are."""

    def __init__(self) -> None:
        try:
            paths = sysconfig.get_paths()
        except (AttributeError, ImportError, OSError):
            # It imports a module of its own at its first call, and a worker that has changed its user or its root, or
            # has no descriptor left, may not be able to read that. After such a call it fails otherwise (CPython 3.15).
            paths = {"stdlib": os.path.dirname(os.__file__)}
        folders = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib") if paths.get(name)}
        self._library_folders = (_PACKAGE_FOLDER, *(os.path.join(folder, "") for folder in folders))
        self._standard_folders = tuple(
            os.path.join(paths[name], "") for name in ("stdlib", "platstdlib") if paths.get(name)
        )
        self._known: dict[str, bool] = {}

    @staticmethod
    def is_this_package(filename: str) -> bool:
        """Whether a source file is one of ours."""
        return filename.startswith(_PACKAGE_FOLDER)

    def may_own(self, filename: str) -> bool:
        """Whether a source file may be that of an application which is installed like a library."""
        if filename.startswith("<") or self.is_this_package(filename):
            return False
        is_installed = "/site-packages/" in filename or "/dist-packages/" in filename
        return is_installed or not filename.startswith(self._standard_folders)

    def owns(self, filename: str) -> bool:
        """Whether a source file is the application's."""
        known = self._known.get(filename)
        if known is None:
            known = not (
                filename.startswith(("<", *self._library_folders))
                or "/site-packages/" in filename
                or "/dist-packages/" in filename
            )
            if len(self._known) < 10_000:
                self._known[filename] = known
        return known


class _Place(NamedTuple):
    """Where a sample stands, for people: the innermost frame of the application, and the innermost of all."""

    application: Frame | None
    innermost: Frame | None


class _Run:
    __slots__ = (
        "changes",
        "cpu_seconds",
        "delay_seconds",
        "from_seconds",
        "key",
        "late_seconds",
        "places",
        "samples",
        "to_seconds",
        "unmeasured_seconds",
    )

    def __init__(self, key: object, age: float, place: _Place) -> None:
        self.key = key
        self.from_seconds = age
        self.to_seconds = age
        self.samples = 1
        self.changes = 0
        self.cpu_seconds: float | None = 0.0
        self.delay_seconds: float | None = 0.0
        self.late_seconds = 0.0
        #: After its last sample: nobody knows what it used then.
        self.unmeasured_seconds = 0.0
        self.places: dict[_Place, int] = {place: 1}

    @property
    def seconds(self) -> float:
        return self.to_seconds - self.from_seconds

    def share(self, part: float | None) -> float | None:
        """What that is of the time; None if it is not known for most of it."""
        measured_seconds = self.seconds - self.unmeasured_seconds
        if part is None or measured_seconds <= 0.0 or measured_seconds < self.unmeasured_seconds:
            return None
        return min(1.0, part / measured_seconds)

    @property
    def function(self) -> tuple[str, str] | None:
        """The function of the application that it is in mostly."""
        frame = self.most_frequent().application
        return None if frame is None else (frame.filename, frame.function)

    def most_frequent(self) -> _Place:
        return max(self.places, key=self.places.__getitem__)

    def copy(self) -> _Run:
        run = _Run.__new__(_Run)
        for name in _Run.__slots__:
            setattr(run, name, getattr(self, name))
        run.places = dict(self.places)
        return run

    def absorb(self, later: _Run) -> None:
        """Become one run with the next."""
        self.to_seconds = later.to_seconds
        self.samples += later.samples
        self.changes += later.changes
        self.cpu_seconds = _sum(self.cpu_seconds, later.cpu_seconds)
        self.delay_seconds = _sum(self.delay_seconds, later.delay_seconds)
        self.late_seconds += later.late_seconds
        self.unmeasured_seconds += later.unmeasured_seconds
        if self.key != later.key:
            self.key = None
        for place, samples in later.places.items():
            self.places[place] = self.places.get(place, 0) + samples
        while len(self.places) > _MAX_PLACES:
            del self.places[min(self.places, key=self.places.__getitem__)]


class Recorder:
    """Samples of one request's thread, as runs."""

    def __init__(self, ownership: CodeOwnership, places: Places) -> None:
        """``places`` looks up lines; like it, a recorder is used by one thread."""
        self._ownership = ownership
        self._places = places
        self._runs: list[_Run] = []
        self._previous: RawStack = []
        self._here: tuple[object, _Place] = (None, _Place(None, None))
        self._cpu: float | None = None
        self._delay: float | None = None

    @property
    def runs(self) -> int:
        """How many runs are held."""
        return len(self._runs)

    def sample(
        self,
        age_seconds: float,
        stack: RawStack,
        cpu_seconds: float | None,
        run_delay_seconds: float | None,
        late_seconds: float = 0.0,
    ) -> None:
        """Note where the thread is.

        :param age_seconds: of the request, now.
        :param stack: innermost frame first.
        :param cpu_seconds: on a CPU since the thread began.
        :param run_delay_seconds: runnable without one since the thread began.
        :param late_seconds: how much later than planned this sample is.
        """
        changed = stack != self._previous
        if changed or not self._runs:
            # Most slow requests wait: where they stand is looked up once.
            self._here = self._where(stack, {})
            self._previous = stack
        key, place = self._here
        if self._runs:
            # The time since the last sample belongs to where the thread was then.
            run = self._runs[-1]
            run.to_seconds = age_seconds
            run.cpu_seconds = _sum(run.cpu_seconds, _difference(cpu_seconds, self._cpu))
            run.delay_seconds = _sum(run.delay_seconds, _difference(run_delay_seconds, self._delay))
            run.late_seconds += late_seconds
            if changed:
                run.changes += 1
            if run.key == key:
                run.samples += 1
                if place in run.places or len(run.places) < _MAX_PLACES:
                    run.places[place] = run.places.get(place, 0) + 1
            else:
                self._runs.append(_Run(key, age_seconds, place))
        else:
            self._runs.append(_Run(key, age_seconds, place))
        self._cpu, self._delay = cpu_seconds, run_delay_seconds
        if len(self._runs) > MAX_RUNS:
            _merge_one(self._runs)

    def end(self, age_seconds: float) -> None:
        """The request ended: its last run reaches to here."""
        if self._runs:
            run = self._runs[-1]
            run.unmeasured_seconds += max(0.0, age_seconds - run.to_seconds)
            run.to_seconds = max(age_seconds, run.to_seconds)

    def _where(self, stack: RawStack, files: dict[str, SourceFile | None]) -> tuple[object, _Place]:
        if not stack:
            return None, _Place(None, None)
        innermost = stack[0]
        application = next((raw for raw in stack if self._ownership.owns(raw[0].co_filename)), None)
        if application is None:
            # An application that is installed is among the libraries: then what is ours is what it is not.
            within = itertools.takewhile(lambda raw: not self._ownership.is_this_package(raw[0].co_filename), stack)
            application = next((raw for raw in within if self._ownership.may_own(raw[0].co_filename)), None)
        innermost_frame = self._places.place(*innermost, files).frame
        if application is None:
            return (id(innermost[0]), innermost_frame.lineno), _Place(None, innermost_frame)
        frame = self._places.place(*application, files).frame
        if application is innermost:
            return (id(application[0]), frame.lineno), _Place(frame, None)
        return (id(application[0]), frame.lineno, id(innermost[0])), _Place(frame, innermost_frame)

    def standing(self) -> object:
        """Where the thread stood at the last sample: the application's calls, and the line of the innermost."""
        calls = [code for code, _ in self._previous if self._ownership.owns(code.co_filename)]
        _, place = self._here
        frame = place.application or place.innermost
        # Only its own calls: how deep a library is in something is another every time.
        return tuple((code.co_filename, code.co_name) for code in calls), frame and (frame.filename, frame.lineno)

    def timeline(self) -> tuple[Span, ...]:
        """The stretches so far, in a number that people can read."""
        return tuple(_span(run) for run in self._merged())

    def verdict(self) -> Verdict:
        """What the last stretch proves."""
        runs = self._merged()
        if not runs:
            return Verdict("unknown", "no sample was taken")
        # A stretch of a moment is no ground for a verdict: take the ones before it too.
        last = runs.pop()
        while runs and last.samples < _MIN_SAMPLES:
            earlier = runs.pop()
            earlier.absorb(last)
            last = earlier
        return _verdict(last)

    def _merged(self) -> list[_Run]:
        runs = [run.copy() for run in self._runs]
        whole = sum(run.seconds for run in runs)
        merged: list[_Run] = []
        for run in runs:
            before = merged[-1] if merged else None
            if (
                before is not None
                and run.seconds < whole * _EPISODE_SHARE
                and (before.key is None or before.seconds < whole * _EPISODE_SHARE)
                and run.function == before.function
            ):
                before.absorb(run)
                before.key = None
            else:
                merged.append(run)
        while len(merged) > MAX_SPANS:
            _merge_one(merged)
        return merged


def _merge_one(runs: list[_Run]) -> None:
    """Merge the two neighbours by whose union the least is lost."""

    def loss(index: int) -> tuple[bool, float]:
        one, other = runs[index], runs[index + 1]
        return one.function != other.function, one.seconds + other.seconds

    index = min(range(len(runs) - 1), key=loss)
    runs[index].absorb(runs.pop(index + 1))


def _span(run: _Run) -> Span:
    place = run.most_frequent()
    return Span(
        from_seconds=run.from_seconds,
        to_seconds=run.to_seconds,
        application=place.application,
        innermost=place.innermost,
        samples=run.samples,
        changes=run.changes,
        places=len(run.places),
        cpu_share=run.share(run.cpu_seconds),
        run_delay_share=run.share(run.delay_seconds),
    )


def _verdict(run: _Run) -> Verdict:
    cpu = run.share(run.cpu_seconds)
    delay = run.share(run.delay_seconds)
    late = run.share(run.late_seconds)
    since = f"since {run.from_seconds:.1f} s"
    if run.samples < _MIN_SAMPLES or not run.seconds:
        return Verdict("unknown", f"only {plural(run.samples, 'sample')} {since}")
    if delay is not None and delay >= _STARVED_SHARE:
        return Verdict("starved", f"runnable but without a CPU {delay:.0%} of the time {since}")
    if cpu is not None and cpu >= _BUSY_SHARE:
        place = run.most_frequent()
        frame = place.application or place.innermost
        where = f" within {frame.function}" if frame is not None else ""
        return Verdict("busy", f"{cpu:.0%} CPU {since}, {'moving' if run.changes else 'in one place'}{where}")
    if not run.changes and cpu is not None and cpu < _IDLE_SHARE:
        return Verdict("frozen", f"the same stack and no CPU {since}")
    if late is not None and late >= _LATE_SHARE:
        return Verdict(
            "starved", f"Python itself was busy elsewhere: the GIL was waited for {late:.0%} of the time {since}"
        )
    if run.changes:
        times = plural(run.changes, "time")
        return Verdict("progressing", f"the stack changed {times} in {run.samples} samples {since}")
    if cpu is None:
        return Verdict("unknown", f"the same stack {since}, and its CPU time is not known")
    return Verdict("unknown", f"the same stack and {cpu:.0%} CPU {since}")


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


def _difference(now: float | None, before: float | None) -> float | None:
    return None if now is None or before is None else max(0.0, now - before)
