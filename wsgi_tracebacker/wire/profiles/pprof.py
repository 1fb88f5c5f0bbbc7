"""The profile of Go's pprof, as protocol buffers: https://github.com/google/pprof/blob/main/proto/profile.proto."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

from wsgi_tracebacker.wire.profiles.rows import rows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wsgi_tracebacker.model.recording import Recording
    from wsgi_tracebacker.wire.profiles.rows import Row

_VARINT, _BYTES = 0, 2


def encode(recording: Recording, by: str = "route") -> bytes:
    """Compressed. Each sample has its looks and nanoseconds, and the labels route, worker, pid, host and waits_for."""
    texts: dict[str, int] = {"": 0}
    functions: dict[tuple[str, str], int] = {}
    locations: dict[tuple[int, int], int] = {}
    samples = []

    def text(value: str) -> int:
        return texts.setdefault(value, len(texts))

    def location(row: Row) -> int:
        filename = row.frame.filename if row.frame is not None else ""
        function = functions.setdefault((row.name, filename), len(functions) + 1)
        line = row.frame.lineno or 0 if row.frame is not None else 0
        return locations.setdefault((function, line), len(locations) + 1)

    for stack in recording.stacks:
        labels = {
            "route": stack.route,
            "worker": str(stack.worker),
            "pid": str(stack.pid),
            "host": stack.host or recording.host,
            "waits_for": stack.waits_for,
        }
        samples.append(
            # pprof has the innermost call first.
            _packed(1, (location(row) for row in reversed(rows(stack, by))))
            + _packed(2, (stack.samples, round(stack.seconds * 1e9)))
            + b"".join(_field(3, _number(1, text(key)) + _number(2, text(value))) for key, value in labels.items())
        )
    kinds = [
        _number(1, text(name)) + _number(2, text(unit))
        for name, unit in (("samples", "count"), ("wall", "nanoseconds"))
    ]
    parts = [_field(1, kind) for kind in kinds]
    parts += [_field(2, sample) for sample in samples]
    parts += [
        _field(4, _number(1, number) + _field(4, _number(1, function) + _number(2, line)))
        for (function, line), number in locations.items()
    ]
    parts += [
        _field(5, _number(1, number) + _number(2, text(name)) + _number(3, text(name)) + _number(4, text(filename)))
        for (name, filename), number in functions.items()
    ]
    period_type, default = kinds[1], text("wall")
    parts += [_field(6, value.encode("utf-8", "replace")) for value in texts]
    parts += [
        _number(9, round(recording.started_at * 1e9)),
        _number(10, round(recording.seconds * 1e9)),
        _field(11, period_type),
        _number(12, round(1e9 / recording.rate)),
        _number(14, default),
    ]
    # Without a time in its header the same recording gives the same bytes.
    return gzip.compress(b"".join(parts), mtime=0)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(value)


def _field(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | _BYTES) + _varint(len(content)) + content


def _packed(field: int, values: Iterable[int]) -> bytes:
    return _field(field, b"".join(map(_varint, values)))
