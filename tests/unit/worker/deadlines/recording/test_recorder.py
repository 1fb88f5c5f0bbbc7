"""The flight recorder is bounded, has no gaps, and gives a verdict for each way to lose time."""

from __future__ import annotations

import itertools
import os
import re
from types import CodeType
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wsgi_tracebacker
from wsgi_tracebacker.model.code_ownership import CodeOwnership
from wsgi_tracebacker.model.report import Verdict
from wsgi_tracebacker.model.waits import WaitsFor
from wsgi_tracebacker.text.report import span_line
from wsgi_tracebacker.worker.deadlines.recording.recorder import MAX_RUNS, MAX_SPANS, Recorder
from wsgi_tracebacker.worker.stacks import places

if TYPE_CHECKING:
    from wsgi_tracebacker.worker.stacks.walk import RawStack

#: Code of an application and of a library, each with some lines.
SOURCE = "def {name}():\n" + "    pass\n" * 30


def code(name: str, filename: str) -> CodeType:
    namespace: dict[str, object] = {}
    exec(compile(SOURCE.format(name=name), filename, "exec"), namespace)
    found = namespace[name].__code__  # type: ignore[attr-defined]
    assert isinstance(found, CodeType)
    return found


OWN = [code(name, f"/srv/shop/{name}.py") for name in ("load_rows", "render", "answer")]
LIBRARY = [code(name, f"/usr/lib/python3/dist-packages/{name}.py") for name in ("execute", "iterencode")]


class Where(NamedTuple):
    """Where a thread is, without instructions and source files."""

    own: int
    library: int | None

    @property
    def stack(self) -> RawStack:
        own = (OWN[self.own], 0)
        return [own] if self.library is None else [(LIBRARY[self.library], 0), own]


def recorder() -> Recorder:
    return Recorder(places.Places(None), CodeOwnership())


def record(
    samples: int,
    *,
    where: list[Where] | None = None,
    cpu: float | None = 0.0,
    delay: float | None = 0.0,
    late: float = 0.0,
    interval: float = 0.1,
) -> Recorder:
    """Samples at regular times; CPU, run delay and lateness as shares of the time."""
    made = recorder()
    places = where or [Where(0, 0)]
    for number in range(samples):
        made.sample(
            number * interval,
            places[number % len(places)].stack,
            None if cpu is None else number * interval * cpu,
            None if delay is None else number * interval * delay,
            late * interval if number else 0.0,
        )
    return made


MOVING = [Where(0, 0), Where(1, 1), Where(2, None)]


def test_a_known_wait_explains_what_nothing_else_does() -> None:
    """A request that waits for something named is not frozen, and one sample is enough then; a busy one is busy."""
    sleeps = WaitsFor("sleep", "sleeps")
    assert record(20).verdict(sleeps).kind == "waiting"
    assert record(1).verdict(sleeps) == Verdict("waiting", "sleeps")
    assert record(1).verdict().kind == "unknown"
    assert record(20, cpu=0.9).verdict(sleeps).kind == "busy"


def test_a_request_that_runs_a_statement_again_and_again_is_not_frozen() -> None:
    """Each call of it has the same stack."""
    assert record(20).verdict(WaitsFor("repeated_statement", "again")) == Verdict("progressing", "again")


def test_a_request_without_a_client_that_wants_a_cpu_does_not_wait_for_the_client() -> None:
    """It would run if it had one; one that stands still is not called frozen, because nobody waits for it."""
    gone = WaitsFor("client_gone", "the client 203.0.113.7 has gone")
    assert record(20, cpu=0.2, delay=0.7).verdict(gone).kind == "starved"
    assert record(20).verdict(gone).kind == "waiting"


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        (record(20), "frozen"),
        (record(20, late=0.9), "frozen"),
        (record(20, cpu=0.98), "busy"),
        (record(20, cpu=0.98, where=MOVING), "busy"),
        (record(20, cpu=0.05, where=MOVING), "progressing"),
        (record(20, cpu=0.0, where=MOVING), "progressing"),
        (record(20, cpu=0.2, delay=0.7), "starved"),
        (record(20, cpu=0.0, delay=0.9, where=MOVING), "starved"),
        (record(20, cpu=0.1, late=0.5), "starved"),
        (record(20, cpu=0.1, late=0.5, where=MOVING), "starved"),
        (record(20, cpu=0.1), "unknown"),
        (record(20, cpu=None, delay=None), "unknown"),
        (record(20, cpu=None, delay=None, where=MOVING), "progressing"),
        (record(2), "unknown"),
        (record(1), "unknown"),
        (record(0), "unknown"),
        (record(20, interval=0.0), "unknown"),
    ],
)
def test_verdict(made: Recorder, kind: str) -> None:
    """It is what the samples prove, and unknown where they prove nothing."""
    verdict = made.verdict()
    assert verdict.kind == kind, verdict
    assert verdict.explanation


def test_the_verdict_is_on_the_last_stretch() -> None:
    """A request that computed for two seconds and has waited since then is frozen, not busy."""
    made = recorder()
    for number in range(40):
        busy = min(number, 20) * 0.1
        made.sample(number * 0.1, Where(0 if number < 20 else 1, 0).stack, busy, 0.0)
    assert made.verdict().kind == "frozen"
    assert "since 2.0 s" in made.verdict().explanation
    first, last = made.timeline()
    assert (first.from_seconds, first.to_seconds, last.from_seconds) == (0.0, 2.0, 2.0)
    assert (first.cpu_share, last.cpu_share) == (1.0, 0.0)
    assert first.application is not None
    assert first.innermost is not None
    assert (first.application.function, first.innermost.function) == ("load_rows", "execute")


def test_a_timeline_names_the_line_that_took_the_time() -> None:
    """A single last stack would blame answer(); nearly all of the time went into load_rows()."""
    made = recorder()
    for number in range(100):
        made.sample(number * 0.1, Where(0 if number < 98 else 2, 0).stack, 0.0, 0.0)
    longest = max(made.timeline(), key=lambda span: span.to_seconds - span.from_seconds)
    assert (longest.from_seconds, round(longest.to_seconds, 3)) == (0.0, 9.8)
    assert re.search(r"s  shop/load_rows\.py:\d load_rows . dist-packages/execute\.py", span_line(longest))
    assert "(waiting)" in span_line(longest)


def test_an_installed_application_has_its_lines_too() -> None:
    """It is among the libraries: then it is the innermost call within the middleware that is not the interpreter's."""
    view = code("view", "/usr/lib/python3/site-packages/shop/views.py")
    wait = code("wait", os.path.join(os.path.dirname(os.__file__), "threading.py"))
    middleware = code("call", os.path.join(os.path.dirname(wsgi_tracebacker.__file__), "middleware.py"))
    server = code("handle", "/usr/lib/python3/site-packages/gunicorn/gthread.py")
    made = recorder()
    stack = [(wait, 0), (view, 0), (middleware, 0), (server, 0)]
    for age in (1.0, 1.1, 1.2):
        made.sample(age, list(stack), 0.0, 0.0)
    [span] = made.timeline()
    assert span.application is not None
    assert span.application.function == "view"
    assert span.innermost is not None
    assert span.innermost.function == "wait"


def test_the_call_into_the_library_is_shown_and_not_what_that_calls() -> None:
    """A condition, or the reading of a socket, says nothing; the innermost call stays in the record."""
    made = recorder()
    for age in (1.0, 1.1, 1.2):
        made.sample(age, [(LIBRARY[1], 0), (LIBRARY[0], 0), (OWN[0], 0), (OWN[1], 0)], 0.0, 0.0)
    [span] = made.timeline()
    assert [frame and frame.function for frame in (span.application, span.call, span.innermost)] == [
        *("load_rows", "execute", "iterencode")
    ]
    assert "load_rows > dist-packages/execute.py" in span_line(span)
    assert "iterencode" not in span_line(span)


def test_what_a_request_waits_for_is_asked_where_it_stays() -> None:
    """After half a second in one place, then more and more rarely; each stretch has its own answer."""
    made = recorder()
    asked: list[float] = []
    for tenths in range(60):
        where = Where(0, 0) if tenths < 40 else Where(1, 1)
        made.sample(tenths / 10, where.stack, 0.0, 0.0)
        if made.wants_wait():
            asked.append(tenths / 10)
            made.add_wait("resolves bank" if tenths < 40 else None if tenths < 50 else "sleeps")
    assert asked == [0.5, 1.5, 3.5, 4.5, 5.0]
    assert [span.waits_for for span in made.timeline()] == ["resolves bank", "sleeps"]
    assert span_line(made.timeline()[1]).endswith("(waiting)  sleeps")


def test_a_request_that_naps_is_asked_until_it_is_caught_asleep() -> None:
    """SQLite waits for a lock in naps: every half second while nothing is known, and more rarely after eight times."""
    made = recorder()
    asked: list[float] = []
    for tenths in range(80):
        made.sample(tenths / 10, Where(0, 0).stack, 0.0, 0.0)
        if made.wants_wait():
            asked.append(tenths / 10)
            made.add_wait(None)
    assert asked == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 7.0]


def test_a_request_that_ended_reaches_to_its_end() -> None:
    """The time after the last sample belongs to where it was then."""
    made = record(3)
    made.end(5.0)
    assert made.timeline()[-1].to_seconds == 5.0
    made.end(1.0)
    assert made.timeline()[-1].to_seconds == 5.0


@pytest.mark.parametrize(
    ("samples", "ended_seconds", "doing"),
    [(1, 5.0, "CPU unknown"), (4, 5.0, "CPU unknown"), (4, 0.35, "CPU 98%"), (40, 5.0, "CPU 98%")],
)
def test_what_came_after_the_last_sample_is_not_said_to_wait(samples: int, ended_seconds: float, doing: str) -> None:
    """A C call that keeps the GIL until the end burns a CPU that nobody measured; a moment changes nothing."""
    made = record(samples, cpu=0.98)
    made.end(ended_seconds)
    [span] = made.timeline()
    assert span.to_seconds == ended_seconds
    assert span_line(span).endswith(f"({doing})")
    if span.cpu_share is None:
        assert made.verdict().kind == "unknown"


def test_a_measured_stretch_keeps_its_share_beside_one_that_is_not() -> None:
    """Each stretch is known or unknown for itself, and what becomes one of both is known if most of it is."""
    made = record(20, cpu=0.98)
    made.sample(2.0, Where(2, None).stack, 2.0 * 0.98, 0.0)
    made.end(5.0)
    assert [span_line(span).rpartition("  ")[2] for span in made.timeline()] == ["(CPU 98%)", "(CPU unknown)"]
    made = record(40, cpu=0.98, where=[Where(0, 0), Where(0, 1)])
    made.end(4.0)
    assert [span_line(span).rpartition("  ")[2] for span in made.timeline()] == ["(CPU 98%)"]


def test_no_python_code_is_a_place_too() -> None:
    """A thread without a frame is said to have none."""
    made = recorder()
    for number in range(5):
        made.sample(number * 0.1, [], 0.0, 0.0)
    [span] = made.timeline()
    assert (span.application, span.innermost) == (None, None)
    assert "(no stack)" in span_line(span)


WHERE = st.builds(Where, st.integers(0, 2), st.one_of(st.none(), st.integers(0, 1)))
SAMPLES = st.lists(
    st.tuples(
        st.floats(0.0, 3.0),
        st.one_of(WHERE.map(lambda where: where.stack), st.just([])),
        st.one_of(st.none(), st.floats(0, 1e6)),
        st.one_of(st.none(), st.floats(0, 1e6)),
        st.floats(0.0, 5.0),
    ),
    max_size=200,
)


@settings(max_examples=60 if settings().max_examples == 100 else settings().max_examples)
@given(SAMPLES)
def test_the_laws(
    samples: list[tuple[float, RawStack, float | None, float | None, float]],
) -> None:
    """Whatever is fed in: memory is bounded, stretches touch and cover all, shares are shares, nothing is lost."""
    made = recorder()
    age = 0.0
    ages = []
    for pause, stack, cpu, delay, late in samples:
        age += pause
        ages.append(age)
        made.sample(age, stack, cpu, delay, late)
        assert made.runs <= MAX_RUNS
    spans = made.timeline()
    assert len(spans) <= MAX_SPANS
    assert made.verdict().kind in ("frozen", "busy", "progressing", "starved", "unknown")
    if not samples:
        assert spans == ()
        return
    assert spans[0].from_seconds == ages[0]
    assert spans[-1].to_seconds == ages[-1]
    for one, other in itertools.pairwise(spans):
        assert one.to_seconds == other.from_seconds
    assert sum(span.samples for span in spans) == len(samples)
    for span in spans:
        assert span.from_seconds <= span.to_seconds
        assert span.places >= 1
        for share in (span.cpu_share, span.run_delay_share):
            assert share is None or 0.0 <= share <= 1.0
    # A report changes nothing.
    assert made.timeline() == spans


def test_memory_is_bounded_however_long_it_runs() -> None:
    """Never twice in a row in the same place."""
    made = recorder()
    for number in range(5_000):
        made.sample(number * 0.1, MOVING[number % 3].stack, number * 0.01, 0.0)
    assert made.runs <= MAX_RUNS
    assert all(len(run.places) <= 8 for run in made._runs)
    assert len(made.timeline()) <= MAX_SPANS
