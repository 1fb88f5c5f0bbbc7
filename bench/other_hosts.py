"""What it takes to look at many hosts: ``wsgi-tb read`` over real sshd, over 100 hosts, and of 1,000 documents.

A host is a stand-in where there are many: a command that waits 0.1 s, as a network and a login do, and prints the
document of ten workers with eight requests each. Ten hosts are ten names of a real sshd on loopback, whose handshakes
this machine has to compute at both ends.
"""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench import processes
from bench.folders import scratch_folder
from bench.samples import Row, missing, row
from tests.support.programs import PROJECT
from tests.support.sshd import sshd
from wsgi_tracebacker.model.snapshot import Frame, Request, Snapshot, Stack, Worker
from wsgi_tracebacker.wire.documents import reading_json, snapshot_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TOPIC = "wsgi-tb read, many hosts"
WORKERS, REQUESTS = 10, 8
OF_HOSTS = f"hosts with {WORKERS} workers of {REQUESTS} requests each, and 0.1 s to answer"
OF_DOCUMENTS = f"documents of one worker with {REQUESTS} requests, merged"
OF_SSHD = "hosts over a real sshd on loopback, each with one request"
MEMORY = f"memory, {OF_HOSTS}"

HOSTS, QUICK_HOSTS = (10, 30, 100), (3, 10)
DOCUMENTS, QUICK_DOCUMENTS = (100, 300, 1000), (10, 40)
SSH_HOSTS, QUICK_SSH_HOSTS = 10, 2
ROUNDS, QUICK_ROUNDS = 5, 1


#: The command, and after it how many KiB it had in RAM at most.
_MEASURED = """\
import gc, sys
from wsgi_tracebacker.cli.main import run_command
gc.disable()
code = run_command()
with open("/proc/self/status") as file:
    print(file.read().partition("VmHWM:")[2].split()[0], file=sys.stderr)
sys.exit(code)
"""


class Cost(NamedTuple):
    """Of one run of the command."""

    milliseconds: float
    megabytes: float
    printed: str


def measure(quick: bool) -> list[Row]:
    rounds = QUICK_ROUNDS if quick else ROUNDS
    rows = []
    with scratch_folder() as folder:
        of_hosts = {
            count: [read_hosts(Path(folder), count) for _ in range(rounds)]
            for count in (QUICK_HOSTS if quick else HOSTS)
        }
        rows += _growing(OF_HOSTS, "hosts", "ms", {n: [c.milliseconds for c in of_hosts[n]] for n in of_hosts})
        rows += _growing(MEMORY, "hosts", "MB", {n: [c.megabytes for c in of_hosts[n]] for n in of_hosts})
        of_documents = {
            count: [merge_documents(Path(folder), count).milliseconds for _ in range(rounds)]
            for count in (QUICK_DOCUMENTS if quick else DOCUMENTS)
        }
        rows += _growing(OF_DOCUMENTS, "documents", "ms", of_documents)
        count = QUICK_SSH_HOSTS if quick else SSH_HOSTS
        try:
            over_ssh = [each.milliseconds for each in read_over_ssh(Path(folder), count, rounds)]
        except Exception as error:
            rows.append(missing(TOPIC, OF_SSHD, f"{count} hosts", "ms", f"does not work here: {error}"))
        else:
            rows.append(row(TOPIC, OF_SSHD, f"{count} hosts", "ms", over_ssh, None))
    return rows


def _growing(case: str, of: str, unit: str, values: dict[int, list[float]]) -> list[Row]:
    first = statistics.median(values[min(values)])
    return [row(TOPIC, case, f"{count} {of}", unit, found, first) for count, found in values.items()]


def snapshot(number: int) -> Snapshot:
    """A worker with eight requests, 30 calls deep."""
    frames = tuple(
        Frame(f"/srv/shop/part{depth}.py", depth + 1, f"call{depth}", "    return deeper()") for depth in range(30)
    )
    stacks = tuple(
        Stack(
            f"WSGIWorker{number}Core{core}",
            core=core,
            frames=frames,
            request=Request("GET", f"/checkout/{core}", None, "203.0.113.7", None, 0.0, 5.0 + core, "app"),
        )
        for core in range(REQUESTS)
    )
    return Snapshot(Worker(number=number, pid=number, base="/run/shop/tb", requests_in_flight=REQUESTS), 0.0, stacks)


def document_of(workers: int) -> bytes:
    found = [snapshot_json.encode(snapshot(number)).rstrip() for number in range(1, workers + 1)]
    return reading_json.encode(found, [], "h")


def read_hosts(folder: Path, count: int) -> Cost:
    """``wsgi-tb read`` over so many hosts."""
    document, hosts = folder / "document", folder / "hosts"
    document.write_bytes(document_of(WORKERS))
    hosts.write_text("".join(f"web{number}\n" for number in range(count)))
    return cost_of("read", "--via", f"sh -c 'sleep 0.1; exec cat {document}' {{}}", "--hosts", str(hosts))


def merge_documents(folder: Path, count: int) -> Cost:
    """``wsgi-tb read -`` of so many documents."""
    documents = folder / "documents"
    documents.write_bytes(document_of(1) * count)
    return cost_of("read", "-", stdin=documents)


def read_over_ssh(folder: Path, count: int, rounds: int) -> list[Cost]:
    """``wsgi-tb read`` of a real worker over ssh, by so many names of this machine."""
    with contextlib.ExitStack() as opened:
        opened.enter_context(_one_worker(base := f"{folder}/tb"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        via = opened.enter_context(sshd(folder, port))
        named = [word for number in range(count) for word in ("--host", f"web{number}")]
        remote = ["--remote-command", f"{sys.executable} -m wsgi_tracebacker"]
        return [cost_of("read", base, "--via", via, *remote, *named) for _ in range(rounds)]


@contextlib.contextmanager
def _one_worker(base: str) -> Iterator[None]:
    environment = {"WSGI_TB_SOCKET": base, "BENCH_THREADS": "1", "BENCH_BUSY": "0"}
    with processes.running([sys.executable, "-m", "bench.stacks"], environment) as process:
        processes.wait_until(lambda: processes.has_requests(f"{base}1", 1), f"{base}1", process)
        yield


def cost_of(*arguments: str, stdin: Path | None = None) -> Cost:
    """Of the whole process. What it had in RAM at most it says itself: the kernel's own figure, of wait4(2), is at
    least what this process had when it forked.
    """
    command: Sequence[str] = (sys.executable, "-c", _MEASURED, *arguments)
    began = time.perf_counter()
    with open(stdin or os.devnull, "rb") as opened:
        done = subprocess.run(command, stdin=opened, capture_output=True, text=True, cwd=PROJECT, check=True)
    seconds = time.perf_counter() - began
    return Cost(seconds * 1e3, int(done.stderr.split()[-1]) / 1024, done.stdout)
