r"""Takes out of a statement or a URL what may be a secret, before it is kept, shown or logged.

How a statement is to be read depends on the database, which is not known here. So what is a literal for any of them is
masked, and where two of them would end a string at different places (``'\'``, some comments), the rest is left out.
"""

from __future__ import annotations

import re

#: So much of a statement is masked, and so much of that is shown.
_MASKED_CHARACTERS = 1_000
MAX_STATEMENT_CHARACTERS = 200
MAX_URL_CHARACTERS = 300
_CUT = "..."

#: Masked statements that are remembered, at some 300 bytes each; if there are more, all are forgotten.
_MAX_CACHED = 1_024

#: What is not copied as it is. Names and parameters (``%s``, ``:name``, ``$1``) are copied.
_TOKEN = re.compile(
    r"""
      (?P<comment> --[^\n]* | /\*.*?(?:\*/|\Z) )
    | (?P<unclear> \# | (?<=[qQ])'                     # a comment for MySQL only, a string for Oracle only
        | '(?:[^'\\]|''|\\[^'])*\\'                    # the backslash is the string's last character, or not
        | (?<![yY])\[[^\]'"]*['"] )                    # a name for SQL Server only
    | (?P<literal> (?<![\w$])\$(?P<tag>[^\W\d]\w*)?\$ .*? (?:\$(?(tag)(?P=tag))\$|\Z)
        | '(?:[^'\\]|''|\\[^'])*(?:'|\\?\Z) )
    | (?P<quoted> "(?P<inner>(?:[^"\\]|""|\\[^"])*)(?:"|\\"|\\?\Z) )
    | (?P<kept> `[^`]*(?:`|\Z) )
    | (?P<number> (?<![\w$])(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\w* | (?<=\$)\d{4,} )
    """,
    re.VERBOSE | re.DOTALL,
)
#: What a comment must not have: for another database the comment ends, or begins, elsewhere.
_DELIMITERS = re.compile(r"['\"`$\#]|/\*|--")
#: A name in double quotes is a string for MySQL. There it can neither be beside a full stop nor after these words.
_BEFORE_NAME = re.compile(r"(?:\.|\b(?:from|join|into|update|table|as)\s+)\Z", re.IGNORECASE)
_NAME = re.compile(r"[^\W\d][\w$]*\Z")
_BLANKS = re.compile(r"\s+")
#: ``IN (?, ?, ?)``.
_LISTS = re.compile(r"\?(?:\s*,\s*\?)+")

#: By hash and length, so that no text of the application is kept: it may have secrets.
_cache: dict[tuple[int, int], str] = {}


def mask_statement(text: str | bytes) -> str:
    """SQL with ``?`` for each literal, without comments, on one line, cut at its end."""
    key = hash(text), len(text)
    known = _cache.get(key)
    if known is None:
        if len(_cache) >= _MAX_CACHED:
            _cache.clear()
        known = _cache[key] = _mask(text)
    return known


def _mask(text: str | bytes) -> str:
    is_cut = len(text) > _MASKED_CHARACTERS
    text = text[:_MASKED_CHARACTERS]
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    parts = []
    end = 0
    for token in _TOKEN.finditer(text):
        parts.append(text[end : token.start()])
        end = token.end()
        replacement = _replacement(token, text)
        if replacement is None:
            parts.append("?")
            end, is_cut = len(text), True
            break
        parts.append(replacement)
    parts.append(text[end:])
    masked = _LISTS.sub("?, ...", _BLANKS.sub(" ", "".join(parts)).strip())
    return _cut(masked, MAX_STATEMENT_CHARACTERS, is_cut=is_cut)


def _replacement(token: re.Match[str], text: str) -> str | None:
    """What stands for a part of a statement; None if it is not clear where the part ends."""
    kind = token.lastgroup
    if kind == "kept":
        return token[0]
    if kind == "comment":
        # Without its own beginning and end.
        return " " if _DELIMITERS.search(token[0][2:]) is None else None
    if token["quoted"] is not None:
        if token[0].endswith('\\"') or len(token[0]) < 2:
            return None
        is_name = text.startswith(".", token.end()) or _BEFORE_NAME.search(text, 0, token.start()) is not None
        return token[0] if is_name and _NAME.match(token["inner"]) else "?"
    return None if kind == "unclear" else "?"


def mask_url(text: str | bytes) -> str:
    """A URL without user, query, fragment and parameters, cut at its end."""
    if isinstance(text, bytes):
        text = text[: MAX_URL_CHARACTERS * 4].decode("utf-8", "replace")
    text = re.split(r"[?#;]", text, maxsplit=1)[0]
    scheme, separator, rest = text.rpartition("://") if text.startswith("/") else text.partition("://")
    if not separator:
        # A path, or what is no URL at all.
        return _cut(text, MAX_URL_CHARACTERS) if text.startswith("/") else ""
    authority, slash, path = rest.partition("/")
    host = authority.rpartition("@")[2]
    if "@" in path and re.search(r":(?!\d*\Z)", re.sub(r"\[[^\]]*\]", "", host)):
        # A password with a slash: where it ends cannot be known.
        return f"{scheme}://"
    return _cut(f"{scheme}://{host}{slash}{path}", MAX_URL_CHARACTERS)


def _cut(text: str, most: int, *, is_cut: bool = False) -> str:
    if len(text) <= most:
        return text + _CUT if is_cut else text
    return text[:most] + _CUT
