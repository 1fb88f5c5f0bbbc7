"""Requests that are followed from one reading to the next."""

from __future__ import annotations

import pytest

from tests.unit.analysis.served import serving
from tests.unit.top.readings import picture, reading, silent, worker
from wsgi_tracebacker.analysis.live import ENDED_SECONDS, LOST_SECONDS, Picture, Reading, advance
from wsgi_tracebacker.model.snapshot import LastRequest, Stack


def follow(*readings: Reading) -> Picture:
    """The picture after all of these."""
    found = None
    for each in readings:
        found = advance(found, each)
    assert found is not None
    return found


def ages(found: Picture) -> list[float | None]:
    return [live.age_seconds for live in found.requests]


def test_a_request_keeps_its_key_while_it_is_served() -> None:
    """Its start differs a little in each reading, because a worker computes it from two clocks."""
    first = follow(reading(0.0, worker(serving(age_seconds=1.0))))
    second = advance(first, reading(1.0, worker(serving(age_seconds=1.01))))
    assert second.requests[0].key == first.requests[0].key
    assert (ages(second), second.ended) == ([1.01], ())


def test_requests_of_nearly_one_age_stay_in_their_order() -> None:
    """Workers are asked at slightly different moments; a request that is much older than was thought is that old."""

    def after(seconds: float, *found: float) -> Reading:
        """Two requests that began at the same times as in all other readings, with these ages."""
        workers = []
        for number, age_seconds in enumerate(found, 1):
            stack = serving(age_seconds=1.0)
            assert stack.request is not None
            aged = stack._replace(request=stack.request._replace(age_seconds=age_seconds))
            workers.append(worker(aged, number=number))
        return reading(seconds, *workers)

    second = follow(after(0.0, 1.0, 1.01), after(1.0, 2.03, 2.0))
    assert ages(second) == pytest.approx([2.0, 2.01])
    assert [live.served.age_seconds for live in second.requests] == ages(second)
    assert ages(advance(second, after(2.0, 4.0, 3.0))) == pytest.approx([4.0, 3.01])


@pytest.mark.parametrize(("path", "age_seconds"), [("/checkout/4711", 0.2), ("/other", 0.98)])
def test_the_next_request_of_a_thread_is_another_one(path: str, age_seconds: float) -> None:
    """It began later, or is for another path: the one before has ended."""
    before = picture(worker(serving("/checkout/4711", 1.0)))
    after = advance(before, reading(1.0, worker(serving(path, age_seconds))))
    assert after.requests[0].key != before.requests[0].key
    assert [live.key for live in after.ended] == [before.requests[0].key]


def test_a_request_that_ended_is_kept_for_three_seconds() -> None:
    """It has no CPU share any more, and goes when its time is over."""
    before = picture(worker(serving()))
    kept = follow(before.reading, reading(1.0, worker()), reading(1.0 + ENDED_SECONDS - 0.1, worker()))
    assert [(live.ended_at, live.cpu_share) for live in kept.ended] == [(1.0, None)]
    assert advance(kept, reading(1.0 + ENDED_SECONDS, worker())).ended == ()


def test_the_cpu_share_is_of_the_time_between_two_readings() -> None:
    """Half a CPU is 0.5; nothing is said of the first reading, nor of another thread, nor where it is not known."""
    first = picture(worker(serving(cpu_seconds=1.0)))
    assert first.requests[0].cpu_share is None
    after = advance(first, reading(2.0, worker(serving(cpu_seconds=2.0))))
    assert after.requests[0].cpu_share == pytest.approx(0.5)
    for stack in (serving(cpu_seconds=None), serving(cpu_seconds=2.0)._replace(native_id=1)):
        assert advance(first, reading(2.0, worker(stack))).requests[0].cpu_share is None


def test_a_worker_that_does_not_answer_has_not_finished_its_requests() -> None:
    """They are shown as they were, and get older; nothing has ended."""
    found = follow(reading(0.0, worker(serving(age_seconds=4.0))), reading(1.5, silent()))
    assert ages(found) == [5.5]
    assert found.requests[0].worker.reason is not None
    assert found.ended == ()


def test_the_requests_of_a_dead_worker_are_lost() -> None:
    """Whether its socket is still there or not."""
    before = reading(0.0, worker(serving()))
    for after in (reading(1.0, silent(state="dead")), reading(1.0)):
        found = follow(before, after)
        assert (found.requests, [live.worker.state for live in found.ended]) == ((), ["dead"])


def test_a_worker_that_vanished_is_kept_for_a_while() -> None:
    """Its successor at the same socket is another worker."""
    found = follow(reading(0.0, worker()), reading(1.0, worker(pid=9)))
    assert [(lost.worker.pid, lost.lost_at) for lost in found.lost] == [(4001, 1.0)]
    assert advance(found, reading(0.9 + LOST_SECONDS, worker(pid=9))).lost == found.lost
    assert advance(found, reading(1.0 + LOST_SECONDS, worker(pid=9))).lost == ()


def test_rates_are_counted_between_two_readings() -> None:
    """By worker; nothing for one that is new, or does not say how many it finished."""
    found = follow(
        reading(0.0, worker(requests_finished=10), worker(number=2)),
        reading(2.0, worker(requests_finished=40), worker(number=2), worker(number=3, requests_finished=7)),
    )
    assert dict(found.rates) == {("/run/tb1", 4001): 15.0}


def test_threads_that_wait_for_a_request_are_idle() -> None:
    """A thread without a core serves none: it is left out."""
    idle = Stack("WSGIWorker1Core3", core=3, last_request=LastRequest("GET", "/x", 2.0))
    found = picture(worker(idle, Stack("background")))
    assert [thread.stack for thread in found.idle] == [idle]
