"""The story's application for a server that speaks ASGI: a2wsgi runs it on a pool of three threads."""

from __future__ import annotations

from a2wsgi import WSGIMiddleware

from tests.programs.story import application as story

application = WSGIMiddleware(story, workers=3)
