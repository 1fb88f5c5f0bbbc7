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
        ("TwistedWeb/26.10", True),
        ("granian", True),
        ("gunicorn/27.0.1", False),
        ("gevent/26.9.0 gunicorn/27.0.1", False),
        ("Apache/2.4", False),
        ("mine", False),
        ("", False),
        (None, False),
    ],
)
def test_servers(software: str | None, is_said: bool) -> None:
    """Those that were measured; nothing is said of others."""
    assert (why_nothing_respawns(software) is not None) is is_said


def test_a_fork_for_each_request_is_replaced_by_the_next() -> None:
    """werkzeug with processes loses nothing but the request; others are not believed."""
    assert why_nothing_respawns("Werkzeug/3.1.9", is_multiprocess=True) is None
    assert why_nothing_respawns("waitress", is_multiprocess=True) is not None


def test_granian_that_respawns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its option is found among the arguments and in the environment."""
    with monkeypatch.context() as arguments:
        arguments.setattr(sys, "argv", ["granian", "--respawn-failed-workers", "app"])
        assert why_nothing_respawns("Granian") is None
    assert why_nothing_respawns("Granian") is not None
    monkeypatch.setenv("GRANIAN_RESPAWN_FAILED_WORKERS", "true")
    assert why_nothing_respawns("Granian") is None


def test_servers_that_do_not_say_their_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are known by their modules; gunicorn, which may run workers of theirs, starts new ones."""
    unnamed = {"twisted.web.wsgi": "Twisted", "hypercorn": "hypercorn", "eventlet.wsgi": "eventlet"}
    for name in ("gunicorn", "uvicorn", *unnamed):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert why_nothing_respawns(None) is None
    for module, name in unnamed.items():
        with monkeypatch.context() as modules:
            modules.setitem(sys.modules, module, SimpleNamespace())
            assert (why_nothing_respawns(None) or "").startswith(name)
            assert why_nothing_respawns("mine") is None
            modules.setitem(sys.modules, "gunicorn", SimpleNamespace())
            assert why_nothing_respawns(None) is None
    monkeypatch.setitem(sys.modules, "uvicorn", SimpleNamespace())
    process = SimpleNamespace(parent_process=lambda: None)
    monkeypatch.setitem(sys.modules, "multiprocessing.process", process)
    assert "uvicorn" in (why_nothing_respawns(None) or "")
    process.parent_process = SimpleNamespace
    assert why_nothing_respawns(None) is None
    process.parent_process = lambda: None
    monkeypatch.setitem(sys.modules, "gunicorn", SimpleNamespace())
    assert why_nothing_respawns(None) is None


def masterless() -> int:
    return 0


def broken() -> int:
    raise OSError


@pytest.mark.parametrize(("masterpid", "is_said"), [(masterless, True), (lambda: 17, False), (broken, False)])
def test_uwsgi(masterpid: object, is_said: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its master starts new workers, if there is one."""
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(masterpid=masterpid))
    assert (why_nothing_respawns("uWSGI") is not None) is is_said
