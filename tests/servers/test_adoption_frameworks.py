"""Real Flask and Django behind real gunicorn, as the how-tos say."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING

import pytest

from tests.servers import asking
from tests.support import clients
from tests.support.programs import PROJECT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.conftest import StartGunicorn
    from tests.support.servers import Gunicorn

OURS = ("-c", "python:wsgi_tracebacker.servers.gunicorn")
THREADS = ("--worker-class", "gthread", "--threads", "2")

WAIT = """
from tests.programs.unwrapped import wait_for_the_file
"""

FLASK_PAGE = """
@app.get("/wait")
def wait():
    from flask import request

    wait_for_the_file(request.args["gate"])
    return "done"
"""

#: Flask as anybody writes it, without a word of us.
PLAIN_FLASK = """
from flask import Flask

app = Flask(__name__)


@app.get("/orders/<int:number>")
def order(number):
    return {"order": number}
"""

DJANGO_SETTINGS = """
SECRET_KEY = "only in a test"
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "shop.urls"
WSGI_APPLICATION = "shop.wsgi.application"
"""

DJANGO_URLS = """
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

from tests.programs.unwrapped import wait_for_the_file


def order(request, number):
    return JsonResponse({"order": number})


def wait(request):
    wait_for_the_file(request.GET["gate"])
    return HttpResponse("done")


def stream(request):
    def chunks():
        yield b"first"
        wait_for_the_file(request.GET["gate"])
        yield b"last"

    return StreamingHttpResponse(chunks())


urlpatterns = [path("orders/<int:number>", order), path("wait", wait), path("stream", stream)]
"""

PLAIN_DJANGO = """
import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")

application = get_wsgi_application()
"""


def first_python_block(page: str) -> str:
    """The code that a how-to begins with."""
    text = (PROJECT / "docs/howto" / page).read_text()
    return textwrap.dedent(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0])


def start(gunicorn: StartGunicorn, folder: Path, target: str, arguments: Sequence[str]) -> Gunicorn:
    env = {"PYTHONPATH": f"{PROJECT}:{folder}", "WSGI_TB_APPLICATION": "shop"}
    return gunicorn(target, *THREADS, *arguments, env=env, cwd=folder)


def check_pages(server: Gunicorn, base: str, folder: Path, function: str) -> None:
    """An ordinary page is answered, and one that waits is seen, once, in the framework's own view."""
    response = server.get("/orders/7")
    assert (response.status, response.text.replace(" ", "").strip()) == (200, '{"order":7}')
    gate = folder / "gate"
    with clients.in_flight(server.address, f"/wait?gate={gate}") as connection:
        thread = asking.waits_in(base, "wait_for_the_file")
        assert thread["request"]["path"] == "/wait"
        functions = [frame["function"].rpartition(".")[2] for frame in thread["frames"]]
        assert functions.index(function) < functions.index("wait_for_the_file")
        gate.touch()
        assert connection.getresponse().read() == b"done"
    assert asking.ask(base, 1, "/worker")["worker"]["application"] == "shop"


@pytest.mark.parametrize("way", ["in the code", "from outside", "both"])
def test_flask(way: str, gunicorn: StartGunicorn, base: str, short_path: Path) -> None:
    """The code of the how-to; Flask without it, under our configuration; and both at once."""
    code = PLAIN_FLASK if way == "from outside" else first_python_block("gunicorn-flask.md")
    (short_path / "shop.py").write_text(WAIT + code.replace("/run/shop/tb", base) + FLASK_PAGE)
    server = start(gunicorn, short_path, "shop:app", () if way == "in the code" else OURS)
    check_pages(server, base, short_path, "wait")
    assert "WARNING" not in server.log_text()


@pytest.mark.parametrize("way", ["in the code", "from outside", "both"])
def test_django(way: str, gunicorn: StartGunicorn, base: str, short_path: Path) -> None:
    """The same for Django; a streaming response is seen while it flows."""
    shop = short_path / "shop"
    shop.mkdir()
    (shop / "__init__.py").touch()
    (shop / "settings.py").write_text(DJANGO_SETTINGS)
    (shop / "urls.py").write_text(DJANGO_URLS)
    (shop / "wsgi.py").write_text(PLAIN_DJANGO if way == "from outside" else first_python_block("gunicorn-django.md"))
    server = start(gunicorn, short_path, "shop.wsgi", () if way == "in the code" else OURS)
    check_pages(server, base, short_path, "wait")
    gate = short_path / "end"
    with clients.in_flight(server.address, f"/stream?gate={gate}") as connection:
        response = connection.getresponse()
        assert response.read(5) == b"first"
        thread = asking.waits_in(base, "wait_for_the_file")
        assert thread["request"]["phase"] == "body"
        gate.touch()
        assert response.read() == b"last"
    assert "WARNING" not in server.log_text()
