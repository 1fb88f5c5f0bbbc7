"""How long a request may take: prefixes, and what is no number of seconds."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.interpreters import needs_raise
from wsgi_tracebacker import ConfigurationError, TracebackerMiddleware
from wsgi_tracebacker.worker.options.limits import by_prefix, checked_seconds
from wsgi_tracebacker.worker.options.settings import from_options

SEGMENTS = st.sampled_from(["", "a", "b", "ab", "é", "a b", "%2F", "..", "\udcff"])
PATHS = st.lists(SEGMENTS, max_size=5).map(lambda segments: "".join(f"/{segment}" for segment in segments))
SECONDS = st.one_of(st.none(), st.integers(0, 9), st.floats(0, 100))


def wire(path: str) -> str:
    """As PEP 3333 has it: bytes as Latin-1."""
    return path.encode("utf-8", "surrogatepass").decode("latin-1")


def reference(prefixes: dict[str, float | None], path: str) -> float | None:
    """The longest list of segments that the path's segments begin with."""

    def segments(text: str) -> list[str]:
        return text.rstrip("/").split("/")

    best: str | None = None
    for prefix in prefixes:
        wanted = segments(prefix)
        if segments(path)[: len(wanted)] == wanted and (best is None or len(wanted) >= len(segments(best))):
            best = prefix
    return None if best is None else (prefixes[best] or None)


@given(prefixes=st.dictionaries(PATHS, SECONDS, max_size=6), script=PATHS, path=PATHS)
def test_the_longest_prefix_at_segment_borders_wins(prefixes: dict[str, float | None], script: str, path: str) -> None:
    """Whatever prefixes and paths there are, wherever SCRIPT_NAME ends, with and without slashes at their ends."""
    environ = {"SCRIPT_NAME": wire(script), "PATH_INFO": wire(path)}
    assert by_prefix(prefixes)(environ) == reference(prefixes, script + path)


@pytest.mark.parametrize(
    ("path", "seconds"),
    [("/", 1.0), ("", 1.0), ("/apix", 1.0), ("/api", 2.0), ("/api/", 2.0), ("/api/upload/1", None), ("*", 1.0)],
)
def test_prefixes(path: str, seconds: float | None) -> None:
    """/ is for all, a prefix ends at a slash, and None exempts."""
    assert by_prefix({"/": 1, "/api": 2, "/api/upload": None})({"PATH_INFO": path}) == seconds


def test_a_hostile_path_costs_no_more_than_a_long_prefix() -> None:
    """What lies deeper than any prefix is not looked at: each of these slashes would cost a copy of the path."""
    deep = Counted("/a" * 100_000)
    assert by_prefix({"/a/a": 3})({"PATH_INFO": deep}) == 3.0
    assert Counted.copied < 1_000_000


class Counted(str):
    """Text that counts how much of it is copied from it."""

    __slots__ = ()
    copied = 0

    def __add__(self, other: str) -> Counted:
        return Counted(str(self) + other)

    def __radd__(self, other: str) -> Counted:
        return Counted(other + str(self))

    def rstrip(self, characters: str | None = None, /) -> Counted:
        return Counted(super().rstrip(characters))

    def __getitem__(self, key: Any) -> Counted:
        return Counted(super().__getitem__(key))

    def rpartition(self, separator: str, /) -> tuple[str, str, str]:
        Counted.copied += len(self)
        head, middle, tail = super().rpartition(separator)
        return Counted(head), middle, tail

    __hash__ = str.__hash__


@pytest.mark.parametrize("prefix", ["api", "api/", b"/api", None, 1])
def test_a_prefix_starts_with_a_slash(prefix: Any) -> None:
    """Anything else can match no path."""
    with pytest.raises(ConfigurationError):
        by_prefix({prefix: 1})


@pytest.mark.parametrize("value", [True, "1", -1, -0.1, float("nan"), float("inf"), 10**400, [], b"2", 1j])
def test_what_is_no_number_of_seconds(value: object) -> None:
    """Wrong types and values that no clock reaches are told at once."""
    with pytest.raises(ConfigurationError):
        checked_seconds("harakiri", value)
    with pytest.raises(ConfigurationError):
        by_prefix({"/": value})  # type: ignore[dict-item]
    for option, said in (
        ("harakiri", "number of seconds"),
        ("slow", "number of seconds"),
        ("harakiri_grace", "number of seconds"),
        ("samples_per_second", "number from 0.01 to 100"),
    ):
        with pytest.raises(ConfigurationError, match=rf"{option} must be a {said}|more than a float can hold"):
            from_options(**{option: value}, environment={})  # type: ignore[arg-type]


@pytest.mark.parametrize(("value", "seconds"), [(None, None), (0, None), (0.0, None), (3, 3.0), (0.25, 0.25)])
def test_zero_and_none_are_off(value: float | None, seconds: float | None) -> None:
    """0 is uWSGI's word for none."""
    assert checked_seconds("harakiri", value) == seconds
    assert from_options(harakiri=value, environment={"WSGI_TB_HARAKIRI": "0"}).harakiri == seconds


@pytest.mark.parametrize(
    ("option", "environment", "expected"),
    [
        (None, {}, (60.0, "default")),
        (None, {"WSGI_TB_HARAKIRI": " "}, (60.0, "default")),
        (None, {"WSGI_TB_HARAKIRI": "60"}, (60.0, "given")),
        (60, {}, (60.0, "given")),
        (0, {}, (None, "given")),
        (None, {"WSGI_TB_HARAKIRI": "0"}, (None, "given")),
        (len, {}, (None, "given")),
    ],
)
def test_the_default_is_a_minute(option: Any, environment: dict[str, str], expected: tuple[float | None, str]) -> None:
    """Where nobody gave a limit, and known as the default; 0 is a limit that somebody gave."""
    settings = from_options(harakiri=option, environment=environment)
    assert (settings.harakiri, settings.limit_source) == expected
    assert settings.needs_watchdog is (expected[0] is not None or option is len)


@pytest.mark.parametrize(
    ("environment", "attribute", "value"),
    [
        ({"WSGI_TB_HARAKIRI": "30"}, "harakiri", 30.0),
        ({"WSGI_TB_HARAKIRI": " 0 "}, "harakiri", None),
        ({"WSGI_TB_HARAKIRI": ""}, "harakiri", 60.0),
        ({"WSGI_TB_SLOW": "1.5"}, "slow", 1.5),
        ({"WSGI_TB_HARAKIRI_ACTION": "kill"}, "harakiri_action", "kill"),
        pytest.param(
            {"WSGI_TB_HARAKIRI_ACTION": "raise", "WSGI_TB_HARAKIRI_GRACE": "5"},
            "harakiri_grace",
            5.0,
            marks=needs_raise,
        ),
        ({"WSGI_TB_SAMPLES_PER_SECOND": "5"}, "samples_per_second", 5.0),
    ],
)
def test_each_option_has_a_variable(environment: dict[str, str], attribute: str, value: object) -> None:
    """An option that is not given comes from its environment variable."""
    assert getattr(from_options(environment=environment), attribute) == value


def test_a_call_wins_over_the_environment() -> None:
    """harakiri=0 in the call switches off what the environment switched on."""
    assert from_options(harakiri=0, environment={"WSGI_TB_HARAKIRI": "30"}).harakiri is None


@pytest.mark.parametrize(
    "options",
    [
        {"harakiri_action": "explode"},
        {"harakiri_action": 1},
        {"harakiri_grace": 5},
        {"harakiri_action": "kill", "harakiri_grace": 5},
        {"samples_per_second": 1_000},
        {"samples_per_second": 0.001},
        {"on_harakiri": "print"},
        {"harakiri": "30"},
    ],
)
def test_mistakes_are_told_at_construction(options: dict[str, Any]) -> None:
    """Not at the first request that hangs."""
    with pytest.raises(ConfigurationError):
        from_options(**options, environment={})


def test_no_raise_but_on_cpython(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyPy cannot raise into a thread, and says so when the application is wrapped."""
    monkeypatch.setattr(sys.implementation, "name", "pypy")
    with pytest.raises(ConfigurationError, match="CPython"):
        TracebackerMiddleware(lambda environ, start_response: [], harakiri=1, harakiri_action="raise")
