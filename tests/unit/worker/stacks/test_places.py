"""What a frame is shown as."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from wsgi_tracebacker.worker.stacks.places import Places

if TYPE_CHECKING:
    from pathlib import Path

    from wsgi_tracebacker.model.snapshot import Frame

TEMPLATE = """\
{% macro price(row) %}
  {{ show() }}
{% endmacro %}
{% block content %}
  {% for row in rows %}
    {{ show() }} {{ price(row) }}
  {% endfor %}
{% endblock %}
""" + "".join(f"<p>unrelated line {number}</p>\n" for number in range(60))


class Shown:
    """Called from somewhere, it keeps the frames of its callers that are in one file."""

    def __init__(self, filename: str) -> None:
        self.filename = filename
        self.frames: list[Frame] = []

    def __call__(self) -> str:
        frame = sys._getframe(1)
        while frame.f_back is not None:
            if frame.f_code.co_filename == self.filename:
                self.frames.append(Places(None).place(frame.f_code, frame.f_lasti, {}).frame)
            frame = frame.f_back
        return ""


def test_a_frame_of_a_template_has_no_line_of_another_text(tmp_path: Path) -> None:
    """Roots, blocks and macros of Jinja's: the line number is that of the code that it generated."""
    jinja2: Any = pytest.importorskip("jinja2")
    (tmp_path / "page.html").write_text(TEMPLATE, encoding="utf-8")
    shown = Shown(str(tmp_path / "page.html"))
    jinja2.Environment(loader=jinja2.FileSystemLoader(tmp_path)).get_template("page.html").render(rows="ab", show=shown)
    assert {frame.function.rpartition(".")[2] for frame in shown.frames} == {"root", "block_content", "macro"}
    assert [frame.source for frame in shown.frames if frame.source is not None] == []


@pytest.mark.parametrize("suffix", [".py", ".wsgi", ".tpl", ""])
def test_python_under_any_name_has_its_lines(suffix: str, tmp_path: Path) -> None:
    """Modules, functions, methods, lambdas and comprehensions; in templates too whose lines are Python's."""
    path = tmp_path / f"app{suffix}"
    path.write_text(
        "def function():\n    show()\nclass View:\n    def get(self):\n        [show() for _ in 'a']\n"
        "function()\nView().get()\n(lambda: show())()\n",
        encoding="utf-8",
    )
    shown = Shown(str(path))
    exec(compile(path.read_text(encoding="utf-8"), path, "exec"), {"show": shown})
    assert {frame.source for frame in shown.frames} == {
        *("    show()", "        [show() for _ in 'a']", "function()", "View().get()", "(lambda: show())()")
    }
