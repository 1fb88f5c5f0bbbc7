"""The seven places, served by Flask."""

from __future__ import annotations

from flask import Flask

from tests.programs.seven_places import hang
from wsgi_tracebacker import TracebackerMiddleware

app = Flask(__name__)


@app.route("/<place>/<int:number>")
def show(place: str, number: int) -> str:
    return f"{hang(place)} {number}"


application = TracebackerMiddleware(app)
