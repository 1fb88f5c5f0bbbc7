"""What a worker warns of when it starts."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from tests.unit.wire.documents.test_card_json import CARD
from wsgi_tracebacker.wire.documents import card_json
from wsgi_tracebacker.worker import startup_warnings
from wsgi_tracebacker.worker.identity import Identity
from wsgi_tracebacker.worker.startup_warnings import nothing_respawns

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("software", "warns"),
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
def test_servers(software: str | None, warns: bool) -> None:
    """Those that were measured; there is no warning for others."""
    assert (nothing_respawns(software) is not None) is warns


def test_a_fork_for_each_request_is_replaced_by_the_next() -> None:
    """werkzeug with processes loses nothing but the request; others are not believed."""
    assert nothing_respawns("Werkzeug/3.1.9", is_multiprocess=True) is None
    assert nothing_respawns("waitress", is_multiprocess=True) is not None


def test_granian_that_respawns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its option is found among the arguments and in the environment."""
    with monkeypatch.context() as arguments:
        arguments.setattr(sys, "argv", ["granian", "--respawn-failed-workers", "app"])
        assert nothing_respawns("Granian") is None
    assert nothing_respawns("Granian") is not None
    monkeypatch.setenv("GRANIAN_RESPAWN_FAILED_WORKERS", "true")
    assert nothing_respawns("Granian") is None


def test_servers_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are recognised by their modules; gunicorn, which may run workers of theirs, starts new ones."""
    unnamed = {"twisted.web.wsgi": "Twisted", "hypercorn": "hypercorn", "eventlet.wsgi": "eventlet"}
    for name in ("gunicorn", "uvicorn", *unnamed):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert nothing_respawns(None) is None
    for module, name in unnamed.items():
        with monkeypatch.context() as modules:
            modules.setitem(sys.modules, module, SimpleNamespace())
            assert f", and {name}" in (nothing_respawns(None) or "")
            assert nothing_respawns("mine") is None
            modules.setitem(sys.modules, "gunicorn", SimpleNamespace())
            assert nothing_respawns(None) is None
    monkeypatch.setitem(sys.modules, "uvicorn", SimpleNamespace())
    process = SimpleNamespace(parent_process=lambda: None)
    monkeypatch.setitem(sys.modules, "multiprocessing.process", process)
    assert "uvicorn" in (nothing_respawns(None) or "")
    process.parent_process = SimpleNamespace
    assert nothing_respawns(None) is None
    process.parent_process = lambda: None
    monkeypatch.setitem(sys.modules, "gunicorn", SimpleNamespace())
    assert nothing_respawns(None) is None


def masterless() -> int:
    return 0


def broken() -> int:
    raise OSError


@pytest.mark.parametrize(("masterpid", "warns"), [(masterless, True), (lambda: 17, False), (broken, False)])
def test_uwsgi(masterpid: object, warns: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its master starts new workers, if there is one."""
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(masterpid=masterpid))
    assert (nothing_respawns("uWSGI") is not None) is warns


ROOT = "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
PRIVATE = (
    "310 280 254:0 /tmp/systemd-private-0ac1-apache2.service-q1w2e3/tmp /tmp rw,relatime - ext4 /dev/vda rw\n"
    "311 280 254:0 /var/tmp/systemd-private-0ac1-apache2.service-q1w2e3/tmp /var/tmp rw - ext4 /dev/vda rw\n"
)


@pytest.mark.parametrize(
    ("base", "mountinfo", "expected"),
    [
        ("/tmp/tbsocket", ROOT + PRIVATE, "/tmp"),
        ("/tmp/deeper/tbsocket", ROOT + PRIVATE, "/tmp"),
        ("/var/tmp/tbsocket", ROOT + PRIVATE, "/var/tmp"),
        ("/run/shop/tbsocket", ROOT + PRIVATE, None),
        ("/tmpfiles/tbsocket", ROOT + PRIVATE, None),
        ("/tmp/tbsocket", ROOT, None),
        ("/tmp/tbsocket", ROOT + "40 22 0:40 / /tmp rw - tmpfs tmpfs rw\n", None),
        # What is mounted over it, or inside it, is what counts.
        ("/tmp/tbsocket", ROOT + PRIVATE + "40 22 0:40 / /tmp rw - tmpfs tmpfs rw\n", None),
        ("/tmp/a b/tbsocket", ROOT + PRIVATE + "40 22 0:40 / /tmp/a\\040b rw - tmpfs tmpfs rw\n", None),
        ("/tmp/tbsocket", "", None),
        ("/tmp/tbsocket", "not a line of it\n", None),
    ],
)
def test_a_private_tmp(base: str, mountinfo: str, expected: str | None) -> None:
    """systemd's name of the folder that it mounts shows it, for all that is in the folder and nothing else."""
    assert startup_warnings.private_mount(base, mountinfo) == expected


def test_here_nothing_is_hidden(tmp_path: Path) -> None:
    """Everybody sees a folder of the test."""
    assert startup_warnings.hidden(str(tmp_path / "tb")) is None


def write_card(base: str, number: int, pid: int, start_ticks: int) -> None:
    card = CARD._replace(number=number, base=base, pid=pid, start_ticks=start_ticks)
    with open(card_json.card_path(base, number), "wb") as file:
        file.write(card_json.encode(card))


def test_copies_are_those_of_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By pid and start; what is no card, or another process's, is none, and neither are our own and later numbers."""
    base = str(tmp_path / "tb")
    pid, start_ticks = 4711, 815
    own = Identity.of_this_process(base, None, "shop")._replace(pid=pid, start_ticks=start_ticks)
    write_card(base, 1, pid, start_ticks)
    write_card(base, 2, pid, start_ticks + 1)
    write_card(base, 3, pid + 1, start_ticks)
    (tmp_path / "tb4.worker").write_text("no card")
    (tmp_path / "tb5.worker").symlink_to(tmp_path / "tb1.worker")
    write_card(base, 7, pid, start_ticks)
    write_card(base, 8, pid, start_ticks)
    write_card(base, 9, pid, start_ticks)
    assert startup_warnings.other_copies(own, 8) is None
    # Only such servers have several interpreters in a process.
    monkeypatch.setitem(sys.modules, "mod_wsgi", SimpleNamespace())
    text = startup_warnings.other_copies(own, 8)
    assert text is not None
    assert text.startswith("worker 8 is in the same process as worker 1, 7, in another interpreter")
    assert "WSGIApplicationGroup" in text
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(cores=1))
    text = startup_warnings.other_copies(own, 8)
    assert text is not None
    assert "--single-interpreter" in text
    assert "WSGIApplicationGroup" not in text
