from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire.strategies import any_texts, stacks
from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.model.snapshot import Frame, Stack
from wsgi_tracebacker.wire import uwsgi_text as uwsgi

DORMI = Stack(
    name="WSGIWorker1Core0",
    core=0,
    kind="unknown",
    frames=(
        Frame("./slow.py", 20, "application", "dormi5()"),
        Frame("./slow.py", 4, "dormi", "time.sleep(60)"),
    ),
)

UWSGI_DUMP = b"""*** uWSGI Python tracebacker output ***

thread_id = uWSGIWorker1Core0 filename = ./slow.py lineno = 20 function = application line = dormi5()
thread_id = uWSGIWorker1Core0 filename = ./slow.py lineno = 4 function = dormi line = time.sleep(60)

thread_id = bg filename = <string> lineno = 1 function = <module> line = 

"""  # noqa: W291 - a missing source line leaves a blank at the end


def test_a_dump_has_uwsgis_grammar_to_the_byte() -> None:
    """Apart from the first line and the threads' names a dump of ours is the dump of uWSGI."""
    ours = uwsgi.encode([DORMI, Stack("bg", frames=(Frame("<string>", 1, "<module>"),)), Stack("no frames")])
    expected = UWSGI_DUMP.replace(b"uWSGI Python", b"WSGI Python").replace(b"uWSGIWorker", b"WSGIWorker")
    assert ours == expected


def test_idle_workers_answer_with_the_header_alone() -> None:
    """A dump of no stacks is the header, and is read as no stacks; so is uWSGI's."""
    assert uwsgi.encode([]) == uwsgi.HEADER
    assert uwsgi.parse(uwsgi.HEADER) == ()
    assert uwsgi.parse(b"*** uWSGI Python tracebacker output ***\n\n") == ()


def test_uwsgis_own_dump_is_read() -> None:
    """Each block becomes a stack, with core and worker from uWSGI's names and no source where there is none."""
    serving, background = uwsgi.parse(UWSGI_DUMP)
    assert serving.name == "uWSGIWorker1Core0"
    assert serving.core == 0
    assert serving.frames == DORMI.frames
    assert background == Stack("bg", kind="unknown", frames=(Frame("<string>", 1, "<module>"),))
    assert uwsgi.worker_number([background, serving]) == 1
    assert uwsgi.worker_number([background]) is None


def test_blocks_make_the_dump() -> None:
    """What the worker puts together from lines that it keeps is what encode gives."""
    lines = [uwsgi.frame_text(frame).encode() for frame in DORMI.frames]
    assert uwsgi.HEADER + uwsgi.block(uwsgi.line_start(DORMI.name), lines) == uwsgi.encode([DORMI])


def test_the_function_is_the_plain_name() -> None:
    """uWSGI prints co_name, so the path of a qualified name is left out."""
    frame = Frame("a.py", 1, "View.get.<locals>.<lambda>", "  x = 1  \n")
    assert uwsgi.frame_text(frame) == " filename = a.py lineno = 1 function = <lambda> line = x = 1\n"


def test_a_name_with_a_line_break_is_put_together_again() -> None:
    """uWSGI escapes nothing: a record that a thread's name has split is one frame all the same."""
    dump = UWSGI_DUMP.replace(b"thread_id = bg", b"thread_id = bg\nthread = x")
    assert [stack.name for stack in uwsgi.parse(dump)] == ["uWSGIWorker1Core0", "bg\nthread = x"]


def test_no_thread_can_forge_a_record() -> None:
    """A name that pretends to be a whole record is escaped, and read back as one name."""
    name = "x filename = /etc/passwd lineno = 1 function = f line = g\nthread_id = y"
    (stack,) = uwsgi.parse(uwsgi.encode([Stack(name, frames=DORMI.frames)]))
    assert stack.frames == DORMI.frames
    assert uwsgi.line_start(name) == f"thread_id = {stack.name}".encode()


@pytest.mark.parametrize("length", range(len(UWSGI_DUMP)))
def test_a_dump_that_was_cut_off_gives_what_is_whole(length: int) -> None:
    """However a dump is cut, no frame is made up: those before the cut are there, the last one perhaps in part."""
    try:
        found = uwsgi.parse(UWSGI_DUMP[:length])
    except FormatError:
        assert length < len(uwsgi.UWSGI_HEADER.rstrip())
        return
    whole = [frame for stack in uwsgi.parse(UWSGI_DUMP) for frame in stack.frames]
    got = [frame for stack in found for frame in stack.frames]
    assert got[:-1] == whole[: len(got) - 1] if got else True
    assert len(got) >= UWSGI_DUMP[:length].count(b" function = ") - 1


@pytest.mark.parametrize("data", [b"", b"HTTP/1.0 200 OK\r\n\r\n", b"*** Python", b"\xff" * 50])
def test_without_a_header_it_is_an_error(data: bytes) -> None:
    """What does not begin as a dump does is refused by type."""
    with pytest.raises(FormatError, match="header"):
        uwsgi.parse(data)


@pytest.mark.parametrize("line", [b"\n", b"ab\n", b"thread_id = \n"])
def test_more_lines_than_a_dump_can_have_are_an_error(line: bytes) -> None:
    """Each costs a hundred bytes and a look; the smallest records are read, as many as you like."""
    with pytest.raises(FormatError, match="more lines"):
        uwsgi.parse(uwsgi.UWSGI_HEADER + line * 50_000)
    smallest = uwsgi.block(uwsgi.line_start(""), [uwsgi.frame_text(Frame("", None, "", None)).encode()])
    assert len(uwsgi.parse(uwsgi.UWSGI_HEADER + smallest * 5000)) == 5000


def test_bytes_that_are_not_utf_8_are_read() -> None:
    """A file name in another encoding appears with backslash escapes, whatever else is in it."""
    for name in (b"./caf\xe9.py", b"\xe2\x82./\xc3\xa9\x80\xff\xed\xa0\x80.py", bytes(range(0x80, 0x100))):
        (stack, _) = uwsgi.parse(UWSGI_DUMP.replace(b"./slow.py", name))
        assert stack.frames[0].filename == name.decode("utf-8", "backslashreplace")


@given(st.lists(stacks, max_size=4))
def test_every_frame_comes_back(drawn: list[Stack]) -> None:
    """Whatever text is in names, paths and source, each block is read as one stack with all its frames in order."""
    parsed = uwsgi.parse(uwsgi.encode(drawn))
    expected = [stack for stack in drawn if stack.frames]
    assert [f"thread_id = {stack.name}".encode() for stack in parsed] == [
        uwsgi.line_start(stack.name) for stack in expected
    ]
    for got, sent in zip(parsed, expected, strict=True):
        assert [uwsgi.frame_text(frame) for frame in got.frames] == [uwsgi.frame_text(frame) for frame in sent.frames]


@given(any_texts, any_texts)
def test_a_field_never_breaks_its_line(name: str, path: str) -> None:
    """A frame is one line, and its thread and path are told apart, whatever they hold."""
    dump = uwsgi.encode([Stack(name, frames=(Frame(path, 7, "f", "x"),))])
    assert dump.count(b"\n") == 4
    ((frame,),) = (stack.frames for stack in uwsgi.parse(dump))
    assert (frame.lineno, frame.function, frame.source) == (7, "f", "x")


@given(
    st.binary()
    | st.binary().map(lambda rest: uwsgi.HEADER + rest)
    | st.lists(any_texts).map("".join).map(lambda text: uwsgi.UWSGI_HEADER + text.encode("utf-8", "surrogateescape"))
)
def test_any_bytes_are_stacks_or_a_format_error(data: bytes) -> None:
    """Reading never raises anything else."""
    with contextlib.suppress(FormatError):
        assert isinstance(uwsgi.parse(data), tuple)
