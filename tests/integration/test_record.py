"""Recordings of real workers, from outside: what they show, and workers that come and go meanwhile."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import black_boxes, recordings_inside
from tests.support.namespaces import pid_namespace
from tests.support.programs import PROJECT, require_program
from tests.support.pythons import needs_recordings_from_outside
from tests.support.recordings import finished, interrupted, recording, wait_for_looks
from tests.support.servers import children_of
from wsgi_tracebacker.reader.finding.processes import Processes
from wsgi_tracebacker.wire.profiles import raw

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

pytestmark = needs_recordings_from_outside


@contextlib.contextmanager
def serving(base: str, *paths: str, before: Sequence[str] = ()) -> Iterator[subprocess.Popen[str]]:
    """A worker that serves requests all the time.

    :param before: a command that runs another one.
    """
    command = [*before, sys.executable, "-m", "tests.programs.recorded", base, *paths]
    with subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def test_a_recording_has_routes_stacks_and_what_was_waited_for(base: str) -> None:
    """Each route with its whole wall clock, its innermost call, and CPU, sleep, lock or the other end."""
    with serving(base), recording(base, "-d", "2") as process:
        found, _ = finished(base, process)
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    functions: dict[tuple[str, str], set[str]] = {}
    for stack in found.stacks:
        seconds[stack.route, stack.waits_for] += stack.seconds
        functions.setdefault((stack.route, stack.waits_for), set()).update(frame.function for frame in stack.frames)
    all_of_it = seconds["GET /long", "sleep"]
    assert all_of_it == pytest.approx(found.seconds, rel=0.05)
    assert seconds["GET /hold", "sleep"] == pytest.approx(all_of_it, rel=0.05)
    assert seconds["GET /lock/:", "lock"] == pytest.approx(all_of_it, rel=0.05)
    assert "wait_for_lock" in functions["GET /lock/:", "lock"]
    [peer] = [waits_for for route, waits_for in seconds if route == "GET /peer/:"]
    assert peer.startswith("127.0.0.1:") or peer == "connection"
    half = {waits_for: value for (route, waits_for), value in seconds.items() if route == "GET /half/:"}
    # How it divides depends on how many others want a CPU.
    assert half["sleep"] + half["CPU"] == pytest.approx(all_of_it, rel=0.15)
    assert "compute" in functions["GET /half/:", "CPU"]
    assert (found.requests > 4, found.torn_share < 0.02, len(found.workers)) == (True, True, 1)
    assert 0 < found.cpu_seconds < 2.2


def test_a_recording_can_be_limited_and_converted(base: str) -> None:
    """--route keeps the other requests out; --from makes every form of what was recorded, and --cpu drops the waits."""
    with serving(base):
        with recording(base, "--route", "/HA*", "-d", "0.1") as process:
            _, err = finished(base, process)
        assert "no request whose path matches '/HA*' was in flight" in err
        with recording(base, "--route", "/ha*") as process:
            wait_for_looks(process, [])
            found, _ = interrupted(base, process)
    assert {stack.route for stack in found.stacks} == {"GET /half/:"}
    convert = [sys.executable, "-m", "wsgi_tracebacker", "record", "--from", f"{base}.jsonl", "-o"]
    for ending in (".folded", ".speedscope.json", ".pb.gz", ".jsonl", ".html"):
        done = subprocess.run([*convert, f"{base}{ending}"], cwd=PROJECT, capture_output=True, text=True, check=False)
        assert (done.returncode, f"written to {base}{ending}\n" in done.stderr) == (0, True), done.stderr
        assert Path(f"{base}{ending}").stat().st_size
    folded = [*convert, "-", "--format", "folded", "--by", "wait", "--cpu"]
    done = subprocess.run(folded, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout
    assert all(line.startswith("CPU;GET /half/:;") for line in done.stdout.splitlines())
    # The summary is of all that was recorded.
    assert f", {found.total_seconds:.1f} s of their time\n" in done.stderr


def test_a_single_look_stands_for_all_of_the_recording(base: str) -> None:
    """Also where no second one follows within its time."""
    with serving(base, "/long"), recording(base, "-r", "1", "-d", "0.5") as process:
        found, _ = finished(base, process)
    [stack] = found.stacks
    assert (stack.samples, round(stack.seconds, 1)) == (1, 0.5)


def test_workers_in_other_pid_namespaces(base: str) -> None:
    """From outside, with their pids of here, for who sees them, as root of a node; else from inside.

    That is as from a container beside theirs. Both of them have pid 1 in their own one.
    """
    container = pid_namespace()
    command = [sys.executable, "-m", "wsgi_tracebacker", "record", base, "-o", f"{base}.jsonl", "-d", "1"]
    with serving(base, "/long", before=container) as one, serving(base, "/half/{}", before=container) as two:
        pids = [child for each in (one, two) for child in children_of(each.pid)]
        for before, engine, shown in ((), "outside", pids), (container, "inside", [1, 1]):
            recorded = subprocess.run([*before, *command], cwd=PROJECT, stderr=subprocess.PIPE, text=True, check=False)
            assert recorded.returncode == 0, recorded.stderr
            found = raw.parse(Path(f"{base}.jsonl").read_text(encoding="utf-8").splitlines())
            assert [(worker.pid, worker.engine) for worker in found.workers] == [(pid, engine) for pid in shown]
            # Each thread in its own place, although the other worker has threads of the same numbers.
            waits = {(stack.worker, stack.route, stack.waits_for) for stack in found.stacks}
            assert {(1, "GET /long", "sleep"), (2, "GET /half/:", "sleep")} <= waits
            assert {wait for worker, _, wait in waits if worker == 2} & {"CPU", "on a CPU, place unknown"}
            assert {wait for worker, _, wait in waits if worker == 1} == {"sleep"}
            note = f"worker 1 (pid 1, {base}1): from inside: it runs in another pid namespace\n"
            assert (note in recorded.stderr) is (engine == "inside")
    gone = subprocess.run(command, cwd=PROJECT, stderr=subprocess.PIPE, text=True, check=False)
    assert (gone.returncode, gone.stderr.count(" lives\n")) == (3, 1)


def test_an_interrupted_recording_keeps_what_there_is(base: str) -> None:
    """Ctrl-C ends it at once, and it says that it is partial."""
    with serving(base) as worker, recording(base, "-d", "60") as process:
        wait_for_looks(process, [worker.pid])
        found, err = interrupted(base, process)
    assert "partial, " in err
    assert " of 60 s: " in err
    assert found.stacks


@pytest.mark.parametrize("end", ["killed", "another program"])
def test_workers_that_end_and_start_meanwhile(base: str, end: str) -> None:
    """The first one is killed, or becomes another program: what it did stays. The second one is found and recorded."""
    with serving(base) as first, recording(base) as process:
        wait_for_looks(process, [first.pid])
        if end == "killed":
            first.kill()
            first.wait()
        else:
            assert first.stdin is not None
            first.stdin.write("go\n")
            first.stdin.flush()
        with serving(base) as second:
            wait_for_looks(process, [second.pid])
            found, _ = interrupted(base, process)
    assert {worker.pid for worker in found.workers} == {first.pid, second.pid}
    assert found.torn_share < 0.02
    # Neither was looked at for all of it.
    assert sum(stack.seconds for stack in found.stacks if stack.route == "GET /long") < found.seconds


def test_a_thread_that_ran_for_a_moment_is_seen_where_it_is_now(base: str) -> None:
    """What waits is not read again until it has run; one that always waits, but in turns elsewhere, is seen in both."""
    with serving(base, "/turns/{}", "/long") as worker, recording(base) as process:
        wait_for_looks(process, [worker.pid], 300)
        found, _ = interrupted(base, process)
    samples = {"sleep_here": 0, "sleep_there": 0, "application": 0}
    for stack in found.stacks:
        if stack.waits_for == "sleep":
            samples[stack.frames[-1].function] += stack.samples
    assert samples["application"] > 200
    assert min(samples["sleep_here"], samples["sleep_there"]) > 50


def test_the_cpu_time_of_threads_that_end_is_known(base: str) -> None:
    """Some servers start a thread for each request. By its own clock each one computes for 0.1 s."""
    with serving(base, "/alone/{}") as worker, recording(base) as process:
        wait_for_looks(process, [worker.pid], 300)
        found, _ = interrupted(base, process)
    assert 0.08 * (found.requests - 2) <= found.cpu_seconds <= 0.12 * found.requests


def test_what_a_thread_did_before_the_recording_does_not_count(base: str) -> None:
    """The main thread of a server's worker loads the application, and may serve its first request much later."""
    with serving(base, "/long") as worker, recording(base) as process:
        wait_for_looks(process, [worker.pid])
        assert worker.stdin is not None
        times = Processes().thread_times(worker.pid, worker.pid)
        worker.stdin.write("serve\n")
        worker.stdin.flush()
        # New threads are looked for once a second.
        wait_for_looks(process, [worker.pid], 300)
        found, _ = interrupted(base, process)
    assert times is not None
    assert (found.requests, found.cpu_seconds < times.ran / 1e9) == (2, True)


def test_a_worker_that_forks_is_recorded_and_its_children_are_not(base: str) -> None:
    """Its request waits for the child, which has a copy of everything and is no worker."""
    with serving(base, "/fork/{}", "/long") as worker, recording(base) as process:
        wait_for_looks(process, [worker.pid], 200)
        found, _ = interrupted(base, process)
    assert [(each.number, each.pid) for each in found.workers] == [(1, worker.pid)]
    assert {stack.route for stack in found.stacks} == {"GET /fork/:", "GET /long"}
    assert ("GET /fork/:", "child") in {(stack.route, stack.waits_for) for stack in found.stacks}
    functions = {frame.function for stack in found.stacks for frame in stack.frames if stack.waits_for == "child"}
    assert "fork_a_child" in functions
    assert found.torn_share < 0.02


def test_a_worker_that_is_found_later_is_named_too(base: str) -> None:
    """If it is recorded from inside, stderr says so, as of those that were there from the beginning."""
    with serving(base), recording(base, "--from-inside") as process, serving(base) as second:
        # New workers are looked for once a second.
        wait_for_looks(process, [], 300)
        found, err = interrupted(base, process)
    # Looks a second: more are not made from inside.
    assert found.rate == 20
    assert f"worker 2 (pid {second.pid}, {base}2): from inside\n" in err


def test_what_has_no_worker_is_named(base: str) -> None:
    """A number, a base and a base whose worker has died: the others are recorded, and the exit code is 1."""
    command = [sys.executable, "-m", "wsgi_tracebacker", "record", "-d", "0.1", "-o", f"{base}.folded", "-w", "1"]
    with serving(f"{base}-dead"):
        pass
    with serving(base):
        arguments = (base, f"{base}-dead", f"{base}-none", "-w", "9")
        done = subprocess.run([*command, *arguments], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "wsgi-tb: no worker 9: there is 1\n" in done.stderr
    assert f"wsgi-tb: no worker of wsgi_tracebacker's behind '{base}-dead' lives\n" in done.stderr
    assert f"wsgi-tb: no workers behind '{base}-none': " in done.stderr
    assert Path(f"{base}.folded").exists()
    done = subprocess.run([*command, f"{base}-dead"], cwd=PROJECT, capture_output=True, text=True, check=False)
    black_boxes.remove(f"{base}-dead")
    assert (done.returncode, " lives\n" in done.stderr) == (3, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up what a reader needs")
def test_where_all_is_refused_nothing_is_written(base: str) -> None:
    """The worker is named with the reason and what to try, and with who records it from inside already."""
    without = [require_program("setpriv"), "--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace"]
    command = [*without, sys.executable, "-m", "wsgi_tracebacker", "record", base, "-d", "1", "-o", f"{base}.folded"]
    with serving(base), recordings_inside.recording(f"{base}1", "seconds=100"):
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "run wsgi-tb as root" in done.stderr
    assert "; from inside: " in done.stderr
    assert " records until " in done.stderr
    assert not Path(f"{base}.folded").exists()


def test_misuse_is_said_before_anything_is_recorded(base: str) -> None:
    """An unknown ending, no such folder, no raw form, --from with what limits a recording, a base without workers."""
    for arguments, code, meant in (
        ([base, "-o", f"{base}.txt"], 2, "give --format"),
        ([base, "-o", f"{base}/none/a.html"], 4, f"there is no folder {base}/none"),
        ([base, "-o", "-"], 2, "'-' has none of the endings .html, "),
        (["--from", os.devnull, "-o", f"{base}.folded"], 2, "it is no recording"),
        (["--from", os.devnull, "-o", f"{base}.folded", "--route", "/pay"], 2, "--from records nothing"),
        ([base, "-o", f"{base}.folded"], 3, "no workers behind"),
    ):
        command = [sys.executable, "-m", "wsgi_tracebacker", "record", *arguments]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, meant in done.stderr) == (code, True), done.stderr
