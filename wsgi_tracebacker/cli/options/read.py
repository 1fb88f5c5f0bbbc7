"""The options of ``wsgi-tb read``, each described once: for its fast start, see ``option``, and for click."""

from __future__ import annotations

from wsgi_tracebacker.cli.options.option import MAX_SECONDS, Option
from wsgi_tracebacker.model.groups import GROUPINGS, ORDERS

#: The limit of ``--times``.
MAX_TIMES = 100

TIMEOUT = Option(
    "timeout_seconds",
    ("--timeout",),
    "How long each worker may take to answer; all are asked at once.  [default: 1 if its table of requests can be shown"
    " instead, else 5]",
    "SECONDS",
    is_least_excluded=True,
    most=MAX_SECONDS,
)
WORKER = Option(
    "numbers", ("--worker", "-w"), "Only worker N; can be given more than once.", "N", least=1, is_multiple=True
)

#: In the order of the help.
OPTIONS = (
    WORKER,
    TIMEOUT,
    Option(
        "form",
        ("--format",),
        "For people, as text or as one page; for programs; or as uWSGI's tracebacker writes it.",
        choices=("text", "html", "json", "uwsgi"),
    ),
    Option("older_seconds", ("--older",), "Only requests that are at least so old.", "SECONDS"),
    Option("path_pattern", ("--path",), "Only requests whose whole path matches; * also matches slashes.", "GLOB"),
    Option(
        "by",
        ("--by",),
        "Put those together that stand at the same place, wait for the same, or have the same route; or none.",
        choices=GROUPINGS,
    ),
    Option(
        "order",
        ("--sort",),
        "The oldest first, most CPU first, by worker and core, or by route.",
        choices=ORDERS,
    ),
    Option("limit", ("--limit",), "Show so many places; 0: all.", "N"),
    Option(
        "times",
        ("--times",),
        "Look so often, and say of each request whether it is stuck or moves.",
        "N",
        least=1,
        most=MAX_TIMES,
    ),
    Option(
        "every_seconds",
        ("--every",),
        "With --times or --for: from one look to the next.",
        "SECONDS",
        is_least_excluded=True,
        most=MAX_SECONDS,
    ),
    Option(
        "for_seconds",
        ("--for",),
        "With --format json: go on for so long, with a document a line every --every seconds.",
        "SECONDS",
        is_least_excluded=True,
        most=MAX_SECONDS,
    ),
    Option("full", ("--full",), "Show every frame and every request, nothing folded."),
    Option("all_threads", ("--all",), "Show idle threads and those that serve no requests too."),
    Option(
        "from_outside",
        ("--from-outside",),
        "Do not ask the workers: read their stacks from their memory, without anything running in them.",
    ),
    Option("no_memory", ("--no-memory",), "Do not read the memory of workers that do not answer."),
    Option(
        "no_signal",
        ("--no-signal",),
        "Do not ask stalled workers for their stacks by signal: show their table of requests.",
    ),
    Option(
        "colour",
        ("--color", "--colour"),
        "auto: on a terminal, unless NO_COLOR is set.",
        choices=("auto", "always", "never"),
    ),
)
