"""Workers of other hosts, followed and recorded: by connections that are kept."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from werkzeug.test import Client

from tests.support.exposition import values
from tests.support.programs import PROJECT, default_signals
from tests.support.pythons import needs_recordings_from_outside
from tests.support.servers import Gunicorn, Server
from tests.support.waiting import wait_until
from wsgi_tracebacker.analysis.live import WorkerReading
from wsgi_tracebacker.reader.elsewhere.followed import Followed
from wsgi_tracebacker.reader.elsewhere.hosts import parse
from wsgi_tracebacker.top.other_hosts import HostsQuestion
from wsgi_tracebacker.web.site import Site
from wsgi_tracebacker.web.workers import OfHosts
from wsgi_tracebacker.wire.profiles import raw

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMAND = (sys.executable, "-m", "wsgi_tracebacker")
REMOTE = f"{sys.executable} -m wsgi_tracebacker"
CONFIGURATION = ("-c", "python:wsgi_tracebacker.servers.gunicorn")

#: Takes the words of kubectl, notes its process for the pod, and runs what stands behind its --, as kubectl does.
_KUBECTL = """\
#!{python}
import os, sys
verb, pod, dashes, *command = sys.argv[1:]
if (verb, dashes) != ("exec", "--"):
    sys.exit("error: unknown command " + " ".join(sys.argv[1:]))
if not os.path.exists(os.path.join({folder!r}, pod)):
    sys.exit("Error from server (NotFound): pods " + pod + " not found")
with open(os.path.join({folder!r}, pod), "a") as file:
    file.write(str(os.getpid()) + "\\n")
os.execvp(command[0], command)
"""


class Pods:
    """Pods that a stand-in for kubectl knows; all of them have the same worker."""

    def __init__(self, folder: Path, *names: str) -> None:
        self._folder = folder
        self.kubectl = folder / "kubectl"
        self.kubectl.write_text(_KUBECTL.format(python=sys.executable, folder=str(folder)))
        self.kubectl.chmod(0o700)
        for name in names:
            (folder / name).touch()

    def options(self, *names: str) -> list[str]:
        named = [word for name in names for word in ("--host", name)]
        return ["--via", f"{self.kubectl} exec {{}} --", "--remote-command", REMOTE, *named]

    def pids(self, name: str) -> list[int]:
        """Of the processes that were started in a pod so far."""
        return [int(line) for line in (self._folder / name).read_text().split()]


@pytest.fixture
def pods(short_path: Path) -> Pods:
    return Pods(short_path, "shop-1", "shop-2")


@pytest.fixture
def server(base: str, tmp_path: Path) -> Iterator[Gunicorn]:
    """One worker with one request, which sleeps."""
    arguments = ("example_app.wsgi:application", *CONFIGURATION, "--threads", "2")
    with (
        Gunicorn(*arguments, log=tmp_path / "log", env={"WSGI_TB_SOCKET": base}) as started,
        started.in_flight("/slow?seconds=600"),
    ):
        wait_until(lambda: "GET /slow" in run("read", base).stdout, "the request is in flight")
        yield started


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = (*COMMAND, *arguments)
    return subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=False, timeout=120)


def is_following(pid: int) -> bool:
    """Whether this is a process of ours that prints readings; of one that has ended the words are gone."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
        return b"--for" in file.read().split(b"\0")
    return False


def test_top_keeps_its_connections(server: Gunicorn, base: str, pods: Pods) -> None:
    """One process a host, however many readings it takes; when it ends none is left there."""
    command = [*COMMAND, "top", base, "--format", "jsonl", "--every", "0.2", *pods.options("shop-1", "shop-2")]
    with subprocess.Popen(
        command,
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=default_signals,  # noqa: PLW1509
    ) as top:
        assert top.stdout is not None
        taken: dict[str, set[float]] = {"shop-1": set(), "shop-2": set()}
        while min(map(len, taken.values())) < 8:
            line = json.loads(top.stdout.readline())
            assert (line["path"], line["worker"]) == ("/slow", 1)
            taken[line["host"]].add(line["taken_at"])
        top.send_signal(signal.SIGINT)
        top.stdout.read()
    started = {name: pods.pids(name) for name in taken}
    # One that a busy machine keeps from saying anything for ten seconds is started anew.
    assert max(map(len, started.values())) <= 2
    wait_until(lambda: not any(is_following(pid) for pids in started.values() for pid in pids), "they have ended")


def test_once_and_a_host_that_is_not_there(server: Gunicorn, base: str, pods: Pods) -> None:
    """The screen as text has the rows of all hosts; stderr and the exit code say what is missing."""
    shown = run("top", base, "--once", "--every", "0.2", "--timeout", "30", *pods.options("shop-1", "shop-2", "shop-3"))
    assert shown.returncode == 1, shown.stderr
    assert re.search(r"2 workers: 2 alive +2/4 busy", shown.stdout)
    assert re.search(r"shop-1 1:0 +GET /slow", shown.stdout)
    assert re.search(r"shop-2 1:0 +GET /slow", shown.stdout)
    assert "wsgi-tb: shop-3: unreachable: Error from server (NotFound): pods shop-3 not found\n" in shown.stderr


def test_documents_go_on_for_a_while(server: Gunicorn, base: str) -> None:
    """A line each; it needs JSON, and several looks are another thing."""
    lines = run("read", base, "--format", "json", "--for", "0.5", "--every", "0.25").stdout.splitlines()
    assert len(lines) >= 2
    assert all(json.loads(line)["workers"][0]["threads"] for line in lines)
    for wrong in (["--for", "1"], ["--format", "json", "--for", "1", "--times", "2"]):
        assert run("read", base, *wrong).returncode == 2


def reading(address: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{address}api/readings", timeout=60) as answer:
        document = json.load(answer)
    assert isinstance(document, dict)
    return document


def hosts_of(document: dict[str, Any]) -> list[str]:
    """Of the workers that are shown, if all is well."""
    return [] if document["unanswered"] else [each["worker"]["host"] for each in document["workers"]]


def test_a_host_that_is_behind(server: Gunicorn, base: str, pods: Pods, tmp_path: Path) -> None:
    """What it served last is shown for a while, with the age of that; later the page is well again."""
    command = [*COMMAND, "web", base, "--timeout", "30", "--listen", "127.0.0.1:0", *pods.options("shop-1", "shop-2")]
    with Server(command, tmp_path / "web.log") as web:
        address = web.wait_for_log(r"(http://\S+/) shows the workers of 2 hosts")[1]
        wait_until(lambda: hosts_of(reading(address)) == ["shop-1", "shop-2"], "both are shown")
        following = pods.pids("shop-2")[-1]
        os.kill(following, signal.SIGSTOP)
        found = wait_until(
            lambda: [each for each in reading(address)["unanswered"] if each["host"] == "shop-2"], "it is behind"
        )
        behind = found[0]
        assert behind["reason"] == "behind"
        assert re.match(r"its last reading is \d+ s old", behind["message"])
        # Its process does not answer, is ended, and another one takes its place.
        wait_until(lambda: not is_following(following), "it is ended")
        wait_until(lambda: reading(address)["unanswered"] == [], "it is well again")
    started = [*pods.pids("shop-1"), *pods.pids("shop-2")]
    wait_until(lambda: not any(map(is_following, started)), "none is left")


# Both hosts have the same worker, and from inside it can be recorded once at a time.
@needs_recordings_from_outside
def test_the_page_records_hosts(server: Gunicorn, base: str, pods: Pods) -> None:
    """All of them, or one worker of one host, also a silent one; the metrics and the probes have each host too."""
    there = parse(f"{pods.kubectl} exec {{}} --", ("shop-1", "shop-2"), REMOTE)._replace(seconds=60)
    question = HostsQuestion(Followed(there, (base,), (), 30.0, 1.0))
    try:
        workers = OfHosts(there, (base,), 30.0, question)
        client = Client(Site(workers=workers))
        opened = re.findall(r'id="r([0-9a-f]+)"', client.get("/?view=workers").text)
        shown = client.get("/", query_string={"view": "workers", "open": ",".join(opened)}).text
        names = re.findall(r'name="worker" value="([0-9a-f]+)"[^>]*>Record worker (shop-. 1)<', shown)
        assert [label for _, label in names] == ["shop-1 1", "shop-2 1"]
        ours = {"Origin": "http://localhost"}
        page = client.post("/record", data={"seconds": "1"}, headers=ours).text
        assert "2 requests in 2 workers" in page
        assert "on shop-1, shop-2<" in page
        page = client.post("/record", data={"seconds": "1", "worker": names[1][0]}, headers=ours).text
        assert "1 request in 1 worker" in page
        assert "on shop-2<" in page
        silent = WorkerReading(f"shop-1 {base}1", number=1, pid=None, state="busy", label="shop-1 1")
        found = workers.record(0.5, silent)
        assert (found.recording.host, len(found.recording.workers), found.missing) == ("shop-1", 1, ())
        lost = workers._replace(hosts=there._replace(targets=(*there.targets, "shop-3")))
        [missing] = lost.record(0.5, None).missing
        assert missing.startswith("shop-3: ")
        assert values(client.get("/metrics").text, "host_up") == {"shop-1": 1, "shop-2": 1}
        # On a busy machine the worker may not answer a probe in time.
        assert re.fullmatch(r"shop-1: (ok|failed): .*\nshop-2: (ok|failed): .*\n", client.get("/ready").text)
    finally:
        question.stop()


# Both hosts have the same worker, and from inside it can be recorded once at a time.
@needs_recordings_from_outside
def test_a_recording_of_several_hosts(server: Gunicorn, base: str, pods: Pods) -> None:
    """All at the same time, as one; a path that a shell would expand arrives as it is; who is missing is named."""
    names = ("shop-1", "shop-2", "shop-3")
    output = f"{base}.jsonl"
    done = run("record", base, "-d", "1", "--route", "/sl*", "-o", output, "--at-once", "1", *pods.options(*names))
    assert done.returncode == 1, done.stderr
    assert "wsgi-tb: shop-3: Error from server (NotFound): pods shop-3 not found\n" in done.stderr
    with open(output, encoding="utf-8") as file:
        found = raw.parse(file)
    assert (found.host, found.requests, len(found.workers)) == ("shop-1, shop-2", 2, 2)
    assert {(stack.host, stack.route, stack.waits_for) for stack in found.stacks} == {
        ("shop-1", "GET /slow", "sleep"),
        ("shop-2", "GET /slow", "sleep"),
    }
    assert run("record", "--from", output, "-o", "-", "--format", "folded", "--by", "worker").stdout.startswith("shop-")
    nobody = run("record", base, "-d", "1", "--route", "/nothing", "-o", output, *pods.options("shop-1"))
    assert (nobody.returncode, "no request whose path matches '/nothing' was in flight" in nobody.stderr) == (0, True)
