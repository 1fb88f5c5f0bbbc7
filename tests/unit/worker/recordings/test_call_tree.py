"""The tree of calls of a recording: what is new each second, in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_tracebacker.wire import record_lines
from wsgi_tracebacker.worker.recordings.call_tree import CallTree

if TYPE_CHECKING:
    from wsgi_tracebacker.worker.stacks.walk import RawStack


def outer() -> int:
    return 1


def inner() -> int:
    return 2


def stack(*functions: object) -> RawStack:
    """A stack of these functions, outermost first, each at its first instruction."""
    return [(function.__code__, 0) for function in reversed(functions)]  # type: ignore[attr-defined]


def test_a_line_has_what_is_new_since_the_last_one() -> None:
    """Calls and requests once, times each second; equal stacks are added up."""
    tree = CallTree()
    request = tree.request("GET", "/orders/1")
    for _ in range(2):
        tree.add(tree.node(stack(outer, inner)), request, "sleep", 0.05)
    tree.add(tree.node(stack(outer)), request, "CPU", 0.02)
    line = record_lines.parse(tree.line(0.1, 0.03))
    assert [(parent, frame.function.rpartition(".")[2]) for parent, frame in line.nodes] == [(0, "outer"), (1, "inner")]
    assert line.nodes[0][1].filename == __file__
    assert line.nodes[0][1].lineno is not None
    assert line.requests == (("GET", "/orders/1"),)
    assert line.added == ((2, False, 1, "sleep", 0.1, 2), (1, False, 1, "CPU", 0.02, 1))
    assert (line.seconds, line.cpu_seconds) == (0.1, 0.03)
    tree.add(tree.node(stack(outer, inner)), request, "sleep", 0.05)
    assert record_lines.parse(tree.line(0.05, 0.0)) == record_lines.Line(
        added=(record_lines.Added(2, False, 1, "sleep", 0.05, 1),), seconds=0.05
    )


def test_a_full_tree_cuts_stacks() -> None:
    """Calls that are known go on to be told apart; of a stack with others, those above are kept, and it is cut."""
    tree = CallTree(max_nodes=2)
    assert tree.node(stack(outer, outer)) == (2, False)
    assert tree.node(stack(outer, inner)) == (1, True)
    assert tree.node(stack(inner)) == (0, True)
    assert tree.node(stack(outer, outer)) == (2, False)
    assert len(record_lines.parse(tree.line(0.0, 0.0)).nodes) == 2


def test_what_took_no_time_is_left_out() -> None:
    """A share of nothing is no stack."""
    tree = CallTree()
    tree.add((0, False), 0, "CPU", 0.0)
    assert record_lines.parse(tree.line(0.0, 0.0)).added == ()
