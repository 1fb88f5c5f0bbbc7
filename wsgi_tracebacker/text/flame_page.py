"""A recording as one HTML page: a flame graph with a menu of routes, a search, and a table of the hottest own lines.

The file loads nothing: its policy allows its own style and script only, by their hashes. In ``wsgi-tb web`` the same
graph stands inside the live page.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from wsgi_tracebacker.model.code_ownership import CodeOwnership, is_this_package
from wsgi_tracebacker.model.recording import INSIDE, ON_CPU, PLACE_UNKNOWN
from wsgi_tracebacker.text.units import plural
from wsgi_tracebacker.wire.escape import printable
from wsgi_tracebacker.wire.profiles.rows import worker

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from wsgi_tracebacker.model.recording import RecordedStack, Recording
    from wsgi_tracebacker.model.snapshot import Frame

_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
"""

#: In a page of its own, or in another one: then its headings are one level lower.
_GRAPH = """\
<h{level} id="flame-title">{title}</h{level}>
<p>{facts}</p>
<p class="quiet">{quality}</p>
{missing}<noscript><p>The graph needs its script; the table of lines does not.</p></noscript>
<div class="tools">
<label>Route <select id="route"><option value="">all requests</option></select></label>
<label>Search <input type="search" id="search" aria-describedby="found"></label> <span id="found" role="status"></span>
<label><input type="checkbox" id="cpu"{checked}> only on a CPU</label>
<label><input type="checkbox" id="server"> calls of the server</label>
<button type="button" id="reset">Show all</button>
</div>
<canvas id="graph" tabindex="0" role="application" aria-label="Flame graph. Arrow keys move, Enter zooms, Escape shows all." aria-describedby="said"></canvas>
<p id="said" aria-live="polite"></p>
<p class="quiet">Width is seconds of requests. Bold with a bar: your own code; the last row, in italics: what was waited for, or CPU. A bar below: found by the search. Click or Enter zooms, Escape goes back, / searches.</p>
<div id="tip" hidden></div>
<h{lower}>Your hottest lines</h{lower}>
<div class="lines"><table>
<thead><tr><th>seconds</th><th>share</th><th>line</th><th>function</th><th>mostly</th></tr></thead>
<tbody id="lines">{lines}</tbody>
</table></div>
<script type="application/json" id="recording">{data}</script>
"""  # noqa: E501  (HTML)

#: So many lines are in the table; the script shows as many.
_HOTTEST = 20


def page(recording: Recording, script: str, style: str, by: str = "route", *, only_cpu: bool = False) -> str:
    """The whole page, as one file.

    :param script: the content of ``flame_graph.js``, which stands beside this module.
    :param style: that of ``flame_graph.css``.
    :param by: see graph(), also for ``only_cpu``.
    """
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; style-src-attr 'unsafe-inline'; script-src '{_hash(script)}'"
    )
    return (
        f'{_HEAD}<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{html.escape(_title(recording))}</title>\n<style>{style}</style>\n</head>\n"
        f'<body class="flame">\n<main>\n{graph(recording, level=1, by=by, only_cpu=only_cpu)}</main>\n'
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def linked_page(recording: Recording, script_address: str, style_address: str, missing: Sequence[str]) -> str:
    """The whole page for a site that serves its script and style beside it. ``missing``: see graph()."""
    return (
        f"{_HEAD}<title>{html.escape(_title(recording))}</title>\n"
        f'<link rel="stylesheet" href="{style_address}">\n<link rel="icon" href="data:,">\n</head>\n'
        f'<body class="flame">\n<main>\n<p><a href=".">Back to the workers</a></p>\n'
        f"{graph(recording, level=1, missing=missing)}</main>\n"
        f'<script src="{script_address}"></script>\n</body>\n</html>\n'
    )


def graph(
    recording: Recording, level: int, missing: Sequence[str] = (), by: str = "route", *, only_cpu: bool = False
) -> str:
    """What ``flame_graph.js`` brings to life, inside an element of the class ``flame``.

    :param level: of its heading.
    :param missing: a line for each worker that could not be recorded.
    :param by: what the stacks begin with, one of ``rows.GROUPINGS``.
    :param only_cpu: whether it shows at first only where threads were on a CPU.
    """
    waiting = sum(stack.seconds for stack in recording.stacks if stack.waits_for not in (ON_CPU, PLACE_UNKNOWN))
    total = recording.total_seconds
    partial = recording.seconds < recording.wanted_seconds - 0.05
    length = (
        f"{recording.seconds:.1f} of {recording.wanted_seconds:g} s, partial"
        if partial
        else f"{recording.seconds:.1f} s"
    )
    facts = (
        f"{length}: {plural(recording.requests, 'request')} in {plural(len(recording.workers), 'worker')},"
        f" {total:.1f} s of their time, {waiting / total if total else 0:.0%} of it waiting;"
        f" their threads were on a CPU for {recording.cpu_seconds:.1f} s by the kernel's clock"
    )
    looks = recording.exact + recording.cut + recording.torn
    quality = (
        f"{plural(looks, 'sample')}, {recording.rate:g} a second: {recording.cut / max(1, looks):.1%} without their"
        f" innermost calls, {recording.torn_share:.1%} thrown away"
    )
    inside = inside_note(recording)
    if inside is not None:
        quality += f"; {inside}"
    ownership = _ownership(recording)
    return _GRAPH.format(
        level=level,
        lower=level + 1,
        checked=" checked" if only_cpu else "",
        title=html.escape(_title(recording)),
        facts=html.escape(facts),
        quality=html.escape(quality),
        missing="".join(f"<p><strong>Not recorded: {html.escape(printable(line))}</strong></p>\n" for line in missing),
        lines="".join(_hottest_lines(recording, ownership)),
        # A name could hold the end of the element.
        data=json.dumps(_data(recording, ownership, by), separators=(",", ":")).replace("<", "\\u003c"),
    )


def inside_note(recording: Recording) -> str | None:
    """What is different for workers that were recorded from inside; None if there are none."""
    inside = sum(worker.engine == INSIDE for worker in recording.workers)
    if not inside:
        return None
    return f"{plural(inside, 'worker')} from inside: of what ran there, the place is known only in part"


def _title(recording: Recording) -> str:
    return f"Where the time goes: {recording.application or 'requests'}, on {recording.host}"


def _ownership(recording: Recording) -> CodeOwnership:
    starts = (frame for stack in recording.stacks for frame in stack.frames[:3])
    return CodeOwnership.of_frames(recording.application, starts)


def _hottest_lines(recording: Recording, ownership: CodeOwnership) -> Iterator[str]:
    """The rows of the table for those who read it without its script, which makes the same ones."""
    hottest: dict[Frame, Counter[str]] = {}
    for stack in recording.stacks:
        own = next((frame for frame in reversed(stack.frames) if ownership.is_own(frame.filename)), None)
        if own is not None:
            hottest.setdefault(own, Counter())[stack.waits_for] += stack.seconds  # type: ignore[assignment]  # of floats
    total = recording.total_seconds or 1.0
    for frame, waits in sorted(hottest.items(), key=lambda each: -sum(each[1].values()))[:_HOTTEST]:
        seconds = sum(waits.values())
        place = f"{ownership.short_path(frame.filename, recording.cwd)}:{frame.lineno}"
        cells = (f"{seconds:.2f}", f"{100 * seconds / total:.1f} %", place, frame.function, waits.most_common(1)[0][0])
        yield f"<tr>{''.join(f'<td>{html.escape(printable(cell))}</td>' for cell in cells)}</tr>"


def _data(recording: Recording, ownership: CodeOwnership, by: str) -> dict[str, Any]:
    routes: dict[str, int] = {}
    workers: dict[str, int] = {}
    waits: dict[str, int] = {}
    frames: dict[Frame, int] = {}
    server = _server_functions(recording)
    stacks = [
        {
            "route": routes.setdefault(stack.route, len(routes)),
            "worker": workers.setdefault(worker(stack), len(workers)),
            "wait": waits.setdefault(stack.waits_for, len(waits)),
            "frames": [frames.setdefault(frame, len(frames)) for frame in stack.frames],
            "server": _server_calls(stack, server),
            "seconds": round(stack.seconds, 6),
            "cut": stack.is_cut,
        }
        for stack in recording.stacks
    ]
    return {
        "by": by,
        "routes": list(routes),
        "workers": list(workers),
        "waits": list(waits),
        "on_cpu": [waits[name] for name in (ON_CPU, PLACE_UNKNOWN) if name in waits],
        "frames": [
            [
                frame.function,
                ownership.short_path(frame.filename, recording.cwd),
                frame.lineno,
                ownership.is_own(frame.filename),
            ]
            for frame in frames
        ],
        "stacks": stacks,
    }


def _server_functions(recording: Recording) -> set[tuple[str, str]]:
    """File and name of the functions that led to this package's own in some stack."""
    found: set[tuple[str, str]] = set()
    for stack in recording.stacks:
        ours = next((n for n, frame in enumerate(stack.frames) if is_this_package(frame.filename)), 0)
        found.update((frame.filename, frame.function) for frame in stack.frames[:ours])
    return found


def _server_calls(stack: RecordedStack, server: Collection[tuple[str, str]]) -> int:
    """How many of the outermost calls are the server's: up to the first run of this package's own.

    Without one, while the server reads a body, up to the first call that is in ``server`` no more.
    """
    for index, frame in enumerate(stack.frames):
        if is_this_package(frame.filename):
            rest = stack.frames[index:]
            return index + next((n for n, each in enumerate(rest) if not is_this_package(each.filename)), len(rest))
    others = (n for n, frame in enumerate(stack.frames) if (frame.filename, frame.function) not in server)
    return next(others, len(stack.frames))


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
