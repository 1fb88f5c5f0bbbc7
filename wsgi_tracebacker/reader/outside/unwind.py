"""Reads the stack of a thread from outside, while it may go on running.

A frame that was left stays readable, and still points to its caller. So a stack that is read once, frame by frame, may
be one that nobody ever had: of a busy thread up to 97 % of them were (measured). What is done instead:

- All memory that held the thread's frames is read three times in one system call, with the pointer to the innermost
  frame before, between and after the first two: *pictures*. If nothing differs the stack is exact.
- Otherwise, frames that are the same in all three, from the outermost one inwards, are sure, and the one that the last
  of them calls: its caller stood at this call all the time. Two pictures are not enough: a loop of some microseconds
  can mix two stacks in the same way twice (measured: 1 in 2,000).
- Further inwards a frame is believed only if just this path of calls was sure at two other looks: not if it is made of
  calls that exist one by one, since two stacks can be mixed of which each is real.
- The outermost frame of a thread does not change. A chain that ends elsewhere was read while a frame was linked.

======  ============================================================================
exact   every frame, as it was at one instant
cut     right, but the innermost frames are missing: they changed while they were read
torn    nothing that is sure
======  ============================================================================
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.model.recording import CUT, EXACT, TORN
from wsgi_tracebacker.reader.outside.layouts import GENERATOR_OWNER
from wsgi_tracebacker.reader.outside.memory import Pieces

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsgi_tracebacker.model.snapshot import Frame
    from wsgi_tracebacker.reader.outside.interpreter import Interpreter
    from wsgi_tracebacker.reader.outside.layouts import Layout

#: How often a stack is read again that ends at a wrong place.
_TRIES = 20
#: Python's own limit is 1,000 unless it is raised.
_MAX_DEPTH = 3000
#: Frames that are so near to each other are read together: less than a page, so that nothing unmapped is between.
_NEAR_BYTES = 2048
#: Behind the last frame as much is read as the next calls may need.
_MORE_BYTES = 512
#: What is read for one thread, at most; beyond, only what its last stack needs.
_MAX_PIECES = 48
_MAX_BYTES = 256 * 1024
#: The same of the C stack.
_MAX_C_BYTES = 64 * 1024
#: How often a path of calls must have been sure. Once is not enough: 1 wrong stack in 4,000 (measured).
_BELIEVED = 2
#: Paths that are remembered, some 20 MB. Real applications have some ten thousand.
_MAX_PATHS = 100_000

#: From 3.14 on the lowest bits of a pointer to a code object say how its references are counted.
_NO_TAG = ~3

#: How many more pictures have to be the same before a path is believed that was never seen.
_CONFIRMATIONS = 3

#: A frame of a chain: its address, its code object, its instruction, and what it belongs to.
_Link = tuple[int, int, int, int]


class Look(NamedTuple):
    """One stack, outermost frame first."""

    outcome: str
    frames: tuple[Frame, ...] = ()
    #: What stood at ``mark_at`` right before and right after the pictures.
    mark: bytes = b""


class _Pictures(NamedTuple):
    """Three pictures of the memory that held a thread's frames."""

    #: To the innermost frame: before, between and after the first two.
    pointers: tuple[int, int, int]
    first: list[bytes]
    second: list[bytes]
    third: list[bytes]
    #: Whether nothing differs.
    still: bool


class Paths:
    """The paths of calls that were sure, of all threads of a process: a tree, and how often each node was seen."""

    def __init__(self) -> None:
        self._nodes: dict[tuple[int, int, int], int] = {}
        self._seen: list[int] = [0]

    def learn(self, chain: list[_Link]) -> None:
        """Count each call on a path from the outermost frame on."""
        if len(self._seen) > _MAX_PATHS:
            self._nodes.clear()
            self._seen = [0]
        node = instruction = 0
        for _, code, next_instruction, _ in chain:
            key = (node, instruction, code)
            child = self._nodes.get(key)
            if child is None:
                child = self._nodes[key] = len(self._seen)
                self._seen.append(0)
            self._seen[child] += 1
            node, instruction = child, next_instruction

    def known(self, chain: list[_Link]) -> int:
        """How many frames of a path, from the outermost on, were seen often enough."""
        node = instruction = 0
        for depth, (_, code, next_instruction, _) in enumerate(chain):
            child = self._nodes.get((node, instruction, code), 0)
            if self._seen[child] < _BELIEVED:
                return depth
            node, instruction = child, next_instruction
        return len(chain)


class ThreadStack:
    """Reads the stack of one thread again and again: each look begins with what the ones before it found."""

    def __init__(self, interpreter: Interpreter, thread: int, paths: Paths) -> None:
        """``thread``: the address of its thread state."""
        self._memory = interpreter.memory
        self._codes = interpreter.codes
        self._layout = interpreter.layout
        self._pointer_at = thread + self._layout.thread_frame
        self._paths = paths
        self._frame = _frame_struct(self._layout)
        self._code_is_first = self._layout.frame_code < self._layout.frame_previous
        #: The memory that a picture consists of, in the order of addresses: where each piece starts and ends.
        self._spans: list[tuple[int, int]] = []
        #: In 3.11 and 3.12: where on the C stack the pointer to the innermost frame was, one place for each call out of
        #: C into Python.
        self._c_spans: list[tuple[int, int]] = []
        self._mark_at: tuple[int, int] | None = None
        self._mark = b""
        self._pictures = self._plan(())
        self._root: tuple[int, int] | None = None
        #: Another outermost frame that was found at the last look: believed if it is found again.
        self._other_root: tuple[int, int] | None = None
        self._last: tuple[_Pictures, Look] | None = None

    def look(self, mark_at: tuple[int, int] | None = None) -> Look:
        """The stack as it is now; of a thread that runs no Python it has no frames.

        :param mark_at: address and size of what is read in the same system call, before and after the pictures. If it
            changed meanwhile, another look is taken.
        """
        if mark_at != self._mark_at:
            self._mark_at = mark_at
            self._pictures = self._plan(self._order)
        other_root, self._other_root = self._other_root, None
        for _ in range(_TRIES):
            taken = self._take()
            look = self._look_at(taken, other_root) if taken is not None else None
            if look is not None:
                return look._replace(mark=self._mark)
        return Look(TORN)

    def _look_at(self, taken: _Pictures, other_root: tuple[int, int] | None) -> Look | None:
        """What three pictures show; None if nothing that is sure."""
        if taken.still and self._last is not None and self._last[0] == taken:
            return self._last[1]
        if taken.still and not taken.pointers[0]:
            return Look(EXACT)
        _, middle, after = taken.pointers
        starts = [start for start, _ in self._spans]
        chain, missing = self._walk(starts, taken.second, middle, after)
        if not self._is_whole(chain, other_root):
            return None
        if not taken.still:
            if self._layout.minor == 10:
                # Its frames lie all over the heap, and their memory serves others at once: what runs is not read.
                return None
            look = self._compare(chain, starts, taken)
            return look if look.frames else None
        if missing or not self._is_still(taken, chain):
            return None
        self._paths.learn(chain)
        look = Look(EXACT, self._frames(chain))
        self._last = (taken, look)
        return look

    def _is_still(self, taken: _Pictures, chain: list[_Link]) -> bool:
        """Whether the thread stands still. A short loop may be at the same place again in some pictures, not in all."""
        is_known = self._layout.minor > 10 and self._paths.known(chain) == len(chain)
        return is_known or all(self._take() == taken for _ in range(_CONFIRMATIONS))

    def _compare(self, chain: list[_Link], starts: list[int], taken: _Pictures) -> Look:
        """What is sure, or can be believed, of the chain in the second picture, which is not the same in all."""
        depth = self._paths.known(chain)
        if depth < len(chain):
            sure = self._unchanged(chain, starts, taken.first)
            if sure > depth:
                sure = min(sure, self._unchanged(chain, starts, taken.third))
            if sure > depth:
                self._paths.learn(chain[:sure])
                depth = sure
        return Look(EXACT if depth == len(chain) else CUT, self._frames(chain[:depth]))

    def _unchanged(self, chain: list[_Link], starts: list[int], picture: list[bytes]) -> int:
        """How many frames of a chain, from the outermost on, have callers that stand in another picture, too."""
        caller = 0
        for count, (address, code, instruction, _) in enumerate(chain):
            found = self._frame_at(starts, picture, address)
            if found is None:
                return count
            there, its_instruction, _, its_caller = found
            if (there, its_instruction, its_caller) != (code, instruction, caller):
                return count + 1 if count or there == code else 0
            caller = address
        return len(chain)

    def _frames(self, chain: list[_Link]) -> tuple[Frame, ...]:
        """Those that Python shows too: no frames that stand for C, none that has not begun."""
        codes, c_owners = self._codes, self._layout.c_owners
        return tuple(
            codes.frame(code, instruction)
            for _, code, instruction, owner in chain
            if owner not in c_owners and (owner == GENERATOR_OWNER or codes.has_begun(code, instruction))
        )

    def _plan(self, inner: Sequence[int]) -> Pieces:
        """Three pictures, with the pointer before, between and after the first two.

        What changes most is read next to the pointer in the middle: in the first picture last, in the second first.

        :param inner: the pieces, as places in the list of them, that have frames now, the outermost first.
        """
        pointer = [(self._pointer_at, 8), *((start, end - start) for start, end in self._c_spans)]
        self._order = [index for index in range(len(self._spans)) if index not in inner] + list(inner)
        pieces = [(start, end - start) for start, end in map(self._spans.__getitem__, self._order)]
        mark = [self._mark_at] if self._mark_at is not None else []
        return Pieces(self._memory, [*mark, *pointer, *pieces, *pointer, *reversed(pieces), *pointer, *pieces, *mark])

    def _take(self) -> _Pictures | None:
        """Three pictures; None if the pointer was elsewhere than it was looked for, or the mark changed."""
        parts = self._pictures.take()
        if self._mark_at is not None:
            first_mark, *parts, self._mark = parts
            if first_mark != self._mark:
                return None
        each, count = 1 + len(self._c_spans), len(self._spans)
        tops = [parts[at : at + each] for at in (0, each + count, 2 * (each + count))]
        before, middle, after = map(self._pointer, tops)
        if before is None or middle is None or after is None:
            self._look_for_pointers(tops)
            return None
        first, second, third = [b""] * count, [b""] * count, [b""] * count
        for place, index in enumerate(self._order):
            first[index] = parts[each + place]
            second[index] = parts[2 * (each + count) - 1 - place]
            third[index] = parts[3 * each + 2 * count + place]
        mapped = [span for raw, span in zip(third, self._spans, strict=True) if len(raw) == span[1] - span[0]]
        if len(mapped) < count:
            # Where one piece cannot be read, the kernel reads none of those that follow.
            self._spans = mapped
            self._pictures = self._plan(())
            return None
        still = before == middle == after and first == second == third
        return _Pictures((before, middle, after), first, second, third, still)

    def _pointer(self, parts: list[bytes]) -> int | None:
        """The pointer to the innermost frame: in the thread state, or where that points to, if that was read."""
        found = int.from_bytes(parts[0], "little")
        if self._layout.c_frame is None:
            return found
        address = found + self._layout.c_frame
        for (start, end), raw in zip(self._c_spans, parts[1:], strict=True):
            if start <= address <= end - 8:
                return int.from_bytes(raw[address - start : address - start + 8], "little")
        return None

    def _look_for_pointers(self, tops: list[list[bytes]]) -> None:
        """Have the places on the C stack that were pointed to in every picture from now on."""
        assert self._layout.c_frame is not None
        addresses = [int.from_bytes(parts[0], "little") + self._layout.c_frame for parts in tops]
        found = [(address, address + 8) for address in addresses]
        spans = _joined(found + self._c_spans)
        self._c_spans = spans if sum(end - start for start, end in spans) <= _MAX_C_BYTES else _joined(found)
        self._pictures = self._plan(self._order)

    def _walk(self, starts: list[int], picture: list[bytes], pointer: int, other: int) -> tuple[list[_Link], list[int]]:
        """The chain from the outermost frame on; empty if it is none. Then the addresses that the picture lacks.

        What it lacks is read now, and is in every picture from now on. Where ``pointer`` leads nowhere, because that
        frame was left meanwhile, ``other`` is tried.
        """
        chain, missing = self._follow(starts, picture, pointer)
        if not chain and other != pointer:
            chain, missing = self._follow(starts, picture, other)
        if missing:
            self._read_too(chain, missing)
        chain.reverse()
        return chain, missing

    def _follow(self, starts: list[int], picture: list[bytes], pointer: int) -> tuple[list[_Link], list[int]]:
        chain: list[_Link] = []
        missing: list[int] = []
        c_owners, is_code = self._layout.c_owners, self._codes.is_code
        address = pointer
        while address:
            in_picture = self._frame_at(starts, picture, address)
            found = in_picture or self._unpack(self._memory.read(address, self._frame.size), 0)
            if found is None or len(chain) >= _MAX_DEPTH:
                return [], missing
            code, instruction, owner, caller = found
            if owner not in c_owners and not is_code(code):
                return [], missing
            if in_picture is None:
                missing.append(address)
            chain.append((address, code, instruction, owner))
            address = caller
        return chain, missing

    def _frame_at(self, starts: list[int], picture: list[bytes], address: int) -> tuple[int, int, int, int] | None:
        """What a picture has of a frame, as in ``_unpack()``; None if the frame is not in it."""
        index = bisect_right(starts, address) - 1
        return self._unpack(picture[index], address - starts[index]) if index >= 0 else None

    def _unpack(self, raw: bytes, offset: int) -> tuple[int, int, int, int] | None:
        """Code object, instruction, owner and caller of a frame; None if there is less of it."""
        if offset + self._frame.size > len(raw):
            return None
        one, two, instruction, owner = self._frame.unpack_from(raw, offset)
        code, caller = (one, two) if self._code_is_first else (two, one)
        return code & _NO_TAG, instruction, owner, caller

    def _read_too(self, chain: list[_Link], missing: list[int]) -> None:
        """Have these frames in every picture from now on."""
        addresses = [link[0] for link in chain] or missing
        size = self._frame.size + _MORE_BYTES
        wanted = [(address, address + len(self._memory.read(address, size))) for address in addresses]
        # In 3.10 each frame lies elsewhere in the heap: those of earlier stacks would only cost time.
        spans = _joined(wanted if self._layout.minor == 10 else wanted + self._spans)
        if len(spans) > _MAX_PIECES or sum(end - start for start, end in spans) > _MAX_BYTES:
            spans = _joined(wanted)
        self._spans = spans
        starts = [start for start, _ in spans]
        inner = dict.fromkeys(bisect_right(starts, address) - 1 for address in addresses)
        self._pictures = self._plan(tuple(reversed(inner)))

    def _is_whole(self, chain: list[_Link], other_root: tuple[int, int] | None) -> bool:
        """Whether a chain ends at the outermost frame of its thread.

        A thread that Python did not start has another one in each of its calls: that is believed at the second look.
        """
        layout = self._layout
        if not chain or (layout.c_owners and chain[0][3] not in layout.c_owners):
            return False
        outermost = next((link for link in chain if link[3] not in layout.c_owners), None)
        if outermost is None or (layout.minor > 10 and outermost[3] == GENERATOR_OWNER):
            return False
        root = outermost[:2]
        if self._root is None or root == other_root:
            self._root = root
        elif root != self._root:
            self._other_root = root
        return root == self._root


def _joined(pieces: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Pieces of memory, start and end, with those that are near to each other made one."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(pieces):
        if joined and start <= joined[-1][1] + _NEAR_BYTES:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _frame_struct(layout: Layout) -> struct.Struct:
    """What is read of a frame: code and caller, in the order in which they lie there, instruction, owner."""
    first, second = sorted((layout.frame_code, layout.frame_previous))
    instruction, size = ("i", 4) if layout.minor == 10 else ("Q", 8)
    gaps = (
        first,
        second - first - 8,
        layout.frame_instruction - second - 8,
        layout.frame_owner - layout.frame_instruction - size,
    )
    return struct.Struct("<{}xQ{}xQ{}x{}{}xB".format(*gaps[:3], instruction, gaps[3]))
