"""Finds the expressions of a function's source that say what it waits for: of each ``with``, and of calls.

A ``with lock:`` or a ``lock.acquire()`` that waits has no frame of its own, so what it waits for is known from the
source of the calling line. A function is parsed once, from its source as it was when the process started. Only paths
of names, attributes and items (``self._locks[key]``) become expressions: they can be evaluated without running code of
the application, see ``values``.
"""

from __future__ import annotations

import ast
import opcode
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from wsgi_tracebacker.worker.code_places import position, read_source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType

    from wsgi_tracebacker.linux.source import SourceFile

#: Longer functions are not parsed: the parser keeps the GIL, for 10 µs a line.
MAX_LINES = 400
#: Places and functions that are remembered, at some 200 bytes each; if it is full, it is emptied.
MAX_CACHED = 4_096

#: The methods of a lock that wait for it.
_ACQUIRING = ("acquire", "__enter__")


class Expression(NamedTuple):
    """A path that starts at a local or global name."""

    name: str
    #: An attribute's name, or an item's key: a constant or another expression.
    steps: tuple[Attribute | Item, ...]

    def __str__(self) -> str:
        return self.name + "".join(str(step) for step in self.steps)


class Attribute(NamedTuple):
    """``.name``."""

    name: str

    def __str__(self) -> str:
        return f".{self.name}"


class Item(NamedTuple):
    """``[key]``."""

    key: str | int | Expression

    def __str__(self) -> str:
        return f"[{self.key}]" if isinstance(self.key, Expression) else f"[{self.key!r}]"


class Waiting(NamedTuple):
    """What the instruction at a place acquires."""

    expression: Expression
    lineno: int
    #: Whether an ordinary call acquires it. After one, a thread may lose the GIL before it gets to the next
    #: instruction: then it stands here and has the lock.
    by_call: bool = True


class AtPlace(NamedTuple):
    """What is known of one place in a function."""

    #: The lock that is being acquired here, if it is one.
    acquires: Waiting | None
    #: The expressions of the ``with`` statements that this place is inside, innermost first.
    inside: tuple[Waiting, ...]


NOTHING = AtPlace(None, ())

#: Start and end in the file: line from 1, column in bytes from 0.
_Point = tuple[int, int]
_Span = tuple[_Point, _Point]


class _With(NamedTuple):
    span: _Span
    items: list[tuple[_Span, Expression | None]]
    body: _Span
    #: The names that its body assigns to: they may be something else by now.
    stored: frozenset[str]


class Call(NamedTuple):
    """A call in the source."""

    span: _Span
    #: Of ``receiver.method(first, ...)`` and ``receiver.cursor().method(first, ...)``; empty and None for others.
    method: str
    receiver: Expression | None
    #: Its first argument, as a path or as a string that stands in the source.
    first_argument: Expression | None
    first_text: str | None


class _Function(NamedTuple):
    withs: list[_With]
    calls: list[Call]


class Expressions:
    """What was found so far. Used by threads that hold no frame and no lock; two may parse the same function."""

    def __init__(self, process_started_at: float | None) -> None:
        """``process_started_at``: Unix seconds; the source of a file that was changed later is not used."""
        self._process_started_at = process_started_at
        # Each value has its code object, so that no other one gets its id().
        self._functions: dict[int, tuple[CodeType, _Function | None]] = {}
        self._places: dict[tuple[int, int], tuple[CodeType, AtPlace]] = {}

    def known(self, code: CodeType, lasti: int) -> AtPlace | None:
        """What at() found for this place before; None if it was not asked. Parses nothing."""
        if not _may_wait(code):
            return NOTHING
        found = self._places.get((id(code), lasti))
        return found[1] if found is not None else None

    def at(self, code: CodeType, lasti: int, files: dict[str, SourceFile | None]) -> AtPlace:
        """What a place acquires, and what it is inside. ``files``: the source files that were read so far."""
        known = self.known(code, lasti)
        if known is not None:
            return known
        function = self._function(code, files)
        found = NOTHING if function is None else _at(function, code, lasti)
        _remember(self._places, (id(code), lasti), (code, found))
        return found

    def call(self, code: CodeType, lasti: int, files: dict[str, SourceFile | None]) -> Call | None:
        """The method call that runs at a place; None if it is another one, or not known."""
        function = self._function(code, files)
        call = _call_at(function.calls, code, lasti) if function is not None else None
        return call if call is not None and call.method else None

    def _function(self, code: CodeType, files: dict[str, SourceFile | None]) -> _Function | None:
        known = self._functions.get(id(code))
        if known is not None:
            return known[1]
        function = _parse(code, self._source_of(code, files))
        _remember(self._functions, id(code), (code, function))
        return function

    def _source_of(self, code: CodeType, files: dict[str, SourceFile | None]) -> str | None:
        filename = code.co_filename
        # A lambda or a comprehension begins in the middle of a line.
        if code.co_name.startswith("<"):
            return None
        if filename not in files:
            files[filename] = read_source(filename)
        source_file = files[filename]
        if source_file is None or source_file.is_newer_than(self._process_started_at):
            return None
        last = max((line for _, _, line in code.co_lines() if line is not None), default=0)
        if not code.co_firstlineno <= last < code.co_firstlineno + MAX_LINES:
            return None
        return source_file.block(code.co_firstlineno, last, MAX_LINES)


def _remember(cache: dict[Any, Any], key: object, value: object) -> None:
    if len(cache) >= MAX_CACHED:
        cache.clear()
    cache[key] = value


# ------------------------------------------------------------------------------------------------------- instructions


def _numbers(*names: str) -> frozenset[int]:
    # Names from 256 on are the compiler's own: no code has them.
    return frozenset(opcode.opmap[name] for name in names if opcode.opmap.get(name, 256) < 256)


#: The instruction that enters a ``with``: up to 3.10, up to 3.13, and then a call without arguments.
_ENTERS = _numbers("SETUP_WITH", "BEFORE_WITH")
_ENTERS_BY_CALL = sys.version_info >= (3, 14)
_CALLS = _numbers("CALL", "CALL_KW", "CALL_FUNCTION", "CALL_FUNCTION_KW", "CALL_FUNCTION_EX", "CALL_METHOD")
_LOADS_SPECIAL = _numbers("LOAD_SPECIAL")


def _may_wait(code: CodeType) -> bool:
    """Whether a function has a ``with`` or acquires something; most have neither, and need not be parsed."""
    known = _MAY_WAIT.get(id(code))
    if known is None or known[0] is not code:
        enters = not (_ENTERS or _LOADS_SPECIAL).isdisjoint(code.co_code[::2])
        known = code, enters or any(name in code.co_names for name in _ACQUIRING)
        _remember(_MAY_WAIT, id(code), known)
    return known[1]


_MAY_WAIT: dict[int, tuple[CodeType, bool]] = {}


def _at(function: _Function, code: CodeType, lasti: int) -> AtPlace:
    span = _span_at(code, lasti)
    if span is None:
        return NOTHING
    acquires = _entered(function.withs, code, lasti)
    if acquires is not None:
        acquires = acquires._replace(by_call=_operation(code, lasti)[0] not in _ENTERS)
    else:
        call = _call_at(function.calls, code, lasti)
        if call is not None and call.method in _ACQUIRING and call.receiver is not None:
            acquires = Waiting(call.receiver, span[0][0])
    inside: list[Waiting] = []
    for statement in function.withs:
        inside[:0] = _held_at(statement, span[0])
    return AtPlace(acquires, tuple(inside))


def _held_at(statement: _With, point: _Point) -> list[Waiting]:
    """The items of a ``with`` statement that were entered, the last one first, if its code runs at ``point``."""
    items = statement.items
    entered = 0
    if _is_within(point, statement.body):
        entered = len(items)
    elif point[1] >= 0:
        # While an item is evaluated and entered, those before it are held.
        entered = next((number for number, (span, _) in enumerate(items) if _is_within(point, span)), 0)
    return [
        Waiting(expression, span[0][0])
        for span, expression in reversed(items[:entered])
        if expression is not None and expression.name not in statement.stored
    ]


def _is_within(point: _Point, span: _Span) -> bool:
    start, end = span
    if point[1] >= 0:
        return start <= point < end
    # CPython 3.10 has no columns. If the body is on the line of its ``with``, nothing is known.
    return start[1] >= 0 and start[0] <= point[0] <= end[0]


def _span_at(code: CodeType, lasti: int) -> _Span | None:
    """Where in the file the instruction at a place comes from; columns are -1 where they are not known."""
    line, end_line, column, end_column = position(code, lasti)
    if line is None:
        return None
    if end_line is None or column is None or end_column is None:
        return (line, -1), (line, -1)
    return (line, column), (end_line, end_column)


def _operation(code: CodeType, lasti: int) -> tuple[int, int]:
    instructions = code.co_code
    return (instructions[lasti], instructions[lasti + 1]) if 0 <= lasti < len(instructions) - 1 else (-1, -1)


def _entered(withs: list[_With], code: CodeType, lasti: int) -> Waiting | None:
    """The item of a ``with`` that is being entered at a place."""
    operation, argument = _operation(code, lasti)
    span = _span_at(code, lasti)
    if span is None or not (operation in _ENTERS or (_ENTERS_BY_CALL and operation in _CALLS and argument == 0)):
        return None
    # CPython 3.13 and up have the item's own position, earlier ones that of the whole statement, 3.10 its first line.
    for statement in withs:
        for item_span, expression in statement.items:
            if item_span == span:
                return Waiting(expression, span[0][0]) if expression is not None else None
    found = [
        each
        for each in withs
        if span in (each.span, (each.span[0], each.span[0])) or (span[0][1] < 0 and span[0][0] == each.span[0][0])
    ]
    if len(found) != 1:
        return None
    items = found[0].items
    # The compiler enters the items one after the other; a ``finally`` block is compiled twice or more.
    same = [
        offset
        for offset in range(0, len(code.co_code), 2)
        if code.co_code[offset] in _ENTERS and _span_at(code, offset) == span
    ]
    if len(same) % len(items) or lasti not in same:
        return None
    item_span, expression = items[same.index(lasti) % len(items)]
    return Waiting(expression, item_span[0][0]) if expression is not None else None


def _call_at(calls: list[Call], code: CodeType, lasti: int) -> Call | None:
    """The call that runs at a place. On CPython 3.10 only if it is the only one that begins on its line."""
    span = _span_at(code, lasti)
    if span is None or _operation(code, lasti)[0] not in _CALLS:
        return None
    if span[0][1] >= 0:
        found = [call for call in calls if call.span == span]
    else:
        found = [call for call in calls if call.span[0][0] <= span[0][0] <= call.span[1][0]]
    return found[0] if len(found) == 1 else None


# -------------------------------------------------------------------------------------------------------------- parsing


def _parse(code: CodeType, source: str | None) -> _Function | None:
    if source is None:
        return None
    try:
        # With a line before it, so that it may be indented. A fault in the source may be a warning too.
        module = ast.parse("if 1:\n" + source if source[:1].isspace() else "\n" + source)
    except (SyntaxError, ValueError, RecursionError, MemoryError, Warning):
        return None
    statement: ast.AST = module.body[0]
    if isinstance(statement, ast.If):
        statement = statement.body[0]
    if not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)) or statement.name != code.co_name:
        return None
    # The first line of the source is line 2 of what was parsed.
    shift = code.co_firstlineno - 2
    function = _Function([], [])
    for node in _own_nodes(statement.body):
        if isinstance(node, ast.With):
            function.withs.append(_with(node, shift))
        elif isinstance(node, ast.Call):
            function.calls.append(_call(node, shift))
    return function


def _own_nodes(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """The nodes of a function in the order of its source, without those of functions and classes within it."""
    waiting: list[ast.AST] = list(reversed(body))
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            waiting.extend(reversed(list(ast.iter_child_nodes(node))))


def _with(node: ast.With, shift: int) -> _With:
    first, last = node.body[0], node.body[-1]
    start, end = _span(first, shift)[0], _span(last, shift)[1]
    if start[0] == node.lineno + shift and sys.version_info < (3, 11):
        start = (start[0], -1)
    stored = {
        each.id for each in _own_nodes(node.body) if isinstance(each, ast.Name) and not isinstance(each.ctx, ast.Load)
    }
    items = [(_span(item.context_expr, shift), expression_of(item.context_expr)) for item in node.items]
    return _With(_span(node, shift), items, (start, end), frozenset(stored))


def _call(node: ast.Call, shift: int) -> Call:
    function = node.func
    method, receiver = "", None
    if isinstance(function, ast.Attribute):
        method, receiver = function.attr, expression_of(_maker_of(function.value))
    first = node.args[0] if node.args else None
    text = first.value if isinstance(first, ast.Constant) and type(first.value) is str else None
    return Call(_span(node, shift), method, receiver, expression_of(first) if first is not None else None, text)


def _maker_of(node: ast.expr) -> ast.expr:
    """Of ``connection.cursor()`` the connection, which is of the same library."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "cursor":
        return node.func.value
    return node


def _span(node: ast.expr | ast.stmt, shift: int) -> _Span:
    end_line = node.end_lineno if node.end_lineno is not None else node.lineno
    return (node.lineno + shift, node.col_offset), (end_line + shift, node.end_col_offset or 0)


def path_of(text: str) -> Expression:
    """``self._pool.name`` as an expression."""
    name, *attributes = text.split(".")
    return Expression(name, tuple(Attribute(each) for each in attributes))


def expression_of(node: ast.expr) -> Expression | None:
    """The path that a node of the source is; None if it is anything else."""
    steps: list[Attribute | Item] = []
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.Attribute):
            steps.append(Attribute(node.attr))
        elif isinstance(node, ast.Subscript):
            key = _key_of(node.slice)
            if key is None:
                return None
            steps.append(Item(key))
        else:
            return None
        node = node.value
    return Expression(node.id, tuple(reversed(steps)))


def _key_of(node: ast.expr) -> str | int | Expression | None:
    if isinstance(node, ast.Constant):
        return node.value if type(node.value) in (str, int) else None  # type: ignore[return-value]
    return expression_of(node)
