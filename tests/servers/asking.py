"""What the workers behind a base say about themselves, asked on their sockets as any HTTP client would."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from example_app import slow
from tests.support import clients
from tests.support.waiting import wait_until

#: The functions of the slow page as they stand on its thread's stack, outermost first.
CHAIN = ("application", "dormi5", "dormi4", "dormi3", "dormi2", "dormi")

#: The line that each of them is at while it sleeps.
CHAIN_LINES = (*(f"{function}(seconds)" for function in CHAIN[1:]), "time.sleep(seconds)")


def files(base: str) -> list[str]:
    """What stands at the base: the names of sockets and cards, without the base."""
    folder, prefix = os.path.split(base)
    return sorted(name.removeprefix(prefix) for name in os.listdir(folder) if name.startswith(prefix))


def expected_files(*numbers: int) -> list[str]:
    """The files of these workers and of no others."""
    return sorted(name for number in numbers for name in (str(number), f"{number}.worker"))


def numbers(base: str) -> list[int]:
    return sorted(int(name) for name in files(base) if name.isdigit())


def ask(base: str, number: int, target: str) -> dict[str, Any]:
    """The JSON document at ``target`` of one worker. OSError if it does not answer."""
    document = json.loads(clients.request(f"{base}{number}", target).body)
    assert isinstance(document, dict)
    return document


def snapshots(base: str) -> list[dict[str, Any]]:
    """The snapshots of all workers that answer, by number; one that is just ending does not."""
    found = []
    for number in numbers(base):
        try:
            found.append(ask(base, number, "/snapshot"))
        except OSError:
            continue
    return found


def pids(base: str) -> dict[int, int]:
    """The pid of every worker that answers, by its number."""
    return {document["worker"]["number"]: document["worker"]["pid"] for document in snapshots(base)}


def serving(base: str, path: str | None = None) -> list[dict[str, Any]]:
    """The threads that serve a request (to ``path``), of all workers, those of worker 1 first."""
    return [
        thread
        for document in snapshots(base)
        for thread in document["threads"]
        if thread["request"] is not None and path in (None, thread["request"]["path"])
    ]


def waits_in(base: str, function: str) -> dict[str, Any]:
    """The one thread that serves a request, once it stands in ``function``."""

    def there() -> dict[str, Any] | None:
        found = serving(base)
        return found[0] if len(found) == 1 and _stands_in(found[0], function) else None

    thread = wait_until(there, lambda: f"one request stands in {function}: {serving(base)}")
    assert thread is not None
    return thread


def _stands_in(thread: dict[str, Any], function: str) -> bool:
    return any(frame["function"] == function for frame in thread["frames"])


def are_idle(base: str) -> bool:
    """Whether all threads of all workers stand where they stood a moment ago, and serve nothing.

    A signal is lost on a server whose handler still does something after its response, and takes every exception for
    the application's.
    """
    earlier, now = (
        [
            (thread["request"], [(frame["function"], frame["lineno"]) for frame in thread["frames"]])
            for document in snapshots(base)
            for thread in document["threads"]
        ]
        for _ in range(2)
    )
    return earlier == now and all(request is None for request, _ in now)


def sleeps_six_calls_deep(thread: dict[str, Any]) -> bool:
    """Whether a thread of a slow request has reached its sleep."""
    return bool(thread["frames"]) and thread["frames"][-1]["function"] == CHAIN[-1]


def check_chain(thread: dict[str, Any]) -> None:
    """Every line of the slow page stands on the stack, in order, with its file and its source."""
    frames = thread["frames"][-len(CHAIN) :]
    assert [frame["function"] for frame in frames] == list(CHAIN)
    source = Path(slow.__file__).read_text(encoding="utf-8").splitlines()
    for frame, line in zip(frames, CHAIN_LINES, strict=True):
        assert frame["filename"] == slow.__file__
        assert frame["source"].strip() == line
        assert source[frame["lineno"] - 1] == frame["source"]
        assert not frame["source_changed"]
