"""Where CPython keeps what is read: one column a minor version. Within a minor version these structures do not change.

Up to 3.12 the offsets are written down here: taken from the debug information of x86-64 release builds. From 3.13 on
the interpreter has a table of them in its own memory, ``_Py_DebugOffsets`` (Include/internal/pycore_runtime.h, since
3.14 pycore_debug_offsets.h), and what is written down here is where in that table each one stands. A version that is
not here is refused: a guess would show stacks that never were.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from wsgi_tracebacker.errors import MemoryUnreadable


class Layout(NamedTuple):
    """Offsets in bytes."""

    minor: int
    #: In ``_PyRuntime``: the list of interpreters. The newest comes first, the main one last.
    interpreters: int
    interpreter_next: int
    interpreter_id: int
    interpreter_threads: int
    #: The GIL: in ``_PyRuntime``, or where an interpreter has the pointer to it.
    gil: int
    gil_is_in_runtime: bool
    #: Of a thread state. It begins with the pointers to the previous one, the next one, and its interpreter.
    thread_ident: int
    #: 0 in 3.10, which does not keep it.
    thread_native_id: int
    #: The pointer to its innermost frame; in 3.11 and 3.12 to a structure on the C stack with that pointer.
    thread_frame: int
    #: Where in that structure; None if the thread state has the pointer itself.
    c_frame: int | None
    frame_code: int
    frame_previous: int
    frame_instruction: int
    frame_owner: int
    code_filename: int
    #: The qualified name; in 3.10 the plain one.
    code_name: int
    code_line_table: int
    code_first_line: int
    code_first_traceable: int
    code_bytecode: int
    #: Where the characters of a string begin, if it is ASCII and if not.
    text_ascii: int
    text_other: int
    #: Kinds of frames that stand for a call out of C.
    c_owners: tuple[int, ...]


#: In a GIL: its holder, or the last one; after it, whether it is held now.
GIL_HOLDER = 8
#: How large it is, at most: a thread that waits for it sleeps on an address within.
GIL_BYTES = 256

#: In every version: of an object its type, of a string its length and state, of bytes their length and content.
OBJECT_TYPE, TEXT_LENGTH, TEXT_STATE, BYTES_SIZE, BYTES_DATA = 8, 16, 32, 16, 32

#: The last kind of frame but one that belongs to a generator or coroutine.
GENERATOR_OWNER = 1

_FIXED = {
    10: Layout(10, 32, 0, 24, 8, 352, True, 176, 0, 24, None, 32, 24, 96, 108, 104, 112, 120, 40, 0, 0, 48, 72, ()),
    11: Layout(11, 40, 0, 48, 16, 360, True, 152, 160, 56, 8, 32, 48, 56, 69, 112, 128, 136, 72, 168, 184, 48, 72, ()),
    12: Layout(12, 40, 0, 8, 72, 384, False, 136, 144, 56, 0, 0, 8, 56, 70, 112, 128, 136, 68, 176, 192, 40, 56, (3,)),
}

#: Where in ``_Py_DebugOffsets`` of 3.13, 3.14 and 3.15 each offset stands.
_DESCRIBED = {
    "interpreters": (40, 40, 40),
    "interpreter_next": (64, 64, 64),
    "interpreter_id": (56, 56, 56),
    "interpreter_threads": (72, 72, 72),
    "gil": (112, 120, 120),
    "thread_ident": (192, 216, 240),
    "thread_native_id": (200, 224, 248),
    "thread_frame": (184, 208, 208),
    "frame_code": (240, 264, 328),
    "frame_previous": (232, 256, 320),
    "frame_instruction": (248, 272, 336),
    "frame_owner": (264, 288, 352),
    "code_filename": (280, 320, 384),
    "code_name": (296, 336, 400),
    "code_line_table": (304, 344, 408),
    "code_first_line": (312, 352, 416),
    "code_bytecode": (344, 384, 448),
    "text_ascii": (560, 640, 736),
}
#: What that table does not have: ``_co_firsttraceable``, and the kinds of frames that stand for C.
_FIRST_TRACEABLE = {13: 184, 14: 192, 15: 192}
_C_OWNERS = {13: (3,), 14: (3, 4), 15: (3,)}
#: A compact string that is not ASCII has two more fields.
_TEXT_OTHER_MORE = 16

#: It begins with this word, then come the version and whether the build is free-threaded.
_COOKIE = b"xdebugpy"
_START = struct.Struct("<8sQQ")

#: How much of it is read: the last offset that is used is within.
DESCRIBED_BYTES = 1024
#: No structure of CPython is larger; an offset beyond is garbage.
_MAX_OFFSET = 1 << 20

KNOWN = "3.10 to 3.15"


def layout_of(minor: int, described: bytes) -> Layout:
    """The layout of CPython 3.``minor``.

    :param described: the first DESCRIBED_BYTES bytes of ``_PyRuntime``.
    Raises MemoryUnreadable for a version that is not known, or a table that is not that version's.
    """
    if minor in _FIXED:
        return _FIXED[minor]
    if minor not in _FIRST_TRACEABLE:
        raise MemoryUnreadable(f"it runs CPython 3.{minor}, and the memory of {KNOWN} is known here")
    if len(described) < DESCRIBED_BYTES:
        raise MemoryUnreadable("the interpreter's table of offsets cannot be read")
    cookie, version, free_threaded = _START.unpack_from(described)
    if cookie != _COOKIE or version >> 16 != 0x300 | minor:
        raise MemoryUnreadable("the interpreter's table of offsets is not the one of its version")
    if free_threaded:
        raise MemoryUnreadable("it runs a free-threaded build of Python, which is not read from outside")
    column = minor - 13
    offsets = {
        name: int.from_bytes(described[at[column] : at[column] + 8], "little") for name, at in _DESCRIBED.items()
    }
    if max(offsets.values()) > _MAX_OFFSET:
        raise MemoryUnreadable("the interpreter's table of offsets is garbage")
    return Layout(
        minor=minor,
        gil_is_in_runtime=False,
        c_frame=None,
        code_first_traceable=_FIRST_TRACEABLE[minor],
        text_other=offsets["text_ascii"] + _TEXT_OTHER_MORE,
        c_owners=_C_OWNERS[minor],
        **offsets,
    )
