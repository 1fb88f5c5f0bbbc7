"""Threads that run a signal handler which waits for what we say of them: their stacks are what it interrupted."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import CodeType

#: By thread ident: the code of its handler.
IN_HANDLER: dict[int, CodeType] = {}


def before_handler(ident: int, stack: list[tuple[CodeType, int]]) -> list[tuple[CodeType, int]]:
    """A thread's stack, innermost frame first, without the handler and what it calls."""
    handler = IN_HANDLER.get(ident)
    depth = next((depth for depth, (code, _) in enumerate(stack) if code is handler), -1)
    return stack[depth + 1 :]
