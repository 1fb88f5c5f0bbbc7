"""The check of other hosts: ``wsgi-tb check`` runs on each, and says a line."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.reader.elsewhere import hosts
from wsgi_tracebacker.wire.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from wsgi_tracebacker.model.health import Limits
    from wsgi_tracebacker.reader.elsewhere.hosts import Hosts, Ran


class Checked(NamedTuple):
    """One host."""

    is_healthy: bool
    #: With the name of the host.
    line: str


def check(there: Hosts, bases: Sequence[str], limits: Limits, *, allows_none: bool) -> list[Checked]:
    """A line for each host, in the order in which they were named."""
    given = {
        "--oldest": limits.oldest_seconds,
        "--saturated": limits.saturated_share,
        "--waiting": limits.waiting,
        "--silent": limits.silent,
        "--dead": limits.dead,
    }
    options = [word for name, limit in given.items() if limit is not None for word in (name, f"{limit:.6g}")]
    words = ("check", "--percent-encoded", *options, *["--allow-none"] * allows_none, *map(hosts.encode, bases))
    found = {ran.target: _checked(ran) for ran in hosts.run(there, words)}
    return [found[target] for target in there.targets]


def _checked(ran: Ran) -> Checked:
    said = ran.stdout.decode("utf-8", "replace").strip() or f"failed: {ran.complaint or 'it printed nothing'}"
    return Checked(ran.exit_code == 0, f"{ran.target}: {_one_line(said.splitlines())}")


def _one_line(lines: Iterable[str]) -> str:
    return "; ".join(map(printable, lines))
