"""The verbs of ``wsgi-tb``, and what to say of a word that is none. Does not need click, which is slow to import."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

#: By verb: the module in ``verbs``, and the function of the same name in it.
VERBS = {
    "check": "check",
    "clean": "clean",
    "completion": "completion",
    "demo": "demo",
    "list": "list_workers",
    "metrics": "metrics",
    "postmortem": "postmortem",
    "read": "read",
    "record": "record",
    "top": "top",
    "web": "web",
}


def correction(arguments: Sequence[str]) -> str | None:
    """The line on a first word that is no verb; None if it is one or an option, or there is none."""
    word = arguments[0] if arguments else "-"
    if word.startswith("-") or word in VERBS:
        return None
    if "/" in word or (word.isascii() and word.isdecimal()):
        return f"a verb comes first: did you mean wsgi-tb read {word}?"
    # Imported only here: it is needed for mistakes only.
    from difflib import get_close_matches

    close = get_close_matches(word.lower(), VERBS, 1)
    meant = f"did you mean {close[0]}?" if close else f"the verbs are {', '.join(VERBS)}; wsgi-tb --help explains them"
    return f"there is no verb {word!r}: {meant}"
