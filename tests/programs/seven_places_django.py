"""The seven places, served by Django."""

from __future__ import annotations

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

from tests.programs.seven_places import hang
from wsgi_tracebacker import TracebackerMiddleware


def show(_: HttpRequest, place: str, number: int) -> HttpResponse:
    return HttpResponse(f"{hang(place)} {number}")


urlpatterns = [path("<str:place>/<int:number>", show)]

settings.configure(ROOT_URLCONF=__name__, SECRET_KEY="a test's", ALLOWED_HOSTS=["*"])  # nothing is signed
application = TracebackerMiddleware(get_wsgi_application())
