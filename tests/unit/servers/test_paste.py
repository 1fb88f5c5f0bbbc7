"""Options of the middleware as text, as PasteDeploy has them."""

from __future__ import annotations

import importlib.metadata
import inspect
from typing import Any

import pytest

from tests.programs import unwrapped
from tests.support.interpreters import needs_raise
from wsgi_tracebacker import ConfigurationError, TracebackerMiddleware
from wsgi_tracebacker.middleware import settings_of
from wsgi_tracebacker.servers import paste
from wsgi_tracebacker.worker.options.settings import OPTIONS


@needs_raise
def test_every_option_may_stand_there() -> None:
    """No other name is known, and each value has the type that the middleware takes."""
    parameters = set(inspect.signature(TracebackerMiddleware.__init__).parameters)
    assert set(OPTIONS) == parameters - {"self", "app", "unknown"}
    options = {
        "socket": "/run/x/tb",
        "group": "27",
        "application": "shop",
        "name_threads": "no",
        "show_query": "True",
        "show_statements": "True",
        "remote_address_header": "X-Real-IP",
        "request_id_header": "",
        "harakiri": " 30 ",
        "slow": "2.5",
        "harakiri_action": "raise",
        "harakiri_grace": "5",
        "samples_per_second": "20",
        "on_harakiri": "tests.programs.unwrapped:spin",
        "harakiri_margin": "2",
        "dump_signal": "off",
        "hub_blocked": "0",
        "client_gone": "5",
        "known_frames": "shop/bank.py:charge http url=url; shop/jobs.py:Jobs.wait queue call='jobs'",
    }
    assert set(options) == set(OPTIONS)
    wrapped = paste.filter_app(unwrapped.application, {"here": "/"}, **options)
    settings: Any = settings_of(wrapped)
    assert (settings.base, settings.group, settings.application) == ("/run/x/tb", 27, "shop")
    assert (settings.name_threads, settings.show_query) == (False, True)
    assert (settings.remote_address_key, settings.request_id_key) == ("HTTP_X_REAL_IP", None)
    assert (settings.harakiri, settings.slow, settings.harakiri_grace) == (30.0, 2.5, 5.0)
    assert (settings.harakiri_action, settings.samples_per_second, settings.harakiri_margin) == ("raise", 20.0, 2.0)
    assert settings.on_harakiri is unwrapped.spin
    assert (settings.dump_signal, settings.hub_blocked, settings.client_gone) == (None, None, 5.0)
    assert len(settings.known_frames) == 2


def test_what_is_not_there_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """So does what has no value."""
    monkeypatch.setenv("WSGI_TB_SOCKET", "/run/y/tb")
    monkeypatch.setenv("WSGI_TB_HARAKIRI", "7")
    settings = settings_of(paste.filter_app(unwrapped.application, {}, harakiri=""))
    assert settings is not None
    assert (settings.base, settings.harakiri) == ("/run/y/tb", 7.0)


def test_limits_by_path() -> None:
    """A line for each prefix; a word for none."""
    settings = settings_of(
        paste.filter_app(unwrapped.application, {}, harakiri="\n/ = 30\n/export=300\n\n/events = off\n/a=b = 4")
    )
    assert settings is not None
    assert settings.decide is not None
    paths = ("/x", "/export/a", "/events", "/a=b")
    assert [settings.decide({"PATH_INFO": path}) for path in paths] == [30.0, 300.0, None, 4.0]


def test_a_callable_that_decides() -> None:
    """Named as an application is."""
    settings = settings_of(paste.filter_app(unwrapped.application, {}, harakiri="tests.programs.unwrapped:spin"))
    assert settings is not None
    decide: object = settings.decide
    assert decide is unwrapped.spin


def test_a_factory_of_a_callable_may_have_named_arguments() -> None:
    """An equals sign does not make lines of it."""
    target = "tests.programs.unwrapped:create_application(answer='x = 1')"
    settings = settings_of(paste.filter_app(unwrapped.application, {}, harakiri=target))
    assert settings is not None
    assert callable(settings.decide)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"harikiri": "30"}, "there is no option 'harikiri'; did you mean 'harakiri'?"),
        ({"timeout": "30"}, "there is no option 'timeout'; did you mean 'harakiri'?"),
        ({"zzz": "1"}, "there is no option 'zzz'; there are socket, group, "),
        ({"harakiri": "soon"}, "harakiri must be a number, not 'soon'"),
        ({"harakiri": "/a = soon"}, "harakiri of /a must be a number, not 'soon'"),
        ({"harakiri": "/a = 1\n/b"}, "harakiri must have a line such as /export = 300 for each path, not '/b'"),
        ({"harakiri": "= 1"}, "harakiri must have a line such as /export = 300 for each path, not '= 1'"),
        ({"harakiri": "a = 1"}, "a path prefix starts with a slash"),
        ({"app": "shop"}, "there is no option 'app'; "),
        ({"global_conf": "shop"}, "there is no option 'global_conf'; "),
        ({"harakiri": "-1"}, "harakiri must be a number of seconds"),
        (
            {"show_query": "perhaps"},
            "show_query must be 1 or 0 (or true or false, yes or no, on or off), not 'perhaps'",
        ),
        ({"on_harakiri": "tests.programs.unwrapped:not_an_application"}, "that cannot be called"),
        ({"on_harakiri": "no_such_module:x"}, "on_harakiri names the module 'no_such_module'"),
        ({"dump_signal": "SIGKILL"}, "dump_signal must be a signal that can be caught"),
    ],
)
def test_a_mistake_is_one_line(options: dict[str, str], message: str) -> None:
    """It names the option, and what is wrong with it."""
    with pytest.raises(ConfigurationError) as raised:
        paste.filter_app(unwrapped.application, {}, **options)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_entry_point_is_the_filter() -> None:
    """``use = egg:wsgi-tracebacker`` finds it under the name that PasteDeploy takes where none is given."""
    [entry] = importlib.metadata.distribution("wsgi-tracebacker").entry_points.select(group="paste.filter_app_factory")
    assert entry.name == "main"
    assert entry.load() is paste.filter_app
