"""The line of ``wsgi-tb check``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_tracebacker.text.units import OTHER_USER, duration, plural

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wsgi_tracebacker.model.health import Failure, Totals

#: What is not known if a limit cannot be judged.
_NOT_KNOWN = {"saturated": "slots are not known", "waiting": "waiting connections are not known"}


def line(totals: Totals, failures: Sequence[Failure], not_judged: Sequence[str] = ()) -> str:
    """One line: whether all is well, or what is not; then the totals, and which limits could not be judged."""
    facts = ", ".join(_facts(totals))
    unknown = "".join(f"; {_NOT_KNOWN[kind]}, so --{kind} cannot fail" for kind in not_judged)
    if not failures:
        return f"ok: {facts}{unknown}"
    return f"failed: {'; '.join(map(_failure, failures))} ({facts}){unknown}"


def _facts(totals: Totals) -> Iterator[str]:
    yield f"{totals.answering} of {plural(totals.workers, 'worker')} {'answers' if totals.workers == 1 else 'answer'}"
    for count, what in ((totals.moving, "work but are too busy to"), (totals.silent, "silent"), (totals.dead, "dead")):
        if count:
            yield f"{count} {what}"
    if totals.refusing:
        yield f"{totals.refusing} may not be asked"
    if totals.slots is not None:
        yield f"{totals.busy} of {plural(totals.slots, 'slot')} busy"
    if totals.waiting is not None:
        yield f"{plural(totals.waiting, 'connection')} {'waits' if totals.waiting == 1 else 'wait'}"
    if totals.oldest_request_seconds is not None:
        yield f"oldest request {duration(totals.oldest_request_seconds)}"
    if totals.other_uids:
        yield f"{OTHER_USER} {', '.join(map(str, totals.other_uids))}"


def _failure(failure: Failure) -> str:
    value, limit = failure.value, failure.limit
    return {
        "none": "no worker answers",
        "oldest": f"oldest request {duration(value)}, limit {duration(limit)}",
        "saturated": f"{value:.0%} of the slots busy, limit {limit:.0%}",
        "waiting": f"connections waiting: {value:.0f}, limit {limit:.0f}",
        "silent": f"workers silent: {value:.0f}, allowed {limit:.0f}",
        "dead": f"workers dead: {value:.0f}, allowed {limit:.0f}",
    }[failure.kind]
