"""Which requests are chosen."""

from __future__ import annotations

from tests.unit.analysis.served import serving
from wsgi_tracebacker.analysis.selection import is_chosen
from wsgi_tracebacker.model.snapshot import Stack


def test_by_age() -> None:
    """One that is as old is chosen, and one whose age nobody knows."""
    assert is_chosen(serving(age_seconds=2.0), older_seconds=2.0)
    assert not is_chosen(serving(age_seconds=1.9), older_seconds=2.0)
    assert is_chosen(Stack("uWSGIWorker1Core0", core=0), older_seconds=2.0)


def test_by_path() -> None:
    """The pattern matches the whole path; its star matches slashes too."""
    assert is_chosen(serving("/checkout/4711/items"), path_pattern="/checkout/*")
    assert not is_chosen(serving("/checkout"), path_pattern="/check")
    assert not is_chosen(serving("/Checkout"), path_pattern="/checkout")
    assert not is_chosen(Stack("uWSGIWorker1Core0", core=0), path_pattern="*")
