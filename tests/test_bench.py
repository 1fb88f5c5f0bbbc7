"""The measurements: that they run and say what they should, not what comes out of them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from bench import __main__ as bench_main
from bench import (
    dump_latency,
    live_view,
    lock_waits,
    other_hosts,
    reader_process,
    recorder_load,
    recordings,
    request_cost,
    samples,
    targets,
    throughput,
)
from bench.__main__ import LONG_TOPICS, TOPICS, replaced, written
from docs import measurements
from tests.support.programs import PROJECT
from wsgi_tracebacker.analysis.live import Reading
from wsgi_tracebacker.reader.survey import Survey
from wsgi_tracebacker.top.readings import Taken

if TYPE_CHECKING:
    from pathlib import Path


def judged(*medians: tuple[str, str, str, float | None]) -> dict[str, bool | None]:
    rows = [samples.Row(topic, case, subject, "ms", median) for topic, case, subject, median in medians]
    return {target.what: target.met for target in targets.judge(rows)}


@pytest.mark.parametrize(
    ("passed", "added", "met"),
    [
        (0.1, 0.45, True),
        (0.1, 0.46, False),
        (0.3, 0.9, True),
        (0.3, 0.91, False),
        (0.03, 0.225, True),
        (0.03, 0.23, False),
    ],
)
def test_what_a_request_may_cost_depends_on_the_machine(passed: float, added: float, met: bool) -> None:
    """The limit holds where a pass-through costs what it does on usual machines, and is scaled on others."""
    topic, case = request_cost.TOPIC, request_cost.LIST
    found = judged((topic, case, request_cost.PASS_THROUGH, passed), (topic, case, request_cost.OURS, added))
    assert found["added to a request, list body"] is met


WRK = """\
Running 1s test @ http://127.0.0.1:8000/
  1 threads and 8 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.16ms    1.14ms  14.97ms   91.49%
    Req/Sec     7.53k     1.07k    9.20k    70.00%
  Latency Distribution
     50%  913.00us
     75%    1.17ms
     90%    2.13ms
     99%    1.20s
  7494 requests in 1.00s, 8.04MB read
Requests/sec:   7490.11
Transfer/sec:      8.04MB
"""


def test_what_wrk_prints_is_read_in_any_unit() -> None:
    """Requests in a second and their number, median and 99th percentile in milliseconds."""
    assert throughput.parse(WRK)[:4] == (7490.11, 0.913, 1200.0, 7494)


@pytest.mark.parametrize(
    "output",
    [
        WRK + "  Non-2xx or 3xx responses: 3\n",
        WRK + "  Socket errors: connect 0, read 3, write 0, timeout 0\n",
        WRK.replace("99%", "98%"),
        "",
    ],
)
def test_a_load_that_was_not_answered_is_no_result(output: str) -> None:
    """Errors in what wrk prints, or output that is not its own, raise."""
    with pytest.raises(ValueError, match=r"Non-2xx|Socket errors|no output of wrk"):
        throughput.parse(output)


def test_a_dump_is_taken_by_everybody_who_is_there() -> None:
    """One small case: each of them has a line, with a median or the reason why there is none; ours have one."""
    rows = dump_latency.measure_case(dump_latency.Case(2, 12), 1, 0.05)
    assert [row.subject for row in rows] == list(dump_latency.SUBJECTS)
    assert all((row.median or 0.0) > 0.0 or row.note for row in rows)
    found = {row.subject for row in rows if row.median is not None}
    assert {dump_latency.TEXT, dump_latency.JSON, dump_latency.FAULTHANDLER} <= found


def test_the_readers_read_the_same_workers(tmp_path: Path) -> None:
    """Two workers: our command names both, and so does uWSGI's where it is installed."""
    with reader_process.workers(2) as found:
        commands = reader_process.commands(found, str(tmp_path))
        output = subprocess.run(commands[reader_process.READ], capture_output=True, text=True, check=True).stdout
        assert all(f"pid {pid}" in output for pid in found.pids)
        if reader_process.UWSGI in commands:
            theirs = subprocess.run(commands[reader_process.UWSGI], capture_output=True, text=True, check=True)
            assert theirs.stderr.count("*** uWSGI Python tracebacker output ***") == 2


@pytest.mark.parametrize("case", [request_cost.LIST, request_cost.CHUNKS + request_cost.THREADED])
def test_every_way_to_serve_a_request_is_measured(case: str) -> None:
    """A round in a process of its own: each contestant has a sample, or the reason why it has none."""
    values, problems = request_cost._in_a_process(case, 1)
    assert {request_cost.PASS_THROUGH, request_cost.OFF, *request_cost.ADDED_BY_US} <= set(values)
    assert all(len(found) == 1 for found in values.values())
    assert {request_cost.TIMER, request_cost.LATER, request_cost.PROFILER} <= set(values) | set(problems)


def test_a_redraw_of_the_live_view_is_measured() -> None:
    """A reading for each but the first, and each takes some time."""
    readings = [Reading(float(at), float(at), ()) for at in range(3)]
    found = asyncio.run(live_view.redraws([Taken(each, Survey((), ())) for each in readings]))
    assert len(found) == 2
    assert all(each > 0.0 for each in found)


def test_the_share_of_a_function_is_read_of_every_recorder() -> None:
    """Of what ours and py-spy write, and of austin's other form; calls of other functions do not count."""
    for name in ("{} (bench/clocked.py:67)", "/x/bench/clocked.py:{}:67"):
        lines = [
            f"GET /;{name.format('application')};{name.format('long_part')};{name.format('compute')} 60",
            f"GET /;{name.format('application')};{name.format('short_part')} 20",
            f"{name.format('wait')} 1000",
        ]
        assert recordings.share_of_long(lines) == 0.75


def test_recordings_have_limits() -> None:
    """Each case, and what a server loses while it is recorded."""
    case, topic = recordings.case_name("bursts of 1 ms", 8), recordings.TOPIC
    found = judged(
        (topic, case, recordings.OURS, 4.1),
        (topic, case, recordings.NON_BLOCKING, 1.05),
        (topic, case, recordings.BLOCKING, 1.0),
        (topic, recordings.REQUESTS, recordings.RECORDED, 0.98),
        (topic, recordings.READER, recordings.OURS, 5.1),
    )
    assert found[f"wsgi-tb record, {case}"] is False
    assert found[f"{recordings.REQUESTS}: {recordings.RECORDED}"] is True
    assert found[f"{recordings.P99}: {recordings.RECORDED}"] is None
    assert found[recordings.READER] is False
    assert found["the same, beyond the better of both py-spy's"] is False


def test_a_topic_is_measured_again_by_itself() -> None:
    """It takes the place of what the earlier run had of it, which says so; the targets are those of all rows."""
    machine = {"date": "2030-01-02", "version": "1.0", "load": 0.1, "load_after": 0.2, "quick": False}
    topic, case, subject = lock_waits.TOPIC, lock_waits.CASE, lock_waits.TIME
    rows = [samples.row(name, case, subject, "ms", [4.0], None) for name in ("another topic", topic)]
    whole = written(machine, rows, list(targets.judge(rows)))
    slower = samples.row(topic, case, subject, "ms", [6.0], None)
    found = json.loads(replaced(whole, machine | {"date": "2030-01-03"}, [slower]))
    assert [(row["topic"], row["median"]) for row in found["rows"]] == [("another topic", 4.0), (topic, 6.0)]
    assert {name: (later["date"], later["load"]) for name, later in found["later"].items()} == {
        topic: ("2030-01-03", "0.1 to 0.2")
    }
    assert [target["met"] for target in found["targets"]] == [False]
    assert found["machine"] == machine


def test_many_hosts_are_measured() -> None:
    """A quick run: each case has its sizes; over ssh too, where there is an sshd."""
    rows = other_hosts.measure(quick=True)
    sizes = [
        *((case, f"{count} hosts") for case in (other_hosts.OF_HOSTS, other_hosts.MEMORY) for count in (3, 10)),
        *((other_hosts.OF_DOCUMENTS, f"{count} documents") for count in (10, 40)),
        (other_hosts.OF_SSHD, "2 hosts"),
    ]
    assert [(row.case, row.subject) for row in rows] == sizes
    assert all((row.median or 0.0) > 0.0 for row in rows if row.case != other_hosts.OF_SSHD)


def test_the_page_is_what_the_file_says() -> None:
    """docs/benchmarks.md is made from docs/benchmarks.json, and says something of every topic."""
    document = json.loads(measurements.MEASURED.read_text(encoding="utf-8"))
    assert measurements.PAGE.read_text(encoding="utf-8") == measurements.page(document)
    assert not any(each.get("quick") for each in (document["machine"], *document.get("later", {}).values()))
    assert {row["topic"] for row in document["rows"]} == {topic.TOPIC for topic in (TOPICS | LONG_TOPICS).values()}
    assert set(measurements.ABOUT) == {topic.TOPIC for topic in (TOPICS | LONG_TOPICS).values()}


def test_a_page_is_only_made_on_a_quiet_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Where others use it, nothing is measured and no file is written."""
    monkeypatch.setattr(os, "getloadavg", lambda: (samples.QUIET_LOAD + 0.1, 0.0, 0.0))
    monkeypatch.setattr(sys, "argv", ["bench", "--only-when-quiet", "--json", str(tmp_path / "run.json"), "recorder"])
    with pytest.raises(SystemExit, match="1"):
        bench_main.main()
    assert "others use the machine (load average 1.1)" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_run_prints_a_table_and_writes_it_down(tmp_path: Path) -> None:
    """One topic, measured quickly: every row is in the table and in the file, with the targets."""
    file = tmp_path / "bench.json"
    output = subprocess.run(
        [sys.executable, "-m", "bench", "recorder", "--quick", "--json", str(file)],
        capture_output=True,
        text=True,
        cwd=PROJECT,
        check=True,
        timeout=60,
    ).stdout
    document = json.loads(file.read_text(encoding="utf-8"))
    subjects = [row["subject"] for row in document["rows"]]
    assert subjects == [recorder_load.IDLE, recorder_load.RECORDING]
    assert all(row["low"] <= row["median"] <= row["high"] for row in document["rows"])
    assert all(f"  {subject} " in output for subject in subjects)
    assert len(document["targets"]) == 1
    assert set(document["machine"]["seconds"]) == {"recorder"}
    assert "\nTargets\n" in output
