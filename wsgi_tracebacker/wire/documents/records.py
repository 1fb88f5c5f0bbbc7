"""Reads and writes named tuples as JSON, by one table for each class of them.

A table names the keys of an object in the order in which they are written, what each value must be, and what it is
where the key is missing or null. Reading trusts nothing: whatever the bytes, the result is a value of the model or a
FormatError that names the key that is wrong. Keys that are not in the table are ignored.

Text is written in ASCII, so that file names which are not UTF-8 (lone surrogates, PEP 383) survive.
"""

from __future__ import annotations

import json
import os
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, cast

from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.wire.documents.density import check_density

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

#: Whole numbers are below this: idents of threads are addresses of 64 bits, and nothing else is as large.
_INTEGER_LIMIT = 1 << 64

#: Seconds, since the epoch, since boot or of an age: 30,000 years are more than any clock shows.
_MAX_SECONDS = 1e12


def is_time(seconds: float) -> bool:
    """Whether a clock can have shown this number of seconds; not so for ``nan``.

    Arithmetic and calendars fail beyond that. 1e999 is valid JSON, and infinite.
    """
    return -_MAX_SECONDS <= seconds <= _MAX_SECONDS


def _is_path(value: object) -> bool:
    """Whether a system call accepts it, so that no reader of a forged path has to catch what it would raise."""
    try:
        return type(value) is str and b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False


def _write_number(value: float) -> str:
    if value - value != 0.0:
        raise ValueError(f"{value!r} has no place in JSON")
    return repr(value)


class Kind(NamedTuple):
    """What a value must be, in words for an error and as a test, and what writes it."""

    words: str
    accepts: Callable[[Any], bool]
    write: Callable[[Any], str]


_quoted = json.encoder.encode_basestring_ascii
TEXT = Kind("text", lambda value: type(value) is str, _quoted)
PATH = Kind("a path", _is_path, _quoted)
INTEGER = Kind("a whole number", lambda value: type(value) is int and abs(value) < _INTEGER_LIMIT, repr)
COUNT = Kind("a whole number from 0", lambda value: type(value) is int and 0 <= value < _INTEGER_LIMIT, repr)
NUMBER = Kind("a number", lambda value: type(value) in (int, float) and is_time(value), _write_number)
FLAG = Kind("true or false", lambda value: type(value) is bool, {True: "true", False: "false"}.__getitem__)

#: In characters, which about 100 requests inside each other reach. Python would end deeper ones by a RecursionError.
_LONGEST_PLACE = 1000

#: How many repeated objects are remembered: the frames of a large application, and a few megabytes.
_MAX_KNOWN = 10_000

#: The default of a key that may neither be missing nor null.
_REQUIRED: Any = object()


class Key:
    """One key of an object, and the attribute that has its value."""

    __slots__ = ("attribute", "default", "is_list", "kind", "name")

    def __init__(
        self,
        name: str,
        #: A Kind, or the class of named tuples whose table is in the place.
        kind: Kind | type[Any],
        default: Any = _REQUIRED,
        *,
        attribute: str | None = None,
        is_list: bool = False,
    ) -> None:
        self.name = name
        self.kind = kind
        self.default = default
        self.attribute = attribute or name
        self.is_list = is_list

    @property
    def write(self) -> Callable[[Any], str]:
        """What writes a value of this key, or each value of its list."""
        return self.kind.write if isinstance(self.kind, Kind) else _records[self.kind].write

    def expression(self) -> str:
        """The source of what writes this key's value."""
        name = self.attribute
        if self.is_list:
            return f"'[%s]' % ','.join([write_{name}(each) for each in {name}])"
        written = f"write_{name}({name})"
        return f"'null' if {name} is None else {written}" if self.default is None else written

    def read(self, value: Any, place: str) -> Any:
        """The attribute for a value of the JSON. ``place``: where in the document its object is. Raises FormatError."""
        if value is None and self.default is not _REQUIRED:
            return self.default
        kind = self.kind
        if type(kind) is Kind:
            if not kind.accepts(value):
                raise FormatError(f"{place}.{self.name} is not {kind.words}")
            return float(value) if kind is NUMBER else value
        place = f"{place}.{self.name}"
        if not self.is_list:
            return _records[kind].read(value, place)
        if type(value) is not list:
            raise FormatError(f"{place} is not a list")
        if len(place) > _LONGEST_PLACE:
            raise FormatError(f"{place[:100]}... is nested too deep")
        place += "[]"
        return tuple([_records[kind].read(each, place) for each in value])


class Record(Generic[T]):
    """The table of one class of named tuples: every attribute has its key."""

    def __init__(self, build: Callable[..., T], *keys: Key, is_repeated: bool = False) -> None:
        """``is_repeated``: most of its objects are equal to one that was read before, and become the same value."""
        self._build = build
        self._keys = keys
        self._known: dict[object, T] | None = {} if is_repeated else None
        _records[build] = self

    def read(self, content: object, place: str) -> T:
        """The value of a JSON object that stands at ``place``. Raises FormatError."""
        if type(content) is not dict:
            raise FormatError(f"{place} is not an object")
        if self._known is None:
            return self._read(content, place)
        items = tuple(content.items())
        try:
            found = self._known.get(items)
        except TypeError:
            # It has an object or a list, which this one has not.
            return self._read(content, place)
        if found is None:
            found = self._read(content, place)
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[items] = found
        return found

    def _read(self, content: dict[str, Any], place: str) -> T:
        return self._build(**{key.attribute: key.read(content.get(key.name), place) for key in self._keys})

    def prepare(self) -> None:
        """Make now what write() needs, so that its first call is not slower than the others."""
        self._writer  # noqa: B018  (a cached property)

    def write(self, value: T) -> str:
        """The JSON object of a value; ValueError for an infinite number."""
        return self._writer(*cast("tuple[Any, ...]", value))

    @cached_property
    def _writer(self) -> Callable[..., str]:
        """What writes an object, from its attributes.

        It is ``lambda method, path: '{"method":%s,"path":%s}' % (write_method(method), write_path(path),)``, for this
        table. A loop over the keys takes twice as long and ``json.dumps`` three times, and a worker of 500 threads
        holds its GIL meanwhile. Made when it is first needed, which takes a quarter of a millisecond.
        """
        parameters = ", ".join(self._build._fields)  # type: ignore[attr-defined]  # of a named tuple's class
        template = ",".join(f'"{key.name}":%s' for key in self._keys)
        values = "".join(f"{key.expression()}, " for key in self._keys)
        names = {f"write_{key.attribute}": key.write for key in self._keys}
        # The source consists of names in tables of this package only.
        return cast("Callable[..., str]", eval(f"lambda {parameters}: '{{{template}}}' % ({values})", names))  # noqa: S307


_records: dict[Any, Record[Any]] = {}


def load(data: bytes, what: str, version_key: str, version: int) -> dict[str, Any]:
    """The content of a JSON document of this version. Raises FormatError, whatever the bytes are."""
    check_density(data)
    try:
        content = json.loads(data.decode("utf-8"))
    # ValueError: not UTF-8, not JSON, a number with thousands of digits. RecursionError: nested without end.
    except (ValueError, RecursionError) as error:
        raise FormatError(f"the {what} is not JSON: {error}") from None
    if type(content) is not dict:
        raise FormatError(f"{what} is not an object")
    found = Key(version_key, INTEGER).read(content.get(version_key), what)
    if found != version:
        raise FormatError(f"the {what} is of version {found}, this program reads version {version}")
    return content


def plain(content: dict[str, Any] | tuple[Any, ...]) -> dict[str, Any]:
    """A dict, or a named tuple, of plain dicts, lists, strings and numbers, for the ``extra`` of a log record.

    JSON formatters and OpenTelemetry do not know tuples, and a lone surrogate cannot be encoded.
    """
    found: dict[str, Any] = _plain(content)
    return found


def _plain(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {key: _plain(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(member) for member in value]
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value
