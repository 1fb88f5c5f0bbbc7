"""Shows a reading as one HTML page that can be attached to a ticket: no script, nothing from the network.

The values are those of ``text.reading``. What that leaves out or folds is on the page too, folded by ``<details>``.

Lines that ``text`` paints are made with ``_MARKS``, whose styles are control characters. Those cannot be in the text
itself, because every text is made printable, so that a line can be escaped first and its marks become tags after that.
"""

from __future__ import annotations

from datetime import datetime, timezone
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

from wsgi_tracebacker.model.code_ownership import CodeOwnership
from wsgi_tracebacker.model.questions import is_serving
from wsgi_tracebacker.text.folding import place, runs
from wsgi_tracebacker.text.frames import MAX_SHOWN_REPEATS, MAX_SOURCE_CHARACTERS, repeated, source_parts
from wsgi_tracebacker.text.palette import Palette
from wsgi_tracebacker.text.screens import looks
from wsgi_tracebacker.text.screens.blocks import MAX_LISTED, WHERE_OLDEST, heading, stand_apart, who
from wsgi_tracebacker.text.screens.overview import HEADINGS, more_groups, row, totals
from wsgi_tracebacker.text.screens.reading import Options, counted, last_requests, worker_lines
from wsgi_tracebacker.text.snapshot import heading as worker_heading
from wsgi_tracebacker.text.snapshot import idle_first, resting_line
from wsgi_tracebacker.text.threads import age_style, missing_lines, other_thread, request_lines
from wsgi_tracebacker.wire.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from wsgi_tracebacker.model.groups import Group, ServedRequest
    from wsgi_tracebacker.model.snapshot import Frame, Snapshot, Stack
    from wsgi_tracebacker.text.screens.reading import Answered

_STYLES = ("heading", "request", "quiet", "slow", "stuck")
_MARKS = Palette(**{style: f"\x02{style}\x02" for style in _STYLES}, end="\x03")

#: The columns of the overview that are as narrow as their numbers.
_NUMBERS = HEADINGS[:2]

#: With a policy that lets the page load and run nothing, even if a fault of ours let markup in.
_HEAD = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">"""

CSS = """\
:root { --paper: #fff; --ink: #1c1e21; --quiet: #5f6670; --line: #d8dce1; --box: #f5f6f8;
  --request: #0b5f86; --slow: #8a5a00; --stuck: #b3261e; --mark: #ffe69c; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181b; --ink: #e4e6e9; --quiet: #9aa2ad; --line: #363b42;
  --box: #1f2226; --request: #6cc4ee; --slow: #e3b341; --stuck: #ff8a80; --mark: #5c4a00; } }
body { margin: 1rem auto; max-width: 72rem; padding: 0 1rem; background: var(--paper); color: var(--ink);
  font: 0.95rem/1.45 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.25rem; margin: 0 0 0.25rem; }
ul { list-style: none; margin: 0.25rem 0; padding: 0; }
li, summary, code, td { unicode-bidi: isolate; white-space: pre-wrap; }
table { border-collapse: collapse; margin: 1rem 0; width: 100%; }
th { color: var(--quiet); font-size: 0.8rem; text-align: left; }
th, td { border-bottom: 1px solid var(--line); padding: 0.3rem 0.75rem 0.3rem 0; vertical-align: top; }
.number { text-align: right; white-space: nowrap; }
a { color: inherit; }
code, .stack { font-family: ui-monospace, monospace; font-size: 0.85rem; }
td code { display: block; }
summary { cursor: pointer; }
.place { background: var(--box); border: 1px solid var(--line); border-radius: 6px; margin: 0.75rem 0;
  padding: 0.5rem 0.75rem; }
.place > summary, .heading, .own, .request { font-weight: 600; }
.stack { margin: 0.5rem 0 0 1rem; }
.stack code { display: block; margin-left: 1.5rem; }
.stack details { color: var(--quiet); }
.stack details .stack { border-left: 2px solid var(--line); margin: 0 0 0.25rem; padding-left: 0.75rem; }
mark { background: var(--mark); color: inherit; }
.quiet { color: var(--quiet); }
.request { color: var(--request); }
.slow { color: var(--slow); }
.stuck { color: var(--stuck); font-weight: 600; }
@media (max-width: 40rem) {
  thead { display: none; }
  tr { border-bottom: 1px solid var(--line); display: block; padding: 0.4rem 0; }
  td { border: 0; display: block; padding: 0; }
  td.number { display: inline-block; padding-right: 1rem; }
  .stack { margin-left: 0; }
}"""


def page(
    workers: Sequence[Answered],
    groups: Sequence[Group],
    left_out: int = 0,
    options: Options | None = None,
    unanswered: Iterable[str] = (),
) -> Iterator[str]:
    """The lines of the page.

    :param left_out: how many requests are in none of the groups, because they were not asked for.
    :param options: of which the columns and the palette have no meaning here.
    :param unanswered: a line for each worker that did not answer.
    """
    options = options or Options()
    snapshots = [worker.snapshot for worker in workers]
    requests = sum(len(group.requests) for group in groups)
    yield _HEAD
    yield f"<title>{html(totals(snapshots))}</title>"
    yield f"<style>\n{CSS}\n</style>\n</head>\n<body>"
    yield f"<h1>{html(totals(snapshots))}</h1>"
    yield from _taken_at(snapshots)
    yield from _list(worker_lines(workers, _MARKS))
    yield from _list(_MARKS.paint(_MARKS.stuck, printable(line)) for line in unanswered)
    shown = groups[: options.limit] if options.limit else groups
    if requests > 1:
        yield from _overview(shown)
    if len(shown) < len(groups):
        yield _quiet(more_groups(groups[len(shown) :], options.what))
    names_base = len({snapshot.worker.base for snapshot in snapshots}) > 1
    for number, group in enumerate(shown, 1):
        title = f"{number}  {heading(group)}" if requests > 1 else heading(group)
        yield f'<details class="place" id="place-{number}" open>\n<summary>{html(title)}</summary>'
        yield from place_block(group, names_worker=len(workers) > 1, names_base=names_base, is_open=options.full)
        yield "</details>"
    if options.all_threads:
        for worker in workers:
            yield from _resting(worker, names_worker=len(workers) > 1, is_open=options.full)
    last = [] if requests or left_out else last_requests(snapshots)
    for line in (*last, counted(snapshots, left_out, all_threads=options.all_threads)):
        if line:
            yield _quiet(line)
    yield "</body>\n</html>"


def html(line: str) -> str:
    """A line that is fit for a terminal, as HTML; what was painted with ``_MARKS`` is in elements."""
    escaped = escape(line)
    for style in _STYLES:
        escaped = escaped.replace(f"\x02{style}\x02", f'<span class="{style}">')
    return escaped.replace(_MARKS.end, "</span>")


def _quiet(line: str) -> str:
    return f'<p class="quiet">{html(line)}</p>'


def _list(lines: Iterable[str]) -> Iterator[str]:
    items = [f"<li>{html(line)}</li>" for line in lines]
    if items:
        yield "\n".join(("<ul>", *items, "</ul>"))


def _taken_at(snapshots: Sequence[Snapshot]) -> Iterator[str]:
    try:
        latest = datetime.fromtimestamp(max(snapshot.taken_at for snapshot in snapshots), timezone.utc)
    except (ValueError, OverflowError, OSError):
        # No snapshot, or a time that is none.
        return
    yield _quiet(f"as of {latest:%Y-%m-%d %H:%M:%S} UTC")


def _overview(groups: Sequence[Group]) -> Iterator[str]:
    headings = (f"<th{_cell_class(name)}>{name}</th>" for name in HEADINGS)
    yield f"<table>\n<thead>\n<tr>{''.join(headings)}</tr>\n</thead>\n<tbody>"
    for number, group in enumerate(groups, 1):
        found = row(group)
        source = f"<code>{html(found.source)}</code>" if found.source else ""
        cells = (
            html(_MARKS.paint(age_style(found.age_seconds, _MARKS), found.age)),
            html(found.requests),
            html(found.request),
            html(found.waits_for),
            f'<a href="#place-{number}">{html(found.where)}</a>{source}',
        )
        columns = (f"<td{_cell_class(name)}>{cell}</td>" for name, cell in zip(HEADINGS, cells, strict=True))
        yield f"<tr>{''.join(columns)}</tr>"
    yield "</tbody>\n</table>"


def _cell_class(name: str) -> str:
    return ' class="number"' if name in _NUMBERS else ""


def place_block(group: Group, *, names_worker: bool, names_base: bool, is_open: bool) -> Iterator[str]:
    """The requests of a group, and the stack of the oldest of them."""
    oldest = group.oldest

    def listed(requests: Iterable[ServedRequest]) -> Iterator[str]:
        return _list(
            line
            for served in requests
            for line in request_lines(
                who(served, names_worker=names_worker, names_base=names_base),
                served.stack,
                served.source,
                verdict=looks.verdict(served.looks) if served.looks is not None else None,
                palette=_MARKS,
            )
        )

    yield from listed(group.requests[:MAX_LISTED])
    more = group.requests[MAX_LISTED:]
    if more:
        yield from _details(f"… {len(more)} more", listed(more), is_open=is_open)
    if stand_apart(group):
        yield _quiet(WHERE_OLDEST)
    yield from _stack(oldest.stack, oldest.source, oldest.ownership, oldest.cwd, is_open=is_open)
    if oldest.other_thread is not None:
        yield from _list([other_thread(oldest.other_thread, _MARKS)])
        yield from _stack(oldest.other_thread, oldest.source, oldest.ownership, oldest.cwd, is_open=is_open)


def _resting(worker: Answered, *, names_worker: bool, is_open: bool) -> Iterator[str]:
    """The threads of a worker that serve no request."""
    snapshot = worker.snapshot
    resting = idle_first(stack for stack in snapshot.stacks if not is_serving(stack, snapshot))
    if resting and names_worker:
        yield from _list([worker_heading(snapshot, _MARKS, worker.other_uid)])
    ownership = CodeOwnership.of_snapshot(snapshot)
    for stack in resting:
        shown = _stack(stack, snapshot.source, ownership, snapshot.worker.cwd, is_open=is_open)
        yield from _details(resting_line(stack, snapshot, _MARKS), shown, is_open=is_open)


def _details(summary: str, content: Iterable[str], *, is_open: bool) -> Iterator[str]:
    yield f"<details{' open' if is_open else ''}>\n<summary>{html(summary)}</summary>"
    yield from content
    yield "</details>"


def _stack(stack: Stack, source: str, ownership: CodeOwnership, cwd: str | None, *, is_open: bool) -> Iterator[str]:
    if source == "table":
        return
    yield '<div class="stack">'
    for line in missing_lines(stack, source):
        yield f"<div>{html(line)}</div>"
    for run in runs(stack.frames, ownership):
        if run.line is None:
            yield from _calls(run.calls, ownership, cwd, "own")
        else:
            folded = ('<div class="stack">', *_calls(run.calls, ownership, cwd, "quiet"), "</div>")
            yield from _details(f"… {run.line}", folded, is_open=is_open)
    yield "</div>"


def _calls(frames: Sequence[Frame], ownership: CodeOwnership, cwd: str | None, style: str) -> Iterator[str]:
    """Each call with its source, in which the expression that runs is marked; of equal calls the first few."""
    for frame, equal in groupby(frames):
        count = len(list(equal))
        full = printable(frame.filename)
        changed = ' <span class="slow">(source changed since start)</span>' if frame.source_changed else ""
        line = (
            f'<div title="{escape(full)}"><span class="{style}">{html(place(frame, ownership, cwd))}</span>{changed}'
            f"{_source(frame)}</div>"
        )
        yield from [line] * min(count, MAX_SHOWN_REPEATS)
        for more in repeated(count):
            yield f"<div>{html(more)}</div>"


def _source(frame: Frame) -> str:
    if frame.source is None or not frame.source.strip():
        return ""
    before, marked, after = source_parts(frame)
    if len(before) + len(marked) + len(after) > MAX_SOURCE_CHARACTERS:
        return f"<code>{html((before + marked + after)[:MAX_SOURCE_CHARACTERS])} ...</code>"
    return f"<code>{html(before)}{f'<mark>{html(marked)}</mark>' if marked else ''}{html(after)}</code>"
