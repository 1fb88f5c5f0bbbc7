"""Which requests are chosen."""

from __future__ import annotations

from tests.unit.analysis.served import serving, snapshot
from wsgi_tracebacker.analysis.selection import Selection
from wsgi_tracebacker.model.snapshot import Stack


def test_by_age() -> None:
    """One that is as old is chosen, and one whose age nobody knows."""
    selection = Selection(older_seconds=2.0)
    assert selection.has(serving(age_seconds=2.0))
    assert not selection.has(serving(age_seconds=1.9))
    assert selection.has(Stack("uWSGIWorker1Core0", core=0))


def test_by_path() -> None:
    """The pattern matches the whole path; its star matches slashes too."""
    assert Selection(path_pattern="/checkout/*").has(serving("/checkout/4711/items"))
    assert not Selection(path_pattern="/check").has(serving("/checkout"))
    assert not Selection(path_pattern="/checkout").has(serving("/Checkout"))
    assert not Selection(path_pattern="*").has(Stack("uWSGIWorker1Core0", core=0))


def test_a_snapshot_keeps_what_is_wanted() -> None:
    """Other requests are counted; threads that serve none are kept if they are asked for."""
    young, old, idle = serving("/young", 1.0), serving("/old", 9.0, core=1), Stack("idle", core=2)
    found = snapshot(young, old, idle)
    assert Selection(older_seconds=5.0).wanted(found) == (found._replace(stacks=(old,)), 1)
    assert Selection(older_seconds=5.0).wanted(found, with_resting=True) == (found._replace(stacks=(old, idle)), 1)
    assert Selection().wanted(found) == (found, 0)
