"""Interpreters of one process: real ones, beside a server that says it is uWSGI."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from wsgi_tracebacker.worker.threads import interpreters

# Its name up to 3.12, and from 3.13 on.
subinterpreters = pytest.importorskip("_xxsubinterpreters" if sys.version_info < (3, 13) else "_interpreters")


def test_ids_are_shared_by_threads_of_several_interpreters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under uWSGI with threads only, and only as long as there are several."""
    assert interpreters.is_first()
    other = subinterpreters.create()
    try:
        assert not interpreters.ids_are_shared()
        monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(cores=1))
        assert not interpreters.ids_are_shared()
        monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(cores=2))
        assert interpreters.ids_are_shared()
        # This is the first one, whose threads have ids of their own.
        assert not interpreters.own_id_is_shared()
    finally:
        subinterpreters.destroy(other)
    assert not interpreters.ids_are_shared()
