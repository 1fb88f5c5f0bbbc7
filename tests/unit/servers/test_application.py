"""Finding an application by its name, and wrapping it once."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.programs import unwrapped
from tests.support.interpreters import needs_names_of_modules
from tests.support.programs import PROJECT
from wsgi_tracebacker import ConfigurationError, TracebackerMiddleware
from wsgi_tracebacker.middleware import settings_of
from wsgi_tracebacker.servers import application
from wsgi_tracebacker.worker.options.settings import from_options

if TYPE_CHECKING:
    from pathlib import Path

MODULE = "tests.programs.unwrapped"


@pytest.mark.parametrize("target", [MODULE, f"{MODULE}:application", f" {MODULE} : application ", f"{MODULE}:site.app"])
def test_every_form_of_a_target_is_found(target: str) -> None:
    """A module, a name in it, an attribute of an object."""
    assert application.find_application(target, "X") is unwrapped.application


@pytest.mark.parametrize(
    ("call", "answer"), [("()", b"made"), ("('a')", b"a"), ("(answer='b')", b"b"), ('("c:d(e)")', b"c:d(e)")]
)
def test_a_factory_is_called_with_literal_arguments(call: str, answer: bytes) -> None:
    """By position and by name; what stands in a text is text."""
    made = application.find_application(f"{MODULE}:create_application{call}", "X")
    assert list(made({}, lambda *_: lambda _: None)) == [answer]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("", "X must be as in mysite.wsgi:application, "),
        ("a b", "X must be as in "),
        (".relative:app", "X must be as in "),
        (f"{MODULE}:", "X must be as in "),
        (f"{MODULE}:application[0]", "X must be as in "),
        (f"{MODULE}:create_application(", "X must be as in "),
        (f"{MODULE}:create_application(**{{}})", "X must be as in "),
        (f"{MODULE}:create_application(PAGES)", "a factory's arguments must be literal"),
        ("no_such_module:app", "X names the module 'no_such_module', and there is no 'no_such_module'; start the"),
        ("tests.no_such.deeper", "X names the module 'tests.no_such.deeper', and there is no 'tests.no_such'; "),
        (f"{MODULE}:aplication", f"{MODULE} has no 'aplication'; did you mean 'application'?"),
        (f"{MODULE}:zzz", f"{MODULE} has no 'zzz'; name what is there, as in mysite.wsgi:application"),
        (f"{MODULE}:site.apps", f"{MODULE}:site has no 'apps'; did you mean 'app'?"),
        (f"{MODULE}:not_an_application", "that is no WSGI application but a str; "),
        (f"{MODULE}:not_an_application()", "that cannot be called; leave the parentheses out"),
    ],
)
def test_a_target_that_does_not_exist_is_one_line(target: str, message: str) -> None:
    """It says what is wrong and what to try."""
    with pytest.raises(ConfigurationError) as raised:
        application.find_application(target, "X")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "error", ["import no_such_library", "raise LookupError('of its own')", "from os import no_such_name"]
)
def test_an_error_of_the_applications_own_module_comes_through(
    error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any exception comes through unchanged."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_application.py").write_text(error + "\n")
    with pytest.raises((ImportError, LookupError), match=r"no_such_library|of its own|no_such_name") as raised:
        application.find_application("broken_application", "X")
    assert not isinstance(raised.value, ConfigurationError)


def test_an_error_within_a_factory_comes_through() -> None:
    """Also one that looks like an attribute that is missing."""
    with pytest.raises(AttributeError, match="encode"):
        list(application.find_application(f"{MODULE}:create_application(1)", "X")({}, lambda *_: lambda _: None))


def test_what_is_wrapped_is_not_wrapped_again(base: str) -> None:
    """By hand, or in Flask's way; anything else is, with the options."""
    by_hand = TracebackerMiddleware(unwrapped.application, socket=base)

    class Flask:
        def __init__(self) -> None:
            self.wsgi_app = by_hand

        def __call__(self, *_: object) -> list[bytes]:
            return []

    assert application.wrapped(by_hand) is by_hand
    flask = Flask()
    assert application.wrapped(flask) is flask
    wrapped = application.wrapped(unwrapped.application, socket=base, harakiri=5)
    assert isinstance(wrapped, TracebackerMiddleware)
    assert settings_of(wrapped) == from_options(socket=base, harakiri=5)


def test_a_proxy_that_answers_to_every_name_is_not_taken_for_wrapped() -> None:
    """No attribute of an application is asked for that it might make up."""

    class Proxy:
        def __getattr__(self, name: str) -> object:
            raise AssertionError(name)

        def __call__(self, *_: object) -> list[bytes]:
            return []

    assert settings_of(Proxy()) is None


@pytest.mark.parametrize("value", [None, "", "  "])
def test_without_the_variable_our_module_says_what_is_missing(value: str | None) -> None:
    """One line, at import: there is nothing to serve."""
    env = {"PATH": "", **({"WSGI_TB_APP": value} if value is not None else {})}
    command = [sys.executable, "-c", "import wsgi_tracebacker.servers.auto"]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, cwd=PROJECT, check=False, timeout=30)
    assert ended.returncode == 1
    expected = "WSGI_TB_APP is not set: say which application to serve, as in WSGI_TB_APP=mysite.wsgi:application"
    assert ended.stderr.splitlines()[-1] == f"wsgi_tracebacker.errors.ConfigurationError: {expected}"


@needs_names_of_modules
def test_our_module_loads_the_standard_library_only() -> None:
    """Beside the application, that is: it is loaded in a worker."""
    code = (
        "import sys, wsgi_tracebacker.servers.auto, wsgi_tracebacker.servers.paste, wsgi_tracebacker.servers.gunicorn;"
        "print(*{name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names))"
    )
    env = {"PATH": "", "WSGI_TB_APP": "tests.programs.unwrapped:application"}
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(PROJECT)!r}); {code}"]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, cwd=PROJECT, check=True, timeout=30)
    # 3.15's own, which it makes when it is built and does not name.
    loaded = set(ended.stdout.split()) - {"_missing_stdlib_info"}
    # The tests are where the application is.
    assert loaded == {"__main__", "wsgi_tracebacker", "tests"} - set(sys.stdlib_module_names)


TWICE = """
import os

os.environ["WSGI_TB_APP"] = "tests.programs.unwrapped:create_application('a')"
from wsgi_tracebacker.servers.auto import application as first

os.environ["WSGI_TB_APP"] = "tests.programs.unwrapped:create_application('b')"
from wsgi_tracebacker.servers.auto import application as second

os.environ["WSGI_TB_APP"] = "tests.programs.unwrapped:create_application('a')"
import wsgi_tracebacker.servers.auto as auto

assert auto.application is first
del os.environ["WSGI_TB_APP"]
assert auto.application is first is vars(auto)["application"]
print(b"".join(second({}, lambda *_: None)))
"""


def test_each_import_is_given_what_the_variable_names_by_then(base: str) -> None:
    """Two scripts in one interpreter of mod_wsgi; what uWSGI takes, from the module's dictionary, is the first."""
    env = {**os.environ, "WSGI_TB_SOCKET": base}
    ended = subprocess.run(
        [sys.executable, "-c", TWICE], capture_output=True, text=True, cwd=PROJECT, check=False, timeout=60, env=env
    )
    assert (ended.stdout, ended.stderr) == ("b'b'\n", "")
