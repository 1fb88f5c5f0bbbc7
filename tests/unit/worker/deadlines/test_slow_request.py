"""What the report of one slow request says was done. The whole path is in ``test_watchdog``."""

from __future__ import annotations

import types
from typing import Any

import pytest

from tests.support.interpreters import needs_raise
from wsgi_tracebacker.model.code_ownership import CodeOwnership
from wsgi_tracebacker.model.report import Verdict
from wsgi_tracebacker.model.snapshot import PHASES, Request
from wsgi_tracebacker.worker.deadlines.recording.recorder import Recorder
from wsgi_tracebacker.worker.deadlines.slow_request import SlowRequest
from wsgi_tracebacker.worker.options.settings import from_options
from wsgi_tracebacker.worker.stacks import greenlets
from wsgi_tracebacker.worker.stacks.places import Places
from wsgi_tracebacker.worker.tracking.core import APP, BODY, CLOSE, Core

pytestmark = needs_raise


@pytest.mark.parametrize(
    ("phase", "ends", "sentence"),
    [
        (APP, False, "not raised into"),
        (BODY, False, "HarakiriTimeout waits for the next chunk"),
        (CLOSE, False, "not raised into"),
        # Its report has the phase that was seen before it ended.
        (BODY, True, "not raised into"),
    ],
)
def test_what_was_not_raised_is_true_to_the_phase(phase: int, ends: bool, sentence: str) -> None:
    """Only a request whose body is sent has a next chunk that the exception can wait for."""
    core = Core(0, 1, None, None)
    settings = core.settings = from_options(environment={}, harakiri=1, harakiri_action="raise")
    core.started = 1.0

    def proceed(_: Core) -> None:
        # The request proceeds while the watchdog is about to raise.
        core.phase = phase
        if ends:
            core.started = 0.0

    reported: list[tuple[str, str]] = []

    def make(_: SlowRequest, request: Request, **more: Any) -> Any:
        reported.append((request.phase, more["outcome"]))
        return _namespace(verdict=Verdict("frozen", ""))

    counted: list[tuple[str, str]] = []
    slow = SlowRequest(
        core,
        core.started,
        settings,
        Request("GET", "/", None, None, None, 0.0, 0.0, "app"),
        Recorder(Places(None), CodeOwnership()),
        hubs=_namespace(of=proceed),
        maker=_namespace(make=make, statement=lambda *_: None, garbage=lambda _: None),
        publisher=_namespace(
            count=lambda _: None,
            count_kind=lambda *kind: counted.append(kind),
            describe=lambda *_: None,
            admit=lambda *_: True,
            publish=lambda *_, **__: None,
        ),
    )
    slow.check(greenlets.walk_with((core,), (), ()), 0.0)
    [(reported_phase, outcome)] = reported
    assert outcome.startswith(sentence)
    assert reported_phase == PHASES[APP if ends else phase]
    assert counted == [("raise", "frozen")]


def _namespace(**attributes: Any) -> Any:
    return types.SimpleNamespace(**attributes)
