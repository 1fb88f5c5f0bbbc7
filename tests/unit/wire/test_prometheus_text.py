"""Metrics as text."""

from __future__ import annotations

from wsgi_tracebacker.model.metrics import Family, Sample
from wsgi_tracebacker.wire.prometheus_text import encode


def test_a_family_has_its_help_its_type_and_its_samples() -> None:
    """A family without samples is left out: Prometheus would know a metric that has no value."""
    families = [
        Family("a_total", "counter", "Counts.", (Sample((), 3), Sample((("b", "c"), ("d", "e")), 0.5))),
        Family("nothing", "gauge", "Nothing.", ()),
    ]
    assert encode(families) == b'# HELP a_total Counts.\n# TYPE a_total counter\na_total 3\na_total{b="c",d="e"} 0.5\n'


def test_the_value_of_a_label_cannot_end_it() -> None:
    """Quotes and backslashes are escaped as the format has it; a line end or a byte of no text is shown as one."""
    [*_, line] = encode([Family("a", "gauge", "A.", (Sample((("base", '/"\\\n\x1b\udcff'),), 1),))]).splitlines()
    assert line == rb'a{base="/\"\\\\n\\x1b\\udcff"} 1'
