"""What a worker's memory grows by: being wrapped, a first dump, a hundred thousand dumps.

Real gunicorn workers of 8 threads, four of them in requests that wait, each in a stack of 20 frames more. The kernel
says what they have (``smaps_rollup``): RSS counts what is shared too, private is what the worker alone pays for.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench import dump_latency, processes, served, throughput
from bench.folders import scratch_folder
from bench.samples import Row, missing, row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOPIC = "Memory of a worker"
#: What the kernel counts, by the column of Memory.
KINDS = ("private", "RSS")
WRAPPED, FIRST = "gained by being there", "gained by the first dump"
#: How many more.
MANY, QUICK_MANY = 100_000, 2_000
OURS, MANHOLE, UWSGI = "wsgi_tracebacker", "manhole", "uWSGI's tracebacker"
BARE = "gunicorn's worker, bare: all it has"

#: uWSGI loses 10 kB a dump or more, manhole starts a thread for each: fewer, and their number stands beside them.
FEWER, QUICK_FEWER = {UWSGI: 10_000, MANHOLE: 2_000}, {UWSGI: 1_000, MANHOLE: 200}

ROUNDS, QUICK_ROUNDS = 5, 1
WAITING = 4
#: So that each thread of the pool exists, and what a request makes once is made.
_REQUESTS_EACH = 100


class Memory(NamedTuple):
    """Megabytes."""

    private: float
    rss: float


def case_name_of_many(quick: bool) -> str:
    return f"gained by {QUICK_MANY if quick else MANY:,} more dumps"


def memory_of(pid: int) -> Memory:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    kilobytes = {name: int(number) for name, number in re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE)}
    return Memory((kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]) / 1024, kilobytes["Rss"] / 1024)


class Found(NamedTuple):
    """What one worker had: at first, after a dump of each kind, after many more."""

    begin: Memory
    first: Memory
    many: Memory | None = None


def measure(quick: bool) -> list[Row]:
    rounds = QUICK_ROUNDS if quick else ROUNDS
    many = {OURS: QUICK_MANY, **QUICK_FEWER} if quick else {OURS: MANY, **FEWER}
    workers: dict[str, Callable[[int], Found]] = {
        BARE: lambda _: gunicorn_worker(served.BARE, [], 0),
        OURS: lambda count: gunicorn_worker(served.WRAPPED, [_ours_text, _ours_json], count),
    }
    problems = {}
    if processes.find("uwsgi") is not None:
        workers[UWSGI] = uwsgi_worker
    else:
        problems[UWSGI] = processes.NOT_INSTALLED
    try:
        import manhole  # noqa: F401, PLC0415
    except ImportError:
        problems[MANHOLE] = processes.NOT_INSTALLED
    else:
        workers[MANHOLE] = lambda count: gunicorn_worker(served.MANHOLE, [_manhole], count)
    found: dict[str, list[Found]] = {name: [] for name in workers}
    for number in range(rounds):
        for name, worker in workers.items():
            # Once is enough for what takes minutes.
            found[name].append(worker(many.get(name, 0) if number == rounds - 1 else 0))
    return _rows(found, many, problems, case_name_of_many(quick))


def _rows(found: dict[str, list[Found]], many: dict[str, int], problems: dict[str, str], many_case: str) -> list[Row]:
    bare = found[BARE]
    rows = []
    for column, kind in enumerate(KINDS):
        case = f"{kind}, {WRAPPED}"
        rows.append(row(TOPIC, case, BARE, "MB", [one.begin[column] for one in bare], None))
        for name in (OURS, MANHOLE):
            if name in found:
                gained = [one.begin[column] - other.begin[column] for one, other in zip(found[name], bare, strict=True)]
                rows.append(row(TOPIC, case, name, "MB", gained, None))
    for column, kind in enumerate(KINDS):
        for name in (OURS, UWSGI, MANHOLE):
            if name in found:
                gained = [one.first[column] - one.begin[column] for one in found[name]]
                rows.append(row(TOPIC, f"{kind}, {FIRST}", name, "MB", gained, None))
    for column, kind in enumerate(KINDS):
        case = f"{kind}, {many_case}"
        for name in (OURS, UWSGI, MANHOLE):
            last = found[name][-1] if name in found else None
            if last is not None and last.many is not None:
                gained = [last.many[column] - last.first[column]]
                rows.append(row(TOPIC, case, name, "MB", gained, None, f"{many[name]:,} dumps"))
        rows += [missing(TOPIC, case, name, "MB", why) for name, why in problems.items()]
    return rows


def gunicorn_worker(wrap: str, dumps: list[Callable[[str], object]], many: int) -> Found:
    with scratch_folder() as folder, throughput.gunicorn(folder, wrap) as server, waiting(server):
        return _look(server, [lambda dump=dump: dump(folder) for dump in dumps], many)  # type: ignore[misc]


def uwsgi_worker(many: int) -> Found:
    uwsgi = processes.find("uwsgi")
    assert uwsgi is not None
    with scratch_folder() as folder, throughput.uwsgi_server(uwsgi, folder) as server, waiting(server):
        return _look(server, [lambda: processes.ask(f"{folder}/uwsgi1", b"")], many)


def _look(server: throughput.Server, dumps: list[Callable[[], object]], many: int) -> Found:
    pid = server.worker_pid()
    begin = memory_of(pid)
    for dump in dumps:
        dump()
    first = memory_of(pid)
    if not many:
        return Found(begin, first)
    for number in range(many):
        dumps[number % len(dumps)]()
    return Found(begin, first, memory_of(pid))


def _ours_text(folder: str) -> None:
    processes.ask(f"{folder}/tb1", dump_latency.TEXT_QUESTION)


def _ours_json(folder: str) -> None:
    answer = processes.ask(f"{folder}/tb1", dump_latency.JSON_QUESTION)
    if answer.count(b'"method":"GET","path":"/wait"') < WAITING:
        raise RuntimeError(f"not all requests are shown: {answer[:500]!r}")


def _manhole(folder: str) -> None:
    processes.ask_until(f"{folder}/manhole", dump_latency.MANHOLE_END)


@contextlib.contextmanager
def waiting(server: throughput.Server) -> Iterator[None]:
    """Requests were served by all threads, and some wait."""

    def serve() -> None:
        connection = http.client.HTTPConnection(server.address, timeout=processes.PATIENCE_SECONDS)
        for _ in range(_REQUESTS_EACH):
            connection.request("GET", "/")
            connection.getresponse().read()
        connection.close()

    threads = [threading.Thread(target=serve) for _ in range(throughput.THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    connections = [http.client.HTTPConnection(server.address) for _ in range(WAITING)]
    for connection in connections:
        connection.request("GET", served.WAIT_PATH)
    # What came later is answered: those before it have a thread each.
    serve()
    try:
        yield
    finally:
        for connection in connections:
            connection.close()
