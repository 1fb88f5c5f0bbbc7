"""Writes metrics in Prometheus's text exposition format, version 0.0.4, and reads what it wrote on another host.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.model.metrics import Family, Sample
from wsgi_tracebacker.wire.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: In the value of a label. A line end cannot be there: the value is made printable first.
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\""})


def encode(families: Iterable[Family]) -> bytes:
    """The exposition of these families; of one without samples nothing is written."""
    lines = []
    for family in families:
        if family.samples:
            lines.append(f"# HELP {family.name} {family.help}")
            lines.append(f"# TYPE {family.name} {family.kind}")
            lines += [_line(family.name, sample) for sample in family.samples]
    return "".join([f"{line}\n" for line in lines]).encode("utf-8")


def _line(name: str, sample: Sample) -> str:
    # Printable: a base is a path, which need not be UTF-8, and somebody looks at this with curl.
    labels = ",".join([f'{key}="{printable(value).translate(_ESCAPES)}"' for key, value in sample.labels])
    return f"{name}{{{labels}}} {sample.value!r}" if labels else f"{name} {sample.value!r}"


_NAME = r"[a-z][a-z0-9_]*"
_HEAD = re.compile(rf"# HELP (wsgi_tb_{_NAME}) (.*)\n# TYPE \1 (counter|gauge)\n")
_LABEL = rf'{_NAME}="(?:[^"\\\n]|\\["\\])*"'
_SAMPLE = re.compile(rf"(wsgi_tb_{_NAME})(?:{{({_LABEL}(?:,{_LABEL})*)}})? ([0-9.e+-]+)\n")
_ONE_LABEL = re.compile(rf'({_NAME})="((?:[^"\\\n]|\\["\\])*)"')


def decode(data: bytes) -> list[Family]:
    """The families that ``encode`` wrote. Raises FormatError for anything else, also of Prometheus's format."""
    families = []
    try:
        text = data.decode("utf-8")
        at = 0
        while at < len(text):
            head = _HEAD.match(text, at)
            if head is None:
                raise FormatError("these are no metrics of wsgi-tb")
            at = head.end()
            samples = []
            while (line := _SAMPLE.match(text, at)) and line[1] == head[1]:
                samples.append(Sample(_labels(line[2] or ""), float(line[3])))
                at = line.end()
            families.append(Family(head[1], head[3], head[2], tuple(samples)))
    except ValueError as error:
        raise FormatError(f"these are no metrics of wsgi-tb: {error}") from None
    return families


def _labels(text: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, re.sub(r"\\(.)", r"\1", value)) for name, value in _ONE_LABEL.findall(text))
