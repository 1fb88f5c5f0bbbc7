"""All views, in the order of their keys 1 to 5."""

from __future__ import annotations

from wsgi_tracebacker.top import group_rows, request_rows, worker_rows
from wsgi_tracebacker.top.view import View

VIEWS = (
    View("requests", "requests", request_rows.COLUMNS, request_rows.rows),
    View("places", "places", group_rows.PLACE_COLUMNS, group_rows.place_rows),
    View("workers", "workers", worker_rows.COLUMNS, worker_rows.rows, sorted_by=3),
    View("locks", "locks and pools", group_rows.LOCK_COLUMNS, group_rows.lock_rows),
    View("routes", "routes", group_rows.ROUTE_COLUMNS, group_rows.route_rows),
)
