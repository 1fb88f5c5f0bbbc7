"""``wsgi-tb record``: where the time of requests goes, as a flame graph or for other programs."""

from __future__ import annotations

import fnmatch
import importlib.resources
import os
import sys
from typing import TYPE_CHECKING

import click

from wsgi_tracebacker._version import __version__
from wsgi_tracebacker.cli import output
from wsgi_tracebacker.cli.options.arguments import bases_or_default
from wsgi_tracebacker.cli.options.hosts import hosts_options
from wsgi_tracebacker.cli.options.shared import EXIT_CODES, Seconds, bases_argument, worker_option
from wsgi_tracebacker.errors import CannotWrite, FormatError, MemoryUnreadable, Misuse, NoWorkersFound
from wsgi_tracebacker.text import flame_page
from wsgi_tracebacker.text.units import plural
from wsgi_tracebacker.wire.escape import printable
from wsgi_tracebacker.wire.profiles import folded, pprof, raw, rows, speedscope

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsgi_tracebacker.model.recording import Recording
    from wsgi_tracebacker.reader.elsewhere.hosts import Hosts
    from wsgi_tracebacker.reader.recording.record import Engine, Totals
    from wsgi_tracebacker.reader.recording.workers import Opened

#: By format: the ending of a file's name.
FORMATS = {
    "html": ".html",
    "folded": ".folded",
    "speedscope": ".speedscope.json",
    "pprof": ".pb.gz",
    "jsonl": ".jsonl",
}

#: A longer recording is several: what it shows would be a mixture of too much.
MAX_RECORD_SECONDS = 600
MAX_RATE = 1000

_BAR = 20

EPILOG = f"""\b
Examples:
  wsgi-tb record                         10 seconds, as a page
  wsgi-tb record -o now.speedscope.json  for speedscope
  wsgi-tb record -d 60 -o a.pb.gz        a minute, for pprof
  wsgi-tb record --route '/pay*' -o pay.folded
  wsgi-tb record /run/app/tb --via 'ssh {{}}' --hosts FILE
  wsgi-tb record -o raw.jsonl            to be converted later:
  wsgi-tb record --from raw.jsonl -o now.folded --by wait

{EXIT_CODES}
"""


@click.command(epilog=EPILOG)
@click.option(
    "--duration",
    "-d",
    "seconds",
    metavar="SECONDS",
    type=Seconds(min=0, min_open=True, max=MAX_RECORD_SECONDS),
    default=10.0,
    show_default=True,
    help="How long to record. Ctrl-C ends it early, and what there is by then is written, except of other hosts.",
)
@click.option(
    "--rate",
    "-r",
    metavar="N",
    type=click.IntRange(min=1, max=MAX_RATE),
    default=100,
    show_default=True,
    help="Looks a second at each request.",
)
@click.option(
    "--output", "-o", "path", metavar="FILE", help="Where to write it; - is stdout.  [default: wsgi-tb-record.html]"
)
@click.option(
    "--format",
    "form",
    type=click.Choice(list(FORMATS)),
    help="The form.  [default: by the ending of FILE: .html, .folded, .speedscope.json, .pb.gz, .jsonl]",
)
@click.option("--from", "source", metavar="FILE", help="Record nothing: convert what was written as .jsonl.")
@click.option(
    "--route", "route", metavar="GLOB", help="Only requests whose whole path matches; * also matches slashes."
)
@click.option(
    "--by",
    type=click.Choice(rows.GROUPINGS),
    default="route",
    show_default=True,
    help="What the stacks begin with: the route, or before it the worker, or what was waited for.",
)
@click.option("--cpu", is_flag=True, help="Only where threads were on a CPU.")
@click.option("--from-inside", is_flag=True, help="Do not read the workers' memory: a thread in each of them looks.")
@worker_option
@bases_argument
@hosts_options
def record(
    bases: tuple[str, ...],
    numbers: tuple[int, ...],
    seconds: float,
    rate: int,
    path: str | None,
    form: str | None,
    source: str | None,
    route: str | None,
    by: str,
    cpu: bool,
    from_inside: bool,
    hosts: Hosts | None,
) -> int:
    """Record where the time of requests goes: by route, call by call, down to what was waited for.

    Only requests in flight are looked at, on the wall clock, so three requests that sleep for three seconds are nine.
    The workers are read from outside: nothing runs in them, and nothing stops them. For that the kernel has to let you
    read their memory: as root, or as their own user if they were started as that user. Where it does not, and for
    greenlets, a thread in the worker looks 20 times a second: it sees what waits, and little of what runs.
    """
    path = path or f"wsgi-tb-record{FORMATS[form or 'html']}"
    form = form or _form_of(path)
    if path != "-":
        _check_writable(path)
    if source is not None:
        if bases or numbers or route is not None or from_inside or hosts is not None:
            raise Misuse("--from records nothing: --route, --worker, --from-inside, hosts and BASE are for a recording")
        recording, code = _read(source), 0
    elif hosts is not None:
        recording, code = _recorded_there(hosts, bases, numbers, seconds, rate, route, inside=from_inside)
    else:
        recording, code = _recorded(bases, numbers, seconds, rate, route, inside=from_inside)
    _write(_encoded(recording, form, by, only_cpu=cpu), path)
    for line in _summary(recording, route):
        output.say(line)
    if path != "-":
        output.say(printable(f"written to {path}"))
    return code


def _form_of(path: str) -> str:
    found = next((form for form, ending in FORMATS.items() if path.endswith(ending)), None)
    if found is None:
        endings = ", ".join(FORMATS.values())
        raise Misuse(f"{path!r} has none of the endings {endings}: give --format")
    return found


def _encoded(recording: Recording, form: str, by: str, *, only_cpu: bool) -> bytes:
    if form == "html":
        script, style = _beside("flame_graph.js"), _beside("flame_graph.css")
        return flame_page.page(recording, script, style, by, only_cpu=only_cpu).encode("utf-8")
    if only_cpu:
        recording = rows.only_cpu(recording)
    if form == "speedscope":
        return speedscope.encode(recording, by, __version__)
    if form == "pprof":
        return pprof.encode(recording, by)
    found = raw.lines(recording) if form == "jsonl" else folded.lines(recording, by)
    return "".join(f"{line}\n" for line in found).encode("utf-8", "backslashreplace")


def _beside(name: str) -> str:
    return importlib.resources.files("wsgi_tracebacker.text").joinpath(name).read_text(encoding="utf-8")


def _write(content: bytes, path: str) -> None:
    if path == "-":
        output.write_bytes(content)
        return
    try:
        with open(path, "wb") as file:
            file.write(content)
    except OSError as error:
        raise CannotWrite(f"{path} cannot be written: {error.strerror}") from error


def _check_writable(path: str) -> None:
    """Not only when there is a recording, which would be lost."""
    there = path if os.path.exists(path) else os.path.dirname(path) or "."
    if not os.path.exists(there):
        raise CannotWrite(f"{path} cannot be written: there is no folder {there}")
    if os.path.isdir(path) or not os.access(there, os.W_OK):
        raise CannotWrite(f"{path} cannot be written")


def _read(path: str) -> Recording:
    try:
        with open(path, encoding="utf-8", errors="backslashreplace") as file:
            return raw.parse(file)
    except OSError as error:
        raise Misuse(f"{path} cannot be read: {error.strerror}") from error
    except FormatError as error:
        raise Misuse(f"{path} cannot be read: {error}") from error


def _recorded_there(
    hosts: Hosts,
    bases: tuple[str, ...],
    numbers: tuple[int, ...],
    seconds: float,
    rate: int,
    route: str | None,
    *,
    inside: bool,
) -> tuple[Recording, int]:
    """The recording of all hosts, and the exit code: 1 if one of them, or some worker, could not be recorded."""
    from wsgi_tracebacker.analysis.recordings import merge
    from wsgi_tracebacker.reader.elsewhere import recordings

    output.say(f"recording on {plural(len(hosts.targets), 'host')} for {seconds:g} s")
    found = recordings.record(hosts, bases, numbers, seconds, rate, route, from_inside=inside)
    for line in found.failures:
        output.fail(line)
    if not found.recordings:
        raise NoWorkersFound("no host has recorded anything")
    return merge(found.recordings), output.EXIT_UNANSWERED if found.failures else 0


def _recorded(
    bases: tuple[str, ...], numbers: tuple[int, ...], seconds: float, rate: int, route: str | None, *, inside: bool
) -> tuple[Recording, int]:
    """The recording, and the exit code: 1 if some worker could not be recorded."""
    from wsgi_tracebacker.reader.recording import record as recorder
    from wsgi_tracebacker.reader.recording.workers import Recordable

    recordable = Recordable(bases_or_default(bases), numbers, seconds, rate, only_inside=inside)
    opened = [recordable.open_new()]
    engines, missing = opened[0].engines, opened[0].missing
    if not engines and not opened[0].refused:
        raise NoWorkersFound("\n".join(missing))
    for line in missing:
        output.fail(line)
    if not engines:
        _name_others(opened[0], inside=inside)
        raise MemoryUnreadable("no worker can be recorded")
    totals = recorder.Totals((lambda path: fnmatch.fnmatchcase(path, route)) if route is not None else None)

    def find_new() -> list[Engine]:
        opened.append(recordable.open_new())
        return opened[-1].engines

    output.say(f"recording {plural(len(engines), 'worker')} for {seconds:g} s; Ctrl-C ends it early")
    _name_others(opened[0], inside=inside)
    bar = _progress(totals, seconds)
    recording = recorder.record(engines, totals, seconds, rate, find_new=find_new, progress=bar)
    if sys.stderr.isatty():
        output.say("\r\x1b[K", end="")
    for later in opened[1:]:
        _name_others(later, inside=inside)
    is_complete = not missing and not any(each.refused for each in opened)
    return recording, 0 if is_complete else output.EXIT_UNANSWERED


def _name_others(opened: Opened, *, inside: bool) -> None:
    """Write to stderr which workers are not recorded, or from inside, and why."""
    for name, reason in opened.refused:
        output.fail(f"{name}: {reason}" if inside else f"{name}: {MemoryUnreadable.reason}: {reason}")
    for name, reason in opened.inside:
        output.say(printable(f"{name}: from inside" + (f": {reason}" if reason else "")))


def _progress(totals: Totals, seconds: float) -> Callable[[float], None]:
    """What draws the bar; nothing where stderr is no terminal."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        return lambda _: None

    def draw(passed: float) -> None:
        torn = totals.outcomes["torn"] / max(1, totals.looks)
        facts = (
            f"{passed:.1f} of {seconds:g} s  {plural(len(totals.requests), 'request')}"
            f"  {plural(totals.looks, 'sample')}  {torn:.1%} thrown away"
        )
        output.say(f"\r\x1b[K{_bar(passed / seconds, facts, output.columns(sys.stderr))}", end="")

    return draw


def _bar(share: float, facts: str, columns: int) -> str:
    """How much of the time has passed, on one line: a second one would stay when the next is drawn."""
    width = max(0, min(_BAR, columns - len(facts) - 3))
    done = min(width, int(width * share))
    return f"{'#' * done}{'.' * (width - done)}  {facts}"[: columns - 1]


def _summary(recording: Recording, route: str | None) -> list[str]:
    partial = recording.seconds < recording.wanted_seconds - 0.05
    length = (
        f"partial, {recording.seconds:.1f} of {recording.wanted_seconds:g} s"
        if partial
        else f"{recording.seconds:.1f} s"
    )
    looks = recording.exact + recording.cut + recording.torn
    whose = f"{plural(recording.requests, 'request')} in {plural(len(recording.workers), 'worker')}"
    total, cpu = recording.total_seconds, recording.cpu_seconds
    cut = f"{recording.cut / max(1, looks):.1%} without their innermost calls"
    lines = [
        f"{length}: {whose}, {total:.1f} s of their time",
        f"their threads were on a CPU for {cpu:.1f} s",
        f"{plural(looks, 'sample')}: {cut}, {recording.torn_share:.1%} thrown away",
    ]
    inside = flame_page.inside_note(recording)
    if inside is not None:
        lines.append(inside)
    if not recording.requests:
        which = "no request" if route is None else f"no request whose path matches {route!r}"
        lines.append(f"{which} was in flight: send some while it records")
    return [printable(line) for line in lines]
