"""The live view in a terminal: ``wsgi-tb top``. Textual is imported here only, by ``app`` and the widgets."""
