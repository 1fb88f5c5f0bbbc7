"""Evaluates an expression in a frame without running anybody's code.

Names are looked up in locals and globals; attributes in the instance's ``__dict__``, in slots, and in the ``__dict__``
of the classes; items in plain dicts, lists and tuples. No property, ``__getattr__``, ``__getattribute__``, ``__eq__``,
``__hash__`` or metaclass of the application is called: where one would decide, the result is MISSING.
"""

from __future__ import annotations

import inspect
import sys
import types
from collections import OrderedDict, defaultdict
from itertools import repeat
from operator import is_
from typing import TYPE_CHECKING, Any, Final

from wsgi_tracebacker.worker.waits.frames.expressions import Attribute, Expression

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType

#: The result where a value is not there, or cannot be had without running code.
MISSING: Final = object()

# By descriptors of `type`, which a metaclass cannot replace.
_mro = vars(type)["__mro__"].__get__
_name_of = vars(type)["__name__"].__get__
class_dict = vars(type)["__dict__"].__get__

#: Classes with another __getattribute__ decide themselves what an attribute is.
_PLAIN_LOOKUPS = (object.__dict__["__getattribute__"], vars(types.ModuleType)["__getattribute__"])
_PLAIN_CLASS_LOOKUP = type.__dict__["__getattribute__"]
_DICT_DESCRIPTORS = (types.GetSetDescriptorType, types.MemberDescriptorType)

#: Up to 3.12, reading f_locals copies all of a function's variables into a dict that lives as long as the frame. A
#: function that calls one of these may have that dict, and would see it change.
_COPIES_LOCALS = sys.version_info < (3, 13)
_USES_LOCALS = frozenset({"locals", "vars", "exec", "eval", "dir"})


def evaluate(expression: Expression, frame: FrameType) -> Any:
    """The value of an expression in a frame, now; MISSING if it has none that is known."""
    value = _variable(expression.name, frame)
    for step in expression.steps:
        if value is MISSING:
            return MISSING
        if isinstance(step, Attribute):
            value = attribute(value, step.name)
        else:
            key = evaluate(step.key, frame) if isinstance(step.key, Expression) else step.key
            value = _item(value, key)
    return value


def _variable(name: str, frame: FrameType) -> Any:
    code = frame.f_code
    if name in code.co_varnames or name in code.co_cellvars or name in code.co_freevars:
        if not code.co_flags & inspect.CO_OPTIMIZED:
            return MISSING
        # Beside a trace function, the copy would be written back into the function's variables.
        if _COPIES_LOCALS and (frame.f_trace is not None or not _USES_LOCALS.isdisjoint(code.co_names)):
            return MISSING
        return frame.f_locals.get(name, MISSING)
    names = frame.f_globals
    return _get(names, name) if type(names) is dict else MISSING


def class_name(value: Any) -> str | None:
    """The name of a value's class; None if there is no value."""
    return None if value is MISSING else _name_of(type(value))


def attribute(owner: Any, name: str) -> Any:
    """The attribute ``owner.name``, or MISSING."""
    kind = type(owner)
    classes = _mro(kind)
    # Not by `in`: a metaclass may have an __eq__.
    if any(each is type for each in classes):
        return _class_attribute(owner, name, classes)
    lookup = _find(classes, "__getattribute__")
    if not any(lookup is plain for plain in _PLAIN_LOOKUPS):
        return MISSING
    of_class = _find(classes, name)
    if of_class is not MISSING:
        descriptor_classes = _mro(type(of_class))
        if type(of_class) is types.MemberDescriptorType:
            try:
                return of_class.__get__(owner, kind)
            except (AttributeError, TypeError):
                return MISSING
        if any(_find(descriptor_classes, special) is not MISSING for special in ("__set__", "__delete__")):
            return MISSING
    of_instance = _get(_instance_dict(owner, classes), name)
    if of_instance is not MISSING or of_class is MISSING:
        return of_instance
    return MISSING if _is_descriptor(of_class) else of_class


def _class_attribute(owner: Any, name: str, metaclasses: tuple[type, ...]) -> Any:
    if _find(metaclasses, "__getattribute__") is not _PLAIN_CLASS_LOOKUP or _find(metaclasses, name) is not MISSING:
        return MISSING
    value = _find(_mro(owner), name)
    return MISSING if value is MISSING or _is_descriptor(value) else value


def _is_descriptor(value: Any) -> bool:
    return _find(_mro(type(value)), "__get__") is not MISSING


def _instance_dict(owner: Any, classes: tuple[type, ...]) -> dict[Any, Any]:
    descriptor = _find(classes, "__dict__")
    if not any(type(descriptor) is kind for kind in _DICT_DESCRIPTORS):
        return {}
    try:
        found = descriptor.__get__(owner)
    except (AttributeError, TypeError):
        return {}
    return found if type(found) is dict else {}


def _find(classes: tuple[type, ...], name: str) -> Any:
    for each in classes:
        value = _get(class_dict(each), name)
        if value is not MISSING:
            return value
    return MISSING


def _get(names: Mapping[Any, Any], name: str) -> Any:
    """What a dict has under a name. A key that is no plain string could have an ``__eq__``, and is compared by that."""
    return names.get(name, MISSING) if all(map(is_, map(type, names), repeat(str))) else MISSING


def _item(owner: Any, key: Any) -> Any:
    kind, key_kind = type(owner), type(key)
    if kind is list or kind is tuple:
        return owner[key] if key_kind is int and 0 <= key < len(owner) else MISSING
    if kind is dict or kind is defaultdict or kind is OrderedDict:
        is_plain = all(each is str or each is int for each in set(map(type, dict.keys(owner))))
        return dict.get(owner, key, MISSING) if is_plain and (key_kind is str or key_kind is int) else MISSING
    return MISSING
