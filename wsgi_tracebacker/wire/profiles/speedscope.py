"""speedscope's file format: https://www.speedscope.app/file-format-schema.json."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from wsgi_tracebacker.wire.profiles.rows import by_route, rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsgi_tracebacker.model.recording import RecordedStack, Recording


def encode(recording: Recording, by: str = "route", version: str = "") -> bytes:
    """A profile of all requests, then one a route, the heaviest first. Weights are seconds of wall clock."""
    frames: dict[tuple[Any, ...], int] = {}

    def profile(name: str, stacks: Sequence[RecordedStack]) -> dict[str, Any]:
        samples = [
            [
                frames.setdefault(
                    (row.name,) if row.frame is None else (row.name, row.frame.filename, row.frame.lineno), len(frames)
                )
                for row in rows(stack, by)
            ]
            for stack in stacks
        ]
        weights = [round(stack.seconds, 6) for stack in stacks]
        return {
            "type": "sampled",
            "name": name,
            "unit": "seconds",
            "startValue": 0,
            "endValue": round(sum(weights), 6),
            "samples": samples,
            "weights": weights,
        }

    routes = list(by_route(recording))
    profiles = [profile("all requests", recording.stacks)]
    profiles += [profile(route, stacks) for route, stacks in routes]
    document = {
        "$schema": "https://www.speedscope.app/file-format-schema.json",
        "exporter": f"wsgi-tb {version}".strip(),
        "name": f"{recording.application or 'requests'}, {recording.seconds:.1f} s",
        "activeProfileIndex": 0,
        "shared": {"frames": [_frame(*key) for key in frames]},
        "profiles": profiles,
    }
    return json.dumps(document, separators=(",", ":")).encode("ascii") + b"\n"


def _frame(name: str, file: str | None = None, line: int | None = None) -> dict[str, Any]:
    known = {"name": name, "file": file, "line": line}
    return {key: value for key, value in known.items() if value is not None}
