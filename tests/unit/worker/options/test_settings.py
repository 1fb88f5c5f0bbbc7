"""Options: where they come from, and what is a mistake."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.interpreters import needs_raise
from wsgi_tracebacker import ConfigurationError, TracebackerMiddleware
from wsgi_tracebacker.wire.documents.card_json import MAX_NUMBER_DIGITS, MAX_SOCKET_PATH_BYTES
from wsgi_tracebacker.worker.options.settings import DEFAULT_SOCKET, ENVIRONMENT_VARIABLES, from_options

if TYPE_CHECKING:
    from collections.abc import Mapping


def settings(environment: Mapping[str, str] | None = None, **options: Any) -> Any:
    return from_options(environment=environment or {}, folder="/folder", **options)


def test_the_defaults() -> None:
    """Without options: uWSGI's own example path, threads named, no query, the connection's address."""
    found = settings()
    assert (found.base, found.group, found.application, found.name_threads, found.show_query) == (
        DEFAULT_SOCKET,
        None,
        None,
        True,
        False,
    )
    assert (found.remote_address_key, found.request_id_key) == ("REMOTE_ADDR", "HTTP_X_REQUEST_ID")


@pytest.mark.parametrize(
    ("option", "word", "attribute", "value"),
    [
        ("socket", "/run/x/tb", "base", "/run/x/tb"),
        ("group", "adm", "group", "adm"),
        ("group", "27", "group", 27),
        ("application", "shop", "application", "shop"),
        ("name_threads", "no", "name_threads", False),
        ("name_threads", " ON ", "name_threads", True),
        ("show_query", "1", "show_query", True),
        ("show_query", "", "show_query", False),
        ("remote_address_header", "X-Real-IP", "remote_address_key", "HTTP_X_REAL_IP"),
        ("request_id_header", "trace-id", "request_id_key", "HTTP_TRACE_ID"),
        ("request_id_header", "", "request_id_key", None),
    ],
)
def test_each_option_has_a_variable(option: str, word: str, attribute: str, value: object) -> None:
    """An option that is not given comes from its environment variable; one that is given wins."""
    assert getattr(settings({ENVIRONMENT_VARIABLES[option]: word}), attribute) == value
    if isinstance(value, bool):
        assert getattr(settings({ENVIRONMENT_VARIABLES[option]: word}, **{option: not value}), attribute) is (not value)


@pytest.mark.parametrize(
    ("base", "absolute"),
    [
        ("/tmp/tb.", "/tmp/tb."),
        ("/tmp/", "/tmp/"),
        ("tb", "/folder/tb"),
        (Path("/tmp/tb"), "/tmp/tb"),
        ("./x.", "/folder/./x."),
    ],
)
def test_a_base_is_made_absolute_and_not_tidied(base: Any, absolute: str) -> None:
    """The end of a base matters: a dot or a slash stays."""
    assert settings(socket=base).base == absolute


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("socket", ""),
        ("socket", 7),
        ("socket", b"/tmp/x"),
        ("socket", "/tmp/\0x"),
        ("socket", "/tmp/\ud800"),
        ("socket", "/tmp/" + "x" * 100),
        ("socket", "/tmp/" + "\u00e9" * 60),
        ("group", ""),
        ("group", -1),
        ("group", True),
        ("group", 1.5),
        ("group", "a\0b"),
        ("group", 2**32 - 1),
        ("group", "99999999999999999999"),
        ("application", 3),
        ("name_threads", "yes"),
        ("name_threads", 1),
        ("show_query", 0),
        ("remote_address_header", "X Real"),
        ("remote_address_header", "X-Real:"),
        ("remote_address_header", 1),
        ("request_id_header", "a\nb"),
        ("request_id_header", b"X"),
        ("app", None),
        ("app", "module:app"),
    ],
    ids=repr,
)
def test_a_programmers_error_is_one_line_at_construction(option: str, value: object) -> None:
    """A value that can never work raises where the middleware is made, in one line that names the option."""
    options: dict[str, Any] = {"app": lambda *_: [], option: value}
    with pytest.raises(ConfigurationError) as raised:
        TracebackerMiddleware(**options)
    message = str(raised.value)
    assert "\n" not in message
    assert option in message or repr(value) in message


@pytest.mark.parametrize(
    ("option", "word"),
    [
        ("socket", "/tmp/" + "x" * 100),
        ("group", "99999999999"),
        ("name_threads", "perhaps"),
        ("show_query", "perhaps"),
        ("remote_address_header", "X Real"),
        ("request_id_header", "X-Trace:"),
        ("harakiri", "soon"),
        ("harakiri", "-1"),
        ("harakiri", "inf"),
        ("slow", "nan"),
        ("harakiri_action", "log it"),
        ("harakiri_grace", "a while"),
        ("samples_per_second", "1000"),
        ("samples_per_second", "often"),
        ("harakiri_margin", "-3"),
        ("dump_signal", "SIGKILL"),
        ("hub_blocked", "0.01"),
    ],
)
def test_a_variable_with_a_wrong_value_is_named_and_its_value_shown(option: str, word: str) -> None:
    """In one line."""
    variable = ENVIRONMENT_VARIABLES[option]
    with pytest.raises(ConfigurationError, match=f"^{variable} .*{word}") as raised:
        settings({variable: word})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("keyword", "option"),
    [
        ("timeout", "'harakiri'"),
        ("harikiri", "'harakiri'"),
        ("action", "'harakiri_action'"),
        ("sockets", "'socket'"),
        ("xyz", "socket, group, "),
    ],
)
def test_a_keyword_that_is_no_option_is_a_type_error(keyword: str, option: str) -> None:
    """As Python says it, and it names the option that was meant."""
    options: dict[str, Any] = {keyword: 3}
    start = f"TracebackerMiddleware\\(\\) got an unexpected keyword argument '{keyword}'; "
    with pytest.raises(TypeError, match=f"^{start}.*{option}"):
        TracebackerMiddleware(lambda *_: [], **options)


def test_the_longest_base_fits_with_its_number() -> None:
    """A base of exactly the limit is taken, one byte more is not."""
    limit = MAX_SOCKET_PATH_BYTES - MAX_NUMBER_DIGITS
    assert settings(socket="/" * limit).base == "/" * limit
    with pytest.raises(ConfigurationError):
        settings(socket="/" * (limit + 1))


def test_a_folder_that_was_removed_is_no_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process whose current folder is gone, wrapping works: an absolute base needs none."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(FileNotFoundError):
        os.getcwd()
    assert from_options(socket="/tmp/tb", environment={}).base == "/tmp/tb"
    assert from_options(socket="tb", environment={}).base == "tb"
    monkeypatch.chdir(tmp_path)


#: One of each that is neither its default nor what the other one has.
SAID = {
    "socket": "/run/x/tb",
    "group": "adm",
    "application": "shop",
    "name_threads": False,
    "show_query": True,
    "remote_address_header": "X-Real-IP",
    "request_id_header": "X-Trace",
    "harakiri": 30,
    "slow": 2,
    "harakiri_action": "kill",
    "samples_per_second": 5,
    "on_harakiri": print,
    "harakiri_margin": 3,
    "dump_signal": 40,
    "hub_blocked": 2,
    "client_gone": 5,
    "known_frames": ["shop/bank.py:charge http url=url", "shop/jobs.py:Jobs.wait queue call='jobs'"],
}
SAID_NOTHING = {
    "application": "",
    "remote_address_header": "",
    "request_id_header": "",
    "harakiri": 0,
    "slow": 0,
    "dump_signal": None,
    "hub_blocked": 0,
    "client_gone": 0,
    "known_frames": (),
}
VARIABLES = {
    ENVIRONMENT_VARIABLES[option]: word
    for option, word in {
        "group": "7",
        "application": "other",
        "show_query": "1",
        "remote_address_header": "X-Other",
        "request_id_header": "X-Other",
        "harakiri": "9",
        "slow": "4",
        "samples_per_second": "7",
        "harakiri_margin": "7",
        "dump_signal": "41",
        "hub_blocked": "7",
        "client_gone": "7",
        "known_frames": "shop/mail.py:send service service='mail'",
    }.items()
}


@pytest.mark.parametrize("environment", [{}, VARIABLES], ids=["no variables", "variables"])
@pytest.mark.parametrize(
    "options",
    [{}, SAID, SAID_NOTHING, {"harakiri": len}],
    ids=["nothing", "all", "none of all", "a callable"],
)
def test_settings_are_options_again(options: dict[str, Any], environment: dict[str, str]) -> None:
    """What was said, what was left to the variables, and what was said to be none."""
    found = settings(environment, **options)
    assert settings(environment, **found.options) == found


@needs_raise
def test_a_grace_is_an_option_again() -> None:
    """It needs the action that no other interpreter has."""
    found = settings(harakiri_action="raise", harakiri_grace=5)
    assert settings(**found.options) == found
