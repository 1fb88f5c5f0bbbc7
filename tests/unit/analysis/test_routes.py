"""The route of a path: what is the same for many requests stays, what differs does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsgi_tracebacker.analysis.routes import MAX_ROUTES, OTHER, Routes, route_of


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("", ""),
        ("/", "/"),
        ("/checkout/4711", "/checkout/:"),
        ("/checkout/4711/", "/checkout/:/"),
        ("/users/12/orders/7.json", "/users/:/orders/:.json"),
        ("/reports/2026-01-31", "/reports/:"),
        ("/report-2026-01.pdf", "/report-:.pdf"),
        ("/api/v2/utf8/oauth2", "/api/v2/utf8/oauth2"),
        ("/files/123e4567-e89b-12d3-a456-426614174000", "/files/:"),
        ("/files/123e4567e89b12d3a456426614174000.png", "/files/:.png"),
        ("/commit/8d0fef2a", "/commit/:"),
        ("/facade", "/facade"),
        ("/reset/Zm9vYmFyMTIzNDU2Nzg5MA", "/reset/:"),
        ("/static/app.8d0fef2a76607c7.min.js", "/static/app.:.min.js"),
        ("/posts/how-to-bake-bread-in-a-small-kitchen", "/posts/:"),
        ("/متجر/طلب/٤٧١١", "/متجر/طلب/:"),
        ("/🛒/1", "/🛒/:"),
    ],
)
def test_the_route_of_a_path(path: str, route: str) -> None:
    """Numbers, dates, UUIDs, hashes, tokens and titles are replaced; versions and formats are not."""
    assert route_of(path) == route


def test_a_path_with_very_many_parts_is_cut() -> None:
    """A path of 2,048 characters is no line of a table."""
    assert route_of("/a" * 1024) == "/a" * 12 + "/..."
    assert route_of("/" + "x" * 2047) == "/:"


def test_the_method_is_part_of_a_route() -> None:
    """Reading and writing under one path are two routes."""
    routes = Routes()
    assert [routes.route(method, "/orders/1") for method in ("GET", "POST")] == ["GET /orders/:", "POST /orders/:"]


def test_there_are_at_most_200_routes() -> None:
    """Further ones are one, so that a scanner's requests do not fill a screen; known ones stay known."""
    routes = Routes()
    words = [f"/{chr(97 + first)}{chr(97 + second)}" for first in range(20) for second in range(20)]
    found = [routes.route("GET", word) for word in words]
    assert len(set(found)) == MAX_ROUTES + 1
    assert found[-1] == OTHER
    assert routes.route("GET", words[0]) == f"GET {words[0]}"


@given(st.text(max_size=300))
def test_a_route_is_the_route_of_itself(path: str) -> None:
    """Nothing that differs is left, and no path is longer than it was by more than the marks of a cut."""
    route = route_of(path)
    assert route_of(route) == route
    assert len(route) <= len(path) + len("...")
