"""A recording as JSON lines, from which every other form can be made later.

The first line is the recording without its stacks, with the frames that they name by number; then a line each.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.model.recording import OUTSIDE, RECORDING_SCHEMA, RecordedStack, RecordedWorker, Recording
from wsgi_tracebacker.model.snapshot import Frame

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_HEAD = [name for name in Recording._fields if name not in ("stacks", "workers")]


def lines(recording: Recording) -> Iterator[str]:
    """The lines, without line ends."""
    frames: dict[tuple[str, int | None, str], int] = {}
    stacks = [
        {
            **{name: value for name, value in stack._asdict().items() if name != "frames"},
            "frames": [frames.setdefault(frame[:3], len(frames)) for frame in stack.frames],
        }
        for stack in recording.stacks
    ]
    head = {name: getattr(recording, name) for name in _HEAD}
    workers = [worker._asdict() for worker in recording.workers]
    rest = {"workers": workers, "frames": list(frames), "stacks": len(stacks)}
    yield json.dumps({"schema": RECORDING_SCHEMA, **head, **rest})
    yield from map(json.dumps, stacks)


def parse(content: Iterable[str]) -> Recording:
    """Read the lines. Raises FormatError for anything that is no recording of this version."""
    try:
        documents = [json.loads(line) for line in content]
        head = documents[0]
        if head["schema"] != RECORDING_SCHEMA:
            raise FormatError(f"it is of version {head['schema']!r}, this program reads version {RECORDING_SCHEMA}")
        frames = [Frame(str(filename), _line(line), str(function)) for filename, line, function in head["frames"]]
        workers = tuple(_worker(**worker) for worker in head["workers"])
        stacks = tuple(_stack(document, frames) for document in documents[1:])
        if len(stacks) != head["stacks"]:
            raise FormatError(f"it is cut short: it has {len(stacks)} of {head['stacks']!r} stacks")
        values = {name: _value(name, head[name]) for name in _HEAD}
        return Recording(**values, workers=workers, stacks=stacks)
    except FormatError:
        raise
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, OverflowError) as error:
        raise FormatError("it is no recording, or is cut short") from error


def _worker(number: Any, pid: Any, engine: Any = OUTSIDE) -> RecordedWorker:
    return RecordedWorker(int(number), int(pid), str(engine))


def _stack(document: dict[str, Any], frames: list[Frame]) -> RecordedStack:
    if any(number < 0 for number in document["frames"]):
        raise FormatError("it names frames that it does not have")
    return RecordedStack(
        route=str(document["route"]),
        worker=int(document["worker"]),
        pid=int(document["pid"]),
        waits_for=str(document["waits_for"]),
        frames=tuple(frames[number] for number in document["frames"]),
        is_cut=bool(document["is_cut"]),
        seconds=_seconds(document["seconds"]),
        samples=int(document["samples"]),
        host=None if document.get("host") is None else str(document["host"]),
    )


def _value(name: str, value: Any) -> Any:
    if name in ("application", "cwd"):
        return None if value is None else str(value)
    if name == "host":
        return str(value)
    return int(value) if name in ("requests", "exact", "cut", "torn") else _seconds(value)


def _line(value: Any) -> int | None:
    return None if value is None else int(value)


def _seconds(value: Any) -> float:
    seconds = float(value)
    # More than any clock shows, or nan.
    if not 0 <= seconds < 1e12:
        raise FormatError("it has times that no clock shows")
    return seconds
