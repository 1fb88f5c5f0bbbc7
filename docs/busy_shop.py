"""The shop in the pictures of the documentation, which hangs when its bank does. It knows nothing of the middleware.

``docs/screenshots.py`` runs it under gunicorn.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import urllib.request

from flask import Flask
from sqlalchemy import create_engine, text
from sqlalchemy.pool import QueuePool

app = Flask(__name__)
#: Takes the connection, and answers at once or never.
BANK = os.environ["BANK"]
engine = create_engine("sqlite://", poolclass=QueuePool, pool_size=3, max_overflow=0, pool_timeout=600)

stock_lock, ledger_lock = threading.Lock(), threading.Lock()
both_have_one = threading.Barrier(2)


@app.get("/")
def home() -> str:
    return str(os.getpid())


@app.post("/pay")
def pay() -> str:
    with engine.connect():
        return charge()


def charge() -> str:
    with urllib.request.urlopen(f"{BANK}/v2/charge") as reply:
        return str(reply.read())


@app.get("/checkout/<int:order>")
def checkout(order: int) -> str:
    return load_order(order)


def load_order(order: int) -> str:
    with engine.connect() as connection:
        return str(connection.execute(text("SELECT :order"), {"order": order}).scalar())


@app.get("/buy")
def buy() -> str:
    with stock_lock:
        both_have_one.wait()
        with ledger_lock:
            return "bought"


@app.get("/refund")
def refund() -> str:
    with ledger_lock:
        both_have_one.wait()
        with stock_lock:
            return "refunded"


@app.get("/invoice/<int:order>")
def invoice(order: int) -> str:
    typeset = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    # Its input is never closed, so it never ends.
    return f"invoice {order}: {typeset.wait()}"


@app.get("/search")
def search() -> str:
    return str(re.match(r"(a+)+$", 60 * "a" + "b"))


@app.get("/orders/<int:order>")
def show(order: int) -> str:
    return render([{"order": order, "line": line} for line in range(1500)])


def render(lines: list[dict[str, int]]) -> str:
    return json.dumps(lines, indent=1)
