"""Records the workers of other hosts: ``wsgi-tb record`` runs on all of them at the same time."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.reader.elsewhere import hosts
from wsgi_tracebacker.wire.profiles import raw

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from wsgi_tracebacker.model.recording import Recording
    from wsgi_tracebacker.reader.elsewhere.hosts import Hosts, Ran


class Recorded(NamedTuple):
    """What came back."""

    #: Of the hosts that answered, each with the name that the operator gave it.
    recordings: tuple[Recording, ...]
    #: A line for each host that did not, or where some worker could not be recorded.
    failures: tuple[str, ...]


def record(
    there: Hosts,
    bases: Sequence[str],
    numbers: Collection[int],
    seconds: float,
    rate: float,
    route: str | None = None,
    *,
    from_inside: bool = False,
) -> Recorded:
    """Record for so many seconds. ``route``: only requests whose path matches."""
    words = ["record", "--format", "jsonl", "-o", "-", "-d", f"{seconds:.3f}", "-r", f"{rate:.0f}"]
    words += [word for number in numbers for word in ("-w", str(number))]
    if route is not None:
        words += ["--route", hosts.encode(route)]
    words += ["--from-inside"] if from_inside else []
    words += ["--percent-encoded", *map(hosts.encode, bases)]
    # One after the other would be of different times.
    all_at_once = there._replace(at_once=len(there.targets), seconds=there.seconds + seconds)
    recordings, failures = [], []
    for ran in hosts.run(all_at_once, words):
        try:
            if not ran.stdout:
                raise FormatError(ran.complaint or f"it printed nothing and ended with {ran.exit_code}")
            found = raw.parse(ran.stdout.decode("utf-8", "replace").splitlines())
            recordings.append(_of_host(found, ran.target))
        except FormatError as error:
            failures.append(f"{ran.target}: {error}")
        else:
            failures += _incomplete(ran)
    recordings.sort(key=lambda each: there.targets.index(each.host))
    return Recorded(tuple(recordings), tuple(sorted(failures)))


def _of_host(recording: Recording, host: str) -> Recording:
    return recording._replace(host=host, stacks=tuple(stack._replace(host=host) for stack in recording.stacks))


def _incomplete(ran: Ran) -> list[str]:
    return [f"{ran.target}: some of its workers or bases could not be recorded"] if ran.exit_code else []
