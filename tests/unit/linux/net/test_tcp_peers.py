"""Whose program is at the other end of a TCP connection."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.programs import cannot_be_tried, require_program
from wsgi_tracebacker.linux.net.tcp_peers import uid_of_peer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=["127.0.0.1", "::1"])
def listening(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    try:
        made = socket.create_server((request.param, 0), family=family)
    except OSError:
        cannot_be_tried(f"{request.param} cannot be listened on")
    with made:
        yield made


def test_a_program_of_this_user(listening: socket.socket) -> None:
    """It is known from both ends, until the other one is closed."""
    with socket.create_connection(listening.getsockname()[:2]) as client:
        served, _ = listening.accept()
        with served:
            assert uid_of_peer(served) == uid_of_peer(client) == os.geteuid()
    assert uid_of_peer(served) is None


def test_a_program_of_another_user(listening: socket.socket) -> None:
    """The user of the program that connected."""
    if os.geteuid() != 0:
        cannot_be_tried("only root can run a program of another user")
    host, port, *_ = listening.getsockname()
    program = shutil.which(require_program("socat"))
    assert program is not None
    shown = f"[{host}]" if ":" in host else host
    with subprocess.Popen([program, "-u", f"TCP:{shown}:{port}", "/dev/null"], user=65534, group=65534) as client:
        served, _ = listening.accept()
        with served:
            assert uid_of_peer(served) == 65534
        client.wait(10)
