"""Threads that stand still in every kind of call; prints where each is, as Python itself sees it, and waits.

Needs nothing but the standard library, so that it runs on interpreters that have nothing else.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import json
import operator
import re
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

never = threading.Event()
stories: list[Callable[[], Any]] = []


def story(function: Callable[[], Any]) -> Callable[[], Any]:
    stories.append(function)
    return function


def stand(*_: Any) -> Any:
    never.wait()


def nested(depth: int) -> None:
    if depth:
        nested(depth - 1)
    else:
        stand()


def generators(depth: int) -> Iterator[int]:
    if depth:
        yield from generators(depth - 1)
    stand()
    yield 1


for levels in (0, 5, 40, 300, 900):
    stories.append(functools.partial(nested, levels))
    stories.append(functools.partial(list, generators(levels // 10)))


class Standing:
    def __init__(self, *, now: bool = False) -> None:
        if now:
            stand()

    @property
    def attribute(self) -> Any:
        return stand()

    def __getattr__(self, name: str) -> Any:
        return stand()

    def __enter__(self) -> None:
        stand()

    def __exit__(self, *_: object) -> None:
        pass

    def __add__(self, other: object) -> Any:
        return stand()

    def __hash__(self) -> int:
        stand()
        return 1

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return stand()

    def __call__(self) -> Any:
        return stand()

    def __del__(self) -> None:
        if getattr(type(self), "stands", False):
            stand()


class Ending(Standing):
    stands = True


@story
def by_constructor() -> None:
    Standing(now=True)


@story
def by_property() -> None:
    Standing().attribute  # noqa: B018


@story
def by_missing_attribute() -> None:
    Standing().missing  # noqa: B018


@story
def by_with() -> None:
    with Standing():
        pass


stories.extend(
    (
        lambda: Standing() + 1,
        lambda: {Standing(): 1},
        lambda: list(Standing()),
        lambda: Standing()(),  # noqa: PLW0108  (a thread asks what it is given for its name)
        lambda: str(Ending()),
        lambda: sorted([1, 2], key=stand),
        lambda: list(map(stand, [1])),
        lambda: [stand() for _ in range(3)],
        lambda: {stand(): 1 for _ in range(3)},
        lambda: set(stand() for _ in range(3)),  # noqa: C401  (what is tried is a generator)
        lambda: functools.reduce(stand, [1, 2]),
        lambda: re.sub("a", stand, "a"),
        functools.partial(functools.partial(stand, 1), 2),
        lambda: functools.lru_cache(stand)(1),
        lambda: operator.methodcaller("__call__")(Standing()),
        lambda: max([1, 2], key=stand),
        lambda: json.loads("[1.5]", parse_float=stand),
        lambda: exec(compile("stand()", "non-BMP \U0001f600 file", "exec"), {"stand": stand}),
        lambda: exec("def ünïcödé():\n    stand()\nünïcödé()", {"stand": stand}),
        lambda: exec("\n" * 1400 + "def far():\n" + "    pass\n" * 150 + "    stand()\nfar()", {"stand": stand}),
        lambda: exec("def wide(): return [" + "1+x,\n" * 300 + "stand()]\n" + "x=1\nwide()", {"stand": stand}),
        lambda: exec("class Body:\n    stand()", {"stand": stand}),
    )
)


@story
def by_ctypes() -> None:
    called = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(stand)
    ctypes.CDLL(None).qsort((ctypes.c_int * 2)(1, 2), 2, 4, called)


async def standing_still(depth: int) -> None:
    if depth:
        await standing_still(depth - 1)
    async for _ in asynchronous():
        pass


async def asynchronous() -> Any:
    await asyncio.sleep(0)
    stand()
    yield 1


@story
def by_asyncio() -> None:
    asyncio.run(standing_still(4))


@story
def by_thrown() -> None:
    def catching() -> Generator[int, None, None]:
        try:
            yield 1
        except ValueError:
            stand()

    generator = catching()
    next(generator)
    generator.throw(ValueError)


@story
def by_trace() -> None:
    sys.settrace(lambda *_: None)
    nested(3)


@story
def by_profile() -> None:
    sys.setprofile(lambda *_: None)
    nested(3)


@story
def by_match() -> None:
    try:
        raise ValueError
    except ValueError:
        try:
            nested(1)
        finally:
            stand()


def where(ident: int) -> list[tuple[str, str, int]]:
    frame, found = sys._current_frames().get(ident), []
    while frame is not None:
        code = frame.f_code
        found.append((code.co_filename, getattr(code, "co_qualname", code.co_name), frame.f_lineno))
        frame = frame.f_back
    return found[::-1]


def main() -> None:
    sys.setrecursionlimit(3000)
    threads = [threading.Thread(target=each, daemon=True) for each in stories]
    for thread in threads:
        thread.start()
    idents = [thread.ident or 0 for thread in threads]
    before: list[Any] = []
    # Each stands still when nothing has changed for a while.
    while (now := [where(ident) for ident in idents]) != before or any(not frames for frames in now):
        before = now
        time.sleep(0.3)
    natives = {thread.ident: thread.native_id for thread in threads}
    sys.stdout.write(json.dumps([[ident, natives[ident], where(ident)] for ident in idents]) + "\n")
    sys.stdout.flush()
    never.wait()


if __name__ == "__main__":
    main()
