"""``python -m bench``: measure, print the table and the targets, and write them down if asked to."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from bench import (
    dump_latency,
    growth,
    known_waits,
    live_view,
    lock_waits,
    memory,
    other_hosts,
    pauses,
    processes,
    reader_process,
    recorder_load,
    recordings,
    request_cost,
    samples,
    targets,
    throughput,
)
from wsgi_tracebacker._version import __version__

TOPICS = {
    "request": request_cost,
    "load": throughput,
    "dump": dump_latency,
    "pauses": pauses,
    "locks": lock_waits,
    "waits": known_waits,
    "read": reader_process,
    "top": live_view,
    "memory": memory,
    "growth": growth,
    "recorder": recorder_load,
    "hosts": other_hosts,
}
#: Only where they are asked for: they take more than an hour.
LONG_TOPICS = {"recordings": recordings}
#: What is compared with, by the name of its distribution.
PEERS = ("uWSGI", "gunicorn", "py-spy", "austin-dist", "pystack", "dogslow", "Django", "manhole", "werkzeug", "click")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure what wsgi_tracebacker costs.")
    parser.add_argument(
        "topics",
        nargs="*",
        metavar="TOPIC",
        help=f"{', '.join(TOPICS)}, which are the default; {', '.join(LONG_TOPICS)}",
    )
    parser.add_argument("--quick", action="store_true", help="fewer samples: a look, not a result")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write everything that was measured to FILE too")
    parser.add_argument("--into", metavar="FILE", type=Path, help="replace these topics in what --json wrote to FILE")
    parser.add_argument("--only-when-quiet", action="store_true", help="do nothing where others use the machine")
    arguments = parser.parse_args()
    topics = TOPICS | LONG_TOPICS
    unknown = set(arguments.topics) - set(topics)
    if unknown:
        parser.error(f"no topic {', '.join(sorted(unknown))}: there are {', '.join(topics)}")

    load = os.getloadavg()[0]
    if arguments.only_when_quiet and load > samples.QUIET_LOAD:
        parser.exit(1, f"others use the machine (load average {load:.1f}): the page would show that; try again later\n")
    # The programs are started as modules: found from here, wherever this was started.
    os.chdir(Path(__file__).parent.parent)
    for name in [name for name in os.environ if name.startswith("WSGI_TB_")]:
        del os.environ[name]
    machine: dict[str, Any] = {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "machine": f"{platform.system()} {platform.release()} {platform.machine()}, {os.cpu_count()} CPUs",
        "version": __version__,
        "processor": processor(),
        "load": os.getloadavg()[0],
        "quick": arguments.quick,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "peers": {name: version_of(name) for name in PEERS} | {"wrk": processes.find("wrk") and "installed"},
    }
    started = time.monotonic()
    rows: list[samples.Row] = []
    seconds: dict[str, float] = {}
    for name in arguments.topics or TOPICS:
        sys.stderr.write(f"measuring: {name}\n")
        began = time.monotonic()
        rows += topics[name].measure(arguments.quick)
        seconds[name] = round(time.monotonic() - began, 1)
    judged = list(targets.judge(rows))
    print(f"wsgi_tracebacker {__version__}, {machine['python']}, {machine['machine']}")
    print("Medians, with quartiles; x: compared with the line of its case that has 1.00.")
    print(", ".join(f"{name} {version or processes.NOT_INSTALLED}" for name, version in machine["peers"].items()))
    for line in (*samples.table(rows), *targets.lines(judged)):
        print(line)
    print(f"\n{time.monotonic() - started:.0f} s")
    machine |= {"load_after": os.getloadavg()[0], "seconds": seconds}
    if arguments.json is not None:
        arguments.json.write_text(written(machine, rows, judged), encoding="utf-8")
    if arguments.into is not None:
        whole = arguments.into.read_text(encoding="utf-8")
        arguments.into.write_text(replaced(whole, machine, rows), encoding="utf-8")


def replaced(whole: str, machine: dict[str, Any], rows: list[samples.Row]) -> str:
    """An earlier run as JSON, with the topics of a later one in place of its own, judged anew."""
    document = json.loads(whole)
    by_topic: dict[str, list[samples.Row]] = {}
    for row in [samples.Row(**row) for row in document["rows"]]:
        by_topic.setdefault(row.topic, []).append(row)
    later = document.get("later", {})
    for topic in dict.fromkeys(row.topic for row in rows):
        by_topic[topic] = [row for row in rows if row.topic == topic]
        load = f"{machine['load']:.1f} to {machine['load_after']:.1f}"
        later[topic] = {"date": machine["date"], "version": machine["version"], "quick": machine["quick"], "load": load}
    together = [row for each in by_topic.values() for row in each]
    return written(document["machine"], together, list(targets.judge(together)), later)


def written(
    machine: dict[str, Any],
    rows: list[samples.Row],
    judged: list[targets.Target],
    later: dict[str, dict[str, Any]] | None = None,
) -> str:
    """A run as JSON: one line for each row and each target, six digits that count.

    :param later: of each topic that was measured by itself after that run, when and how.
    """

    def line(values: dict[str, Any]) -> str:
        rounded = {k: float(f"{v:.6g}") if type(v) is float else v for k, v in values.items()}
        return json.dumps(rounded, ensure_ascii=False)

    each = ",\n".join(line(asdict(row)) for row in rows)
    reached = ",\n".join(line(target._asdict()) for target in judged)
    head = json.dumps(machine, ensure_ascii=False)
    more = f',\n"later": {json.dumps(later, ensure_ascii=False)}' if later else ""
    return f'{{"machine": {head}{more},\n"rows": [\n{each}\n],\n"targets": [\n{reached}\n]}}\n'


def version_of(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """What the kernel calls the processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
