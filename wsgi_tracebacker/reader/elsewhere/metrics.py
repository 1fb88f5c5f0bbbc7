"""The metrics of other hosts: ``wsgi-tb metrics`` runs on each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_tracebacker.analysis.metrics import merge
from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.reader.elsewhere import hosts
from wsgi_tracebacker.wire import prometheus_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsgi_tracebacker.reader.elsewhere.hosts import Hosts


def exposition(there: Hosts, bases: Sequence[str], timeout_seconds: float | None) -> bytes:
    """The metrics of all hosts, with a label for the host, and which of them answered."""
    options = [] if timeout_seconds is None else ["--timeout", f"{timeout_seconds:.3f}"]
    words = ("metrics", "--percent-encoded", *options, *map(hosts.encode, bases))
    of_host = {}
    for ran in hosts.run(there, words):
        try:
            of_host[ran.target] = prometheus_text.decode(ran.stdout) if ran.exit_code == 0 else None
        except FormatError:
            of_host[ran.target] = None
    return prometheus_text.encode(merge({target: of_host[target] for target in there.targets}))
