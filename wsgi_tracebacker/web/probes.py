"""``/live`` and ``/ready``: the rules of ``wsgi-tb check``, given as a query."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from wsgi_tracebacker.analysis import checks
from wsgi_tracebacker.errors import Misuse, NoWorkersFound
from wsgi_tracebacker.model.health import Limits
from wsgi_tracebacker.reader.look import look
from wsgi_tracebacker.text.screens.health import line
from wsgi_tracebacker.wire.escape import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: By the name in the query: the attribute of Limits, and what converts its value.
_LIMITS = {
    "oldest": ("oldest_seconds", float),
    "saturated": ("saturated_share", float),
    "waiting": ("waiting", int),
    "silent": ("silent", int),
    "dead": ("dead", int),
}
ALLOW_NONE = "allow-none"


def limits_of(query: Mapping[str, str]) -> tuple[Limits, bool]:
    """The limits in a query, and whether no worker at all is healthy. Raises Misuse."""
    values: dict[str, float] = {}
    for name, word in query.items():
        if name == ALLOW_NONE:
            continue
        if name not in _LIMITS:
            raise Misuse(f"there is no limit {printable(name)!r}: there are {', '.join((*_LIMITS, ALLOW_NONE))}")
        attribute, convert = _LIMITS[name]
        try:
            values[attribute] = convert(word)
        except ValueError:
            raise Misuse(f"{name}={printable(word)} is no number") from None
        if not 0 <= values[attribute] < math.inf:
            raise Misuse(f"{name}={printable(word)} is no limit")
    return Limits(**values), ALLOW_NONE in query  # type: ignore[arg-type]  # of the attribute, by the table


def judge(bases: Sequence[str], limits: Limits, *, allows_none: bool) -> tuple[bool, str]:
    """Whether the workers are healthy, and the line that ``wsgi-tb check`` prints."""
    try:
        found = look(bases)
    except NoWorkersFound as error:
        said = "; ".join(map(printable, str(error).splitlines()))
        return allows_none, f"ok: no worker yet; {said}" if allows_none else f"failed: {said}"
    totals = checks.add_up(found.workers)
    failures = list(checks.failures(totals, limits))
    shown = line(totals, failures, list(checks.cannot_judge(totals, limits)))
    return not failures, shown
