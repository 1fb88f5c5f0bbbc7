"""The page with the flame graph: one file that loads nothing, whatever names are in it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import given

import wsgi_tracebacker.text
from tests.unit.wire.profiles.recordings import RECORDING, VIEW, recordings
from wsgi_tracebacker.model.snapshot import Frame
from wsgi_tracebacker.text.flame_page import graph, page

if TYPE_CHECKING:
    from wsgi_tracebacker.model.recording import Recording

FOLDER = Path(wsgi_tracebacker.text.__file__).parent
SCRIPT = (FOLDER / "flame_graph.js").read_text(encoding="utf-8")
STYLE = (FOLDER / "flame_graph.css").read_text(encoding="utf-8")


def data_of(text: str) -> dict[str, object]:
    [found] = re.findall(r'<script type="application/json" id="recording">(.*?)</script>', text, re.DOTALL)
    document = json.loads(found)
    assert isinstance(document, dict)
    return document


def test_the_head_says_what_was_recorded() -> None:
    """How long, how many requests and workers, how much waiting, and how good it is."""
    text = page(RECORDING, SCRIPT, STYLE)
    assert "6.3 of 10 s, partial: 42 requests in 2 workers, 9.5 s of their time, 84% of it waiting" in text
    assert "951 samples, 100 a second: 1.1% without their innermost calls, 0.1% thrown away" in text
    assert "<title>Where the time goes: shop:app, on web-1</title>" in text


def test_who_could_not_be_recorded_is_named_as_text() -> None:
    """Above the graph, with the reason."""
    text = graph(RECORDING, 2, missing=("worker 3 (pid 7, <b>): it runs as another user", "web-2: \x1b[31m"))
    assert "<strong>Not recorded: worker 3 (pid 7, &lt;b&gt;): it runs as another user</strong>" in text
    assert "<strong>Not recorded: web-2: \\x1b[31m</strong>" in text
    assert "Not recorded" not in graph(RECORDING, 2)


def test_own_code_is_marked_and_calls_of_the_server_are_counted() -> None:
    """So that the page can fold the latter, up to this package's own."""
    server = Frame("/venv/lib/python3.11/site-packages/gunicorn/workers/sync.py", 1, "handle")
    ours = Frame("/venv/lib/python3.11/site-packages/wsgi_tracebacker/middleware.py", 2, "__call__")
    stack = RECORDING.stacks[0]._replace(frames=(server, ours, VIEW))
    document = data_of(page(RECORDING._replace(stacks=(stack,)), SCRIPT, STYLE))
    assert document["frames"] == [
        ["handle", "gunicorn/workers/sync.py", 1, False],
        ["__call__", "wsgi_tracebacker/middleware.py", 2, False],
        ["view", "shop.py", 4, True],
    ]
    [shown] = document["stacks"]  # type: ignore[misc]
    assert shown["server"] == 2  # type: ignore[has-type]


def test_calls_of_the_server_are_folded_above_a_body_too() -> None:
    """There is no call of this package's above it; what is the server's is known from other stacks."""
    run, handle, send = (Frame("/venv/lib/python3.11/site-packages/server.py", n, f"f{n}") for n in (1, 2, 3))
    ours = Frame("/venv/lib/python3.11/site-packages/wsgi_tracebacker/middleware.py", 2, "__call__")
    calls = ((run, handle, ours, VIEW), (run, handle._replace(lineno=7), VIEW), (run, handle, send), (run, handle))
    stacks = tuple(RECORDING.stacks[0]._replace(frames=frames) for frames in calls)
    document = data_of(page(RECORDING._replace(stacks=stacks), SCRIPT, STYLE))
    assert [stack["server"] for stack in document["stacks"]] == [3, 2, 2, 2]  # type: ignore[attr-defined]


@given(recordings)
def test_no_name_leaves_the_data(recording: Recording) -> None:
    """Neither the end of an element nor a comment: what the browser parses is what was written."""
    text = page(recording, "", "")
    assert text.count("<script") == 2
    assert len(data_of(text)["stacks"]) == len(recording.stacks)  # type: ignore[arg-type]


def test_the_script_is_small_and_nothing_is_loaded() -> None:
    """At most 20 kB; no address of anything in script, style or page, and a policy that would forbid it."""
    assert len(SCRIPT.encode()) <= 20_000
    text = page(RECORDING, SCRIPT, STYLE)
    assert "default-src 'none'" in text
    assert not re.search(r"https?:|//[a-z]|\bsrc=|@import|url\(|fetch\(|XMLHttp", text.replace("// ", ""))
