"""A reading of all workers: overview, places with their requests and stacks, other threads."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.analysis.served import IN_PAY, SERVER, VIEW, WAIT, serving, snapshot
from tests.unit.wire.hostile import is_fit
from tests.unit.wire.strategies import snapshots as any_snapshots
from wsgi_tracebacker.analysis.places import group, served_requests
from wsgi_tracebacker.model.snapshot import Frame, HubState, LastRequest, Snapshot, Stack, Worker
from wsgi_tracebacker.model.waits import WaitsFor
from wsgi_tracebacker.text.palette import COLOURED
from wsgi_tracebacker.text.screens.reading import Answered, Options, lines

IDLE = Stack("WSGIWorker1Core7", core=7, state="S", last_request=LastRequest("GET", "/x", 3.2), frames=(WAIT,))
OTHER = Stack("pool", daemon=True, state="R", wait_channel="0", frames=(WAIT,))


def shown(*found: Snapshot, by: str = "place", left_out: int = 0, other_uid: int | None = None, **options: Any) -> str:
    groups = group(served_requests(found), by)
    return "\n".join(lines([Answered(each, other_uid) for each in found], groups, left_out, Options(**options)))


def test_one_request_is_its_worker_and_its_block() -> None:
    """There is no overview of one thing."""
    pay = serving("/pay", 9.3, method="POST", frames=IN_PAY, remote_address="203.0.113.7", request_id="7f3a")
    assert (
        shown(snapshot(pay, IDLE, OTHER))
        == """\
worker 1  pid 4001  gunicorn/27.0.1  shop.wsgi:app  up 1 min 40 s  1 in flight

  worker 1 core 0  POST /pay  9.30 s  from 203.0.113.7  id 7f3a
    waits for a lock or the GIL
    … 4 calls of gunicorn and flask
    /srv/shop/pay.py:53 charge
      reply = requests.post(BANK_URL)
              ^^^^^^^^^^^^^^^^^^^^^^^

1 idle thread, 1 other thread that serves no requests; --all shows them"""
    )


def test_many_requests_are_an_overview_and_the_stack_of_each_place() -> None:
    """Each place once, the oldest first, with the requests that stand there."""
    first = snapshot(
        serving("/pay", 9.3, method="POST", frames=IN_PAY),
        *(serving(f"/checkout/{n}", 8.0 - n, core=n + 1) for n in range(7)),
    )
    second = snapshot(serving("/pay", 2.0, worker=2, frames=IN_PAY, state=None), worker=2)
    text = shown(first, second)
    assert text.startswith("9 requests in 2 workers, oldest 9.30 s\n\n   AGE   N  REQUEST")
    assert (
        text[text.index("\n1  ") :]
        == """
1  2 requests wait for a lock or the GIL
  worker 1 core 0, pid 4001  POST /pay  9.30 s
  worker 2 core 0, pid 4002  GET /pay  2.00 s
    … 4 calls of gunicorn and flask
    /srv/shop/pay.py:53 charge
      reply = requests.post(BANK_URL)
              ^^^^^^^^^^^^^^^^^^^^^^^

2  7 requests wait for a lock or the GIL
  worker 1 core 1, pid 4001  GET /checkout/0  8.00 s
  worker 1 core 2, pid 4001  GET /checkout/1  7.00 s
  worker 1 core 3, pid 4001  GET /checkout/2  6.00 s
  worker 1 core 4, pid 4001  GET /checkout/3  5.00 s
  worker 1 core 5, pid 4001  GET /checkout/4  4.00 s
  … 2 more; --full lists them
    … 4 calls of gunicorn and flask
    /srv/shop/views.py:41 checkout
      order = load_order(order_id)
              ^^^^^^^^^^^^^^^^^^^^
    /srv/shop/orders.py:71 load_order
      with engine.connect() as connection:
           ^^^^^^^^^^^^^^^^
    … 2 calls of sqlalchemy, then threading.py:331 Condition.wait"""
    )


def test_full_has_every_request_and_every_frame() -> None:
    """Nothing is folded or counted."""
    text = shown(snapshot(*(serving(f"/checkout/{n}", core=n) for n in range(9))), full=True)
    assert text.count("GET /checkout/") == 1 + 9
    assert '    File "/usr/lib/python3.12/threading.py", line 1030, in Thread._bootstrap\n' in text
    assert "… " not in text


def test_a_limit_is_for_overview_and_stacks() -> None:
    """The oldest places are shown; 0 shows all."""
    stacks = [serving(f"/{n}", 90.0 - n, core=n, frames=(*SERVER, VIEW._replace(lineno=n))) for n in range(1, 13)]
    text = shown(snapshot(*stacks))
    assert "2 more places, 2 requests; --limit 0 shows them" in text
    assert "\n10  1 request wait" in text
    assert "\n11  " not in text
    assert "\n12  1 request wait" in shown(snapshot(*stacks), limit=0)


def test_a_group_of_several_places_says_whose_stack_it_shows() -> None:
    """By wait, by route: the stack is the oldest one's."""
    stacks = (serving("/a", 2.0), serving("/b", 1.0, core=1, frames=IN_PAY))
    assert "    where the oldest of them is:\n" in shown(snapshot(*stacks), by="wait")
    assert "where the oldest" not in shown(snapshot(*stacks))


def test_nothing_in_flight() -> None:
    """Who is there, and what was served last."""
    text = shown(snapshot(IDLE), snapshot(IDLE._replace(last_request=LastRequest("PUT", "/y", 0.5)), worker=2))
    assert text.startswith("no request in 2 workers\n\nthe last requests: PUT /y ended 0.50 s ago, GET /x ended 3.20 s")
    assert "2 idle threads; --all shows them" in text


def test_what_was_left_out_is_counted() -> None:
    """Requests that the reader did not ask for."""
    text = shown(snapshot(serving()), left_out=3)
    assert text.endswith("\n\n3 requests not shown: younger, or of another path")


def test_all_shows_the_other_threads_worker_by_worker() -> None:
    """Below the requests: first those that wait for one, folded too."""
    text = shown(snapshot(serving(), OTHER, IDLE), snapshot(OTHER, worker=2), all_threads=True)
    assert (
        "  WSGIWorker1Core7  idle, last request GET /x ended 3.20 s ago, sleeping\n    … 1 call of Python: th" in text
    )
    assert text.index("WSGIWorker1Core7") < text.index("  pool  daemon thread, serves no requests, running")
    assert text.count("worker 2  pid 4002") == 1
    assert "--all" not in text


def test_workers_of_one_other_user_take_one_line() -> None:
    """As root sees them. Those of several users have a line each, except one's own."""
    found = [snapshot(serving()), snapshot(worker=2)]
    assert "\nall of them another user's: uid 33\n\n" in shown(*found, other_uid=33)
    assert "worker 2" not in shown(*found, other_uid=33)
    groups = group(served_requests(found), "place")
    mixed = list(lines([Answered(found[0]), Answered(found[1], 33)], groups))
    assert [line for line in mixed if "uid 33" in line] == [
        "worker 2  pid 4002  another user's: uid 33  gunicorn/27.0.1  shop.wsgi:app  up 1 min 40 s  0 in flight"
    ]
    assert not [line for line in mixed if line.startswith("worker 1 ")]


def test_workers_of_which_something_is_to_be_said() -> None:
    """One that does not answer, another user's, one whose hub is blocked; of many workers only these have a line."""
    hub = Stack("hub", kind="hub", hub=HubState("gevent", "blocked", 3.0))
    busy = snapshot(serving("/x", 20.0, worker=2, frames=()), worker=2, source="table")._replace(state="busy")
    text = shown(snapshot(serving()), busy, snapshot(hub, worker=3), snapshot(worker=4))
    assert "worker 2  pid 4002  gunicorn/27.0.1  shop.wsgi:app  up 1 min 40 s  1 in flight  busy, no answer\n" in text
    assert (
        "worker 3  pid 4003  gunicorn/27.0.1  shop.wsgi:app  up 1 min 40 s  0 in flight\n  gevent's hub is blo" in text
    )
    assert "worker 2 core 0, pid 4002  GET /x  20.0 s  thread 0x3e8, native id 2000\n" in text
    assert "worker 4" not in text
    assert "another user's: uid 33" in shown(snapshot(serving()), snapshot(worker=2), other_uid=33)


def test_the_thread_that_works_for_a_request_stands_below_it() -> None:
    """With its stack, folded too."""
    waiting = serving(waits_for=WaitsFor("other_thread", thread="pool"))
    assert "  pool  works for it, running\n    … 1 call of Python: threading.py:331" in shown(snapshot(waiting, OTHER))


def test_bases_are_named_if_there_are_several() -> None:
    """Both have a worker 1."""
    one, other = (
        found._replace(worker=found.worker._replace(base=base))
        for found, base in ((snapshot(serving()), "/run/a/tb"), (snapshot(serving()), "/run/b/tb"))
    )
    text = shown(one, other)
    assert "  worker 1 core 0 of /run/a/tb, pid 4001  GET" in text
    assert "  worker 1 core 0 of /run/b/tb, pid 4001  GET" in text
    assert " of /run" not in shown(one, one)


def test_headings_say_what_they_wait_for() -> None:
    """One or several, known or not."""
    waits = WaitsFor("client_slow")
    assert "1  2 requests: the client reads slowly" in shown(
        snapshot(serving("/a", waits_for=waits), serving("/b", core=1, waits_for=waits))
    )
    unknown = snapshot(
        serving("/a", state=None), serving("/b", core=1, frames=IN_PAY, wait_channel="hrtimer_nanosleep")
    )
    assert "\n1  1 request\n" in shown(unknown)
    assert "\n2  1 request sleeps\n" in shown(unknown)


def test_a_sentence_on_a_wait_is_wrapped_and_never_shortened() -> None:
    """Under the overview and without one: a long statement goes on in the next lines, a long word is not broken."""
    statement = "SELECT " + ", ".join(f"orders.column_{n}" for n in range(30)) + " FROM " + "o" * 100
    waits = WaitsFor("database", service="postgresql", peer="10.0.0.5:5432", statement=statement)
    sentence = f"for postgresql at 10.0.0.5:5432: {statement}"
    found = serving(waits_for=waits._replace(sentence=f"waits {sentence}"))
    for text in (shown(snapshot(found)), shown(snapshot(found, serving("/b", core=1, frames=IN_PAY)))):
        assert sentence in " ".join(text.split())
        assert max(len(line) for line in text.split("\n") if "oooo" not in line) <= 80


def test_long_facts_go_on_in_the_next_line() -> None:
    """The lines of requests fit the width."""
    found = snapshot(serving(request_id="i" * 30, remote_address="2001:db8::7"), serving(core=1))
    text = shown(found)
    assert "  worker 1 core 0  GET /checkout/4711  1.00 s  from 2001:db8::7\n      id iiii" in text
    assert "from 2001:db8::7  id iiii" in shown(found, columns=120)


def test_uwsgis_requests() -> None:
    """Its threads have their name."""
    stack = Stack("uWSGIWorker2Core0", core=0, kind="unknown", frames=IN_PAY)
    text = shown(Snapshot(Worker(number=2, pid=7), 1000.0, (stack,), source="uwsgi"))
    assert "  worker 2 core 0  a request, uWSGI does not say which\n    … 4 calls" in text


def test_colour_adds_nothing_but_colour() -> None:
    """The coloured text without its escape sequences is the plain text."""
    found = snapshot(serving("/a", 12.0), serving("/b", core=1, frames=IN_PAY), IDLE)
    choices: list[dict[str, Any]] = [{}, {"full": True}, {"all_threads": True}]
    for options in choices:
        coloured = shown(found, palette=COLOURED, **options)
        assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == shown(found, **options)
        assert "\x1b[1;31m12.0 s\x1b[0m" in coloured


def test_a_stack_of_a_thousand_frames_is_a_screen() -> None:
    """Hostile depth and names, folded and in full."""
    frames = tuple(Frame("/srv/🛒/قائمة.py", n % 7 + 1, "f\x1b[2J", "go(\u202e)") for n in range(1000))
    text = shown(snapshot(serving(frames=(*SERVER, *frames)), serving("/" + "p" * 2047, core=1, frames=frames)))
    assert text.count("\n") < 300
    assert all(map(is_fit, text.split("\n")))
    assert all(map(is_fit, shown(snapshot(serving(frames=frames)), full=True).split("\n")))


@given(st.lists(any_snapshots, max_size=3), st.booleans(), st.booleans(), st.integers(0, 2))
def test_no_control_character_reaches_a_line(found: list[Snapshot], full: bool, everything: bool, limit: int) -> None:
    """Whatever is in the snapshots, the lines are UTF-8 without control, direction and surrogate characters."""
    text = shown(*found, full=full, all_threads=everything, limit=limit)
    assert all(map(is_fit, text.split("\n")))
