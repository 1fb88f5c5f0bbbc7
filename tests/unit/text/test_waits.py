"""The sentences on what a request waits for: one for each kind, whatever of it is known."""

from __future__ import annotations

import pytest
from hypothesis import given

from tests.unit.wire.strategies import waits as any_waits
from wsgi_tracebacker.model.snapshot import Frame
from wsgi_tracebacker.model.waits import KINDS, Holder, WaitsFor
from wsgi_tracebacker.text.waits import beside, place_name, sentence, with_sentence

REFUND = Holder("GET", "/refund", 12.0, core=3)
SQL = "SELECT total FROM orders WHERE id = ?"


@pytest.mark.parametrize(
    ("waits", "expected"),
    [
        (
            WaitsFor("database", service="postgresql", peer="10.0.0.5:5432", own_port=33438, statement=SQL),
            f"waits for postgresql at 10.0.0.5:5432 (our port 33438): {SQL}",
        ),
        (WaitsFor("database", service="redis", statement="BLPOP"), "waits for redis: BLPOP"),
        (WaitsFor("database", statement=SQL), f"waits for the database: {SQL}"),
        (
            WaitsFor("http", method="POST", url="https://bank/v2/charge", peer="10.0.0.9:443", connecting=False),
            "waits for POST https://bank/v2/charge (10.0.0.9:443, no answer yet)",
        ),
        (
            WaitsFor("http", method="GET", url="http://bank/", peer="10.0.0.9:80", connecting=True),
            "waits for GET http://bank/ (10.0.0.9:80, not connected yet)",
        ),
        (WaitsFor("http", host="bank"), "waits for bank"),
        (WaitsFor("http"), "waits for an HTTP server"),
        (WaitsFor("service", service="s3", statement="PutObject"), "waits for s3: PutObject"),
        (WaitsFor("connection", peer="10.0.0.9:25", own_port=7), "waits for 10.0.0.9:25 (our port 7)"),
        (WaitsFor("connection", host="bank", peer="10.0.0.9:443", connecting=True), "connects to bank (10.0.0.9:443)"),
        (WaitsFor("connection", peer="10.0.0.9:443", connecting=True), "connects to 10.0.0.9:443"),
        (WaitsFor("send", peer="10.0.0.9:443"), "sends to 10.0.0.9:443, which reads slowly"),
        (
            WaitsFor("lock", lock="self._lock", lock_place="cart.py:105", holders=(REFUND,)),
            "waits for lock self._lock (cart.py:105); inside it: GET /refund, 12.0 s, core 3",
        ),
        (
            WaitsFor("lock", holders=(REFUND,) * 5),
            "waits for a lock; inside it: " + "; ".join(["GET /refund, 12.0 s, core 3"] * 3) + " and 2 more",
        ),
        (
            WaitsFor(
                "deadlock",
                holders=(
                    Holder("GET", "/buy", 12.0, 1, has="ledger", wants="stock"),
                    REFUND._replace(has="stock", wants="ledger"),
                ),
            ),
            (
                "deadlock: GET /buy (core 1) has ledger and waits for stock;"
                " GET /refund (core 3) has stock and waits for ledger"
            ),
        ),
        (
            WaitsFor("lock", lock="lock", holders=(Holder("", "", 0.0, thread="indexer"),)),
            'waits for lock lock; inside it: thread "indexer"',
        ),
        (
            WaitsFor(
                "deadlock",
                holders=(
                    Holder("GET", "/buy", 12.0, 1, has="ledger", wants="stock"),
                    Holder("", "", 0.0, has="stock", wants="ledger", thread="indexer"),
                ),
            ),
            (
                "deadlock: GET /buy (core 1) has ledger and waits for stock;"
                ' thread "indexer" has stock and waits for ledger'
            ),
        ),
        (
            WaitsFor("pool", pool="QueuePool", pool_size=15, pool_in_use=15),
            "waits for a connection of QueuePool: all 15 are out",
        ),
        (WaitsFor("pool", pool="QueuePool"), "waits for a connection of QueuePool"),
        (
            WaitsFor("file_lock", file="/var/lib/import.lock", pid=4711, program="import-job"),
            "waits for the lock of /var/lib/import.lock; pid 4711 (import-job) has it",
        ),
        (
            WaitsFor("file_lock", service="sqlite", file="/srv/db.sqlite", pid=4711),
            "SQLite waits for a lock of /srv/db.sqlite; pid 4711 has it",
        ),
        (
            WaitsFor("file_lock", file="/a.lock", holders=(REFUND._replace(worker=2),)),
            "waits for the lock of /a.lock; GET /refund, 12.0 s, core 3 of worker 2 has it",
        ),
        (WaitsFor("file", file="/big"), "waits for /big"),
        (WaitsFor("pipe", file="/run/fifo"), "waits for the other end of /run/fifo"),
        (WaitsFor("child", pid=4712, program="convert"), "waits for child process 4712 (convert)"),
        (WaitsFor("child", program="convert"), "waits for a child process (convert)"),
        (WaitsFor("queue", call="queue.get", called_at="mail.py:153"), "waits for queue.get (called at mail.py:153)"),
        (WaitsFor("signal", call="Event.wait"), "waits for Event.wait"),
        (WaitsFor("future", call="Future.result"), "waits for Future.result"),
        (WaitsFor("thread", thread="indexer"), 'waits for thread "indexer" to end'),
        (
            WaitsFor("import", call="numpy", holders=(REFUND._replace(core=2),)),
            "waits for the import of numpy, which core 2 does",
        ),
        (WaitsFor("dns", host="bank.example"), "resolves bank.example"),
        (WaitsFor("sleep"), "sleeps"),
        (WaitsFor("sleep", called_at="poll.py:7"), "sleeps (called at poll.py:7)"),
        (WaitsFor("client_slow", peer="203.0.113.7"), "the client 203.0.113.7 reads slowly"),
        (WaitsFor("client_gone"), "the client has gone"),
        (
            WaitsFor("repeated_statement", statement="SELECT total FROM orders", new_calls=15, looks=18),
            "runs the same statement again and again: SELECT total FROM orders (a new call at 15 of 18 looks)",
        ),
        (
            WaitsFor("repeated_statement", statement="SELECT 1", looks=18),
            "runs the same statement again and again: SELECT 1",
        ),
        (
            WaitsFor("garbage", share=0.63, since_seconds=2.0),
            "garbage collections took 63% of the last 2.0 s",
        ),
        (WaitsFor("client_gone", peer="203.0.113.7", client_gone=True), "the client 203.0.113.7 has gone"),
        (WaitsFor("sleep", called_at="a.py:1", client_gone=True), "sleeps (called at a.py:1); the client has gone"),
    ],
)
def test_the_sentence_has_what_is_known(waits: WaitsFor, expected: str) -> None:
    """What is known of each kind stands in its sentence, and no word stands in it for what is not known."""
    assert sentence(waits) == expected
    assert with_sentence(waits).sentence == expected


def test_a_place_that_stands_beside_the_sentence_is_not_named_again() -> None:
    """Another place is, and so are the places of a deadlock, which are of several requests."""
    frame = Frame("/srv/shop/poll.py", 7, "poll", None)
    sleep = WaitsFor("sleep", called_at="poll.py:7", client_gone=True)
    assert beside(sentence(sleep), frame) == "sleeps; the client has gone"
    assert beside(sentence(sleep), frame._replace(lineno=8)) == "sleeps (called at poll.py:7); the client has gone"
    assert beside(sentence(sleep), None) == sentence(sleep)
    lock = WaitsFor("lock", lock="stock", lock_place="poll.py:7", holders=(REFUND,))
    assert beside(sentence(lock), frame) == "waits for lock stock; inside it: GET /refund, 12.0 s, core 3"
    deadlock = WaitsFor("deadlock", holders=(REFUND._replace(has="stock (poll.py:7)", wants="ledger (poll.py:9)"),))
    assert beside(sentence(deadlock), frame) == sentence(deadlock)


def test_a_place_is_named_by_its_file_and_line() -> None:
    """With the folder of a file that is named as many others are."""
    assert place_name("/srv/shop/cart.py", 105) == "cart.py:105"
    assert place_name("/srv/shop/__init__.py", 7) == "shop/__init__.py:7"
    assert place_name("cart.py", None) == "cart.py:?"


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_has_a_sentence_of_its_own(kind: str) -> None:
    """Also if nothing but the kind is known."""
    assert not sentence(WaitsFor(kind)).startswith("waits (")


@given(any_waits)
def test_any_value_has_a_sentence(waits: WaitsFor) -> None:
    """Whatever a reply or a later version says, reading it never fails."""
    assert sentence(waits)
