"""What is taken out of statements and URLs before anybody sees them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsgi_tracebacker.worker.waits.masking import (
    MAX_STATEMENT_CHARACTERS,
    MAX_URL_CHARACTERS,
    mask_statement,
    mask_url,
)


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("SELECT a FROM t WHERE b = 'secret' AND c = 4711", "SELECT a FROM t WHERE b = ? AND c = ?"),
        (b"SELECT 'caf\xe9' FROM t", "SELECT ? FROM t"),
        ("SELECT\n  a,\n\tb", "SELECT a, b"),
        ("SELECT 'it''s secret', a", "SELECT ?, a"),
        ("SELECT 'sec\\nret', a", "SELECT ?, a"),
        ("SELECT E'x', _utf8 'x', X'ff', N'x' FROM t", "SELECT E?, _utf8 ?, X?, N? FROM t"),
        ("SELECT $$secret$$, $a$ b $$ c $a$, $1", "SELECT ?, ..., $1"),
        ("SELECT 1.5e3, .5, 0xFF, 1_000", "SELECT ?, ..."),
        ("SELECT * FROM t2 WHERE a1 = %s AND b = %(name)s AND c = :name AND d = ?", None),
        (
            "SELECT * FROM t WHERE a IN (1, 2,3) AND b IN (%s, %s)",
            "SELECT * FROM t WHERE a IN (?, ...) AND b IN (%s, %s)",
        ),
        ("SELECT `a'b` FROM `c`", None),
        ("SELECT [my column], a::text, @variable FROM t", None),
        ("SELECT a -- of customers\nFROM t", "SELECT a FROM t"),
        ("SELECT /* route */ a FROM t", "SELECT a FROM t"),
        ("SELECT 'cut of", "SELECT ?"),
        ("SELECT 'cut off by a quote that is escaped\\", "SELECT ?"),
        # Names in double quotes, where MySQL can have no string.
        ('SELECT "o"."id" FROM "o" JOIN "c" AS "d" ON "d"."id" = %s', None),
        ('INSERT INTO "o" VALUES ("secret")', 'INSERT INTO "o" VALUES (?)'),
        ('SELECT a FROM t WHERE b = "secret"', "SELECT a FROM t WHERE b = ?"),
        # Another database would read the rest in another way.
        ("SELECT 'C:\\', a, 'secret'", "SELECT ?..."),
        ('SELECT "C:\\", a, "secret"', "SELECT ?..."),
        ("SELECT 1 # it's\n, 'secret'", "SELECT ? ?..."),
        ("SELECT 5--'a\n, secret'", "SELECT ??..."),
        ("SELECT /* a /* b */ 'secret' */", "SELECT ?..."),
        ("SELECT q'[it's secret]' FROM dual", "SELECT q?..."),
        ("SELECT [it's] FROM t WHERE a = 'secret'", "SELECT ?..."),
        ("SELECT ARRAY['secret', 'b']", "SELECT ARRAY[?, ...]"),
    ],
)
def test_literals_become_question_marks(statement: str | bytes, expected: str | None) -> None:
    """Names, keywords and parameters stay; what is not clear ends the statement. None: it stays as it is."""
    assert mask_statement(statement) == (statement if expected is None else expected)


@given(
    st.lists(st.sampled_from(["SELECT ", "a", "''", " ", "E", ",", "(", ")", "=", "%s", "--\n", "/* x */", "12", "b"])),
    st.text(st.characters(exclude_characters="'\\", exclude_categories=["Cs"]), min_size=1),
    st.lists(st.sampled_from([" ", "a", "''", "FROM", '"', "`x`", "$1", "/*", "--", "#", "\\", "'"])),
)
def test_no_text_in_quotes_is_ever_shown(before: list[str], secret: str, after: list[str]) -> None:
    """Whatever stands before and after it, if that leaves it a string for every database."""
    text = "".join(before) + " 'zq" + secret + "qz' " + "".join(after)
    masked = mask_statement(text)
    assert "zq" not in masked
    assert "qz" not in masked
    assert masked.isprintable() or not text.isprintable()


def test_a_statement_is_cut_at_its_end_only() -> None:
    """With three dots; so is one that is too long to be masked in full."""
    long = "SELECT " + ", ".join(f"column_{letter}" for letter in "abcdefghijklmnopqrstuvwxyz" * 40)
    masked = mask_statement(long)
    assert masked == long[:MAX_STATEMENT_CHARACTERS] + "..."
    assert mask_statement("SELECT '" + "x" * 5_000 + "'") == "SELECT ?..."


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://user:secret@bank.example/v2/x?token=secret#secret", "https://bank.example/v2/x"),
        (b"https://bank.example:8443/v2", "https://bank.example:8443/v2"),
        ("/v2/charge?token=secret", "/v2/charge"),
        ("https://bank.example/a;jsessionid=secret", "https://bank.example/a"),
        ("https://bank.example/@joe/x", "https://bank.example/@joe/x"),
        ("http://[::1]:80/a@b", "http://[::1]:80/a@b"),
        # A slash in a password.
        ("http://user:sec/ret@bank.example/x", "http://"),
        ("data:text/plain,secret", ""),
        ("/x?next=http://user:secret@bank.example/", "/x"),
        ("https://bank.example", "https://bank.example"),
    ],
)
def test_a_url_keeps_scheme_host_and_path(url: str | bytes, expected: str) -> None:
    """User, query, fragment and parameters are left out, and what is no URL altogether."""
    assert mask_url(url) == expected


def test_a_long_url_is_cut() -> None:
    """With three dots."""
    assert mask_url("/" + "x" * 5_000) == "/" + "x" * (MAX_URL_CHARACTERS - 1) + "..."
