"""Evaluating an expression runs nobody's code, whatever the objects are."""

from __future__ import annotations

import ast
import sys
import threading
from collections import defaultdict
from typing import Any, NoReturn

import pytest

from tests.support.interpreters import only_on_cpython
from wsgi_tracebacker.worker.waits.frames import values
from wsgi_tracebacker.worker.waits.frames.expressions import expression_of
from wsgi_tracebacker.worker.waits.frames.values import MISSING

LOCK = threading.Lock()
GLOBAL = {"a": {1: LOCK}}


def evaluate(source: str, **variables: Any) -> Any:
    """The value of an expression in the frame of a function with these variables."""
    names = ", ".join(variables)
    parsed = ast.parse(source, mode="eval").body
    expression = expression_of(parsed)
    assert expression is not None
    namespace: dict[str, Any] = {"evaluate": values.evaluate, "frame": sys._getframe, "GLOBAL": GLOBAL, "e": expression}
    exec(f"def function({names}):\n    return evaluate(e, frame())", namespace)
    return namespace["function"](**variables)


class Plain:
    """An ordinary class."""

    of_class = LOCK
    __slots__ = ("__dict__", "empty_slot", "slot")

    def __init__(self) -> None:
        self.own = LOCK
        self.slot = LOCK
        self.inner = {"of_class": self}


class Derived(Plain):
    """Its instances have the attributes of its base."""


def test_names_attributes_and_items_have_values() -> None:
    """Of instances, slots, classes and modules; of dicts, lists and tuples."""
    thing = Derived()
    for source in (
        "thing.own",
        "thing.slot",
        "thing.of_class",
        "thing.inner['of_class'].own",
        "thing.inner[key].own",
        "kind.of_class",
        "module.LOCK",
        "GLOBAL['a'][1]",
        "several[0]",
        "by_default['x']",
    ):
        found = evaluate(
            source,
            thing=thing,
            kind=Derived,
            key="of_class",
            module=sys.modules[__name__],
            several=[LOCK],
            by_default=defaultdict(threading.Lock, x=LOCK),
        )
        assert found is LOCK, source


def test_what_is_not_there_is_missing() -> None:
    """Unknown names, attributes, keys and indexes; an empty slot."""
    by_default: defaultdict[str, Any] = defaultdict(threading.Lock)
    for source in ("nobody", "thing.nothing", "thing.empty_slot", "thing.inner['x']", "several[3]", "by_default['x']"):
        assert evaluate(source, thing=Plain(), several=[LOCK], by_default=by_default) is MISSING, source
    assert not by_default


class Ran(BaseException):
    """Code of the application ran."""


def run(*_: Any, **__: Any) -> NoReturn:
    raise Ran


def hostile_objects() -> dict[str, Any]:
    """Objects whose classes run code; made here, because pytest looks at every class of a module."""

    class Everything:
        """Runs code for whatever is asked of it."""

        __getattr__ = __getattribute__ = __eq__ = __hash__ = __repr__ = __getitem__ = __len__ = run
        __dict__ = property(run)
        __class__ = property(run)
        lock = property(run)

    class ByGetattr:
        """Makes attributes that are not there."""

        __getattr__ = run

    class Descriptor:
        """Runs code whenever it is looked at."""

        __get__ = __set__ = __getattr__ = run

    class WithProperty:
        """Its attribute is a property; and its __dict__ is one."""

        lock = property(run)
        described = Descriptor()
        cached: Any = None

    class Meta(type):
        """A metaclass that runs code."""

        __getattribute__ = __getattr__ = __instancecheck__ = __subclasscheck__ = __eq__ = __hash__ = run

        def mro(cls) -> list[type]:
            return super().mro()

    class OfMeta(metaclass=Meta):
        """Of that class."""

        lock = LOCK

    class HostileKey(str):
        """Equal to what it is asked."""

        __slots__ = ()
        __eq__ = run

        def __hash__(self) -> int:
            return str.__hash__(self)

    class OwnDict(dict[str, Any]):
        """A dict that runs code."""

        __getitem__ = get = keys = __missing__ = __iter__ = __contains__ = run

    of_meta = object.__new__(OfMeta)
    object.__setattr__(of_meta, "own", LOCK)
    return {
        "thing": Everything(),
        "names": {"lock": LOCK},
        "several": [LOCK],
        "by_getattr": ByGetattr(),
        "with_property": WithProperty(),
        "of_meta": OfMeta,
        "instance": of_meta,
        "kind": Everything,
        "hostile_key": with_dict({HostileKey("lock"): 1}),
        "own_dict": OwnDict(lock=LOCK),
        "of_own_dict": with_dict(OwnDict(lock=LOCK)),
        "hostile": HostileKey("lock"),
        "hostile_names": {HostileKey("lock"): 1},
        "local": threading.local(),
    }


def with_dict(names: dict[Any, Any]) -> Plain:
    thing = Plain.__new__(Plain)
    object.__setattr__(thing, "__dict__", names)
    return thing


@only_on_cpython("PyPy asks a metaclass for bases when a class is made")
@pytest.mark.parametrize(
    "source",
    [
        "thing.lock",
        "thing['lock']",
        "thing[0]",
        "names[thing]",
        "several[thing]",
        "by_getattr.lock",
        "with_property.lock",
        "with_property.described",
        "of_meta.lock",
        "hostile_key.lock",
        "own_dict['lock']",
        "of_own_dict.lock",
        "kind.lock",
        "names[hostile]",
        "hostile_names['lock']",
        "local.lock",
    ],
)
def test_no_code_of_the_application_runs(source: str) -> None:
    """Where it would decide what the value is, there is none."""
    assert evaluate(source, **hostile_objects()) is MISSING


@only_on_cpython("PyPy asks a metaclass for bases when a class is made")
@pytest.mark.parametrize("source", ["instance.own", "instance.lock"])
def test_an_instance_of_a_class_with_a_hostile_metaclass_is_read(source: str) -> None:
    """The metaclass has no say in it."""
    assert evaluate(source, **hostile_objects()) is LOCK


def test_a_property_of_the_instances_dict_is_not_asked() -> None:
    """Neither is what hides it."""

    class Hidden:
        __dict__ = property(run)

    assert evaluate("thing.own", thing=Hidden()) is MISSING


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="f_locals is no copy any more")
def test_a_function_that_is_traced_or_uses_locals_is_not_read() -> None:
    """Up to CPython 3.12 its variables, or the dict that it has of them, would change."""
    expression = expression_of(ast.parse("lock", mode="eval").body)
    assert expression is not None

    def uses_locals(lock: Any) -> Any:
        locals()
        return values.evaluate(expression, sys._getframe())

    def is_traced(lock: Any) -> Any:
        frame = sys._getframe()
        frame.f_trace = lambda *_: None
        return values.evaluate(expression, frame)

    assert uses_locals(LOCK) is MISSING
    assert is_traced(LOCK) is MISSING
