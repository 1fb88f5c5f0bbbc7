"""Record where the time of one slow request goes: a flight recorder, in bounded memory.

Ages, CPU times and stacks are passed in.

A single stack at the end blames whatever line happens to run then. So the thread of a slow request is sampled, and
successive samples in the same place are one run. The same place: the same line of the innermost frame of the
application's own code, calling the same innermost function. When there are more runs than fit, neighbours are merged:
first those in the same function, then the shortest. So details within short runs get lost, but no time does.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.model.report import Span, Verdict
from wsgi_tracebacker.text.units import plural

if TYPE_CHECKING:
    from wsgi_tracebacker.linux.source import SourceFile
    from wsgi_tracebacker.model.code_ownership import CodeOwnership
    from wsgi_tracebacker.model.snapshot import Frame
    from wsgi_tracebacker.model.waits import WaitsFor
    from wsgi_tracebacker.worker.stacks.places import Places
    from wsgi_tracebacker.worker.stacks.walk import RawStack

#: Runs that are kept while a request runs, at some 500 bytes each, however long it runs.
MAX_RUNS = 48
#: Lines of a timeline: what fits on a screen beside the stack.
MAX_SPANS = 8
#: Different places that a merged run keeps.
_MAX_PLACES = 8
#: A run shorter than this share of the whole is an episode: successive ones in the same function become one line.
_EPISODE_SHARE = 0.05

#: Fewer samples prove nothing.
_MIN_SAMPLES = 3
#: Below this share of a CPU, a thread is idle.
_IDLE_SHARE = 0.02
#: From this share of a CPU on, a thread is busy.
_BUSY_SHARE = 0.5
#: Runnable without a CPU for this share of the time: the machine is overloaded, or a container's quota is used up.
_STARVED_SHARE = 0.5
#: If the watchdog, which needs the GIL for a moment only, waited for it this share of the time, so did other threads.
_LATE_SHARE = 0.3


#: The verdicts that are given only if nothing better explains them.
_WAITS_INSTEAD = ("frozen", "starved", "unknown")


#: What the request waits for is asked when it has been in one place for so long: before, it may be anything else by the
#: time that the answer is there. Then again after twice that time, and so on.
_ASK_SECONDS = 0.5
#: So often it is asked before that time doubles while nothing is known: what sleeps in short naps, as SQLite does for a
#: lock, may be awake whenever it is looked at.
_ASKS = 8


class _Place(NamedTuple):
    """Frames of a stack: the application's innermost one, the one that it called, and the innermost of all."""

    application: Frame | None
    #: None where the application called none.
    call: Frame | None
    #: None where it is the application's.
    innermost: Frame | None


_NO_PLACE = _Place(None, None, None)


@dataclasses.dataclass(slots=True, eq=False)
class _Run:
    """Successive samples in the same place, or in several places after a merge."""

    #: Identifies the place; None after a merge.
    key: object
    from_seconds: float
    to_seconds: float
    #: Samples by place, of at most _MAX_PLACES.
    places: dict[_Place, int]
    samples: int = 1
    #: How often two samples in a row had different stacks.
    changes: int = 0
    #: None where /proc does not have them.
    cpu_seconds: float | None = 0.0
    delay_seconds: float | None = 0.0
    late_seconds: float = 0.0
    #: After its last sample, without knowledge of the CPU time.
    unmeasured_seconds: float = 0.0
    #: What the request waited for, by place.
    waits: dict[_Place, str] = dataclasses.field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return self.to_seconds - self.from_seconds

    def share(self, part: float | None) -> float | None:
        """The share of the time that ``part`` is; None if less than half of the time was measured."""
        measured_seconds = self.seconds - self.unmeasured_seconds
        if part is None or measured_seconds <= 0.0 or measured_seconds < self.unmeasured_seconds:
            return None
        return min(1.0, part / measured_seconds)

    @property
    def function(self) -> tuple[str, str] | None:
        """The function of the application that most samples are in."""
        frame = self.most_frequent().application
        return None if frame is None else (frame.filename, frame.function)

    def most_frequent(self) -> _Place:
        return max(self.places, key=self.places.__getitem__)

    def count(self, place: _Place) -> None:
        """Count one more sample."""
        self.samples += 1
        if place in self.places or len(self.places) < _MAX_PLACES:
            self.places[place] = self.places.get(place, 0) + 1

    def absorb(self, later: _Run) -> None:
        """Become one run with the next."""
        self.key = None
        self.to_seconds = later.to_seconds
        self.samples += later.samples
        self.changes += later.changes
        self.cpu_seconds = _sum(self.cpu_seconds, later.cpu_seconds)
        self.delay_seconds = _sum(self.delay_seconds, later.delay_seconds)
        self.late_seconds += later.late_seconds
        self.unmeasured_seconds += later.unmeasured_seconds
        for place, samples in later.places.items():
            self.places[place] = self.places.get(place, 0) + samples
        self.waits = {**self.waits, **later.waits}
        while len(self.places) > _MAX_PLACES:
            rarest = min(self.places, key=self.places.__getitem__)
            del self.places[rarest]
            self.waits.pop(rarest, None)


class Recorder:
    """The samples of one request's thread, as runs. Used by one thread."""

    def __init__(self, places: Places, ownership: CodeOwnership) -> None:
        self._places = places
        self._ownership = ownership
        self._runs: list[_Run] = []
        #: Of the last sample.
        self._stack: RawStack = []
        self._key: object = None
        self._place = _NO_PLACE
        self._cpu: float | None = None
        self._delay: float | None = None
        #: The age at which to ask what the request waits for, and how long after the beginning of the run that is.
        self._ask_at = self._ask_after_seconds = 0.0
        #: How often it was asked in this run without an answer.
        self._asked_in_vain = 0

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
        """Add a sample of the thread.

        :param age_seconds: of the request, now.
        :param stack: innermost frame first.
        :param cpu_seconds: on a CPU since the thread began.
        :param run_delay_seconds: runnable without one since the thread began.
        :param late_seconds: how much later than planned this sample is.
        """
        has_changed = stack != self._stack
        if has_changed or not self._runs:
            # Most slow requests wait, so most samples need no search.
            self._key, self._place = self._find_place(stack)
            self._stack = stack
        run = self._runs[-1] if self._runs else None
        if run is not None:
            # The time since the last sample belongs to the place of that sample.
            run.to_seconds = age_seconds
            run.cpu_seconds = _sum(run.cpu_seconds, _difference(cpu_seconds, self._cpu))
            run.delay_seconds = _sum(run.delay_seconds, _difference(run_delay_seconds, self._delay))
            run.late_seconds += late_seconds
            run.changes += has_changed
        self._cpu, self._delay = cpu_seconds, run_delay_seconds
        if run is not None and run.key == self._key:
            run.count(self._place)
            return
        self._runs.append(_Run(self._key, age_seconds, age_seconds, {self._place: 1}))
        self._ask_after_seconds = _ASK_SECONDS
        self._ask_at = age_seconds + _ASK_SECONDS
        self._asked_in_vain = 0
        if len(self._runs) > MAX_RUNS:
            _merge_one(self._runs)

    def wants_wait(self) -> bool:
        """Whether the request has been in one place for so long that it is time to ask what it waits for."""
        return bool(self._runs) and self._runs[-1].to_seconds >= self._ask_at

    def add_wait(self, waits_for: str | None) -> None:
        """What the request waits for at the last sample; None if that is not known."""
        if not self._runs:
            return
        if waits_for is not None:
            self._runs[-1].waits[self._place] = waits_for
        else:
            self._asked_in_vain += 1
        if waits_for is not None or self._asked_in_vain >= _ASKS:
            self._ask_after_seconds *= 2
        self._ask_at = self._runs[-1].to_seconds + self._ask_after_seconds

    def verdict_kind(self) -> str:
        """The kind of the verdict where no report is made, by what is known of its last place already."""
        kind = self._of_last_stretch().kind
        is_wait_known = bool(self._runs) and self._place in self._runs[-1].waits
        return "waiting" if is_wait_known and kind in _WAITS_INSTEAD else kind

    def change_thread(self) -> None:
        """The next sample is of another thread: the CPU time until then is not known."""
        self._cpu = self._delay = None

    def end(self, age_seconds: float) -> None:
        """Extend the last run to the end of the request."""
        if self._runs:
            run = self._runs[-1]
            run.unmeasured_seconds += max(0.0, age_seconds - run.to_seconds)
            run.to_seconds = max(age_seconds, run.to_seconds)

    def _find_place(self, stack: RawStack) -> tuple[object, _Place]:
        """The place of a stack, and the key that tells it from others."""
        if not stack:
            return None, _NO_PLACE
        files: dict[str, SourceFile | None] = {}
        innermost = stack[0]
        index = self._ownership.innermost(code.co_filename for code, _ in stack)
        application = None if index is None else stack[index]
        innermost_frame = self._places.place(*innermost, files).frame
        if index is None or application is None:
            return (id(innermost[0]), innermost_frame.lineno), _Place(None, None, innermost_frame)
        frame = self._places.place(*application, files).frame
        if application is innermost:
            return (id(application[0]), frame.lineno), _Place(frame, None, None)
        call = self._places.place(*stack[index - 1], files).frame
        return (id(application[0]), frame.lineno, id(innermost[0])), _Place(frame, call, innermost_frame)

    def application_calls(self) -> object:
        """The application's calls at the last sample with the line of the innermost; equal for equal places.

        Without the calls of libraries: how deep a library is in something differs each time.
        """
        calls = [code for code, _ in self._stack if self._ownership.is_own(code.co_filename)]
        frame = self._place.application or self._place.innermost
        return tuple((code.co_filename, code.co_name) for code in calls), frame and (frame.filename, frame.lineno)

    def timeline(self) -> tuple[Span, ...]:
        """The stretches so far, at most MAX_SPANS."""
        return tuple(_span(run) for run in self._merged())

    def verdict(self, waits_for: WaitsFor | None = None) -> Verdict:
        """What the last stretch proves. ``waits_for``: what the request waits for, if that is known."""
        verdict = self._of_last_stretch()
        if waits_for is None or waits_for.kind == "garbage" or verdict.kind not in _WAITS_INSTEAD:
            return verdict
        if waits_for.kind == "client_gone" and verdict.kind == "starved":
            # It would run, though for nobody.
            return verdict
        if waits_for.kind == "repeated_statement":
            # Each new call has the same stack.
            return Verdict("progressing", waits_for.sentence)
        return Verdict("waiting", verdict.explanation if verdict.kind == "frozen" else waits_for.sentence)

    def _of_last_stretch(self) -> Verdict:
        runs = self._merged()
        if not runs:
            return Verdict("unknown", "no sample was taken")
        # A stretch of few samples proves nothing: take the ones before it too.
        last = runs.pop()
        while runs and last.samples < _MIN_SAMPLES:
            earlier = runs.pop()
            earlier.absorb(last)
            last = earlier
        return _verdict(last)

    def _merged(self) -> list[_Run]:
        """Copies of the runs, episodes merged, and then as few as fit a timeline."""
        episode_seconds = sum(run.seconds for run in self._runs) * _EPISODE_SHARE
        merged: list[_Run] = []
        for original in self._runs:
            run = dataclasses.replace(original, places=dict(original.places), waits=dict(original.waits))
            before = merged[-1] if merged else None
            if (
                before is not None
                and run.seconds < episode_seconds
                and (before.key is None or before.seconds < episode_seconds)
                and run.function == before.function
            ):
                before.absorb(run)
            else:
                merged.append(run)
        while len(merged) > MAX_SPANS:
            _merge_one(merged)
        return merged


def _merge_one(runs: list[_Run]) -> None:
    """Merge the two neighbours by whose union the least detail is lost."""

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
        call=place.call,
        waits_for=run.waits.get(place),
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
    if run.places.keys() == {_NO_PLACE}:
        return Verdict("unknown", f"no stack was seen {since}")
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
