"""Writes metrics in Prometheus's text exposition format, version 0.0.4.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_tracebacker.wire.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wsgi_tracebacker.model.metrics import Family, Sample

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
