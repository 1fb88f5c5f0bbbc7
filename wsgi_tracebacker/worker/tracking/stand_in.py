"""Classes of objects that stand in for the application's response: with just the special methods that its class has.

The interpreter looks special methods up on the class, past ``__getattr__``: ``bytes(response)``, ``response[name]``,
``with response:``, ``len(response)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import MutableMapping

T = TypeVar("T")

#: What the stand-in does itself, and what Python asks a class for and not an object.
_NOT_FORWARDED = frozenset(
    f"__{name}__"
    for name in (
        "abstractmethods", "annotations", "build_class", "class", "class_getitem", "copy", "deepcopy", "del", "delattr",
        "dict", "dir", "doc", "firstlineno", "getattr", "getattribute", "getnewargs", "getnewargs_ex", "getstate",
        "init", "init_subclass", "instancecheck", "iter", "module", "mro_entries", "name", "new", "next", "orig_bases",
        "parameters", "prepare", "qualname", "reduce", "reduce_ex", "set_name", "setattr", "setstate", "sizeof",
        "slots", "static_attributes", "subclasscheck", "subclasshook", "type_params", "weakref",
    )
)  # fmt: skip


class StandIns:
    """The classes that are derived from one base, each for one kind of response."""

    def __init__(self, base: type[Any], attribute: str) -> None:
        """``attribute``: where an object of the base has the response."""
        self._base = base
        self._attribute = attribute
        self._classes: MutableMapping[type, type[Any]] = WeakKeyDictionary()

    def of(self, kind: type) -> type[Any]:
        """The class for responses of one kind."""
        found = self._classes.get(kind)
        if found is None:
            names = [name for name in dir(kind) if _is_forwarded(kind, name)]
            methods = {name: _forwarding(name, self._attribute, self._base) for name in names}
            if getattr(kind, "__hash__", None) is None:
                methods["__hash__"] = None
            # Without one of its own kind to look up, the base itself serves all.
            found = type(self._base.__name__, (self._base,), {"__slots__": (), **methods}) if methods else self._base
            self._classes[kind] = found
        return found


def _is_forwarded(kind: type, name: str) -> bool:
    if not (name.startswith("__") and name.endswith("__")) or name in _NOT_FORWARDED:
        return False
    method = getattr(kind, name, None)
    return callable(method) and method is not getattr(object, name, None)


def _forwarding(name: str, attribute: str, base: type[Any]) -> Any:
    def method(stand_in: Any, *arguments: Any, **keywords: Any) -> Any:
        response = getattr(stand_in, attribute)
        others = [getattr(each, attribute) if isinstance(each, base) else each for each in arguments]
        # On the class, as the interpreter does.
        result = getattr(type(response), name)(response, *others, **keywords)
        # As __enter__ and += do.
        return stand_in if result is response else result

    method.__name__ = name
    return method
