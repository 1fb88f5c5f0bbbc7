"""Busy programs of which every stack can be judged by itself: for tests of stacks that are read while threads run.

Called as ``python known_calls.py STORY KIND THREADS``; prints a line when it runs, and runs until it is ended. Needs
nothing but the standard library, so that it runs on interpreters that have nothing else.

- ``tree``: a function for each path of a tree of calls. Each has one caller, and calls three others from three lines.
- ``shared``: functions that all routes share. Which line of them runs depends on the route that called the outermost
  one, so a mixture of two stacks shows even where all of its calls exist.
"""

from __future__ import annotations

import itertools
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

#: How one function calls another: ``{0}`` is what it calls. ``work`` is plain, with leaves that take some microseconds.
CALLS = {
    "plain": ("{0}",),
    "work": ("{0}",),
    "mixed": ("{0}", "list(step({0}) for step in (run,))", "sorted((1,), key=lambda _: {0})", "Made(lambda: {0})"),
}
EXTRA_NAMES = ("<genexpr>", "<lambda>", "run", "Made", "__init__")

BRANCHES, TREE_DEPTH = "012", 6
ROUTES, SHARED_DEPTH = 5, 8

Frame = tuple[str, str, int | None]

HEAD = """\
def run(result):
    return result
class Made:
    def __init__(self, call):
        self.result = call()
"""


def source_of(story: str, kind: str) -> tuple[str, dict[tuple[str, int], str]]:
    """The program, and for each function and line what the rest of the stack depends on.

    That is the function that is called there, or the route that the line is for.
    """
    calls = itertools.cycle(CALLS[kind])
    lines = HEAD.splitlines()
    meaning = {}

    def add(function: str, text: str, what: str) -> None:
        lines.append(f"    {text}")
        meaning[function, len(lines)] = what

    leaf = "pass" if kind == "plain" else "sum(range(100))"
    if story == "tree":
        for depth in range(TREE_DEPTH + 1):
            for path in map("".join, itertools.product(BRANCHES, repeat=depth)):
                lines.append(f"def t{path}():")
                if depth == TREE_DEPTH:
                    add(f"t{path}", leaf, "")
                else:
                    for branch in BRANCHES:
                        add(f"t{path}", next(calls).format(f"t{path}{branch}()"), f"t{path}{branch}")
        return "\n".join(lines), meaning
    for depth in range(SHARED_DEPTH):
        lines.append(f"def s{depth}(route):")
        for route in range(ROUTES):
            # Not every route goes through every function: else each would be at the same place in all stacks.
            following = depth + 1 + (route + depth) % 2
            callee = f"s{following}(route)" if following < SHARED_DEPTH else f"leaf{route}()"
            add(f"s{depth}", f"if route == {route}: {next(calls).format(callee)}", str(route))
    for route in range(ROUTES):
        lines.append(f"def leaf{route}():")
        add(f"leaf{route}", leaf, str(route))
        lines.append(f"def route{route}():")
        add(f"route{route}", f"s0({route})", str(route))
    lines.append("def t():")
    for route in range(ROUTES):
        add("t", f"route{route}()", "")
    return "\n".join(lines), meaning


def judge(story: str, kind: str) -> Callable[[list[Frame]], str | None]:
    """What says of a stack why nobody can have had it; None if somebody can."""
    _, meaning = source_of(story, kind)

    def why_wrong(frames: list[Frame]) -> str | None:
        known = [frame for frame in frames if frame[0] == "<known>"]
        plain = [(name.rpartition(".")[2], line) for _, name, line in known]
        own = [(name, line) for name, line in plain if name not in EXTRA_NAMES]
        if not own or own[0][0] != "t" or known != frames[len(frames) - len(known) :]:
            return "it does not begin where it should"
        if story == "tree":
            wrong = [b[0] for a, b in itertools.pairwise(own) if meaning.get((a[0], a[1] or 0)) != b[0]]
            return f"{wrong} is not called there" if wrong else None
        # The innermost function may just begin, or still ask which route it is: only its name says something.
        is_calling = plain[-1] != own[-1]
        routes = {meaning.get((name, line or 0), "?") for name, line in (own[1:] if is_calling else own[1:-1])}
        routes.update(name[-1] for name, _ in own if name[:-1] in ("leaf", "route"))
        return f"of several routes: {sorted(routes)}" if len(routes) > 1 or "?" in routes else None

    return why_wrong


def deep(function: Callable[[], Any], depth: int = 22) -> None:
    """Call a function for ever, below so many other calls."""
    if depth:
        deep(function, depth - 1)
    while True:
        function()


def main() -> None:
    story, kind, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    names: dict[str, Any] = {}
    exec(compile(source_of(story, kind)[0], "<known>", "exec"), names)
    for _ in range(threads):
        threading.Thread(target=deep, args=(names["t"],), daemon=True).start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    threading.Event().wait()


if __name__ == "__main__":
    main()
