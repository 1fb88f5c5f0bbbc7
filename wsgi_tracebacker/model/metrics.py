"""What is measured of workers for a monitoring system, and the families of samples that are made of it."""

from __future__ import annotations

from typing import NamedTuple

from wsgi_tracebacker.model.snapshot import Snapshot  # noqa: TC001  (a value needs it)


class Counts(NamedTuple):
    """What the black box of a worker has counted, in this process and in those before it that died."""

    #: Requests that began.
    requests: int
    slow: int
    clients_gone: int
    #: Workers with this number that ended without a clean exit, this one included.
    deaths: int
    #: Overdue requests by action and verdict.
    harakiri: tuple[tuple[tuple[str, str], int], ...]


class Measured(NamedTuple):
    """One worker. None: not known."""

    base: str
    number: int | None
    #: A state of ``wsgi-tb list``.
    state: str
    snapshot: Snapshot | None = None
    counts: Counts | None = None
    resident_bytes: int | None = None
    cpu_seconds: float | None = None


class Family(NamedTuple):
    """All samples of one metric."""

    name: str
    #: ``counter`` or ``gauge``.
    kind: str
    help: str
    samples: tuple[Sample, ...]


class Sample(NamedTuple):
    """One value, and the labels that tell it from the others of its family."""

    labels: tuple[tuple[str, str], ...]
    value: float
