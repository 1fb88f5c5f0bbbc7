"""The codec: its order, its defaults, what it refuses, and plain values for logs."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest

from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.wire.documents.records import COUNT, FLAG, NUMBER, PATH, TEXT, Key, Record, is_time, load, plain


class Leaf(NamedTuple):
    name: str
    size: float


class Tree(NamedTuple):
    leaves: tuple[Leaf, ...]
    branches: tuple[Tree, ...]
    root: Leaf | None
    is_old: bool


LEAF = Record(Leaf, Key("size", NUMBER), Key("called", TEXT, attribute="name"))
TREE = Record(
    Tree,
    Key("root", Leaf, None),
    Key("is_old", FLAG, default=False),
    Key("leaves", Leaf, is_list=True),
    Key("branches", Tree, (), is_list=True),
)
ROOT = Leaf('"root"\udce9', 1)
WRITTEN = (
    r'{"root":{"size":1,"called":"\"root\"\udce9"},"is_old":true,"leaves":[],"branches":'
    r'[{"root":null,"is_old":false,"leaves":[{"size":2.5,"called":""}],"branches":[]}]}'
)


def test_a_table_is_written_in_its_order_and_read_back() -> None:
    """Keys stand as in the table, whatever the order and the names of the attributes; text is ASCII."""
    tree = Tree((), (Tree((Leaf("", 2.5),), (), None, is_old=False),), ROOT, is_old=True)
    assert TREE.write(tree) == WRITTEN
    assert TREE.read(json.loads(WRITTEN), "tree") == tree
    assert TREE.read({"leaves": [], "more": 1}, "tree") == Tree((), (), None, is_old=False)


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ([], "tree is not an object"),
        ({}, r"tree\.leaves is not a list"),
        ({"leaves": {}}, r"tree\.leaves is not a list"),
        ({"leaves": [{"size": 1}]}, r"tree\.leaves\[\]\.called is not text"),
        ({"leaves": [], "is_old": 0}, r"tree\.is_old is not true or false"),
        ({"leaves": [], "root": []}, r"tree\.root is not an object"),
    ],
)
def test_what_is_wrong_is_named(document: Any, complaint: str) -> None:
    """An error names the place of the value and what it should be."""
    with pytest.raises(FormatError, match=complaint):
        TREE.read(document, "tree")


def test_what_is_nested_without_end_is_refused() -> None:
    """Some hundred deep, so that what was read can also be written."""

    def nested(depth: int) -> Any:
        document: Any = {"leaves": []}
        for _ in range(depth):
            document = {"leaves": [], "branches": [document]}
        return document

    assert TREE.write(TREE.read(nested(80), "tree")).count("branches") == 81
    with pytest.raises(FormatError, match="nested too deep"):
        TREE.read(nested(150), "tree")


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (TEXT, ["", "\0"], [1, None]),
        (PATH, ["/x", "\udce9"], ["\0", "\ud800", None]),
        (COUNT, [0, 2**64 - 1], [-1, 2**64, 1.0, True]),
        (NUMBER, [0, -1.5], [float("nan"), float("inf"), 10**400, True, "1"]),
        (FLAG, [True, False], [0, 1, None]),
    ],
)
def test_each_kind_takes_only_its_own(kind: Any, good: list[Any], bad: list[Any]) -> None:
    """True is no number, and what no clock shows and no system call takes is refused."""
    assert all(kind.accepts(value) for value in good)
    assert not any(kind.accepts(value) for value in bad)


def test_an_infinite_number_is_not_written() -> None:
    """No reader would accept it."""
    for size in (float("inf"), float("nan")):
        assert not is_time(size)
        with pytest.raises(ValueError, match="has no place in JSON"):
            LEAF.write(Leaf("", size))


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"{", "not JSON"),
        (b"1", "not an object"),
        (b"{}", "version is not"),
        (b'{"version":2}', "version 2.*version 1"),
    ],
)
def test_only_objects_of_this_version_are_loaded(data: bytes, complaint: str) -> None:
    """The error names both versions."""
    with pytest.raises(FormatError, match=complaint):
        load(data, "tree", "version", 1)


def test_plain_values_are_what_log_handlers_know() -> None:
    """Dicts, lists and text that can be encoded."""
    leaf = {"name": '"root"\\udce9', "size": 1}
    assert plain(Tree((ROOT,), (), ROOT, is_old=True)) == {
        "leaves": [leaf],
        "branches": [],
        "root": leaf,
        "is_old": True,
    }
