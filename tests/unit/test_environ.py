"""What servers and clients may put into an environ, and applications do with it."""

from __future__ import annotations

import copy
import pickle
import threading
from collections import UserDict
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.wsgi import environ, serve, snapshot
from wsgi_tracebacker import NotInRequest, TracebackerMiddleware
from wsgi_tracebacker.worker.reporting import faults

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

KEY = "wsgi_tracebacker.request"


class Lazy(dict[str, Any]):
    """A framework's kind of environ: its methods are the application's code."""

    callers: set[int]

    def get(self, *_: object) -> Any:
        self.callers.add(threading.get_ident())
        raise RuntimeError("not on this thread")

    def __missing__(self, key: str) -> Any:
        self.callers.add(threading.get_ident())
        raise KeyError(key)


def seen_while_served(base: str, made: Any) -> list[dict[str, Any]]:
    """The requests that a reader sees while this one is served."""
    seen: list[dict[str, Any]] = []

    def app(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        seen.extend(thread["request"] for thread in snapshot(base)["threads"] if thread["request"])
        start_response("200 OK", [])
        return [b""]

    assert serve(TracebackerMiddleware(app, base), made).status == "200 OK"
    return seen


def test_no_method_of_another_kind_of_environ_runs_on_a_thread_of_ours(base: str) -> None:
    """Its items are read all the same."""
    lazy = Lazy(environ("/odd", HTTP_X_REQUEST_ID="7f3a"))
    lazy.callers = set()
    [request] = seen_while_served(base, lazy)
    assert (request["method"], request["path"], request["request_id"]) == ("GET", "/odd", "7f3a")
    assert lazy.callers <= {threading.get_ident()}


def test_an_environ_that_is_no_dict_is_served_and_seen(base: str) -> None:
    """PEP 3333 wants a dict; nothing but the path could be read from it."""
    [request] = seen_while_served(base, UserDict(environ("/odd")))
    assert request["remote_address"] is None


@pytest.mark.parametrize(
    "changes",
    [
        {"REQUEST_METHOD": "QUERY"},
        {"REQUEST_METHOD": "PURGE"},
        {"REQUEST_METHOD": ""},
        {"SCRIPT_NAME": None},
        {"PATH_INFO": None},
        {"PATH_INFO": "/\udcff"},
    ],
    ids=str,
)
def test_what_a_client_or_a_server_may_choose_asks_for_no_signal_handler(
    changes: dict[str, str | None], base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unusual method, a key that is left out, a path that is no text: to ask for all handlers takes 80 µs."""
    made = environ("/odd")
    for key, value in changes.items():
        if value is None:
            del made[key]
        else:
            made[key] = value
    asked: list[object] = []
    monkeypatch.setattr(faults, "_code_of", asked.append)
    [request] = seen_while_served(base, made)
    assert request["method"] == made["REQUEST_METHOD"]
    assert asked == []


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda value: pickle.loads(pickle.dumps(value))])
def test_what_an_environ_holds_of_ours_can_be_copied(copied: Any, base: str) -> None:
    """As for a queue or a pool of processes; the copy is of no request in flight."""
    copies: list[Any] = []

    def app(given: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        copies.append(copied({key: value for key, value in given.items() if not key.startswith("wsgi.")}))
        start_response("200 OK", [])
        return [b""]

    assert serve(TracebackerMiddleware(app, base)).error is None
    [made] = copies
    with pytest.raises(NotInRequest):
        _ = made[KEY].age_seconds
