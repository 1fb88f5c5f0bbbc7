"""Which servers are gone with the process that is killed."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from wsgi_tracebacker.worker.respawn import why_nothing_respawns


@pytest.mark.parametrize(
    ("software", "is_said"),
    [
        ("waitress", True),
        ("waitress/3.0.2", True),
        ("Cheroot/11.1.2", True),
        ("CherryPy/18.10", True),
        ("Werkzeug/3.1.9", True),
        ("WSGIServer/0.2", True),
        ("gevent/26.9 Python/3.11", True),
        ("Hypercorn", True),
        ("TwistedWeb/26.10", True),
        ("granian", True),
        ("gunicorn/27.0.1", False),
        ("Apache/2.4", False),
        ("mine", False),
        ("", False),
        (None, False),
    ],
)
def test_servers(software: str | None, is_said: bool) -> None:
    """Those that were measured; nothing is said of others."""
    assert (why_nothing_respawns(software) is not None) is is_said


def masterless() -> int:
    return 0


def broken() -> int:
    raise OSError


@pytest.mark.parametrize(("masterpid", "is_said"), [(masterless, True), (lambda: 17, False), (broken, False)])
def test_uwsgi(masterpid: object, is_said: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its master starts new workers, if there is one."""
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(masterpid=masterpid))
    assert (why_nothing_respawns("uWSGI") is not None) is is_said
