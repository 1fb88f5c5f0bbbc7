"""How Sphinx makes the documentation's site: ``make docs``. The pages stay readable where they lie, too."""

from __future__ import annotations

from wsgi_tracebacker import __version__

project = "wsgi_tracebacker"
author = "wsgi_tracebacker contributors"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "contents"
myst_heading_anchors = 4
autodoc_typehints = "description"
html_theme = "furo"
# Broken at the hyphen in the narrow column of pages.
html_title = "wsgi-tracebacker"
html_show_copyright = False
