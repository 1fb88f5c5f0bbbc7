"""The text that Prometheus reads, read by a test."""

from __future__ import annotations

import re

_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")


def values(text: str, name: str, **labels: str) -> dict[str, float]:
    """The samples of a metric that have these labels: their other labels, as written, and their values."""
    found = {}
    for line in text.splitlines():
        match = _SAMPLE.match(line)
        if match is None or match[1] != f"wsgi_tb_{name}":
            continue
        pairs = re.findall(r'(\w+)="([^"]*)"', match[2] or "")
        if set(labels.items()) <= set(pairs):
            rest = [value for pair in pairs if pair not in labels.items() for value in pair[1:]]
            found[" ".join(rest)] = float(match[3])
    return found
