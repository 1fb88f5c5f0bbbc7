"""How readings are taken: what workers are called, and when the next one is due."""

from __future__ import annotations

import threading

import pytest

from tests.support.waiting import wait_until
from tests.unit.top.readings import reading
from wsgi_tracebacker.errors import NoWorkersFound
from wsgi_tracebacker.reader.survey import Survey
from wsgi_tracebacker.top import readings
from wsgi_tracebacker.top.readings import Question, Readings, Taken, labels_of

TAKEN = Taken(reading(0.0), Survey((), ()))


def test_workers_of_one_base_are_called_by_their_numbers() -> None:
    """One without a number has none."""
    assert labels_of([("/run/tb1", 1, None), ("/run/tb12", 12, None)]) == ["1", "12"]
    assert labels_of([("/run/socket", None, None)]) == ["-"]


def test_workers_of_several_bases_are_called_by_their_sockets() -> None:
    """By the name of the file or, where two have the same, by the whole path."""
    assert labels_of([("/run/shop1", 1, None), ("/run/admin1", 1, None)]) == ["shop1", "admin1"]
    assert labels_of([("/run/a/tb1", 1, None), ("/run/b/tb1", 1, None)]) == ["/run/a/tb1", "/run/b/tb1"]


def test_workers_of_several_users_are_called_by_the_user_too() -> None:
    """Where all are of one user, the head says so."""
    assert labels_of([("/run/tb1", 1, 33), ("/run/tb2", 2, 33)]) == ["1", "2"]
    assert labels_of([("/run/tb1", 1, None), ("/run/tb2", 2, 33)]) == ["1", "2 (uid 33)"]


@pytest.mark.parametrize("error", [NoWorkersFound("no workers behind '/run/tb'"), OSError("too many open files")])
def test_a_reading_of_nobody_is_a_reading(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """All workers may be gone for a moment; the reason is a line of the screen. The first time it is an error."""

    def fail(*_: object, **__: object) -> Survey:
        raise error

    monkeypatch.setattr(readings, "survey", fail)
    question = Question(("/run/tb",), (), 1.0)
    assert question.ask_again().reading.missing == (str(error),)
    with pytest.raises(type(error)):
        question.ask()


def test_readings_go_on_after_a_pause_and_end_when_stopped() -> None:
    """At once, whatever the interval; the thread ends by itself, and nobody waits for it."""
    asked, go_on, delivered = threading.Semaphore(0), threading.Semaphore(0), threading.Semaphore(0)

    def ask() -> Taken:
        asked.release()
        go_on.acquire()
        return TAKEN

    taking = Readings(ask, lambda _: delivered.release(), every_seconds=0.0)
    taking.start()
    asked.acquire()
    taking.pause(paused=True)
    go_on.release()
    taking.pause(paused=False)
    asked.acquire()
    go_on.release()
    assert delivered.acquire(timeout=10)
    taking.stop()
    go_on.release()
    wait_until(lambda: not any(thread.name == "wsgi-tb readings" for thread in threading.enumerate()), "it has ended")
