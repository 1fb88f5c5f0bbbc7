from __future__ import annotations

import contextlib
import faulthandler as standard_faulthandler
import sys
import tempfile
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.wire.hostile import long_inputs, within_bounds
from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.model.snapshot import Frame
from wsgi_tracebacker.wire.black_box import faulthandler_text as faulthandler

#: As CPython 3.10 to 3.13 write it.
DUMP = rb"""Thread 0x00007fad177fe6c0 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 982 in run
  File "/usr/lib/python3.11/threading.py", line 1002 in _bootstrap

Thread 0x00007fad17fff6c0 (most recent call first):
  <no Python frame>

Current thread 0x00007fad1ea6fb80 (most recent call first):
  Garbage-collecting
  File "/srv/caf\xe9.py", line 9 in gr\xf6\xdfe
  File ???, line ??? in <module>
"""


def test_each_thread_is_a_stack_with_its_outermost_frame_first() -> None:
    """Idents, places and names are those of the dump; nothing is made of which thread is called current."""
    dump = faulthandler.parse(DUMP)
    assert [stack.ident for stack in dump.stacks] == [0x7FAD177FE6C0, 0x7FAD17FFF6C0, 0x7FAD1EA6FB80]
    assert [frame.function for frame in dump.stacks[0].frames] == ["_bootstrap", "run"]
    assert dump.stacks[0].frames[1].lineno == 982
    assert dump.stacks[1].frames == ()
    assert dump.stacks[2].frames == (Frame("???", None, "<module>"), Frame("/srv/café.py", 9, "größe"))
    assert not dump.is_cut
    assert all(stack.frames_omitted == 0 for stack in dump.stacks)


def test_names_of_threads_are_read() -> None:
    """CPython 3.14 and up write them between the ident and the words."""
    text = b'Thread 0x1f [WSGIWorker1Core0] (most recent call first):\n  File "a.py", line 1 in f\n\n'
    named = faulthandler.parse(text + b"Current thread 0x2f [a] [b] (most recent call first):\n")
    assert [(stack.name, stack.ident) for stack in named.stacks] == [("WSGIWorker1Core0", 0x1F), ("a] [b", 0x2F)]


def test_one_stack_alone_has_no_ident() -> None:
    """What faulthandler writes where it shows no other thread."""
    (stack,) = faulthandler.parse(b'Stack (most recent call first):\n  File "a.py", line 1 in f\n').stacks
    assert (stack.ident, stack.frames) == (None, (Frame("a.py", 1, "f"),))


def test_limits_are_told() -> None:
    """More threads than a hundred, and more frames than a hundred, each end in dots."""
    dump = faulthandler.parse(DUMP + b"  ...\n\n...\n")
    assert dump.is_cut
    assert [stack.frames_omitted for stack in dump.stacks] == [0, 0, 1]


def test_what_stands_around_a_dump_is_passed_over() -> None:
    """A fatal error's head, and the C stack that 3.14 adds."""
    c_stack = (
        b'\nCurrent thread\'s C stack trace (most recent call first):\n  Binary file "/lib/x.so", at f+0x1 [0x2]\n'
    )
    dump = faulthandler.parse(b"Fatal Python error: Segmentation fault\n\n" + DUMP + c_stack)
    assert dump == faulthandler.parse(DUMP)


def test_a_name_with_quotes_and_escapes_stays_one() -> None:
    """A path that holds a quotation mark is whole, and an escape that is no character is left."""
    text = rb"""Thread 0x1 (most recent call first):
  File "/a "b", line 3 in c.py", line 7 in f\u20ac\U0001f600\U00110000
"""
    (frame,) = faulthandler.parse(text).stacks[0].frames
    assert frame == Frame('/a "b", line 3 in c.py', 7, "f€😀\\U00110000")


def test_names_that_are_not_utf_8_come_back_as_file_names_do() -> None:
    """Python's stand-ins for such bytes survive, so that the file can be opened."""
    (frame,) = (
        faulthandler.parse(b'Thread 0x1 (most recent call first):\n  File "\\udce9.py", line 7 in f\n').stacks[0].frames
    )
    assert frame.filename == "\udce9.py"


def test_this_interpreters_own_dump_is_read() -> None:
    """Every thread of this process, with the frames that it has."""
    begun, done = threading.Event(), threading.Event()

    def wait_beside() -> None:
        begun.set()
        done.wait()

    thread = threading.Thread(target=wait_beside)
    thread.start()
    try:
        begun.wait()
        with tempfile.TemporaryFile() as file:
            standard_faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            dump = faulthandler.parse(file.read())
        stacks = {stack.ident: stack for stack in dump.stacks}
        assert set(stacks) == set(sys._current_frames())
        functions = [frame.function for frame in stacks[threading.get_ident()].frames]
        assert "test_this_interpreters_own_dump_is_read" in functions[-1]
        beside = stacks[thread.ident].frames
        assert "wait_beside" in [frame.function.rpartition(".")[2] for frame in beside]
        assert all(frame.filename == __file__ for frame in beside if "wait_beside" in frame.function)
    finally:
        done.set()
        thread.join()


def test_pypys_dump_is_read() -> None:
    """With idents in capitals, other heads, and names as they are."""
    content = """\
Thread 0x7FF18D1966C0 (most recent call first, approximate line numbers):
  File "/é.py", line 2 in wait_beside
  File "/usr/lib/pypy3.11/threading.py", line 988 in _bootstrap

Current thread 0x7FF19173F780 (most recent call first, approximate line numbers):
  File "/é.py", line 12 in named_é
  File "<builtin>/app_main.py", line 1234 in entry_point
"""
    beside, current = faulthandler.parse(content.encode()).stacks
    assert (beside.ident, current.ident) == (0x7FF18D1966C0, 0x7FF19173F780)
    assert [frame.function for frame in beside.frames] == ["_bootstrap", "wait_beside"]
    assert (current.frames[-1].filename, current.frames[-1].lineno) == ("/é.py", 12)
    assert current.frames[-1].function == "named_é"
    [only] = faulthandler.parse(b"Stack (most recent call first, approximate line numbers):\n").stacks
    assert only.ident is None


@pytest.mark.parametrize("length", range(0, len(DUMP), 7))
def test_a_dump_that_was_cut_off_gives_what_is_whole(length: int) -> None:
    """No thread and no frame is made up, however it is cut."""
    whole = faulthandler.parse(DUMP).stacks
    try:
        found = faulthandler.parse(DUMP[:length]).stacks
    except FormatError:
        assert b"first):" not in DUMP[:length]
        return
    assert [stack.ident for stack in found] == [stack.ident for stack in whole[: len(found)]]
    for cut, stack in zip(found[:-1], whole, strict=False):
        assert cut == stack


@pytest.mark.parametrize("content", [b"", b"\n", b"no dump", b"Thread 0x1", b"\xff" * 50, b"Timeout (0:00:01)!\n"])
def test_without_a_thread_it_is_an_error(content: bytes) -> None:
    """By type."""
    with pytest.raises(FormatError, match="no thread"):
        faulthandler.parse(content)


_pieces = st.sampled_from(
    [
        *DUMP.splitlines(keepends=True),
        b"...\n",
        b"  ...\n",
        b"\n",
        b"Stack (most recent call first):\n",
        b"\\xe9",
        b"  File ",
    ]
)


@given(st.binary() | st.lists(_pieces | st.binary(max_size=5)).map(b"".join))
def test_any_bytes_are_a_dump_or_a_format_error(content: bytes) -> None:
    """Reading never raises anything else, and never makes more frames than there are lines."""
    with contextlib.suppress(FormatError):
        dump = faulthandler.parse(content)
        frames = sum(len(stack.frames) for stack in dump.stacks)
        assert 1 <= len(dump.stacks) + frames <= content.count(b"\n") + 1


_long = long_inputs(
    *(b"Thread 0x1 (most recent call first):\n", b'  File "', b'"', b", line ", b"1", b" in ", b"\n", b"  ", b"\\x41"),
    *(b"Thread 0x1 [", b"]", b"...", b"  ...\n", b"\xff"),
)


@settings(max_examples=min(50, settings().max_examples))
@given(st.sampled_from([b"", b"Thread 0x1 (most recent call first):\n"]), _long)
def test_a_long_dump_costs_no_more_than_its_length(start: bytes, rest: bytes) -> None:
    """Whatever it is made of: neither time nor memory grow faster than it does."""

    def take(content: bytes) -> None:
        with contextlib.suppress(FormatError):
            faulthandler.parse(content)

    within_bounds(take, start + rest, microseconds_a_byte=1.5, bytes_a_byte=100)
