"""A recording as one HTML page: a flame graph with a menu of routes, a search, and a table of the hottest own lines.

The page loads nothing: its policy allows its own style and script only, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from typing import TYPE_CHECKING, Any

from wsgi_tracebacker.model.code_ownership import CodeOwnership, is_this_package
from wsgi_tracebacker.text.units import plural

if TYPE_CHECKING:
    from wsgi_tracebacker.model.recording import RecordedStack, Recording
    from wsgi_tracebacker.model.snapshot import Frame

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src '{style_hash}'; style-src-attr 'unsafe-inline'; script-src '{script_hash}'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p>{facts}</p>
<p class="quiet">{quality}</p>
<div class="tools">
<label>Route <select id="route"><option value="">all requests</option></select></label>
<label>Search <input type="search" id="search" aria-describedby="found"></label> <span id="found" role="status"></span>
<label><input type="checkbox" id="cpu"> only on a CPU</label>
<label><input type="checkbox" id="server"> calls of the server</label>
<button type="button" id="reset">Show all</button>
</div>
<canvas id="graph" tabindex="0" role="application" aria-label="Flame graph. Arrow keys move, Enter zooms, Escape shows all." aria-describedby="said"></canvas>
<p id="said" aria-live="polite"></p>
<p class="quiet">Width is seconds of requests. Bold with a bar: your own code; the last row, in italics: what was waited for, or CPU. A bar below: found by the search. Click or Enter zooms, Escape goes back, / searches.</p>
<div id="tip" hidden></div>
<h2>Your hottest lines</h2>
<div class="lines"><table>
<thead><tr><th>seconds</th><th>share</th><th>line</th><th>function</th><th>mostly</th></tr></thead>
<tbody id="lines"></tbody>
</table></div>
</main>
<script type="application/json" id="recording">{data}</script>
<script>{script}</script>
</body>
</html>
"""  # noqa: E501  (HTML)


def page(recording: Recording, script: str, style: str) -> str:
    """The whole page.

    :param script: the content of ``flame_graph.js``, which stands beside this module.
    :param style: that of ``flame_graph.css``.
    """
    waiting = sum(stack.seconds for stack in recording.stacks if stack.waits_for != "CPU")
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
    return _PAGE.format(
        title=html.escape(f"Where the time goes: {recording.application or 'requests'}, on {recording.host}"),
        facts=html.escape(facts),
        quality=html.escape(quality),
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
        # A name could hold the end of the element.
        data=json.dumps(_data(recording), separators=(",", ":")).replace("<", "\\u003c"),
    )


def _data(recording: Recording) -> dict[str, Any]:
    starts = (frame for stack in recording.stacks for frame in stack.frames[:3])
    ownership = CodeOwnership.of_frames(recording.application, starts)
    routes: dict[str, int] = {}
    waits: dict[str, int] = {}
    frames: dict[Frame, int] = {}
    stacks = [
        {
            "route": routes.setdefault(stack.route, len(routes)),
            "wait": waits.setdefault(stack.waits_for, len(waits)),
            "frames": [frames.setdefault(frame, len(frames)) for frame in stack.frames],
            "server": _server_calls(stack),
            "seconds": round(stack.seconds, 6),
            "cut": stack.is_cut,
        }
        for stack in recording.stacks
    ]
    return {
        "routes": list(routes),
        "waits": list(waits),
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


def _server_calls(stack: RecordedStack) -> int:
    """How many of the outermost calls are the server's: up to the first run of this package's own."""
    for index, frame in enumerate(stack.frames):
        if is_this_package(frame.filename):
            rest = stack.frames[index:]
            return index + next((n for n, each in enumerate(rest) if not is_this_package(each.filename)), len(rest))
    return 0


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
