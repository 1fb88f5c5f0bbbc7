"""The forms that a recording is written in: each says the same, and is what its readers expect."""

from __future__ import annotations

import gzip
import json
import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire.profiles.recordings import RECORDING, STACKS, recordings
from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.wire.profiles import folded, pprof, raw, rows, speedscope

if TYPE_CHECKING:
    from wsgi_tracebacker.model.recording import Recording


def test_folded_lines_begin_with_the_route_and_end_with_the_wait() -> None:
    """Whole milliseconds; what is less than half of one is left out, and a cut stack says so."""
    assert list(folded.lines(RECORDING)) == [
        "GET /orders/:;view (/srv/shop.py:4);load (/srv/shop.py:9);postgresql 10.0.0.5:5432 6000",
        "GET /orders/:;view (/srv/shop.py:4);(more calls);CPU 1500",
        "POST /pay;view (/srv/shop.py:4);load (/srv/shop.py:9);sleep (<frozen x>);sleep 2000",
    ]


@pytest.mark.parametrize(
    ("by", "first"), [("worker", "worker 1 (pid 4711);GET /orders/:;"), ("wait", "postgresql 10.0.0.5:5432;GET ")]
)
def test_stacks_may_begin_with_worker_or_wait(by: str, first: str) -> None:
    """The route comes next then."""
    assert next(folded.lines(RECORDING, by)).startswith(first)


def test_only_cpu_drops_every_wait() -> None:
    """For a graph of computing alone."""
    assert {stack.waits_for for stack in rows.only_cpu(RECORDING).stacks} == {"CPU"}


@given(recordings)
def test_no_name_breaks_a_folded_line(recording: Recording) -> None:
    """Each line is rows and one number; semicolons and line breaks in names are none of the form's."""
    for line in folded.lines(recording):
        names, _, number = line.rpartition(" ")
        assert number.isdigit()
        assert names
        assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", line)


def test_speedscope_has_all_requests_then_each_route() -> None:
    """The heaviest route first; weights are seconds and add up; indices are those of the frames."""
    document = json.loads(speedscope.encode(RECORDING))
    profiles = document["profiles"]
    assert [profile["name"] for profile in profiles] == ["all requests", "GET /orders/:", "POST /pay"]
    frames = document["shared"]["frames"]
    for profile in profiles:
        assert (profile["type"], profile["unit"]) == ("sampled", "seconds")
        assert len(profile["samples"]) == len(profile["weights"])
        assert profile["endValue"] == pytest.approx(sum(profile["weights"]))
        assert all(0 <= index < len(frames) for sample in profile["samples"] for index in sample)
    first = [frames[index] for index in profiles[0]["samples"][0]]
    assert first == [
        {"name": "GET /orders/:"},
        {"name": "view", "file": "/srv/shop.py", "line": 4},
        {"name": "load", "file": "/srv/shop.py", "line": 9},
        {"name": "postgresql 10.0.0.5:5432"},
    ]
    assert profiles[0]["endValue"] == pytest.approx(RECORDING.total_seconds)


def decoded(message: bytes) -> dict[int, list[Any]]:
    """The fields of a protocol buffer: numbers, and the bytes of what is within."""
    fields: dict[int, list[Any]] = defaultdict(list)
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        key = varint()
        if key & 7 == 0:
            fields[key >> 3].append(varint())
        else:
            assert key & 7 == 2
            size = varint()
            fields[key >> 3].append(message[at : at + size])
            at += size
    assert at == len(message)
    return fields


def numbers(packed: bytes) -> list[int]:
    """Packed varints."""
    found, value, shift = [], 0, 0
    for byte in packed:
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            found.append(value)
            value = shift = 0
    return found


@given(recordings)
def test_pprof_has_every_stack_with_its_labels(recording: Recording) -> None:
    """Decoded by other means: innermost call first, looks and nanoseconds, and what the labels say."""
    profile = decoded(gzip.decompress(pprof.encode(recording)))
    texts = [text.decode("utf-8") for text in profile[6]]
    assert texts[0] == ""
    functions = {each[1][0]: texts[each[2][0]] for each in map(decoded, profile[5])}
    locations = {}
    for each in map(decoded, profile[4]):
        [line] = map(decoded, each[4])
        locations[each[1][0]] = functions[line[1][0]]
    assert len(profile[2]) == len(recording.stacks)
    for sample, stack in zip(map(decoded, profile[2]), recording.stacks, strict=True):
        names = [locations[number] for number in numbers(sample[1][0])][::-1]
        assert names == [_replaced(row.name) for row in rows.rows(stack)]
        assert numbers(sample[2][0]) == [stack.samples, round(stack.seconds * 1e9)]
        labels = {texts[label[1][0]]: texts[label[2][0]] for label in map(decoded, sample[3])}
        assert labels["route"] == _replaced(stack.route)
        assert labels["waits_for"] == _replaced(stack.waits_for)
        assert labels["worker"] == str(stack.worker)
        assert labels["pid"] == str(stack.pid)
    [kinds] = [[(texts[kind[1][0]], texts[kind[2][0]]) for kind in map(decoded, profile[1])]]
    assert kinds == [("samples", "count"), ("wall", "nanoseconds")]


def _replaced(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


@given(recordings)
def test_the_raw_form_comes_back_as_it_was(recording: Recording) -> None:
    """decode(encode(x)) == x: nothing that another form needs is lost."""
    assert raw.parse(raw.lines(recording)) == recording


@pytest.mark.parametrize("left", range(len(STACKS)))
def test_a_recording_of_which_whole_lines_are_missing_is_refused(left: int) -> None:
    """A full disk or an ended connection may leave as much."""
    with pytest.raises(FormatError, match=f"it is cut short: it has {left} of 4 stacks"):
        raw.parse(list(raw.lines(RECORDING))[: 1 + left])


@given(st.lists(st.text(max_size=60), max_size=4))
def test_any_text_is_a_recording_or_a_format_error(lines: list[str]) -> None:
    """Whatever file is named."""
    with pytest.raises(FormatError):
        raw.parse(lines)


@given(recordings, st.data())
def test_a_recording_with_a_wrong_value_is_refused_or_read(recording: Recording, data: st.DataObject) -> None:
    """Whatever stands in the place of one value, at the top or in a stack."""
    documents = [json.loads(line) for line in raw.lines(recording)]
    document = data.draw(st.sampled_from(documents))
    key = data.draw(st.sampled_from(sorted(document)))
    document[key] = data.draw(st.none() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=3))
    try:
        found = raw.parse(map(json.dumps, documents))
    except FormatError:
        return
    assert len(found.stacks) == len(recording.stacks)
