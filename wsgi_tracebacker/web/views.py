"""What the page shows, as HTML: the head, the views, and the stacks of the rows that are open.

The views are those of ``wsgi-tb top``, and one more. All that a reader has chosen is in the address, so that the page
can be used without its script, and sent to a colleague.

Every text of a row is printable (``top.view`` makes it so) and escaped here; nothing else becomes markup.
"""

from __future__ import annotations

import time
from html import escape
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode

from wsgi_tracebacker.analysis.places import group
from wsgi_tracebacker.text.screens.grid import UNKNOWN, Column
from wsgi_tracebacker.text.units import duration, plural
from wsgi_tracebacker.top.group_rows import PLACE_COLUMNS
from wsgi_tracebacker.top.request_rows import where, without_verb
from wsgi_tracebacker.top.view import Row, View, look_of_age, number, sorted_rows, text
from wsgi_tracebacker.top.views import VIEWS as TOP_VIEWS
from wsgi_tracebacker.top.worker_rows import head
from wsgi_tracebacker.web.opened import id_of, opened
from wsgi_tracebacker.web.recorder import DEFAULT_SECONDS, MAX_SECONDS
from wsgi_tracebacker.wire.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from wsgi_tracebacker.analysis.live import Picture

#: So many rows are sent: nobody reads more, and a browser shows ten times as many only slowly.
MAX_ROWS = 300
#: So many rows can be open.
MAX_OPEN = 20

#: The column in which a row's link stands: the one that is never empty.
_LINK_COLUMNS = {"requests": 2, "workers": 0}
_LINK_COLUMN = 2


def _wait_rows(picture: Picture, _with_idle: bool) -> Iterator[Row]:
    for found in group([live.served for live in picture.requests], "wait"):
        routes = found.routes
        shown = routes[0] + (f" and {len(routes) - 1} more" if len(routes) > 1 else "") if routes else None
        waits_for = without_verb(found.waits_for) or "nothing that is known"
        cells = (
            number(found.age_seconds, duration),
            number(len(found.requests)),
            text(waits_for),
            text(shown),
            text(where(found.oldest.innermost)),
        )
        yield Row(waits_for, cells, look_of_age(found.age_seconds), found.requests)


_AGE, _COUNT, _ROUTES, _WAITS_FOR, _WHERE = PLACE_COLUMNS
_REQUESTS, _PLACES, _WORKERS, _LOCKS, _BY_ROUTE = TOP_VIEWS
VIEWS = (
    _REQUESTS,
    _PLACES,
    View("waits", "waits", (_AGE, _COUNT, _WAITS_FOR, _ROUTES, _WHERE), _wait_rows),
    _BY_ROUTE,
    _WORKERS,
    _LOCKS,
)


class Choice(NamedTuple):
    """What a reader has chosen: the query of the address."""

    view: View = VIEWS[0]
    #: Words that a row has to have.
    words: str = ""
    #: Ids of rows.
    open_rows: tuple[str, ...] = ()
    #: Every frame is shown.
    full: bool = False

    @classmethod
    def of_query(cls, query: Mapping[str, str]) -> Choice:
        named = {view.name: view for view in VIEWS}
        rows = tuple(dict.fromkeys(word for word in query.get("open", "").split(",") if word.isalnum()))
        return cls(
            view=named.get(query.get("view", ""), VIEWS[0]),
            words=query.get("q", "")[:200],
            open_rows=rows[:MAX_OPEN],
            full=query.get("full") == "1",
        )

    def address(self) -> str:
        """The query that means this, for the ``href`` of a link."""
        parts = {
            "view": self.view.name if self.view != VIEWS[0] else "",
            "q": self.words,
            "open": ",".join(self.open_rows),
            "full": "1" if self.full else "",
        }
        return "?" + urlencode({name: value for name, value in parts.items() if value})

    def toggled(self, row: str) -> Choice:
        rows = tuple(each for each in self.open_rows if each != row)
        return self.with_open(row) if rows == self.open_rows else self._replace(open_rows=rows)

    def with_open(self, row: str) -> Choice:
        rows = tuple(each for each in self.open_rows if each != row)
        return self._replace(open_rows=(*rows, row)[-MAX_OPEN:])


def page(picture: Picture, choice: Choice, asset_version: str) -> str:
    """The whole page."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(_title(picture))}</title>\n"
        f'<link rel="stylesheet" href="flame_graph.css?{asset_version}">\n'
        f'<link rel="stylesheet" href="live.css?{asset_version}">\n<link rel="icon" href="data:,">\n'
        f'<script src="flame_graph.js?{asset_version}" defer></script>\n'
        f'<script src="live.js?{asset_version}" defer></script>\n</head>\n<body>\n'
        f"{_recorder()}"
        f'<div id="live">\n{fragment(picture, choice)}</div>\n'
        '<footer class="quiet">\n'
        '<p class="keys" hidden>Keys: / filter, space pause, up and down select, enter opens or closes.</p>\n'
        "<noscript><p>Without its script the page does not renew itself: load it again.</p></noscript>\n</footer>\n"
        "</body>\n</html>\n"
    )


def _recorder() -> str:
    """The form, and where its flame graph is shown. It is no part of what is renewed."""
    return (
        '<section id="recorder" aria-label="Recording">\n<form id="record-form" action="record" method="post">\n'
        '<label for="seconds">Record where the time goes, for</label>\n'
        f'<input type="number" id="seconds" name="seconds" min="1" max="{MAX_SECONDS}" value="{DEFAULT_SECONDS}"'
        ' required> s\n<button type="submit" id="record">Record</button>\n'
        f'<progress id="progress" aria-label="Recording" hidden></progress>\n'
        '<span id="recorded" role="status"></span>\n'
        '<button type="button" id="close" hidden>Close the graph</button>\n</form>\n'
        '<div id="flame" class="flame" hidden></div>\n</section>\n'
    )


def fragment(picture: Picture, choice: Choice) -> str:
    """What changes: all that is inside the page's ``#live``."""
    return "".join(f"{line}\n" for line in _lines(picture, choice))


def _title(picture: Picture) -> str:
    return "  ".join(part.text for part in head(picture)) or "no worker"


def _lines(picture: Picture, choice: Choice) -> Iterator[str]:
    rows = sorted_rows(choice.view, picture, words=choice.words.split())
    yield "<header>"
    parts = "".join(f"<span>{escape(part.text)}</span> " for part in head(picture))
    yield f'<h1 id="totals">{parts or "no worker"}</h1>'
    moment = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(picture.reading.taken_at))
    yield f'<p class="quiet">as of <time>{moment}</time></p>'
    yield '<nav aria-label="Views"><ul>'
    for view in VIEWS:
        current = ' aria-current="page"' if view == choice.view else ""
        address = escape(choice._replace(view=view, open_rows=()).address())
        yield f'<li><a data-live id="view-{view.name}" href="{address}"{current}>{view.title}</a></li>'
    yield "</ul></nav>"
    yield '<form role="search" id="filter-form" action="." method="get">'
    if choice.view != VIEWS[0]:
        yield f'<input type="hidden" name="view" value="{choice.view.name}">'
    yield '<label for="filter">Filter</label>'
    yield f'<input type="search" id="filter" name="q" value="{escape(choice.words)}" autocomplete="off">'
    yield '<button type="submit" id="apply">Apply</button>'
    yield '<button type="button" id="pause" aria-pressed="false" hidden>Pause</button>'
    full = choice._replace(full=not choice.full)
    yield f'<a data-live id="full" href="{escape(full.address())}">{"Fold" if choice.full else "Full"} stacks</a>'
    yield "</form>\n</header>\n<main>"
    for line in picture.reading.missing:
        yield f'<p class="stuck">{escape(printable(line))}</p>'
    if rows:
        yield from _table(rows, picture, choice)
    else:
        nothing = "Nothing is in flight." if choice.view == VIEWS[0] else "There is nothing to show."
        yield f"<p>{'No row has these words.' if choice.words else nothing}</p>"
    yield "</main>"


def _table(rows: list[Row], picture: Picture, choice: Choice) -> Iterator[str]:
    shown = rows[:MAX_ROWS]
    columns = [
        index
        for index, column in enumerate(choice.view.columns)
        if not column.is_optional or any(row.cells[index].text not in ("", UNKNOWN) for row in shown)
    ]
    yield f'<table class="{choice.view.name}">\n<caption>{escape(choice.view.title)}</caption>\n<thead><tr>'
    for index in columns:
        column = choice.view.columns[index]
        yield f'<th scope="col"{_class(column)}>{column.title}</th>'
    yield "</tr></thead>\n<tbody>"
    for row in shown:
        yield from _row(row, columns, picture, choice)
    yield "</tbody>\n</table>"
    if len(rows) > len(shown):
        yield f'<p class="quiet">{plural(len(rows) - len(shown), "more row")}: filter to see them.</p>'


def _row(row: Row, columns: list[int], picture: Picture, choice: Choice) -> Iterator[str]:
    row_id = id_of(row.key)
    is_open = row_id in choice.open_rows and bool(row.requests)
    linked = _LINK_COLUMNS.get(choice.view.name, _LINK_COLUMN)
    cells: list[str] = []
    for index in columns:
        column, shown = choice.view.columns[index], escape(row.cells[index].text)
        if row.note and index >= _LINK_COLUMN:
            cells.append(f'<td colspan="{len(columns) - len(cells)}">{escape(row.note)}</td>')
            break
        if index == linked and row.requests:
            address = escape(choice.toggled(row_id).address())
            expanded = "true" if is_open else "false"
            shown = f'<a data-live id="r{row_id}" href="{address}" aria-expanded="{expanded}">{shown}</a>'
        cells.append(f'<td data-title="{column.title}"{_class(column)}>{shown}</td>')
    yield f'<tr class="{row.look}">{"".join(cells)}</tr>'
    if is_open:
        yield f'<tr class="opened"><td colspan="{len(columns)}">'
        in_requests = choice._replace(view=_REQUESTS, words="")
        yield from opened(
            row, picture, lambda each: f"{in_requests.with_open(each).address()}#r{each}", full=choice.full
        )
        yield "</td></tr>"


def _class(column: Column) -> str:
    if column.is_right:
        return ' class="number"'
    # A client's address may be long, behind a proxy that lets clients choose it.
    return "" if column.least or column.title == "CLIENT" else ' class="short"'


def login_page(asset_version: str, *, has_failed: bool) -> str:
    """The form for the token."""
    failed = '<p class="stuck" role="alert">That is not the token.</p>' if has_failed else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<title>wsgi-tb: log in</title>\n'
        f'<link rel="stylesheet" href="live.css?{asset_version}">\n<link rel="icon" href="data:,">\n</head>\n'
        f'<body>\n<main>\n<h1>wsgi-tb</h1>\n{failed}<form action="login" method="post">\n'
        '<label for="token">Token</label>\n'
        '<input type="password" id="token" name="token" required autocomplete="current-password">\n'
        '<button type="submit">Log in</button>\n</form>\n</main>\n</body>\n</html>\n'
    )
