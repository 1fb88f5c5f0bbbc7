"""The story's application for a server that speaks ASGI: a2wsgi runs it on a pool of three threads."""

from __future__ import annotations

from typing import Any

from a2wsgi import WSGIMiddleware

from tests.programs import story

#: a2wsgi has types of its own for what WSGI calls by other names.
_story: Any = story.application

application = WSGIMiddleware(_story, workers=3)
