"""Workers of other hosts: over a real sshd, through a stand-in for kubectl, and from documents."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from bench import other_hosts
from tests.support import black_boxes
from tests.support.exposition import values
from tests.support.programs import PROJECT
from tests.support.servers import Gunicorn
from tests.support.sshd import sshd
from tests.support.waiting import wait_until
from wsgi_tracebacker.model.snapshot import Frame, Request, Snapshot, Stack, Worker
from wsgi_tracebacker.wire.documents import reading_json, snapshot_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMAND = (sys.executable, "-m", "wsgi_tracebacker")
REMOTE = f"{sys.executable} -m wsgi_tracebacker"
CONFIGURATION = ("-c", "python:wsgi_tracebacker.servers.gunicorn")

#: Takes the words of kubectl, and runs what stands behind its -- as kubectl does: without a shell.
_KUBECTL = """\
#!{python}
import os, sys
verb, pod, option, container, dashes, *command = sys.argv[1:]
if (verb, option, container, dashes) != ("exec", "-c", "app", "--") or not pod.startswith("pod/shop-"):
    sys.exit("error: unknown command " + " ".join(sys.argv[1:]))
if pod == "pod/shop-3":
    sys.exit("Error from server (NotFound): pods \\"shop-3\\" not found")
os.execvp(command[0], command)
"""


def run(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    return subprocess.run(
        (*COMMAND, *arguments),
        capture_output=True,
        text=True,
        input=stdin,
        cwd=PROJECT,
        env=environment,
        check=False,
        timeout=60,
    )


@pytest.fixture
def odd_base(short_path: Path) -> Iterator[str]:
    """A base in whose name a shell finds something to do, and which is no plain text."""
    folder = short_path / "$(exit) 'ä;&"
    folder.mkdir()
    yield str(folder / "tb")
    black_boxes.remove(str(folder / "tb"))


@pytest.fixture
def server(odd_base: str, tmp_path: Path) -> Iterator[Gunicorn]:
    """One worker with one request, which sleeps."""
    arguments = ("example_app.wsgi:application", *CONFIGURATION, "--threads", "2")
    with (
        Gunicorn(*arguments, log=tmp_path / "log", env={"WSGI_TB_SOCKET": odd_base}) as started,
        started.in_flight("/slow?seconds=60"),
    ):
        wait_until(lambda: "GET /slow" in run("read", odd_base).stdout, "the request is in flight")
        yield started


@pytest.fixture
def via(short_path: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with sshd(short_path, port) as words:
        yield words


def hosts(via: str, *names: str) -> list[str]:
    return ["--via", via, "--remote-command", REMOTE, *(word for name in names for word in ("--host", name))]


def test_every_verb_over_ssh(server: Gunicorn, odd_base: str, via: str) -> None:
    """Equal places of all hosts are one; each request says its host; a host that is not there is one line and a 1."""
    there = hosts(via, "web1", "web2", "nowhere.invalid")
    shown = run("read", odd_base, *there)
    assert shown.returncode == 1, shown.stderr
    [complaint] = shown.stderr.splitlines()
    assert complaint.startswith("wsgi-tb: nowhere.invalid: unreachable: ssh: Could not resolve hostname")
    assert re.search(r"^2 requests in 2 workers", shown.stdout)
    assert "web1 worker 1 core 0" in shown.stdout
    assert "web2 worker 1 core 0" in shown.stdout
    assert len(re.findall(r"^\d+  2 requests", shown.stdout, re.MULTILINE)) == 1
    document = json.loads(run("read", odd_base, "--format", "json", *there).stdout)
    assert [each["worker"]["host"] for each in document["workers"]] == ["web1", "web2"]
    assert [each["host"] for each in document["unanswered"]] == ["nowhere.invalid"]

    there = hosts(via, "web1", "web2")
    listed = json.loads(run("list", odd_base, "--format", "json", *there).stdout)["workers"]
    assert [(row["host"], row["number"], row["state"]) for row in listed] == [
        ("web1", 1, "alive"),
        ("web2", 1, "alive"),
    ]
    assert "web2, base " in run("list", odd_base, *there).stdout
    checked = run("check", odd_base, *there)
    assert (checked.returncode, len(checked.stdout.splitlines())) == (0, 2)
    assert checked.stdout.startswith("web1: ok: 1 of 1 worker answers")
    failed = run("check", odd_base, "--oldest", "0.01", *there)
    assert (failed.returncode, failed.stdout.count("failed: oldest request")) == (1, 2)
    text = run("metrics", odd_base, *there).stdout
    assert values(text, "host_up") == {"web1": 1, "web2": 1}
    assert values(text, "requests_in_flight", phase="app", host="web2") != {}


@pytest.mark.parametrize("count", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_top_over_ssh(server: Gunicorn, odd_base: str, via: str, count: int) -> None:
    """Two readings of each host, over one connection each."""
    names = [f"web{number}" for number in range(count)]
    shown = run("top", odd_base, "--once", "--every", "0.5", "--timeout", "30", *hosts(via, *names))
    assert f"{count} workers: {count} alive" in shown.stdout, shown.stderr
    assert all(re.search(rf"{name} 1:0 +GET /slow", shown.stdout) for name in names)


def test_kubectl_without_a_shell(server: Gunicorn, odd_base: str, tmp_path: Path) -> None:
    """The same words arrive; the names of pods come from a file, as kubectl get prints them."""
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(_KUBECTL.format(python=sys.executable))
    kubectl.chmod(0o700)
    pods = tmp_path / "pods"
    pods.write_text("# app=shop\npod/shop-1\n\npod/shop-2\npod/shop-3\n")
    there = ["--via", f"{kubectl} exec {{}} -c app --", "--hosts", str(pods), "--remote-command", REMOTE]
    shown = run("read", odd_base, *there)
    assert shown.stderr == 'wsgi-tb: pod/shop-3: unreachable: Error from server (NotFound): pods "shop-3" not found\n'
    assert "pod/shop-1 worker 1 core 0" in shown.stdout
    assert "pod/shop-2 worker 1 core 0" in shown.stdout


def test_documents_of_several_hosts(server: Gunicorn, odd_base: str, tmp_path: Path) -> None:
    """From stdin and from files; what the machine is called is in its document."""
    document = run("read", odd_base, "--format", "json").stdout
    assert json.loads(document)["host"] == os.uname().nodename
    other = document.replace(f'"host":"{os.uname().nodename}"', '"host":"web2"')
    shown = run("read", "-", stdin=document + other)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith("2 requests in 2 workers")
    assert "web2 worker 1 core 0" in shown.stdout
    file = tmp_path / "monday.json"
    file.write_text(document)
    assert "GET /slow" in run("read", str(file)).stdout
    assert "GET /slow" in run("read", str(file), "--format", "html").stdout
    assert run("read", str(file), odd_base).returncode == 2
    assert run("read", str(file), "--times", "2").returncode == 2
    assert run("read", str(tmp_path / "log")).returncode == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ["--host", "web1"],
        ["--via", "ssh {}"],
        ["--via", "ssh", "--host", "web1"],
        ["--via", "ssh {}", "--host", "-oProxyCommand=x"],
        ["--via", "ssh {}", "--hosts", "/nowhere/hosts"],
    ],
)
def test_what_cannot_be_meant(arguments: list[str]) -> None:
    """It is misuse, and nothing is run."""
    assert run("read", *arguments).returncode == 2


HOSTILE = "\x1b[31m\n\u202e<b>"


def test_what_a_host_says_is_text(tmp_path: Path) -> None:
    """Escape sequences in every place of its document are shown as such, and source is that of the document."""
    frame = Frame("/etc/hostname", 1, HOSTILE, "of the document")
    request = Request(HOSTILE, HOSTILE, None, HOSTILE, HOSTILE, 0.0, 5.0, "app")
    worker = Worker(number=1, base=HOSTILE, application=HOSTILE, host=HOSTILE)
    snapshot = Snapshot(worker, 0.0, (Stack(HOSTILE, core=0, request=request, frames=(frame,)),))
    file = tmp_path / "hostile.json"
    file.write_bytes(reading_json.encode([snapshot_json.encode(snapshot).rstrip()], [], HOSTILE))
    for arguments in (["--full", "--all"], ["--format", "html"]):
        shown = run("read", str(file), *arguments).stdout
        assert "of the document" in shown
        assert not set(shown) & {"\x1b", "\u202e"}
        assert "<b>" not in shown or arguments[0] == "--full"


def test_many_hosts_and_many_documents(tmp_path: Path) -> None:
    """Equal places of all of them are one; what they take for how many is measured by make bench."""
    hosts_read = other_hosts.read_hosts(tmp_path, 40)
    assert hosts_read.printed.startswith("3200 requests in 400 workers")
    merged = other_hosts.merge_documents(tmp_path, 300)
    assert merged.printed.startswith("2400 requests in 300 workers")
    for cost in (hosts_read, merged):
        assert len(re.findall(r"^ *[\d.]+ s", cost.printed, re.MULTILINE)) == 1, "equal places are one"
        assert cost.megabytes < 200
